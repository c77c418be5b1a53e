//! Replicas are restarted one after the other, in good order or by a kill, and nobody pauses: clients deliver through a balancer that sends
//! each webhook to two replicas at once, and again until one takes it; others read. Each event has one effect, and nobody is shown less
//! than had been acknowledged when he asked.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

use super::{PATIENCE, assert_unavailable, until_shown};
use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{Answer, SERVICE_TOKEN, TestServer, World, client},
};

const REPLICAS: usize = 3;
const BUYERS: usize = 3;
/// Between two things that somebody does: what starts meanwhile needs a share of the machine, too.
const PACE: Duration = Duration::from_millis(20);
/// Far beyond all limits of the service's own.
const FORGOTTEN: Duration = Duration::from_secs(15);

/// Who buys again and again. Each purchase is a version.
struct Buyer {
    user: Uuid,
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

struct Fleet {
    world: World,
    replicas: [RwLock<Arc<TestServer>>; REPLICAS],
    buyers: Vec<Buyer>,
    /// How many webhooks each place has taken.
    taken: [AtomicUsize; REPLICAS],
    /// How often a replica was not there, or went away before it had answered.
    without_answer: AtomicUsize,
    reads: AtomicUsize,
    /// How often each event was said to have had its effect just now.
    processed: Mutex<HashMap<String, usize>>,
    is_over: AtomicBool,
}

async fn serve(world: &World) -> Arc<TestServer> {
    Arc::new(world.serve_with(&[("TOLLGATE_LOG", "info")]).await)
}

impl Fleet {
    async fn start() -> Arc<Self> {
        let world = World::new().await;
        let (one, two, three) = tokio::join!(serve(&world), serve(&world), serve(&world));
        let buyer = |_| Buyer { user: Uuid::new_v4(), begun: AtomicU64::new(0), acknowledged: AtomicU64::new(0) };
        Arc::new(Self {
            world,
            replicas: [one, two, three].map(RwLock::new),
            buyers: (0..BUYERS).map(buyer).collect(),
            taken: Default::default(),
            without_answer: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            processed: Mutex::default(),
            is_over: AtomicBool::new(false),
        })
    }

    fn replica(&self, place: usize) -> Arc<TestServer> {
        Arc::clone(&self.replicas[place % REPLICAS].read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An answer, if the replica lives to give one.
    async fn ask(&self, request: reqwest::RequestBuilder) -> Option<Answer> {
        match Answer::try_of(request.timeout(FORGOTTEN)).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                assert!(!error.is_timeout(), "it was neither answered nor ended: {error:?}");
                self.without_answer.fetch_add(1, SeqCst);
                None
            }
        }
    }

    /// Two purchases at the same instant, on different replicas first, until the load is over.
    async fn buy(&self, place: usize) {
        let buyer = &self.buyers[place];
        let mut turn = place;
        while !self.is_over.load(SeqCst) {
            tokio::join!(self.buy_once(buyer, turn), self.buy_once(buyer, turn + 1));
            turn += 1;
            sleep(PACE).await;
        }
    }

    async fn buy_once(&self, buyer: &Buyer, mut turn: usize) {
        let event = SessionEvent::paid(buyer.user);
        buyer.begun.fetch_add(1, SeqCst);
        let is_taken = AtomicBool::new(false);
        while !is_taken.load(SeqCst) {
            tokio::join!(self.post(buyer, &event, turn, &is_taken), self.post(buyer, &event, turn + 1, &is_taken));
            turn += 1;
        }
    }

    async fn post(&self, buyer: &Buyer, event: &SessionEvent, turn: usize, is_taken: &AtomicBool) {
        let server = self.replica(turn);
        let body = serde_json::to_vec(&event.json()).unwrap();
        let request = client().post(server.url("/api/webhooks/stripe"));
        let request = request.header("Stripe-Signature", server.sign(&body)).body(body);
        let Some(answer) = self.ask(request).await else { return };
        if answer.status != 200 {
            return assert_unavailable(&answer);
        }
        if !is_taken.swap(true, SeqCst) {
            buyer.acknowledged.fetch_add(1, SeqCst);
        }
        self.taken[turn % REPLICAS].fetch_add(1, SeqCst);
        if answer.json["processed"] == true {
            let mut processed = self.processed.lock().unwrap_or_else(PoisonError::into_inner);
            *processed.entry(event.id.clone()).or_default() += 1;
        }
    }

    /// Reads at one replica after the other, every other time with what was seen before as `minVersion`.
    async fn read(&self, reader: usize) {
        let mut seen = [0; BUYERS];
        let mut turn = reader;
        while !self.is_over.load(SeqCst) {
            sleep(PACE).await;
            let (place, is_bound) = (turn % BUYERS, (turn / BUYERS).is_multiple_of(2));
            turn += 1;
            let buyer = &self.buyers[place];
            let acknowledged = buyer.acknowledged.load(SeqCst);
            let least = if is_bound { acknowledged.max(seen[place]) } else { acknowledged };
            let bound = if is_bound { format!("?minVersion={least}") } else { String::new() };
            let url = self.replica(turn).url(&format!("/api/entitlements/{}{bound}", buyer.user));
            let Some(answer) = self.ask(client().get(url).bearer_auth(SERVICE_TOKEN)).await else { continue };
            if answer.status != 200 {
                assert_unavailable(&answer);
                continue;
            }
            let version = answer.json["version"].as_u64().unwrap();
            let most = buyer.begun.load(SeqCst);
            assert!((least..=most).contains(&version), "{least} to {most}: {}", answer.text);
            assert!(version == 0 || answer.json["entitlementLevel"] == "PRO", "{}", answer.text);
            seen[place] = version;
            self.reads.fetch_add(1, SeqCst);
        }
    }

    /// Looks into Redis as applications do: what was acknowledged is there, and nothing older ever takes its place.
    async fn look(&self) {
        let mut redis = self.world.redis.connect().await.unwrap();
        let mut seen = [0; BUYERS];
        while !self.is_over.load(SeqCst) {
            sleep(PACE).await;
            for (buyer, seen) in self.buyers.iter().zip(&mut seen) {
                let least = buyer.acknowledged.load(SeqCst).max(*seen);
                let mut get = ::redis::cmd("HGET");
                get.arg(format!("{{entitlements:{}}}:meta", buyer.user)).arg("version");
                // On a machine that is very busy an answer may be given up.
                let Ok(version) = get.query_async::<Option<u64>>(&mut redis).await else { continue };
                *seen = version.unwrap_or(0);
                assert!(*seen >= least, "{} of {} after {least}", *seen, buyer.user);
            }
        }
    }

    /// Waits until the replica of this place has taken some more.
    async fn until_at_work(&self, place: usize) {
        let before = self.taken[place].load(SeqCst);
        eventually(PATIENCE, "the replica takes webhooks", || async {
            self.taken[place].load(SeqCst) > before + BUYERS
        })
        .await;
    }

    async fn assert_each_event_has_one_effect(&self) {
        let processed = self.processed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(processed.values().all(|times| *times == 1), "{processed:?}");
        let database = &self.world.database;
        let mut all = 0;
        for buyer in &self.buyers {
            let (user, begun) = (buyer.user, buyer.begun.load(SeqCst));
            assert_eq!(buyer.acknowledged.load(SeqCst), begun);
            let counts = format!(
                "SELECT version, (SELECT count(*) FROM stripe_events WHERE user_id = '{user}' AND outcome = 'applied'), \
                 (SELECT count(*) FROM user_entitlements WHERE user_id = '{user}' AND status = 'active') \
                 FROM entitlement_state WHERE user_id = '{user}'"
            );
            assert_eq!(database.query(&counts).await, [vec![Some(begun.to_string()); 3]], "version, events, grants");
            until_shown(&self.world.redis, user, usize::try_from(begun).unwrap()).await;
            assert_eq!(self.world.redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("PRO"));
            all += begun;
        }
        assert_eq!(database.value("SELECT count(*) FROM stripe_events").await, all.to_string(), "and nothing else");
    }
}

/// Gives the exit statuses.
async fn restart_one_after_the_other(signal: &str) -> Vec<i32> {
    let fleet = Fleet::start().await;
    let mut load = JoinSet::new();
    for place in 0..BUYERS {
        let fleet = Arc::clone(&fleet);
        load.spawn(async move { fleet.buy(place).await });
    }
    for reader in 0..REPLICAS {
        let fleet = Arc::clone(&fleet);
        load.spawn(async move { fleet.read(reader).await });
    }
    let looking = Arc::clone(&fleet);
    load.spawn(async move { looking.look().await });
    let mut statuses = Vec::new();
    for (place, replica) in fleet.replicas.iter().enumerate() {
        fleet.until_at_work(place).await;
        let before = fleet.replica(place);
        before.signal(signal).await;
        statuses.push(before.ended().await);
        let after = serve(&fleet.world).await;
        *replica.write().unwrap_or_else(PoisonError::into_inner) = after;
        fleet.until_at_work(place).await;
    }
    fleet.is_over.store(true, SeqCst);
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    assert!(fleet.without_answer.load(SeqCst) > 0, "somebody met a replica that was gone");
    assert!(fleet.reads.load(SeqCst) > 0);
    fleet.assert_each_event_has_one_effect().await;
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_stopped_one_after_the_other_under_load_are_not_noticed() {
    assert_eq!(restart_one_after_the_other("TERM").await, [0; REPLICAS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_killed_one_after_the_other_under_load_lose_and_repeat_nothing() {
    restart_one_after_the_other("KILL").await;
}
