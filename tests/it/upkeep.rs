//! What runs beside requests, in this process: what readers lack is known to all replicas, and made good whatever fails first.

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use tollgate::{
    activity::Activity,
    actor::{ActorLimits, Entitlements},
    cache::{Cache, RedisCache, RedisSettings},
    domain::{entitlement::Entitlement, event::Outcome, id::UserId, level::Level},
    intake::Interpreter,
    ledger::Ledger,
    trial::Trials,
    upkeep::{Rhythm, RunningUpkeep, Upkeep},
    watch::Hub,
};
use uuid::Uuid;

use crate::{
    harness::{
        RedisServer, TestDatabase, eventually,
        ledger::TestFile,
        proxy::Proxy,
        scripted::{self, ScriptedLedger, delivery},
    },
    ledger::{built_in, commit_one, ledger_on, purchase, user},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What would help by and by must not hide what does not help at once.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

const LIMITS: ActorLimits = ActorLimits { arbiters: 1, ..scripted::LIMITS };

/// A replica without a front.
struct Replica {
    entitlements: Entitlements,
    _upkeep: RunningUpkeep,
}

impl Replica {
    fn start(ledger: Arc<dyn Ledger>, redis_url: &str, rhythm: Rhythm) -> Self {
        let cache = Cache::from(RedisCache::new(redis_url, RedisSettings::default()).unwrap());
        let entitlements =
            Entitlements::start(Arc::clone(&ledger), cache.clone(), Hub::new(0), Activity::unwatched(), LIMITS);
        let interpreter = Interpreter::new(built_in(), Some(false));
        let trials = Trials::new(ledger.clone(), entitlements.clone(), interpreter);
        let upkeep = Upkeep::new(Uuid::new_v4(), ledger, cache, entitlements.clone(), trials, rhythm).start();
        Self { entitlements, _upkeep: upkeep }
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
