//! `cargo bench --bench hot_path`: the steps of a webhook and a read that use the processor, one by one, each beside a peer that
//! does only what cannot be left out. See `benches/README.md`.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench ends by panicking: there is nobody to answer")]

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use futures::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use sha2::Sha256;
use tokio::sync::{Mutex, mpsc, oneshot};
use tollgate::{
    activity::Activity,
    actor::{ActorLimits, Entitlements},
    auth::{SessionVerifier, issue},
    cache::{Cache, RedisCache, RedisSettings},
    config::catalogue,
    domain::{
        change::{Cause, Change, Effect, Owner, Subject},
        entitlement::{Entitlement, fold},
        event::{EventRecord, Outcome, ParkReason},
        grant::{Grant, GrantStatus, Source, SourceKind},
        id::{CustomerId, EventId, SessionId, UserId},
        level::Level,
        plan::Catalogue,
        subscription::Snapshots,
    },
    intake::{
        Interpreter, Meaning,
        signature::{Tolerance, VerifiedPayload, WebhookSecrets, sign, verify},
    },
    ledger::{
        ChangedState, Committed, Epoch, Fetch, FetchCount, FetchEnd, HistoryEntry, InboxEvent, InboxFilter, Instance,
        KeyClaim, Lane, Lapsed, Ledger, LedgerError, ParkedCount, ParkedEvent, SessionRecord, Standing, StoredEvent,
        Ticket, TryEnd,
    },
    watch::Hub,
};
use uuid::Uuid;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An event with all fields of the newest API version, 3 KB.
const BODY: &str = include_str!("../tests/fixtures/stripe/events/checkout.session.completed.payment.endive.json");

const WEBHOOK_SECRET: &str = "whsec_bench0123456789abcdef0123456789";
const JWT_SECRET: &str = "a-session-token-secret-for-benches-only";
const NOW: i64 = 1_790_000_100;

/// Callers at once where more than one is measured.
const CALLERS: usize = 64;

fn body() -> Bytes {
    // The fixture sells TEAM, which the built-in catalogue does not have.
    Bytes::from(BODY.replace("\"TEAM\"", "\"PRO\""))
}

fn verified() -> VerifiedPayload {
    let secret = SecretString::from(WEBHOOK_SECRET);
    let secrets = WebhookSecrets::new(std::slice::from_ref(&secret)).unwrap();
    verify(&secrets, sign(&secret, NOW, &body()).as_bytes(), body(), NOW, Tolerance::STRIPE).unwrap()
}

fn built_in() -> Catalogue {
    catalogue::parse(catalogue::BUILT_IN).unwrap()
}

/// Does Stripe's signature match? The peer is the HMAC alone.
fn signature(c: &mut Criterion) {
    let secret = SecretString::from(WEBHOOK_SECRET);
    let secrets = WebhookSecrets::new(std::slice::from_ref(&secret)).unwrap();
    let header = sign(&secret, NOW, &body());
    let body = body();
    let keyed = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes()).unwrap();

    let mut group = c.benchmark_group("signature");
    group.throughput(Throughput::Bytes(body.len().try_into().unwrap()));
    group.bench_function("verify", |b| {
        b.iter(|| verify(&secrets, black_box(header.as_bytes()), body.clone(), NOW, Tolerance::STRIPE).unwrap());
    });
    group.bench_function("peer: HMAC of the body", |b| {
        b.iter(|| keyed.clone().chain_update(black_box(&body)).finalize());
    });
    group.finish();
}

/// What does the body mean? The peer looks at every byte of the JSON and keeps nothing.
fn parse(c: &mut Criterion) {
    let interpreter = Interpreter::new(built_in(), Some(false));
    let payload = verified();
    assert!(matches!(interpreter.read(&payload), Ok(Meaning::Change(_))), "the fixture is a purchase");

    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(payload.bytes().len().try_into().unwrap()));
    group.bench_function("interpret", |b| b.iter(|| interpreter.read(black_box(&payload)).unwrap()));
    group.bench_function("peer: serde_json, all ignored", |b| {
        b.iter(|| serde_json::from_slice::<serde::de::IgnoredAny>(black_box(payload.bytes())).unwrap());
    });
    group.finish();
}

/// From grants to a level. The peer looks at every grant's end.
fn fold_grants(c: &mut Criterion) {
    let catalogue = built_in();
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let mut group = c.benchmark_group("fold");
    for count in [1_i64, 10, 100] {
        let grants: Vec<Grant> = (0..count).map(|index| grant(index, now)).collect();
        group.throughput(Throughput::Elements(count.try_into().unwrap()));
        group.bench_with_input(BenchmarkId::new("grants", count), &grants, |b, grants| {
            b.iter(|| fold(black_box(grants), &catalogue, now));
        });
        group.bench_with_input(BenchmarkId::new("peer: latest end", count), &grants, |b, grants| {
            b.iter(|| black_box(grants).iter().map(|grant| grant.period_end).max());
        });
    }
    group.finish();
}

/// Every third is a trial, of which only the earliest counts; all are live.
fn grant(index: i64, now: DateTime<Utc>) -> Grant {
    let id = format!("cs_bench{index}");
    Grant {
        source: Source { kind: SourceKind::Checkout, id: id.as_str().into() },
        level: Level::parse(if index % 3 == 0 { "TRIAL" } else { "PRO" }).unwrap(),
        status: GrantStatus::Active,
        period_end: now + TimeDelta::days(index + 1),
        reported_at: now - TimeDelta::days(index),
        event: Some(EventId::parse(&format!("evt_bench{index}")).unwrap()),
        session: Some(SessionId::parse(&id).unwrap()),
        payment_intent: None,
        customer: None,
        hold: None,
        snapshots: Snapshots::default(),
    }
}

/// Whose token is it? The peer is the HMAC alone.
fn token(c: &mut Criterion) {
    let secret = SecretString::from(JWT_SECRET);
    let token = issue(&secret, None, UserId::from(Uuid::from_u128(7)), Duration::from_secs(3600), NOW).unwrap();
    let verifier = SessionVerifier::new(&secret, None);
    let (message, _) = token.rsplit_once('.').unwrap();
    let keyed = Hmac::<Sha256>::new_from_slice(JWT_SECRET.as_bytes()).unwrap();

    let mut group = c.benchmark_group("token");
    group.bench_function("verify", |b| b.iter(|| verifier.verify(black_box(&token), NOW).unwrap()));
    group.bench_function("peer: HMAC of the message", |b| {
        b.iter(|| keyed.clone().chain_update(black_box(message)).finalize());
    });
    group.finish();
}

/// A change through its user's actor and the writer to a ledger that does nothing, and back. Redis is out of reach and the
/// breaker open: what is left are the hops.
///
/// The peer does the same with a lock per user in a map, and hands the change to a task over a channel.
fn actor(c: &mut Criterion) {
    let system = actix::System::new();
    let (entitlements, peer) = system.block_on(async {
        let cache = Cache::from(RedisCache::new("redis://127.0.0.1:1", RedisSettings::default()).unwrap());
        let entitlements = Entitlements::start(Arc::new(NoLedger), cache, Hub::new(0), Activity::unwatched(), limits());
        // Until the breaker opens.
        for _ in 0..100 {
            entitlements.apply(change(UserId::from(Uuid::new_v4()))).await.unwrap();
        }
        (entitlements, LockedUsers::start())
    });
    let user = UserId::from(Uuid::from_u128(7));
    let users: Vec<UserId> = (0..1024).map(|_| UserId::from(Uuid::new_v4())).collect();
    let known = change(user);
    system.block_on(entitlements.apply(known.clone())).unwrap();

    let mut group = c.benchmark_group("actor");
    group.throughput(Throughput::Elements(1));
    group.bench_function("duplicate, 1 caller", |b| {
        b.iter_custom(|times| {
            system.block_on(timed(times, 1, async |_| {
                assert_eq!(entitlements.apply(known.clone()).await, Ok(Outcome::Duplicate));
            }))
        });
    });
    for callers in [1, CALLERS] {
        group.bench_function(format!("change, {callers} callers"), |b| {
            b.iter_custom(|times| {
                system.block_on(timed(times, callers, async |index| {
                    entitlements.apply(change(pick(&users, index))).await.unwrap();
                }))
            });
        });
        group.bench_function(format!("peer: lock and channel, {callers} callers"), |b| {
            b.iter_custom(|times| {
                system.block_on(timed(times, callers, async |index| {
                    peer.apply(change(pick(&users, index))).await;
                }))
            });
        });
    }
    group.bench_function("change of a new user, 1 caller", |b| {
        b.iter_custom(|times| {
            system.block_on(timed(times, 1, async |_| {
                entitlements.apply(change(UserId::from(Uuid::new_v4()))).await.unwrap();
            }))
        });
    });
    group.finish();
    entitlements.stop();
}

fn pick(users: &[UserId], index: u64) -> UserId {
    let place = usize::try_from(index).unwrap() % users.len();
    users.get(place).copied().unwrap()
}

/// How long it takes to do something so many times, with so many at once.
async fn timed(times: u64, at_once: usize, work: impl AsyncFn(u64)) -> Duration {
    let start = Instant::now();
    stream::iter(0..times).for_each_concurrent(at_once, |index| work(index)).await;
    start.elapsed()
}

fn limits() -> ActorLimits {
    ActorLimits {
        arbiters: 2,
        idle: Duration::from_secs(3600),
        live_max: 10_000_000,
        per_user_max: 128,
        reply_timeout: Duration::from_secs(4),
        commit_timeout: Duration::from_secs(3),
        cache_budget: Duration::from_millis(50),
        lanes: 2,
        queue_max: 1024,
        batch_max: 256,
    }
}

/// A purchase under an event id that was never used before.
fn change(user: UserId) -> Change {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let record = EventRecord {
        id: EventId::parse(&format!("evt_bench{number}")).unwrap(),
        kind: "checkout.session.completed".to_owned(),
        object_id: Some("cs_bench".to_owned()),
        created: now,
        livemode: false,
        api_version: Some("2026-10-28.endive".to_owned()),
        object_hash: [0; 32],
        payload: Bytes::from_static(BODY.as_bytes()),
    };
    Change { user, found_by: None, cause: Cause::Delivery(record), effect: Effect::Purchase(grant(1, now)) }
}

fn committed() -> Committed {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    let entitlement = Entitlement {
        level: Level::free(),
        expires_at: None,
        quantity: 1,
        version: VERSION.fetch_add(1, Ordering::Relaxed),
    };
    Committed { outcome: Outcome::Applied, entitlement: Some(entitlement), others: Vec::new() }
}

/// What the actors are measured against: one lock per user, and one task that takes changes in groups.
struct LockedUsers {
    locks: DashMap<UserId, Arc<Mutex<u64>>>,
    queue: mpsc::Sender<(Change, oneshot::Sender<Committed>)>,
}

impl LockedUsers {
    fn start() -> Self {
        let (queue, mut changes) = mpsc::channel::<(Change, oneshot::Sender<Committed>)>(1024);
        actix::Arbiter::new().spawn(async move {
            let mut batch = Vec::new();
            while changes.recv_many(&mut batch, 256).await > 0 {
                for (_, answer) in batch.drain(..) {
                    let _nobody_listens = answer.send(committed());
                }
            }
        });
        Self { locks: DashMap::new(), queue }
    }

    async fn apply(&self, change: Change) {
        let lock = Arc::clone(&self.locks.entry(change.user).or_default());
        let mut version = lock.lock().await;
        let (answer, answered) = oneshot::channel();
        self.queue.send((change, answer)).await.unwrap();
        *version = answered.await.unwrap().entitlement.unwrap().version;
    }
}

/// A ledger that says yes to everything and keeps nothing.
struct NoLedger;

struct NoLane;

#[async_trait]
impl Lane for NoLane {
    async fn commit(&mut self, batch: Vec<Ticket>) {
        for ticket in batch {
            (ticket.reply)(Ok(committed()));
        }
    }
}

#[async_trait]
impl Ledger for NoLedger {
    fn epoch(&self) -> Epoch {
        static EPOCH: std::sync::LazyLock<Epoch> = std::sync::LazyLock::new(|| Epoch::new("bench"));
        EPOCH.clone()
    }

    fn lane(&self) -> Box<dyn Lane> {
        Box::new(NoLane)
    }

    async fn entitlement(&self, _: UserId) -> Result<Entitlement, LedgerError> {
        Ok(Entitlement::none())
    }

    async fn grants(&self, _: UserId) -> Result<Vec<Grant>, LedgerError> {
        Ok(Vec::new())
    }

    async fn history(&self, _: UserId, _: Option<u64>, _: u32) -> Result<Vec<HistoryEntry>, LedgerError> {
        Ok(vec![])
    }

    async fn owner(&self, _: &Subject) -> Result<Owner, LedgerError> {
        Ok(Owner::Nobody)
    }

    async fn versions(&self, _: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
        Ok(Vec::new())
    }

    async fn changed_between(
        &self,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: u32,
    ) -> Result<Vec<ChangedState>, LedgerError> {
        Ok(Vec::new())
    }

    async fn lapsed(&self, _: Option<Lapsed>, _: u32) -> Result<Vec<Lapsed>, LedgerError> {
        Ok(Vec::new())
    }

    async fn parked_due(&self, _: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
        Ok(Vec::new())
    }

    async fn events(&self, _: &InboxFilter, _: u32) -> Result<Vec<InboxEvent>, LedgerError> {
        Ok(vec![])
    }

    async fn event(&self, _: &str) -> Result<Option<StoredEvent>, LedgerError> {
        Ok(None)
    }

    async fn parked(&self) -> Result<Vec<ParkedCount>, LedgerError> {
        Ok(vec![])
    }

    async fn received_since(&self, _: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError> {
        Ok(vec![])
    }

    async fn levels_in_use(&self) -> Result<Vec<Level>, LedgerError> {
        Ok(Vec::new())
    }

    async fn levels_lacking(&self, _: &[Level]) -> Result<Vec<Level>, LedgerError> {
        Ok(Vec::new())
    }

    async fn wake_parked(&self, _: ParkReason) -> Result<usize, LedgerError> {
        Ok(0)
    }

    async fn park_for(&self, _: &EventId, _: ParkReason) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn begin_try(&self, _: &EventId, _: bool) -> Result<Option<u32>, LedgerError> {
        Ok(Some(1))
    }

    async fn end_try(&self, _: &EventId, _: TryEnd) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn count_panic(&self, _: &EventId) -> Result<u32, LedgerError> {
        Ok(1)
    }

    async fn record_session(&self, _: &SessionRecord) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn session(&self, _: UserId, _: &SessionId) -> Result<Option<SessionRecord>, LedgerError> {
        Ok(None)
    }

    async fn session_opened_by(&self, _: UserId, _: &str) -> Result<Option<SessionRecord>, LedgerError> {
        Ok(None)
    }

    async fn customer(&self, _: UserId) -> Result<Option<CustomerId>, LedgerError> {
        Ok(None)
    }

    async fn claim_key(&self, _: UserId, _: [u8; 32], wish: &str, attempt: u32) -> Result<KeyClaim, LedgerError> {
        Ok(KeyClaim { wish: wish.to_owned(), attempt })
    }

    async fn move_key(&self, _: UserId, _: [u8; 32], _: u32, _: u32) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn beat(&self, _: Uuid, _: Duration) -> Result<Vec<Instance>, LedgerError> {
        Ok(Vec::new())
    }

    async fn instances(&self) -> Result<Vec<Instance>, LedgerError> {
        Ok(vec![])
    }

    async fn forget_instance(&self, _: Uuid) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn fetches_due(&self, _: u32, _: Duration) -> Result<Vec<Fetch>, LedgerError> {
        Ok(vec![])
    }
    async fn end_fetch(&self, _: &Fetch, _: FetchEnd) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn find_lapsing(&self, _: u32) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn fetches(&self) -> Result<Vec<FetchCount>, LedgerError> {
        Ok(vec![])
    }
    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        Ok(DateTime::from_timestamp(NOW, 0).unwrap())
    }
}

criterion_group!(benches, signature, parse, fold_grants, token, actor);
criterion_main!(benches);
