//! The door: clients that are slow, endless, unclear or gone, and how little they cost.

use std::{io::Write, process::Command, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    raw::{Raw, status, webhook, webhook_head},
    server::{Answer, TestServer, World, client},
};

const WEBHOOK: &str = "POST /api/webhooks/stripe HTTP/1.1\r\n";
const MIB: usize = 1024 * 1024;

/// Open files of the server's process.
fn files(server: &TestServer) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// The most memory that the server's process ever had, in bytes.
fn peak_memory(server: &TestServer) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

async fn still_works(server: &TestServer) {
    let answer = server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await;
    assert_eq!((answer.status, answer.json["processed"].as_bool()), (200, Some(true)), "{}", answer.text);
}

/// Connections of the public listener that the server has not closed.
fn connections(server: &TestServer) -> usize {
    const LISTENING: &str = "0A";
    let port = format!(":{:04X}", server.public.port());
    let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap();
    let open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // What no process has any more is inode 0.
        fields[1].ends_with(&port) && fields[3] != LISTENING && fields[9] != "0"
    };
    sockets.lines().skip(1).filter(open).count()
}

async fn all_closed(server: &TestServer) {
    eventually(PATIENCE, "all connections are closed", || async { connections(server) == 0 }).await;
}

#[tokio::test]
async fn what_is_no_clear_request_is_refused() {
    let world = World::new().await;
    let server = world.serve().await;
    let long = "x".repeat(200 * 1024);
    let many = (0..500).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let cases = [
        (
            "both lengths",
            format!("{WEBHOOK}Host: t\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{{}}"),
            400,
        ),
        ("two lengths", format!("{WEBHOOK}Host: t\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"), 400),
        ("a signed length", format!("{WEBHOOK}Host: t\r\nContent-Length: +2\r\n\r\n{{}}"), 400),
        ("a negative length", format!("{WEBHOOK}Host: t\r\nContent-Length: -2\r\n\r\n{{}}"), 400),
        (
            "a length beyond all numbers",
            format!("{WEBHOOK}Host: t\r\nContent-Length: 99999999999999999999\r\n\r\n"),
            400,
        ),
        ("an unknown encoding", format!("{WEBHOOK}Host: t\r\nTransfer-Encoding: xchunked\r\n\r\n{{}}"), 400),
        ("NUL in a header", format!("{WEBHOOK}Host: t\r\nX-A: a\0b\r\n\r\n"), 400),
        ("CR in a header", format!("{WEBHOOK}Host: t\r\nX-A: a\rb\r\n\r\n"), 400),
        ("a space before the colon", format!("{WEBHOOK}Host: t\r\nContent-Length : 2\r\n\r\n{{}}"), 400),
        ("a folded line", format!("{WEBHOOK}Host: t\r\nX-A: a\r\n b\r\n\r\n"), 400),
        ("no such version", "GET /health/live HTTP/3.0\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("a NUL in the path", "GET /health/live\0 HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("too many header lines", format!("{WEBHOOK}Host: t\r\n{many}\r\n"), 431),
        ("a header too long", format!("{WEBHOOK}Host: t\r\nX-A: {long}\r\n\r\n"), 431),
        ("a path too long", format!("GET /{long} HTTP/1.1\r\nHost: t\r\n\r\n"), 431),
    ];
    for (what, request, expected) in cases {
        let answer = Raw::ask(&server, request).await;
        assert_eq!(status(&answer), expected, "{what}: {answer}");
    }
    still_works(&server).await;
}

#[tokio::test]
async fn a_chunk_that_lies_about_its_length_is_no_body() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_BODY_TIMEOUT", "300ms")]).await;
    for chunk in
        ["zz\r\n{}\r\n0\r\n\r\n", "ffffffffffffffffff\r\n{}\r\n", "-2\r\n{}\r\n0\r\n\r\n", "2\r\n{}x\r\n0\r\n\r\n"]
    {
        let head = webhook_head("t=1,v1=00", "Transfer-Encoding: chunked\r\n");
        let answer = Raw::ask(&server, format!("{head}{chunk}")).await;
        assert_eq!(status(&answer), 400, "{chunk:?}: {answer}");
    }
    still_works(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slow_are_given_up_and_hold_up_nobody() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_HEAD_TIMEOUT", "1s"), ("TOLLGATE_BODY_TIMEOUT", "1s")]).await;
    let body_head = webhook_head("t=1,v1=00", "Content-Length: 100000\r\n");
    let mut slow = Vec::new();
    // Nothing at all, a head and a body that stop.
    for start in ["", WEBHOOK, &body_head] {
        for _ in 0..150 {
            let mut raw = Raw::open(&server).await;
            raw.send(start).await;
            slow.push(raw);
        }
    }
    // One more byte now and then is not enough.
    let answers = join_all(slow.into_iter().enumerate().map(async |(index, mut raw)| {
        if index % 20 == 0 {
            while raw.send("x").await && !raw.has_answer().await {}
        }
        status(&raw.rest().await)
    }));
    let (answers, ()) = tokio::join!(answers, async {
        for _ in 0..10 {
            still_works(&server).await;
        }
    });
    assert!(answers.iter().all(|status| *status == 408), "{answers:?}");
    all_closed(&server).await;
}

/// Lets this process, and the servers that it starts from now on, open as many files as it may. Gives how many that are.
fn raise_file_limit() -> usize {
    let pid = std::process::id().to_string();
    let prlimit = |more: &[&str]| Command::new("prlimit").args(["--pid", &pid]).args(more).output().unwrap();
    let hard = prlimit(&["--nofile", "--raw", "--noheadings", "--output=HARD"]).stdout;
    let hard = String::from_utf8(hard).unwrap().trim().to_owned();
    assert!(prlimit(&[&format!("--nofile={hard}:{hard}")]).status.success());
    hard.parse().unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_cost_little_and_hold_up_nobody() {
    const IDLE: usize = 10_000;
    // The other tests of this process have files open, too.
    if raise_file_limit() < IDLE + 5_000 {
        // Past the test's captured output, which nobody sees of a test that passes.
        writeln!(std::io::stderr(), "SKIPPED: the hard limit of open files forbids {IDLE} sockets in one process")
            .unwrap();
        return;
    }
    let world = World::new().await;
    let server = Arc::new(world.serve_with(&[("TOLLGATE_HEAD_TIMEOUT", "1m")]).await);
    still_works(&server).await;
    let before = peak_memory(&server);
    let openers = (0..4).map(|_| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { stream::iter(0..IDLE / 4).then(|_| Raw::open(&server)).collect::<Vec<_>>().await })
    });
    let idle = join_all(openers).await;
    eventually(PATIENCE, "all are taken", || async { server.metric("tollgate_http_connections").await >= IDLE }).await;
    for _ in 0..20 {
        let event = SessionEvent::paid(Uuid::new_v4());
        assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
        assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO");
    }
    let cost = peak_memory(&server).saturating_sub(before);
    assert!(cost < IDLE * 24 * 1024, "{} KiB each", cost / IDLE / 1024);
    drop(idle);
    all_closed(&server).await;
    assert_eq!(server.metric("tollgate_http_connections_refused_total").await, 0);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_the_others_go_on() {
    const MAX: usize = 8;
    const ASK: &str = "GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n";
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_CONNECTIONS_MAX", "8"), ("TOLLGATE_STREAMS_MAX", "4")]).await;
    let mut kept = Vec::new();
    for _ in 0..MAX {
        let mut raw = Raw::open(&server).await;
        raw.send(ASK).await;
        assert_eq!(status(&raw.answer().await), 200);
        kept.push(raw);
    }
    for _ in 0..50 {
        assert_eq!(Raw::ask(&server, ASK).await, "");
    }
    assert_eq!(server.metric("tollgate_http_connections_refused_total").await, 50);
    assert_eq!(server.metric("tollgate_http_connections").await, MAX);
    for raw in &mut kept {
        raw.send(webhook(&server, &SessionEvent::paid(Uuid::new_v4()).json())).await;
        assert_eq!(status(&raw.answer().await), 200);
    }
    kept.pop();
    eventually(PATIENCE, "the place is another's", || async {
        let mut raw = Raw::open(&server).await;
        raw.send(ASK).await;
        status(&raw.answer().await) == 200
    })
    .await;
}

/// Regression: each body had a limit, all of them together had none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_bodies_together_had_no_limit() {
    const SENDERS: usize = 100;
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_BODIES_MIB", "8"), ("TOLLGATE_BODY_TIMEOUT", "1m")]).await;
    still_works(&server).await;
    let taken = async || server.metric("tollgate_http_body_bytes").await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    let almost = format!("{}{}", webhook_head("t=1,v1=00", "Transfer-Encoding: chunked\r\n"), chunk.repeat(15));
    let mut endless = JoinSet::new();
    for _ in 0..SENDERS {
        let (mut raw, almost) = (Raw::open(&server).await, almost.clone());
        endless.spawn(async move {
            raw.send(almost).await;
            raw.answer().await
        });
    }
    // Four bodies without their end fit into the half that long ones have, and wait there.
    let mut answers = Vec::new();
    while answers.len() < SENDERS - 4 {
        answers.push(endless.join_next().await.unwrap().unwrap());
    }
    // Who was still sending when the connection was closed may have missed the answer.
    let refused = answers.iter().filter(|answer| status(answer) == 503 && answer.contains("retry-after: ")).count();
    assert!(refused > SENDERS / 2 && answers.iter().all(|answer| [0, 503].contains(&status(answer))), "{answers:?}");
    assert!((1..=4 * MIB).contains(&taken().await), "{}", taken().await);
    // Stripe's own are short.
    for _ in 0..20 {
        still_works(&server).await;
    }
    drop(endless);
    eventually(PATIENCE, "the room is free again", || async { taken().await == 0 }).await;
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_order() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut all = String::new();
    for n in 0..50 {
        all += &format!("GET /api/plans HTTP/1.1\r\nHost: t\r\nX-Request-Id: n{n}\r\n\r\n");
    }
    all += "GET /health/live HTTP/1.1\r\nHost: t\r\nX-Request-Id: last\r\nConnection: close\r\n\r\n";
    let answers = Raw::ask(&server, all).await;
    let ids: Vec<&str> = answers.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    let expected: Vec<String> = (0..50).map(|n| format!("n{n}")).chain(["last".to_owned()]).collect();
    assert_eq!(ids, expected);
}

/// In the head, in the body, while it waits for the ledger, and when the answer is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_at_any_moment_leaves_nothing_open() {
    const CLIENTS: usize = 500;
    const AT_ONCE: usize = 16;
    const MOST_PATIENT: Duration = Duration::from_millis(20);
    let world = World::new().await;
    let server = world.serve().await;
    let events: Vec<SessionEvent> = (0..CLIENTS).map(|_| SessionEvent::paid(Uuid::new_v4())).collect();
    let hang_up = async |event: &SessionEvent| {
        let request = webhook(&server, &event.json());
        // Half of them send all of it.
        let sent = rand::random_range(0..request.len() * 2).min(request.len());
        let mut raw = Raw::open(&server).await;
        raw.send(&request[..sent]).await;
        if sent == request.len() {
            tokio::time::sleep(rand::random_range(Duration::ZERO..MOST_PATIENT)).await;
        }
    };
    stream::iter(&events).for_each_concurrent(AT_ONCE, hang_up).await;
    all_closed(&server).await;
    eventually(PATIENCE, "no place and no room is taken", || async {
        let taken = ["tollgate_http_connections", "tollgate_http_body_bytes", "tollgate_webhooks_in_flight"];
        join_all(taken.map(|gauge| server.metric(gauge))).await.iter().all(|taken| *taken == 0)
    })
    .await;
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    eventually(PATIENCE, "no transaction is left open", || async { world.database.value(left).await == "0" }).await;
    let applied = "SELECT count(*) FROM stripe_events WHERE outcome = 'applied'";
    let before: usize = world.database.value(applied).await.parse().unwrap();
    assert!((1..CLIENTS).contains(&before), "{before} of {CLIENTS} were taken");
    let statuses = stream::iter(&events).map(async |event| server.deliver(&event.json()).await.status);
    assert!(statuses.buffer_unordered(AT_ONCE).all(async |status| status == 200).await);
    assert_eq!(world.database.value(applied).await, CLIENTS.to_string());
    let once = "SELECT count(*) FROM entitlement_state WHERE version = 1";
    assert_eq!(world.database.value(once).await, CLIENTS.to_string());
}

/// What a connection is for is over when the client has closed his side, or the place of a stream whose page is gone would be
/// taken until the next heartbeat. It costs such a client his answer, and nobody else anything.
#[tokio::test]
async fn who_closes_his_side_loses_his_answer_and_not_his_event() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    let mut raw = Raw::open(&server).await;
    raw.send(webhook(&server, &event.json())).await;
    raw.close_half().await;
    let answer = raw.rest().await;
    assert!(["", "HTTP/1.1 200"].iter().any(|start| answer.starts_with(start)), "{answer}");
    assert_eq!(server.deliver(&event.json()).await.status, 200);
    assert_eq!(server.read(event.user).await.json["version"], 1, "once, whichever delivery it was");
}

/// Regression: a connection whose client read nothing stayed open for ever, with what it should have read.
#[tokio::test]
async fn answers_that_nobody_read_were_kept_for_ever() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_UNREAD_TIMEOUT", "500ms")]).await;
    let mut deaf = Raw::open(&server).await;
    deaf.send("GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: t\r\n\r\n".repeat(20)).await;
    assert_eq!(status(&deaf.head().await), 200);
    all_closed(&server).await;
    assert!(deaf.rest().await.len() < 20 * MIB, "not all of it came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_free_file_it_goes_on_when_there_is_one() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_HEAD_TIMEOUT", "1m")]).await;
    still_works(&server).await;
    let most = files(&server) + 20;
    let pid = server.pid().to_string();
    let limit = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}")]).status();
    assert!(limit.unwrap().success());
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(Raw::open(&server).await);
    }
    eventually(PATIENCE, "no file is free", || async { files(&server) >= most }).await;
    drop(idle);
    eventually(PATIENCE, "it answers again", || async {
        let request = client().get(server.url("/health/live")).timeout(Duration::from_secs(2));
        Answer::try_of(request).await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    still_works(&server).await;
}
