//! The phases. Each warms up first, and each ceiling is measured right before the phase and right after it: on a machine
//! with neighbours only numbers of the same seconds can be compared.

use std::{collections::HashMap, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    Mode, Options,
    deliveries::{Event, bare_get, reads, webhooks},
    driver::{Answers, Load, Verdict, drive},
    harness::server::{Answer, TestServer, client},
    proc::resident,
    report::{Ceiling, Latency, Report, Row, Target},
    world::Bench,
};

const WARM_UP: Duration = Duration::from_secs(1);
const CEILING_WARM_UP: Duration = Duration::from_millis(500);

/// Requests that a ceiling, or a phase of reads, sends again and again.
const CYCLED: usize = 2_000;

/// Events that phases which need delivered ones deliver themselves if there are none.
const DELIVERED_MIN: usize = 5_000;

/// Events of one user in the mixed phase.
const PER_USER: usize = 4;

/// Users at once in the memory phase: their requests are kept in memory meanwhile.
const MEMORY_STEP: usize = 20_000;

/// The ceilings.
const COMMITS: &str = "(b) row commits";
const CHECK_ONLY: &str = "(a) verify only";
const BARE_GET: &str = "(c) bare GET";

impl Options {
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn load(&self, requests: Arc<Vec<Vec<u8>>>, copies: Option<usize>) -> Load {
        Load {
            requests,
            copies,
            servers: Vec::new(),
            connections: self.connections,
            rest: Duration::ZERO,
            warm_up: WARM_UP,
            limit: self.limit(),
        }
    }

    fn ceiling_load(&self, requests: Arc<Vec<Vec<u8>>>) -> Load {
        Load { warm_up: CEILING_WARM_UP, limit: self.limit() / 2, ..self.load(requests, None) }
    }
}

/// New users, one event each.
pub(crate) async fn unique(bench: &mut Bench, options: &Options, report: &mut Report) {
    let before = bench.commit_rows(options.connections, CEILING_WARM_UP, options.limit() / 2).await;
    let events = bench.mint.events(options.events, 1);
    let (answers, used) = bench.drive(options.load(webhooks(&events), Some(1))).await;
    expect(report, "unique", &answers, &[Verdict::Applied]);
    note_delivered(bench, &events, &answers);
    let after = bench.commit_rows(options.connections, CEILING_WARM_UP, options.limit() / 2).await;
    report.row(Row {
        phase: "unique events",
        rate: answers.rate(),
        latency: Latency::of(answers.latencies()),
        compared: answers.rate(),
        ceiling: Ceiling { name: COMMITS, before: before.rate, after: after.rate },
        target: bench.aim(Target::AtLeast(0.6)),
    });
    report.usage("unique events", answers.all.len(), used);
}

/// One event at a time, against one row at a time.
pub(crate) async fn lone(bench: &mut Bench, options: &Options, report: &mut Report) {
    let lone_commit = async |bench: &Bench| {
        Latency::of(bench.commit_rows(1, CEILING_WARM_UP, options.limit() / 2).await.latencies).p50
    };
    let before = lone_commit(bench).await;
    let events = bench.mint.events(options.events, 1);
    let load = Load { connections: 1, ..options.load(webhooks(&events), Some(1)) };
    let (answers, used) = bench.drive(load).await;
    expect(report, "lone", &answers, &[Verdict::Applied]);
    note_delivered(bench, &events, &answers);
    let after = lone_commit(bench).await;
    let latency = Latency::of(answers.latencies());
    report.row(Row {
        phase: "lone event",
        rate: answers.rate(),
        latency,
        compared: latency.p50,
        ceiling: Ceiling { name: "(b) lone commit, p50 ms", before, after },
        target: bench.aim(Target::AtMost(2.0)),
    });
    report.usage("lone event", answers.all.len(), used);
}

/// Events that were delivered before, each several times at once.
pub(crate) async fn duplicates(bench: &mut Bench, options: &Options, report: &mut Report) {
    deliver_some(bench, options, report).await;
    let requests = webhooks(&bench.delivered[..bench.delivered.len().min(options.events)]);
    let checked = Arc::new(requests.iter().take(CYCLED).cloned().collect::<Vec<_>>());
    let before = ceiling(bench, options, report, CHECK_ONLY, Arc::clone(&checked)).await;
    let (answers, used) = bench.drive(options.load(requests, Some(options.duplicates))).await;
    expect(report, "duplicates", &answers, &[Verdict::Duplicate]);
    let after = ceiling(bench, options, report, CHECK_ONLY, checked).await;
    report.row(Row {
        phase: "duplicates",
        rate: answers.rate(),
        latency: Latency::of(answers.latencies()),
        compared: answers.rate(),
        ceiling: Ceiling { name: CHECK_ONLY, before, after },
        target: bench.aim(Target::AtLeast(0.6)),
    });
    report.usage("duplicates", answers.all.len(), used);
}

/// Each event for the first time and its duplicates at the same instant, several events for each user.
pub(crate) async fn mixed(bench: &mut Bench, options: &Options, report: &mut Report) {
    let before = bench.commit_rows(options.connections, CEILING_WARM_UP, options.limit() / 2).await;
    let events = bench.mint.events(options.events, PER_USER);
    let copies = options.duplicates + 1;
    let (answers, used) = bench.drive(options.load(webhooks(&events), Some(copies))).await;
    expect(report, "mixed", &answers, &[Verdict::Applied, Verdict::Duplicate]);
    note_delivered(bench, &events, &answers);

    let mut applied: HashMap<usize, usize> = HashMap::new();
    for answer in &answers.all {
        *applied.entry(answer.request).or_default() += usize::from(answer.verdict == Verdict::Applied);
    }
    let wrong = applied.values().filter(|times| **times != 1).count();
    if wrong > 0 {
        report.violation(format!("mixed: {wrong} events were not answered as new exactly once"));
    }
    let after = bench.commit_rows(options.connections, CEILING_WARM_UP, options.limit() / 2).await;
    let latency = Latency::of(answers.latencies());
    let ceiling = Ceiling { name: COMMITS, before: before.rate, after: after.rate };
    for (phase, verdict) in [("mixed: new", Verdict::Applied), ("mixed: duplicates", Verdict::Duplicate)] {
        let rate = answers.rate_of(verdict);
        report.row(Row { phase, rate, latency, compared: rate, ceiling: ceiling.clone(), target: Target::None });
    }
    report.usage("mixed", answers.all.len(), used);
}

/// Users ask what they may do.
pub(crate) async fn read(bench: &mut Bench, options: &Options, report: &mut Report) {
    deliver_some(bench, options, report).await;
    let users: Vec<Uuid> = bench.delivered.iter().rev().take(CYCLED).map(|event| event.user).collect();
    let before = ceiling(bench, options, report, BARE_GET, bare_get()).await;
    let (answers, used) = bench.drive(options.load(reads(&users), None)).await;
    expect(report, "reads", &answers, &[Verdict::FromCache, Verdict::FromDatabase]);
    let after = ceiling(bench, options, report, BARE_GET, bare_get()).await;
    report.row(Row {
        phase: "reads",
        rate: answers.rate(),
        latency: Latency::of(answers.latencies()),
        compared: answers.rate(),
        ceiling: Ceiling { name: BARE_GET, before, after },
        target: bench.aim(Target::AtLeast(0.6)),
    });
    report.usage("reads", answers.all.len(), used);
    report.note(format!(
        "reads: {} answers from the cache, {} from the database",
        answers.count(Verdict::FromCache),
        answers.count(Verdict::FromDatabase)
    ));
}

/// A server of its own, which lets no actor go, and one event for each of many users.
pub(crate) async fn memory(bench: &mut Bench, options: &Options, report: &mut Report) {
    let live_max = (options.users * 2).max(20_000).to_string();
    let server = bench.serve_with(&[("TOLLGATE_ACTOR_IDLE", "1h"), ("TOLLGATE_ACTORS_MAX", &live_max)]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let Some(at_start) = resident(server.pid()) else {
        report.note("memory: not known, there is no /proc here".to_owned());
        return;
    };
    let mut after_first_step = None;
    let mut sent = 0;
    while sent < options.users {
        let events = bench.mint.events(MEMORY_STEP.min(options.users - sent), 1);
        let load = options.load(webhooks(&events), Some(1));
        let load = Load { servers: vec![server.public], limit: Duration::from_secs(300), ..load };
        let answers = drive(load).await;
        expect(report, "memory", &answers, &[Verdict::Applied]);
        // An embedded server has a ledger of its own, which ends with it.
        if bench.mode == Mode::Production {
            note_delivered(bench, &events, &answers);
        }
        sent += events.len();
        if after_first_step.is_none() {
            tokio::time::sleep(Duration::from_secs(2)).await;
            after_first_step = resident(server.pid()).map(|bytes| (sent, bytes));
        }
    }
    // The gauge is set once a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let live = metric(&server, "tollgate_actors_live").await.unwrap_or(0.0);
    let at_end = resident(server.pid()).unwrap_or(0);
    report.memory("resident 2 s after start", mib(at_start), "MiB", bench.aim(Target::AtMost(40.0)));
    report.memory("resident with all actors, 3 s after the last event", mib(at_end), "MiB", Target::None);
    report.memory("live actors then", live, "", Target::None);
    report.memory(
        "more than at start, for each live actor",
        kib(at_end, at_start) / live,
        "KiB",
        bench.aim(Target::AtMost(1.5)),
    );
    if let Some((users, bytes)) = after_first_step
        && users < sent
    {
        let each = kib(at_end, bytes) / (sent - users) as f64;
        report.memory("more for each after the first 20,000", each, "KiB", Target::None);
    }
}

/// New users, one event each, over three times as many connections as webhooks may be under way, each as often as those are served
/// that there is room for: three times what can be done. Who is refused comes again with the next event.
pub(crate) async fn overload(bench: &mut Bench, options: &Options, report: &mut Report) {
    let room = options.connections.to_string();
    let server = bench.serve_with(&[("TOLLGATE_WEBHOOKS_IN_FLIGHT", &room)]).await;
    let mut goodput = async |bench: &mut Bench, connections: usize, rest: Duration| {
        let events = bench.mint.events(options.events, 1);
        let load = Load { connections, rest, servers: vec![server.public], ..options.load(webhooks(&events), None) };
        let answers = drive(load).await;
        let applied = answers.all.iter().filter(|answer| answer.verdict == Verdict::Applied);
        bench.delivered.extend(applied.map(|answer| events[answer.request].clone()));
        // A refusal comes before its request is read; the connection may end with it.
        let is_refusal = |error: &&String| error.starts_with("503 ") || error.contains("the connection ended");
        for error in answers.errors.iter().filter(|error| !is_refusal(error)) {
            report.violation(format!("overload: {error}"));
        }
        answers
    };
    let before = goodput(bench, options.connections, Duration::ZERO).await.rate_of(Verdict::Applied);
    let rest = Duration::from_secs_f64(options.connections as f64 / before.max(1.0));
    let answers = goodput(bench, options.connections * 3, rest).await;
    let after = goodput(bench, options.connections, Duration::ZERO).await.rate_of(Verdict::Applied);
    let rate = answers.rate_of(Verdict::Applied);
    let taken = answers.counted().iter().filter(|answer| answer.verdict == Verdict::Applied);
    report.row(Row {
        phase: "three times too much",
        rate,
        latency: Latency::of(taken.map(|answer| answer.latency).collect()),
        compared: rate,
        ceiling: Ceiling { name: "as much as there is room for", before, after },
        target: bench.aim(Target::AtLeast(0.7)),
    });
}

/// The rate at which the ceiling server answers these requests.
async fn ceiling(
    bench: &Bench,
    options: &Options,
    report: &mut Report,
    name: &'static str,
    requests: Arc<Vec<Vec<u8>>>,
) -> f64 {
    let (answers, used) = bench.drive_ceiling(options.ceiling_load(requests)).await;
    expect(report, name, &answers, &[Verdict::Plain]);
    report.usage(name, answers.all.len(), used);
    answers.rate()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn kib(more: u64, less: u64) -> f64 {
    more.saturating_sub(less) as f64 / 1024.0
}

/// A metric without labels, from the admin listener.
async fn metric(server: &TestServer, name: &str) -> Option<f64> {
    let answer = Answer::of(client().get(server.admin_url("/metrics"))).await;
    answer.text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Makes sure that there is something to deliver again and to read.
async fn deliver_some(bench: &mut Bench, options: &Options, report: &mut Report) {
    if !bench.delivered.is_empty() {
        return;
    }
    let events = bench.mint.events(options.events.min(DELIVERED_MIN), 1);
    let (answers, _) =
        bench.drive(Load { limit: Duration::from_secs(300), ..options.load(webhooks(&events), Some(1)) }).await;
    expect(report, "preparation", &answers, &[Verdict::Applied]);
    note_delivered(bench, &events, &answers);
}

fn note_delivered(bench: &mut Bench, events: &[Event], answers: &Answers) {
    bench.delivered.extend(events.iter().take(answers.sent()).cloned());
}

/// Anything but these answers is a violation.
fn expect(report: &mut Report, phase: &str, answers: &Answers, verdicts: &[Verdict]) {
    let strange = answers.all.iter().filter(|answer| !verdicts.contains(&answer.verdict)).count();
    if strange + answers.failed > 0 {
        report.violation(format!(
            "{phase}: {strange} of {} answers were none of {verdicts:?}, {} of them errors",
            answers.all.len(),
            answers.failed
        ));
    }
    for error in &answers.errors {
        report.violation(format!("{phase}: {error}"));
    }
}
