//! What runs beside requests, in this process: what readers lack is known to all replicas, and made good whatever fails first.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::connection::SimpleConnection;
use secrecy::SecretString;
use stripe_gateway::{GatewayConfig, StripeGateway};
use tollgate::{
    activity::Activity,
    actor::{ActorLimits, ApplyError, Entitlements},
    cache::{Cache, RedisCache, RedisSettings},
    domain::{change::Change, entitlement::Entitlement, event::Outcome, id::UserId, level::Level, money::Report},
    fetch::Fetcher,
    intake::Interpreter,
    ledger::{
        Ledger,
        sqlite::{Limits, SqliteLedger},
    },
    trial::Trials,
    upkeep::{Pulse, Rhythm, RunningUpkeep, Upkeep},
    watch::Hub,
};
use uuid::Uuid;

use crate::{
    harness::{
        RedisServer, TestDatabase, eventually,
        ledger::TestFile,
        proxy::Proxy,
        scripted::{self, Fault, ScriptedLedger, delivery},
    },
    ledger::{built_in, commit_one, ledger_on, purchase, user},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What would help by and by must not hide what does not help at once.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

const LIMITS: ActorLimits = ActorLimits { arbiters: 1, ..scripted::LIMITS };

/// A replica without a front.
pub(crate) struct Replica {
    entitlements: Entitlements,
    pulse: Pulse,
    _upkeep: RunningUpkeep,
}

impl Replica {
    pub(crate) fn start(ledger: Arc<dyn Ledger>, redis_url: &str, rhythm: Rhythm) -> Self {
        let cache = Cache::from(RedisCache::new(redis_url, RedisSettings::default()).unwrap());
        let entitlements =
            Entitlements::start(Arc::clone(&ledger), cache.clone(), Hub::new(0), Activity::unwatched(), LIMITS);
        let interpreter = Interpreter::new(built_in(), Some(false));
        let key = SecretString::from("sk_test_1234567890");
        let fetcher = StripeGateway::new(GatewayConfig::new(key))
            .map(|gateway| Fetcher::new(&gateway, Arc::clone(&ledger), entitlements.clone(), interpreter.clone()));
        let trials = Trials::new(Arc::clone(&ledger), entitlements.clone(), interpreter);
        let upkeep =
            Upkeep::new(Uuid::new_v4(), ledger, cache, entitlements.clone(), trials, rhythm).asking(fetcher.ok());
        Self { entitlements, pulse: upkeep.pulse(), _upkeep: upkeep.start() }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.entitlements.stop();
    }
}

fn level_key(user: UserId) -> String {
    format!("entitlements:{user}")
}

#[actix_web::test]
async fn a_replica_tells_since_when_readers_lack_something() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let rhythm = Rhythm { beat: SOON, ..Rhythm::default() };
    let replica = Replica::start(ledger, "redis://127.0.0.1:1", rhythm);
    assert_eq!(replica.entitlements.apply(delivery(user(), "evt_1")).await, Ok(Outcome::Applied));
    let behind = "SELECT last_seen - shown_until > interval '1 second' AND \
                  shown_until > now() - interval '1 minute' FROM instances";
    eventually(PATIENCE, "it is behind", || async { database.query(behind).await == [[Some("t".to_owned())]] }).await;
}

/// The cache write had waited for an hour when its replica died a moment after its last beat.
#[actix_web::test]
async fn what_a_dead_replica_left_long_before_its_last_beat_is_shown() {
    let (database, redis) = (TestDatabase::new().await, RedisServer::start().await);
    let ledger = ledger_on(&database).await;
    let buyer = user();
    commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
    database.execute("UPDATE entitlement_state SET changed_at = now() - interval '1 hour'").await;
    ledger.beat(Uuid::new_v4(), Duration::from_secs(3600)).await.unwrap();
    let rhythm = Rhythm { compare: NEVER, ..Rhythm::default() };
    let _replica = Replica::start(ledger, &redis.url(), rhythm);
    eventually(PATIENCE, "readers see what was bought", || async {
        redis.get(&level_key(buyer)).await.as_deref() == Some("PRO")
    })
    .await;
}

/// It had waited for another replica to come and look: nobody else starts here.
#[actix_web::test]
async fn what_a_replica_left_that_was_killed_is_shown_by_one_that_lives() {
    let (database, redis) = (TestDatabase::new().await, RedisServer::start().await);
    let ledger = ledger_on(&database).await;
    let rhythm = Rhythm { beat: SOON, dead_after: Duration::from_secs(1), compare: NEVER, ..Rhythm::default() };
    let _replica = Replica::start(Arc::clone(&ledger) as Arc<dyn Ledger>, &redis.url(), rhythm);
    eventually(PATIENCE, "it has looked round", || async { !redis.keys().await.is_empty() }).await;
    let buyer = user();
    commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
    let killed = Uuid::new_v4();
    ledger.beat(killed, Duration::ZERO).await.unwrap();
    eventually(PATIENCE, "readers see what was bought", || async {
        redis.get(&level_key(buyer)).await.as_deref() == Some("PRO")
    })
    .await;
}

/// What the canary of the only replica says.
async fn canary(redis: &RedisServer) -> u64 {
    let keys = redis.keys().await;
    // That of nobody is the breaker's probe.
    let own = |key: &&String| key.starts_with("webhook:event:canary:") && !key.ends_with(&Uuid::nil().to_string());
    let key = keys.iter().find(own).expect("a replica beats");
    redis.get(key).await.unwrap().parse().unwrap()
}

async fn shows(redis: &RedisServer, user: UserId, version: &str) -> bool {
    let Ok(mut connection) = redis.connect().await else { return false };
    let mut get = ::redis::cmd("HGET");
    get.arg(format!("{{entitlements:{user}}}:meta")).arg("version");
    get.query_async::<Option<String>>(&mut connection).await.is_ok_and(|found| found.as_deref() == Some(version))
}

/// Redis loses what it had acknowledged, and an older state is there again: from a snapshot, from a replica that had fallen behind, and
/// none at all.
#[actix_web::test]
async fn a_redis_that_has_gone_back_in_time_is_brought_forward_without_a_request() {
    let (primary, standby) = tokio::join!(RedisServer::start(), RedisServer::start());
    let proxy = Proxy::before(&primary.url()).await;
    let ledger = ScriptedLedger::new();
    let rhythm = Rhythm { beat: SOON, compare: NEVER, probe: SOON, ..Rhythm::default() };
    let replica = Replica::start(Arc::new(ledger.clone()), proxy.url(), rhythm);
    let buyer = user();
    let buy = async |redis: &RedisServer, version: &str| {
        let bought = replica.entitlements.apply(delivery(buyer, &format!("evt_{version}"))).await;
        assert_eq!(bought, Ok(Outcome::Applied));
        eventually(PATIENCE, "readers see it", || shows(redis, buyer, version)).await;
    };
    buy(&primary, "1").await;
    primary.command::<String>(&["SAVE"]).await;
    let saved = canary(&primary).await;
    buy(&primary, "2").await;
    eventually(PATIENCE, "a beat has gone by", || async { canary(&primary).await > saved + 1 }).await;
    primary.sigkill().await;
    primary.start_again().await;
    eventually(PATIENCE, "the snapshot is overtaken", || shows(&primary, buyer, "2")).await;

    standby.command::<String>(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    eventually(PATIENCE, "the standby has all of it", || shows(&standby, buyer, "2")).await;
    standby.command::<String>(&["REPLICAOF", "NO", "ONE"]).await;
    let copied = canary(&standby).await;
    buy(&primary, "3").await;
    eventually(PATIENCE, "a beat has gone by", || async { canary(&primary).await > copied + 1 }).await;
    primary.sigkill().await;
    proxy.lead_to(standby.port());
    eventually(PATIENCE, "the standby is brought forward", || shows(&standby, buyer, "3")).await;

    standby.flushall().await;
    eventually(PATIENCE, "it is all there again", || shows(&standby, buyer, "3")).await;
}

/// Redis comes back, and the ledger has a hiccup at that very moment.
#[actix_web::test]
async fn what_was_missed_in_an_outage_is_shown_although_the_first_attempt_fails() {
    let redis = RedisServer::start().await;
    let ledger = ScriptedLedger::new();
    let rhythm = Rhythm { beat: NEVER, compare: NEVER, retry: SOON, probe: SOON, ..Rhythm::default() };
    let replica = Replica::start(Arc::new(ledger.clone()), &redis.url(), rhythm);
    eventually(PATIENCE, "Redis is in use", || async { !redis.keys().await.is_empty() }).await;
    redis.stop().await;
    let (ours, theirs) = (user(), user());
    for n in 0..5 {
        let event = format!("evt_{n}");
        assert_eq!(replica.entitlements.apply(delivery(ours, &event)).await, Ok(Outcome::Applied));
    }
    let pro = Entitlement {
        level: Level::parse("PRO").unwrap(),
        expires_at: Some(Utc::now() + TimeDelta::days(30)),
        quantity: 1,
        version: 1,
    };
    ledger.write(theirs, pro);
    ledger.fail_clock(3);
    redis.start_again().await;
    eventually(PATIENCE, "both are shown", || async {
        redis.get(&level_key(ours)).await.is_some() && redis.get(&level_key(theirs)).await.is_some()
    })
    .await;
}

/// A process was killed, and then the machine's clock, which is that of a ledger in a file, was set back by an hour.
#[actix_web::test]
async fn a_replica_that_was_heard_of_in_the_future_kept_the_comparison_from_being_made() {
    let (file, redis) = (TestFile::new(), RedisServer::start().await);
    let ledger = file.open().await;
    let future = (Utc::now() + TimeDelta::hours(1)).timestamp_micros();
    file.execute(&format!("INSERT INTO instances VALUES ('{}', {future}, {future}, {future})", Uuid::nil()));
    let buyer = user();
    commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
    let rhythm = Rhythm { beat: NEVER, compare: SOON, ..Rhythm::default() };
    let _replica = Replica::start(ledger, &redis.url(), rhythm);
    eventually(PATIENCE, "readers see what was bought", || async {
        redis.get(&level_key(buyer)).await.as_deref() == Some("PRO")
    })
    .await;
}

#[actix_web::test]
async fn a_loop_that_panics_is_begun_again() {
    let ledger = ScriptedLedger::new();
    ledger.panic_in_sweeps(2);
    let rhythm = Rhythm { beat: SOON, sweep: SOON, ..Rhythm::default() };
    let _replica = Replica::start(Arc::new(ledger.clone()), "redis://127.0.0.1:1", rhythm);
    eventually(PATIENCE, "levels end again", || async { ledger.sweeps() > 2 }).await;
}

/// Each turn went on for as long as anything was due: after a long outage of Stripe's, for hours.
#[actix_web::test]
async fn a_long_queue_of_questions_kept_subscriptions_that_lapse_from_being_found() {
    let ledger = ScriptedLedger::new();
    ledger.question_without_end();
    let _replica = Replica::start(Arc::new(ledger.clone()), "redis://127.0.0.1:1", Rhythm::default());
    eventually(PATIENCE, "they are looked for again", || async { ledger.lapsing_sought() > 1 }).await;
}

/// To show readers a day's changes takes long: the others took the replica for dead meanwhile, and forgot it.
#[actix_web::test]
async fn a_replica_fell_silent_while_it_showed_readers_what_they_lacked() {
    let (ledger, redis) = (ScriptedLedger::new(), RedisServer::start().await);
    let rhythm = Rhythm { beat: SOON, compare: NEVER, ..Rhythm::default() };
    let _replica = Replica::start(Arc::new(ledger.clone()), &redis.url(), rhythm);
    eventually(PATIENCE, "it beats", || async { ledger.beats() > 0 }).await;
    ledger.close_gate();
    ledger.set_epoch("second");
    eventually(PATIENCE, "it looks what readers lack", || async { ledger.pages_asked_for() > 0 }).await;
    let before = ledger.beats();
    eventually(PATIENCE, "it beats on", || async { ledger.beats() > before + 2 }).await;
    assert_eq!(ledger.pages_asked_for(), 1, "and shows everything once");
    ledger.open_gate();
}

/// Makes users of so many numbers, each with a state of this level that ends, and has changed, at these moments.
fn states(file: &TestFile, count: u32, level: &str, ends: &str, changed: DateTime<Utc>) {
    let changed = changed.timestamp_micros();
    file.execute(&format!(
        "INSERT INTO users (id, created_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
           SELECT printf('00000000-0000-4000-8000-%012x', i), {changed} FROM n; \
         INSERT INTO entitlement_state (user_id, level, expires_at, version, changed_at) \
           SELECT id, '{level}', {ends}, 1, {changed} FROM users"
    ));
}

/// One transaction may write more users than a page has, all of them at the same moment.
#[actix_web::test]
async fn of_many_who_changed_at_one_moment_a_page_was_shown_and_the_others_never() {
    let (file, redis) = (TestFile::new(), RedisServer::start().await);
    let ledger = file.open().await;
    states(&file, 2_500, "PRO", "NULL", Utc::now() - TimeDelta::minutes(30));
    ledger.beat(Uuid::new_v4(), Duration::from_secs(3600)).await.unwrap();
    let rhythm = Rhythm { compare: NEVER, ..Rhythm::default() };
    let _replica = Replica::start(ledger, &redis.url(), rhythm);
    eventually(PATIENCE, "all are shown", || async {
        redis.keys().await.iter().filter(|key| key.starts_with("entitlements:")).count() == 2_500
    })
    .await;
}

/// Of the oldest nothing could be decided here, as while a new catalogue reaches one replica after the other: they were tried again and again, and
/// nobody behind them.
#[actix_web::test]
async fn levels_that_could_not_be_ended_kept_all_others_from_ending() {
    let file = TestFile::new();
    let ledger = file.open().await;
    let now = Utc::now();
    let (past, future) = (now - TimeDelta::hours(1), (now + TimeDelta::hours(1)).timestamp_micros());
    states(&file, 600, "PRO", &past.timestamp_micros().to_string(), past);
    file.execute(&format!(
        "INSERT INTO user_entitlements (user_id, entitlement_level, expires_at, source_kind, source_id, status, period_end, reported_at, \
           created_at, updated_at) SELECT id, 'NEW', {future}, 'checkout', 'cs_' || id, 'active', {future}, 0, 0, 0 FROM users"
    ));
    let buyer = user();
    commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await;
    let over = now.timestamp_micros();
    file.execute(&format!("UPDATE entitlement_state SET expires_at = {over} WHERE user_id = '{buyer}'"));
    let rhythm = Rhythm { beat: NEVER, compare: NEVER, sweep: SOON, ..Rhythm::default() };
    let _replica = Replica::start(ledger, "redis://127.0.0.1:1", rhythm);
    let version = format!("SELECT version FROM entitlement_state WHERE user_id = '{buyer}'");
    eventually(PATIENCE, "his has an end", || async { file.column(&version) == ["2"] }).await;
    let ended = "SELECT count(*) FROM entitlement_state WHERE version > 1";
    assert_eq!(file.column(ended), ["1"], "of the others nothing was decided");
}

/// A full disk answers questions as ever, and so does a file that another program keeps locked: the replica was said to be ready, and took
/// nothing.
#[actix_web::test]
async fn a_ledger_that_takes_no_writes_was_said_to_be_ready() {
    let file = TestFile::new();
    let ledger = file.open_with(Limits { busy: Duration::from_millis(1), ..Limits::default() }).await;
    let rhythm = Rhythm { beat: SOON, dead_after: Duration::from_secs(1), compare: NEVER, ..Rhythm::default() };
    let replica = Replica::start(Arc::<SqliteLedger>::clone(&ledger), "redis://127.0.0.1:1", rhythm);
    let beats = "SELECT count(*) FROM instances WHERE last_seen > started_at";
    eventually(PATIENCE, "it beats", || async { file.column(beats) == ["1"] }).await;
    assert!(!replica.pulse.is_lost());
    let mut shell = file.connect();
    shell.batch_execute("BEGIN IMMEDIATE").unwrap();
    eventually(PATIENCE, "it is told", || async { replica.pulse.is_lost() }).await;
    assert!(ledger.now().await.is_ok(), "it answers");
    shell.batch_execute("ROLLBACK").unwrap();
    eventually(PATIENCE, "it takes writes again", || async { !replica.pulse.is_lost() }).await;
}

/// Of a refund nobody but the ledger knows whom it concerns: they went on with what they had until the comparison, half a minute later.
#[actix_web::test]
async fn what_a_report_in_doubt_had_changed_readers_were_not_shown() {
    let (ledger, redis) = (ScriptedLedger::new(), RedisServer::start().await);
    let rhythm = Rhythm { beat: NEVER, compare: NEVER, retry: SOON, ..Rhythm::default() };
    let replica = Replica::start(Arc::new(ledger.clone()), &redis.url(), rhythm);
    ledger.fail("evt_1", Fault::CommitsInDoubt);
    let Change { cause, user, .. } = delivery(UserId::from(Uuid::nil()), "evt_1");
    let report = Report { cause, facts: Vec::new() };
    assert_eq!(replica.entitlements.report(report).await, Err(ApplyError::InDoubt));
    eventually(PATIENCE, "readers see it", || shows(&redis, user, "1")).await;
}
