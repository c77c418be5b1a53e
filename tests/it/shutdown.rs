//! Ends: asked once, asked twice, with clients that do not read and neighbours that do not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use uuid::Uuid;

use crate::harness::{
    PATIENCE, PostgresServer, RedisServer, TestDatabase,
    event::SessionEvent,
    eventually,
    raw::{Raw, status, webhook},
    server::{Answer, TestServer, World, client},
    stripe::StandInStripe,
};

/// Longer than a test may take: whatever ends sooner has not waited for it.
const NEVER: (&str, &str) = ("TOLLGATE_SHUTDOWN_TIMEOUT", "10m");

/// So that a delivery waits as long as the test wants.
const PATIENT: [(&str, &str); 4] = [
    ("TOLLGATE_LEDGER_LOCK_TIMEOUT", "50s"),
    ("TOLLGATE_LEDGER_STATEMENT_TIMEOUT", "50s"),
    ("TOLLGATE_LEDGER_COMMIT_TIMEOUT", "50s"),
    ("TOLLGATE_REPLY_TIMEOUT", "1m"),
];

const LOCK: &str = "BEGIN; LOCK TABLE stripe_events IN ACCESS EXCLUSIVE MODE";

async fn stopping(server: &TestServer) {
    eventually(PATIENCE, "it has heard the signal", || async {
        server.log_lines().iter().any(|line| line["fields"]["message"] == "stopping")
    })
    .await;
}

/// Begins a delivery and waits until the ledger has it, where a lock of the test's holds it.
async fn held_delivery(world: &World, server: &Arc<TestServer>) -> tokio::task::JoinHandle<Option<Answer>> {
    let request = {
        let body = serde_json::to_vec(&SessionEvent::paid(Uuid::new_v4()).json()).unwrap();
        let header = server.sign(&body);
        client().post(server.url("/api/webhooks/stripe")).header("Stripe-Signature", header).body(body)
    };
    let delivery = tokio::spawn(async { Answer::try_of(request).await.ok() });
    eventually(PATIENCE, "the delivery waits for the ledger", || async {
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                     WHERE c.relname = 'stripe_events' AND NOT l.granted";
        world.database.value(waits).await != "0"
    })
    .await;
    delivery
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_goes_first_and_what_is_under_way_is_finished() {
    let world = World::new().await;
    let server = Arc::new(world.serve_with(&[&PATIENT[..], &[NEVER]].concat()).await);
    let other = world.database.connect().await.unwrap();
    other.batch_execute(LOCK).await.unwrap();
    let delivery = held_delivery(&world, &server).await;
    server.signal("TERM").await;
    stopping(&server).await;
    eventually(PATIENCE, "readiness is red", || async {
        let ready = Answer::of(client().get(server.admin_url("/health/ready"))).await;
        ready.status == 503 && ready.text.contains("stopping")
    })
    .await;
    assert!(!delivery.is_finished());
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(delivery.await.unwrap().unwrap().json["processed"], true);
    assert_eq!(server.ended().await, 0, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_twice_stops_at_once() {
    for second in ["TERM", "INT"] {
        let world = World::new().await;
        let server = Arc::new(world.serve_with(&[&PATIENT[..], &[NEVER]].concat()).await);
        let other = world.database.connect().await.unwrap();
        other.batch_execute(LOCK).await.unwrap();
        let delivery = held_delivery(&world, &server).await;
        server.signal("TERM").await;
        stopping(&server).await;
        server.signal(second).await;
        assert_ne!(server.ended().await, 0, "it says that it gave something up");
        assert!(delivery.await.unwrap().is_none(), "nothing was claimed");
        other.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(world.database.value("SELECT count(*) FROM stripe_events").await, "0");
    }
}

/// Regression: one client that read nothing held up every stop until its limit.
#[tokio::test]
async fn a_client_that_reads_nothing_held_up_the_stop() {
    let world = World::new().await;
    let server = world.serve_with(&[NEVER, ("TOLLGATE_UNREAD_TIMEOUT", "10m")]).await;
    let mut deaf = Raw::open(&server).await;
    deaf.send("GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: t\r\n\r\n".repeat(20)).await;
    assert_eq!(status(&deaf.head().await), 200);
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0, "{}", server.log());
}

/// Neither answers, and neither refuses: the longest that a stop can be kept waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_neighbours_that_do_not_answer() {
    let postgres = PostgresServer::start_own().await;
    let database = TestDatabase::on(&postgres).await;
    let world = World { database, redis: RedisServer::start().await, stripe: StandInStripe::start().await };
    let server = world.serve_with(&[("TOLLGATE_SHUTDOWN_TIMEOUT", "1s")]).await;
    assert_eq!(server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await.status, 200);
    postgres.pause().await;
    world.redis.pause().await;
    let mut delivery = Raw::open(&server).await;
    delivery.send(webhook(&server, &SessionEvent::paid(Uuid::new_v4()).json())).await;
    server.signal("TERM").await;
    server.ended().await;
    let answer = delivery.rest().await;
    assert!(["", "HTTP/1.1 503"].iter().any(|start| answer.starts_with(start)), "nothing was claimed: {answer}");
    postgres.resume().await;
    world.redis.resume().await;
}

/// On connections that are kept. Each server is told at an instant of its own, in the middle of what several clients have begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_stopped_each_200_is_in_the_ledger() {
    const STOPS: usize = 25;
    const AT_ONCE: usize = 5;
    let world = World::new().await;
    drop(world.serve().await);
    let acknowledged: Vec<String> = stream::iter(0..STOPS)
        .map(|stop| stopped_in_the_middle(&world, stop))
        .buffer_unordered(AT_ONCE)
        .flat_map(stream::iter)
        .collect()
        .await;
    let list = acknowledged.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
    let kept = format!("SELECT count(*) FROM stripe_events WHERE outcome = 'applied' AND id IN ({list})");
    assert_eq!(world.database.value(&kept).await, acknowledged.len().to_string());
}

/// The events that a server acknowledged before it ended.
async fn stopped_in_the_middle(world: &World, stop: usize) -> Vec<String> {
    const CLIENTS: usize = 8;
    let small = [("TOLLGATE_HTTP_WORKERS", "1"), ("TOLLGATE_ACTOR_THREADS", "1"), ("TOLLGATE_MIGRATE", "false")];
    // A delay changes nothing of it.
    let delay = ("TOLLGATE_DRAIN_DELAY", ["0s", "30ms"][stop % 2]);
    let server = Arc::new(world.serve_with(&[&small[..], &[NEVER, delay]].concat()).await);
    let (acks, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let clients = join_all((0..CLIENTS).map(|_| {
        let (server, acks) = (Arc::clone(&server), acks.clone());
        tokio::spawn(async move {
            let mut raw = Raw::open(&server).await;
            loop {
                let event = SessionEvent::paid(Uuid::new_v4());
                raw.send(webhook(&server, &event.json())).await;
                match status(&raw.answer().await) {
                    200 => acks.send(event.id).unwrap(),
                    0 => return,
                    _ => {}
                }
            }
        })
    }));
    drop(acks);
    let mut acknowledged = Vec::new();
    for _ in 0..rand::random_range(1..30) {
        acknowledged.push(seen.recv().await.unwrap());
    }
    tokio::time::sleep(rand::random_range(Duration::ZERO..Duration::from_millis(10))).await;
    server.signal("TERM").await;
    while let Some(event) = seen.recv().await {
        acknowledged.push(event);
    }
    clients.await.into_iter().for_each(Result::unwrap);
    assert_eq!(server.ended().await, 0, "{}", server.log());
    acknowledged
}

/// A balancer sends on until it has seen red. Whatever came by then is answered, on new connections and on kept ones, and on these with
/// the word that it was the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_a_balancer_saw_red_is_answered() {
    const LAST: &str = "connection: close";
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_SHUTDOWN_TIMEOUT", "10m"), ("TOLLGATE_DRAIN_DELAY", "5m")]).await;
    let (server, red) = (Arc::new(server), Arc::new(AtomicBool::new(false)));
    let load = (0..8).map(|client| {
        let (server, red) = (Arc::clone(&server), Arc::clone(&red));
        tokio::spawn(async move {
            let keeps = client % 2 == 0;
            let (mut raw, mut answered) = (Raw::open(&server).await, 0);
            while !red.load(Ordering::Acquire) {
                raw.send(webhook(&server, &SessionEvent::paid(Uuid::new_v4()).json())).await;
                let answer = raw.answer().await;
                assert_eq!(status(&answer), 200, "{answer}");
                answered += 1;
                if !keeps || answer.contains(LAST) {
                    raw = Raw::open(&server).await;
                }
            }
            answered
        })
    });
    let load: Vec<_> = load.collect();
    let applied = "SELECT count(*) FROM stripe_events WHERE outcome = 'applied'";
    let taken = async || world.database.value(applied).await.parse::<usize>().unwrap();
    eventually(PATIENCE, "the load runs", || async { taken().await > 20 }).await;
    server.signal("TERM").await;
    eventually(PATIENCE, "readiness is red", || async {
        let ready = Answer::of(client().get(server.url("/health/ready"))).await;
        ready.status == 503 && ready.text.contains("stopping")
    })
    .await;
    red.store(true, Ordering::Release);
    let mut answered = 0;
    for client in load {
        answered += client.await.unwrap();
    }
    assert_eq!(taken().await, answered);
    let mut late = Raw::open(&server).await;
    late.send(webhook(&server, &SessionEvent::paid(Uuid::new_v4()).json())).await;
    let answer = late.answer().await;
    assert!(status(&answer) == 200 && answer.contains(LAST), "{answer}");
    assert_eq!(late.rest().await, "", "and it was");
    server.signal("TERM").await;
    assert_ne!(server.ended().await, 0, "who is told twice does not wait for balancers");
}
