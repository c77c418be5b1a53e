//! The process dies, panics, fails or waits at each named point: nothing acknowledged is lost, nothing is done twice, and readers are shown
//! what is so without being asked.

mod beside;

use std::future::Future;

use futures::future::join_all;
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use tollgate::fail_point::Point;
use uuid::Uuid;

use super::{PATIENCE, assert_reads, until_shown};
use crate::harness::{
    event::SessionEvent,
    eventually,
    history::{Bounds, EndState, History, assert_none, check},
    server::{Answer, TestServer, World, client, unix_now},
};

/// How many worlds are gone through at once.
const AT_ONCE: usize = 4;
/// What a shell says of a process that ended itself.
const ABORTED: i32 = 134;
/// Of the sample of pairs; `TOLLGATE_FAULT_SEED` is another.
const SEED: u64 = 20;
/// Pairs in the sample; with `TOLLGATE_FAULT_PAIRS=all` it is every pair.
const PAIRS: usize = 60;

/// What passes a point. Every point is in one of these, and so in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Webhook,
    /// Of an event that is not new.
    OldWebhook,
    Read,
    Start,
    File,
    FileStart,
    Retry,
    Lapse,
    Parked,
    Fetch,
    Checkout,
}

const fn way(point: Point) -> Way {
    match point {
        Point::BodyRead
        | Point::Signed
        | Point::Meaning
        | Point::Understood
        | Point::Mailbox
        | Point::ActorStart
        | Point::ActorApply
        | Point::LedgerBegin
        | Point::LedgerLocked
        | Point::LedgerDecide
        | Point::LedgerCommit
        | Point::LedgerCommitted
        | Point::LedgerTold
        | Point::CacheShow
        | Point::CacheShown
        | Point::Answer => Way::Webhook,
        Point::MarkAsk | Point::MarkAnswered => Way::OldWebhook,
        Point::ReadCache
        | Point::ReadFlight
        | Point::ReadLedger
        | Point::ReadAnswered
        | Point::ReadFill
        | Point::ReadFilled => Way::Read,
        Point::Beat
        | Point::Beaten
        | Point::RedriveShow
        | Point::RedriveShown
        | Point::MigrateCommit
        | Point::Migrated => Way::Start,
        Point::FileCommit | Point::FileCommitted => Way::File,
        Point::FileMigrate => Way::FileStart,
        Point::Republish => Way::Retry,
        Point::SweepLapse => Way::Lapse,
        Point::SweepParked => Way::Parked,
        Point::FetchAsk | Point::FetchAnswered | Point::FetchApplied => Way::Fetch,
        Point::CheckoutOpen | Point::CheckoutOpened => Way::Checkout,
    }
}

fn on(ways: &[Way]) -> Vec<Point> {
    Point::ALL.iter().copied().filter(|point| ways.contains(&way(*point))).collect()
}

/// What can be done at a point.
fn actions(point: Point) -> Vec<&'static str> {
    let fails = matches!(
        point,
        Point::LedgerLocked | Point::LedgerCommit | Point::CacheShow | Point::ReadCache | Point::ReadLedger
    );
    let mut actions = vec!["abort", "panic", "delay:5"];
    actions.extend(fails.then_some("fail"));
    actions
}

/// Servers that may die at any point, and what their clients saw.
struct Stage {
    world: World,
    settings: Vec<(String, String)>,
    server: TestServer,
    history: History,
}

impl Stage {
    async fn new() -> Self {
        Self::in_world(World::new().await, &[]).await
    }

    async fn in_world(world: World, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let server = start(&world, &settings, None).await.unwrap();
        Self { world, settings, server, history: History::new() }
    }

    async fn restart(&mut self) {
        self.server = start(&self.world, &self.settings, None).await.unwrap();
    }

    async fn arm(&self, text: &str) {
        arm(&self.server, text).await;
    }

    async fn died(&self) {
        assert_eq!(self.server.ended().await, ABORTED, "{}", self.server.log());
    }

    async fn deliver(&self, event: &Value) -> Option<Answer> {
        self.history.deliver(0, 0, &self.server, event).await
    }

    async fn is_poison(&self, event: &SessionEvent) -> bool {
        let count = format!("SELECT count(*) FROM stripe_events WHERE id = '{}' AND reason = 'poison'", event.id);
        self.world.database.value(&count).await == "1"
    }

    async fn replay(&self, event: &SessionEvent) {
        let url = self.server.admin_url(&format!("/api/admin/events/{}/replay", event.id));
        let answer = Answer::of(client().post(url)).await;
        assert_eq!(answer.json["outcome"], "applied", "{}", answer.text);
    }

    async fn is_in_the_inbox(&self, event: &SessionEvent) -> bool {
        let count = format!("SELECT count(*) FROM stripe_events WHERE id = '{}'", event.id);
        self.world.database.value(&count).await == "1"
    }

    /// Whatever came of the first delivery: readers are shown it without a request if it is in the ledger, and nobody has anything if it is
    /// not; then Stripe delivers until it is taken.
    async fn settles(&self, event: &SessionEvent, what: &str) {
        let is_there = self.is_in_the_inbox(event).await;
        if is_there {
            until_shown(&self.world.redis, event.user, 1).await;
        }
        self.takes(event, is_there, what).await;
    }

    /// It is delivered until it is taken, once: `is_there` says whether the ledger knew it. Readers are then shown its effect.
    async fn takes(&self, event: &SessionEvent, is_there: bool, what: &str) {
        let json = event.json();
        let mut answer = self.deliver(&json).await;
        for _ in 0..20 {
            if answer.as_ref().is_some_and(|answer| answer.status == 200) {
                break;
            }
            answer = self.deliver(&json).await;
        }
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.json["idempotent"].as_bool()),
            (200, Some(is_there)),
            "{what}: {}",
            answer.text
        );
        self.reads_pro(event.user).await;
        until_shown(&self.world.redis, event.user, 1).await;
    }

    async fn reads_pro(&self, user: Uuid) {
        let answer = self.history.read(1, 0, &self.server, user, Some(1)).await.unwrap();
        assert_reads(&answer, "PRO", 1);
    }

    /// Nothing that was seen, and nothing that is left, is as it must not be.
    async fn ends(&self, name: &str) {
        let end = EndState::read(&self.world.database, &self.world.redis).await;
        let record = self.history.record();
        assert_none(&check::all(&record, &end, &Bounds::default(), &|_, _| "PRO"), name, &record, &end);
    }
}

async fn start(world: &World, settings: &[(String, String)], points: Option<&str>) -> Result<TestServer, String> {
    let mut all = world.settings();
    all.extend(settings.iter().cloned());
    all.extend(points.map(|points| ("FAIL_POINTS".to_owned(), points.to_owned())));
    TestServer::start(&all).await
}

/// Starts a server that dies at a point of its start, before it listens or after.
async fn start_and_die(world: &World, settings: &[(String, String)], point: Point) {
    match start(world, settings, Some(&format!("{point}=abort"))).await {
        Ok(server) => assert_eq!(server.ended().await, ABORTED, "at {point}"),
        // Its own log may not have been written before it died; the shell says what it died of.
        Err(log) => assert!(log.contains("Abort"), "at {point}: {log}"),
    }
}

/// Disarms all points of a running server, and arms some.
pub(super) async fn arm(server: &TestServer, text: &str) {
    let answer = Answer::of(client().post(server.admin_url("/api/admin/fail-points")).body(text.to_owned())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// How often a point was passed while armed.
async fn hits(server: &TestServer, point: Point) -> u64 {
    let answer = Answer::of(client().get(server.admin_url("/api/admin/fail-points"))).await;
    answer.json[point.name()].as_u64().unwrap_or(0)
}

/// Goes through cases in several worlds at once.
async fn in_worlds<T: Copy, F: Future<Output = ()>>(cases: &[T], run: impl Fn(usize, Vec<T>) -> F) {
    let world = |first: usize| cases.iter().skip(first).step_by(AT_ONCE).copied().collect();
    join_all((0..AT_ONCE).map(|first| run(first, world(first)))).await;
}

fn event_for(point: Point) -> SessionEvent {
    let event = SessionEvent::paid(Uuid::new_v4());
    let age = if way(point) == Way::OldWebhook { 60 } else { 0 };
    SessionEvent { created: unix_now() - age, ..event }
}

#[tokio::test]
async fn whatever_happens_at_a_point_of_a_webhooks_way_has_one_effect() {
    let points = on(&[Way::Webhook, Way::OldWebhook]);
    let cases: Vec<_> =
        points.into_iter().flat_map(|point| actions(point).into_iter().map(move |action| (point, action))).collect();
    in_worlds(&cases, async |number, cases| {
        let mut stage = Stage::new().await;
        for (point, action) in cases {
            let event = event_for(point);
            let what = format!("{point}={action}*1");
            stage.arm(&what).await;
            let before = hits(&stage.server, point).await;
            let answer = stage.deliver(&event.json()).await;
            if action == "abort" {
                assert!(answer.is_none(), "it died at {point} before it had answered");
                stage.died().await;
                stage.restart().await;
            } else {
                assert_eq!(hits(&stage.server, point).await, before + 1, "{what} was met");
                let status = answer.expect("an answer").status;
                let expected = match (action, point) {
                    // A router that panics is begun again, and the change goes to the new one.
                    ("delay:5", _) | ("fail", Point::CacheShow) | ("panic", Point::ActorStart) => 200..=200,
                    // On a fresh connection at once, if it was an old one.
                    ("fail", _) => 200..=503,
                    _ => 500..=503,
                };
                assert!(expected.contains(&status), "{what}: {status}");
            }
            stage.settles(&event, &what).await;
        }
        stage.ends(&format!("points-{number}")).await;
    })
    .await;
}

#[tokio::test]
async fn whatever_happens_at_a_point_of_a_read_no_answer_is_wrong() {
    let points = on(&[Way::Read]);
    let cases: Vec<_> =
        points.into_iter().flat_map(|point| actions(point).into_iter().map(move |action| (point, action))).collect();
    in_worlds(&cases, async |number, cases| {
        let mut stage = Stage::new().await;
        for (point, action) in cases {
            let event = SessionEvent::paid(Uuid::new_v4());
            let user = event.user;
            assert_eq!(stage.deliver(&event.json()).await.unwrap().status, 200);
            let _: u64 = stage
                .world
                .redis
                .command(&["DEL", &format!("entitlements:{user}"), &format!("{{entitlements:{user}}}:meta")])
                .await;
            let what = format!("{point}={action}*1@{user}");
            stage.arm(&what).await;
            let before = hits(&stage.server, point).await;
            let answer = stage.history.read(1, 0, &stage.server, user, None).await;
            match answer {
                Some(answer) if answer.status == 200 => drop(assert_reads(&answer, "PRO", 1)),
                Some(answer) => assert!((500..=503).contains(&answer.status), "{what}: {}", answer.text),
                None => assert_eq!(action, "abort", "{what}"),
            }
            if action == "abort" {
                stage.died().await;
                stage.restart().await;
            } else {
                eventually(PATIENCE, "the point is passed", async || hits(&stage.server, point).await > before).await;
            }
            stage.reads_pro(user).await;
            until_shown(&stage.world.redis, user, 1).await;
        }
        stage.ends(&format!("reads-{number}")).await;
    })
    .await;
}

/// A5, A6, A7: what the process before had committed and shown nobody is shown, also if the one that was about to do it dies of it.
#[tokio::test]
async fn a_start_that_dies_is_made_good_by_the_next() {
    in_worlds(&on(&[Way::Start]), async |number, points| {
        let mut stage = Stage::new().await;
        for point in points {
            let event = SessionEvent::paid(Uuid::new_v4());
            stage.arm("ledger.committed=abort").await;
            assert!(stage.deliver(&event.json()).await.is_none());
            stage.died().await;
            start_and_die(&stage.world, &stage.settings, point).await;
            stage.restart().await;
            assert!(stage.is_in_the_inbox(&event).await);
            stage.settles(&event, point.name()).await;
        }
        stage.ends(&format!("starts-{number}")).await;
    })
    .await;
}

/// All replicas at once, so that nobody is left who knew anything.
#[tokio::test]
async fn where_all_replicas_die_at_the_same_point_nothing_is_lost() {
    let stage = Stage::new().await;
    let others = join_all([(); 2].map(|()| start(&stage.world, &stage.settings, None))).await;
    let mut servers: Vec<TestServer> = others.into_iter().map(Result::unwrap).collect();
    servers.push(start(&stage.world, &stage.settings, None).await.unwrap());
    for point in [Point::LedgerLocked, Point::LedgerCommit, Point::LedgerCommitted, Point::CacheShown] {
        let events: Vec<_> = servers.iter().map(|_| SessionEvent::paid(Uuid::new_v4())).collect();
        let fault = format!("{point}=abort");
        join_all(servers.iter().map(|server| arm(server, &fault))).await;
        let deliveries = servers.iter().zip(&events).enumerate();
        let answers = join_all(deliveries.map(async |(replica, (server, event))| {
            let json = event.json();
            stage.history.deliver(replica, replica, server, &json).await.is_none() && server.ended().await == ABORTED
        }))
        .await;
        assert_eq!(answers, [true; 3], "all died at {point}");
        let again = join_all(servers.iter().map(|_| start(&stage.world, &stage.settings, None))).await;
        servers = again.into_iter().map(Result::unwrap).collect();
        for event in &events {
            stage.settles(event, point.name()).await;
        }
    }
    stage.ends("replicas").await;
}

fn all_of(faults: &[(Point, &str)]) -> String {
    let faults = faults.iter().map(|(point, action)| format!("{point}={action}*1"));
    faults.collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn whatever_happens_at_two_points_has_one_effect() {
    let points = on(&[Way::Webhook]);
    let faults: Vec<(Point, &'static str)> =
        points.into_iter().flat_map(|point| actions(point).into_iter().map(move |action| (point, action))).collect();
    let every = faults.iter().flat_map(|one| faults.iter().map(move |other| (*one, *other)));
    let every: Vec<_> = every.filter(|((one, _), (other, _))| one.name() < other.name()).collect();
    let seed = std::env::var("TOLLGATE_FAULT_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    let cases: Vec<_> = if std::env::var("TOLLGATE_FAULT_PAIRS").is_ok_and(|pairs| pairs == "all") {
        every
    } else {
        every.choose_multiple(&mut StdRng::seed_from_u64(seed), PAIRS).copied().collect()
    };
    in_worlds(&cases, async |number, cases| {
        let mut stage = Stage::new().await;
        for ((one, first), (other, second)) in cases {
            // A second later than the last start, at least: no suspect from the beginning, who would be left a try less.
            let event = SessionEvent { created: unix_now() + 1, ..SessionEvent::paid(Uuid::new_v4()) };
            let what = format!("seed {seed}: {one}={first}, {other}={second}");
            let mut armed = vec![(one, first), (other, second)];
            armed.sort_by_key(|(point, _)| Point::ALL.iter().position(|other| other == point));
            stage.arm(&all_of(&armed)).await;
            // Each acts once: one delivery more is taken, and one more where a last try had died.
            for _ in 0..=4 {
                match stage.deliver(&event.json()).await {
                    Some(answer) if answer.status == 200 => break,
                    Some(answer) => assert!((500..=503).contains(&answer.status), "{what}: {}", answer.text),
                    None => {
                        stage.died().await;
                        stage.restart().await;
                        let met = armed.iter().position(|(_, action)| *action == "abort");
                        armed.remove(met.expect("nothing else ends it"));
                        stage.arm(&all_of(&armed)).await;
                    }
                }
            }
            stage.arm("").await;
            // What died and panicked may have used up its tries: a person decides.
            if stage.is_poison(&event).await {
                stage.replay(&event).await;
            }
            stage.settles(&event, &what).await;
        }
        stage.ends(&format!("pairs-{number}")).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_replica_committed_before_its_first_beat_was_shown_to_nobody() {
    let world = World::new().await;
    let server = start(&world, &[], Some("heartbeat.beat=hold;ledger.committed=abort")).await.unwrap();
    let event = SessionEvent::paid(Uuid::new_v4());
    let request = client().post(server.url("/api/webhooks/stripe"));
    let body = serde_json::to_vec(&event.json()).unwrap();
    let request = request.header("Stripe-Signature", server.sign(&body)).body(body);
    assert!(Answer::try_of(request).await.is_err(), "it died before it had answered");
    assert_eq!(server.ended().await, ABORTED);
    let _next = start(&world, &[], None).await.unwrap();
    until_shown(&world.redis, event.user, 1).await;
}
