//! The end of a level: a second after it nobody is served the level any more, by HTTP or by Redis, whoever asks, or nobody, and although a
//! replica is frozen or somebody holds another user's lock. Ends are a few seconds ahead; what is asserted of time is the contract's
//! own second, by the clock of whoever recorded it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use serde_json::json;
use tollgate::{
    activity::Activity,
    actor::{ActorLimits, Entitlements},
    cache::{Cache, MemoryCache, MemorySettings},
    domain::id::UserId,
    intake::Interpreter,
    ledger::{
        Ledger,
        postgres::{Limits, PostgresLedger},
    },
    trial::Trials,
    upkeep::{Rhythm, Upkeep},
    watch::Hub,
};
use uuid::Uuid;

use crate::{
    harness::{
        PATIENCE, TestDatabase, eventually, scripted,
        server::{Answer, TestServer, World, client},
        shop::Shop,
    },
    ledger::{built_in, cases::by_hand::gift, commit_one, ledger_on, purchase},
    ledger_faults::hold_lock_of,
};

const A_SECOND: TimeDelta = TimeDelta::seconds(1);

/// Gives PRO until some seconds from now. Gives that moment.
async fn give(server: &TestServer, user: Uuid, seconds: i64) -> DateTime<Utc> {
    let until = (Utc::now() + TimeDelta::seconds(seconds)).trunc_subsecs(3);
    give_until(server, user, until).await;
    until
}

/// Gives PRO until a moment.
pub(crate) async fn give_until(server: &TestServer, user: Uuid, until: DateTime<Utc>) {
    let wish = json!({
        "id": Uuid::new_v4(), "level": "PRO", "until": until.to_rfc3339_opts(SecondsFormat::Millis, true),
        "operator": "robin", "reason": "a short one",
    });
    let url = server.admin_url(&format!("/api/admin/entitlements/{user}/grants"));
    let given = Answer::of(client().post(url).json(&wish)).await;
    assert_eq!((given.status, &given.json["created"]), (200, &json!(true)), "{}", given.text);
}

/// Asks again and again until the end has a version of its own. Whoever asks a second after the end, or later, is told `FREE`.
async fn asked_until_it_ended(server: &TestServer, user: Uuid, end: DateTime<Utc>) {
    let mut is_first = true;
    eventually(PATIENCE, "the end is a version", || {
        let is_first = std::mem::take(&mut is_first);
        async move {
            let asked = Utc::now();
            let read = server.read(user).await;
            assert_eq!(read.status, 200, "{}", read.text);
            let level = read.json["entitlementLevel"].as_str().unwrap();
            assert!(!is_first || asked >= end || level == "PRO", "it begins as PRO");
            assert!(level == "FREE" || asked < end + A_SECOND, "{level} {:?} after its end", asked - end);
            read.json["version"] == 2
        }
    })
    .await;
    assert_eq!(server.read(user).await.json["entitlementLevel"], "FREE");
}

/// One user is asked about, the other never, until long after the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_ends_for_all_while_a_replica_is_frozen() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    let (asked, silent) = (Uuid::new_v4(), Uuid::new_v4());
    let end_of_silent = give(&one, silent, 3).await;
    let end_of_asked = give(&one, asked, 3).await;
    for (user, end) in [(asked, end_of_asked), (silent, end_of_silent)] {
        let key = format!("entitlements:{user}");
        assert_eq!(world.redis.get(&key).await.as_deref(), Some("PRO"));
        let gone: i64 = world.redis.command(&["PEXPIRETIME", &key]).await;
        assert!((1..=end.timestamp_millis()).contains(&gone), "Redis itself lets go of it in time: {gone} for {end}");
    }
    one.signal("STOP").await;
    asked_until_it_ended(&two, asked, end_of_asked).await;

    let silent_state = format!("FROM entitlement_state WHERE user_id = '{silent}' AND version = 2 AND level = 'FREE'");
    eventually(PATIENCE, "what nobody asked about ends, too", || async {
        world.database.value(&format!("SELECT count(*) {silent_state}")).await == "1"
    })
    .await;
    let late = format!("SELECT changed_at - '{}' BETWEEN '0 s' AND '1 s' {silent_state}", end_of_silent.to_rfc3339());
    assert_eq!(world.database.value(&late).await, "t", "within a second, by the database's clock");
    eventually(PATIENCE, "Redis shows it", || async {
        world.redis.get(&format!("entitlements:{silent}")).await.as_deref() == Some("FREE")
    })
    .await;

    one.signal("CONT").await;
    for user in [asked, silent] {
        let read = one.read(user).await.json;
        assert_eq!((&read["entitlementLevel"], &read["version"]), (&json!("FREE"), &json!(2)), "it ends once");
    }
    let told = world.database.query("SELECT cause, level FROM entitlement_history WHERE version = 2").await;
    assert_eq!(told, [["time", "FREE"], ["time", "FREE"]].map(|row| row.map(|text| Some(text.to_owned())).to_vec()));
}

#[tokio::test]
async fn a_level_ends_where_replicas_remember_by_themselves() {
    let world = World::new().await;
    let memory = [("REDIS_URL", ""), ("TOLLGATE_CACHE", "memory")];
    let (one, two) = tokio::join!(world.serve_with(&memory), world.serve_with(&memory));
    let user = Uuid::new_v4();
    let end = give(&one, user, 2).await;
    tokio::join!(asked_until_it_ended(&one, user, end), asked_until_it_ended(&two, user, end));
}

#[tokio::test]
async fn a_level_ends_in_a_file() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let user = Uuid::new_v4();
    let end = give(&server, user, 2).await;
    asked_until_it_ended(&server, user, end).await;
}

/// Another replica was frozen in the middle of a transaction: it holds the lock of a user whose level is over. The sweep tried that one
/// again and again, and came to the others seconds later.
#[actix_web::test]
async fn a_lock_that_is_held_kept_the_levels_of_others_from_ending() {
    let database = TestDatabase::new().await;
    ledger_on(&database).await;
    let limits = Limits { lock: PATIENCE, statement: PATIENCE, transaction: PATIENCE, ..Limits::default() };
    let ledger = Arc::new(PostgresLedger::connect(&database.url(), limits, built_in()).await.unwrap());
    let [stuck, free] = [Uuid::new_v4(), Uuid::new_v4()].map(UserId::from);
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(stuck, "evt_1", "cs_1")).await;
    let other = database.connect().await.unwrap();
    hold_lock_of(&ledger, &database, &other, stuck).await;
    // Of the grant nothing is over: the end of the state alone is moved.
    database
        .execute(&format!(
            "UPDATE entitlement_state SET expires_at = now() - interval '1 hour' WHERE user_id = '{stuck}'"
        ))
        .await;

    let cache = Cache::from(MemoryCache::new(MemorySettings::default()));
    let limits = ActorLimits { arbiters: 1, ..scripted::LIMITS };
    let shared: Arc<dyn Ledger> = Arc::<PostgresLedger>::clone(&ledger);
    let entitlements =
        Entitlements::start(Arc::clone(&shared), cache.clone(), Hub::new(0), Activity::unwatched(), limits);
    let rhythm = Rhythm { sweep: Duration::from_millis(20), ..Rhythm::default() };
    let interpreter = Interpreter::new(built_in(), Some(false));
    let trials = Trials::new(shared.clone(), entitlements.clone(), interpreter);
    let upkeep = Upkeep::new(Uuid::new_v4(), shared, cache, entitlements.clone(), trials, rhythm).start();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually(PATIENCE, "the sweep waits for the lock", || async { database.value(waits).await != "0" }).await;
    let end = (Utc::now() + TimeDelta::milliseconds(100)).trunc_subsecs(6);
    commit_one(&mut *lane, gift(free, 1, end)).await;
    let ended = format!("FROM entitlement_state WHERE user_id = '{free}' AND version = 2 AND level = 'FREE'");
    eventually(PATIENCE, "the other's level ends", || async {
        database.value(&format!("SELECT count(*) {ended}")).await == "1"
    })
    .await;
    let late = format!("SELECT changed_at - '{}' <= '1 s' {ended}", end.to_rfc3339());
    assert_eq!(database.value(&late).await, "t", "within a second, by the database's clock");
    other.batch_execute("ROLLBACK").await.unwrap();
    let held = format!(
        "SELECT count(*) FROM entitlement_state WHERE user_id = '{stuck}' AND version = 3 AND expires_at > now()"
    );
    eventually(PATIENCE, "what was bought holds, when the lock is free", || async {
        database.value(&held).await == "1"
    })
    .await;
    drop(upkeep);
    entitlements.stop();
}
