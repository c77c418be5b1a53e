//! Faults of PostgreSQL and of the way to it: 503 and when to come again, what Redis holds is served on, nothing is guessed, and it
//! comes back by itself.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tollgate::{
    domain::event::Outcome,
    ledger::{Ledger, LedgerError},
};
use uuid::Uuid;

use super::{PATIENCE, assert_reads, assert_unavailable, deliver, until_taken};
use crate::{
    harness::{
        PostgresServer, TestDatabase,
        event::SessionEvent,
        eventually,
        proxy::Proxy,
        server::{TestServer, World, unix_now},
        until_ok,
    },
    ledger::{commit, commit_one, ledger_on, purchase, user},
};

/// The end of a subscription of which nothing but its id says whose it is.
fn ending_of_nobody() -> Value {
    let sample = include_str!("../../fixtures/stripe/events/customer.subscription.deleted.endive.json");
    let mut event: Value = serde_json::from_str(sample).unwrap();
    event["id"] = json!(format!("evt_{}", Uuid::new_v4().simple()));
    event["created"] = json!(unix_now());
    event["data"]["object"]["metadata"] = json!({});
    event
}

/// The sessions of ours.
const OURS: &str = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tollgate'";

async fn sessions(database: &TestDatabase) -> u32 {
    database.value(&format!("SELECT count(*) {OURS}")).await.parse().unwrap()
}

/// No session of ours stands in an open transaction, and there are not more than there may be, beside those that the server has not been
/// told are dead.
async fn assert_sessions_are_clean(database: &TestDatabase, dead: u32) {
    let idle = format!("SELECT count(*) {OURS} AND state LIKE 'idle in transaction%'");
    eventually(PATIENCE, "no transaction is left open", || async { database.value(&idle).await == "0" }).await;
    // The pool's eight and the lanes' own.
    eventually(PATIENCE, "no session is left over", || async { sessions(database).await <= 10 + dead }).await;
}

/// Stopped, stopped without a farewell, and crashed, each under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_postgres_goes_down_nothing_acknowledged_is_lost_and_it_comes_back_by_itself() {
    let cluster = PostgresServer::start_own().await;
    let world = World { database: TestDatabase::on(&cluster).await, ..World::new().await };
    let settings = [("TOLLGATE_LEDGER_LANES", "2"), ("TOLLGATE_LOG", "info")];
    let server = Arc::new(world.serve_with(&settings).await);
    let known = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &known).await;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (server, done) = (Arc::clone(&server), Arc::clone(&done));
            // Each sends its event until it is taken, as Stripe does. Gives those that were, and how often one was not.
            tokio::spawn(async move {
                let (mut taken, mut refused) = (Vec::new(), 0);
                while !done.load(Ordering::Relaxed) {
                    let event = SessionEvent::paid(Uuid::new_v4());
                    loop {
                        let answer = server.deliver(&event.json()).await;
                        if answer.status == 200 {
                            break;
                        }
                        assert_unavailable(&answer);
                        refused += 1;
                    }
                    taken.push(event.id);
                }
                (taken, refused)
            })
        })
        .collect();
    for way in ["fast", "immediate", "crash"] {
        match way {
            "fast" => cluster.stop().await,
            "immediate" => cluster.stop_immediately().await,
            _ => cluster.sigkill().await,
        }
        assert_unavailable(&server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await);
        assert_eq!(assert_reads(&server.read(known.user).await, "PRO", 1), "cache", "{way}");
        assert_unavailable(&server.read(Uuid::new_v4()).await);
        cluster.start().await;
        until_taken(&server, &SessionEvent::paid(Uuid::new_v4())).await;
    }
    done.store(true, Ordering::Relaxed);
    let (mut taken, mut refused) = (Vec::new(), 0);
    for client in clients {
        let (its_taken, its_refused) = client.await.unwrap();
        taken.extend(its_taken);
        refused += its_refused;
    }
    assert!(!taken.is_empty() && refused > 0, "{} taken, {refused} refused", taken.len());
    let list = taken.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
    let kept = format!("SELECT count(*) FROM stripe_events WHERE outcome = 'applied' AND id IN ({list})");
    assert_eq!(world.database.value(&kept).await, taken.len().to_string(), "what was taken is there");
    let once = "SELECT count(*) FROM entitlement_state WHERE version <> 1";
    assert_eq!(world.database.value(once).await, "0", "and has had its effect once");
    assert_sessions_are_clean(&world.database, 0).await;
}

/// Neither end is told that nothing arrives any more.
#[tokio::test]
async fn a_silent_network_is_given_up_in_time_and_leaves_nothing_behind() {
    let world = World::new().await;
    let (postgres, redis) = (Proxy::before(&world.database.url()).await, Proxy::before(&world.redis.url()).await);
    let server = world
        .serve_with(&[
            ("DATABASE_URL", postgres.url()),
            ("REDIS_URL", redis.url()),
            ("TOLLGATE_LEDGER_COMMIT_TIMEOUT", "500ms"),
            ("TOLLGATE_LEDGER_LANES", "2"),
        ])
        .await;
    let known = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &known).await;
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count);
    let before = open_files();
    postgres.silence();
    // The proxy says nothing of their end to either side.
    let dead = sessions(&world.database).await;
    let events: Vec<SessionEvent> = (0..40).map(|_| SessionEvent::paid(Uuid::new_v4())).collect();
    let attempts = events.iter().map(|event| async {
        let body = event.json();
        let (delivered, read) = tokio::join!(server.deliver(&body), server.read(event.user));
        assert_unavailable(&delivered);
        assert_unavailable(&read);
        assert_eq!(assert_reads(&server.read(known.user).await, "PRO", 1), "cache");
    });
    futures::future::join_all(attempts).await;
    redis.silence();
    assert_unavailable(&server.read(known.user).await);
    postgres.heal();
    redis.heal();
    for event in &events {
        until_taken(&server, event).await;
        assert_reads(&server.read(event.user).await, "PRO", 1);
    }
    assert_sessions_are_clean(&world.database, dead).await;
    // Where files can be counted: connections that were given up are closed.
    eventually(PATIENCE, "no connection is left over", || async { open_files() <= before + 10 }).await;
}

#[tokio::test]
async fn a_start_waited_for_ever_for_a_database_that_says_nothing() {
    let world = World::new().await;
    let proxy = Proxy::before(&world.database.url()).await;
    proxy.silence();
    let mut settings = world.settings();
    settings.insert("DATABASE_URL".into(), proxy.url().into());
    let Err(log) = TestServer::start(&settings).await else { panic!("it has no database") };
    assert!(log.contains("connecting took too long"), "{log}");
    assert!(proxy.accepted() > 0);
}

/// As Supabase does with a database whose disk is full.
#[tokio::test]
async fn a_read_only_database_is_read_and_written_again_when_it_may_be() {
    let world = World::new().await;
    let server = world.serve().await;
    let known = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &known).await;
    let name = world.database.value("SELECT current_database()").await;
    world
        .database
        .execute(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = on; SELECT pg_terminate_backend(pid) \
             FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        ))
        .await;
    let refused = SessionEvent::paid(known.user);
    for _ in 0..3 {
        assert_unavailable(&server.deliver(&refused.json()).await);
    }
    assert_reads(&server.read(known.user).await, "PRO", 1);
    let stranger = until_ok(PATIENCE, "the ledger can be read", || async {
        let answer = server.read(Uuid::new_v4()).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.text) }
    })
    .await;
    assert_reads(&stranger, "FREE", 0);
    // Sessions from meanwhile stay read-only: they have to be let go.
    let admin = world.database.connect().await.unwrap();
    admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await.unwrap();
    until_taken(&server, &refused).await;
    assert_reads(&server.read_at_least(known.user, 2).await, "PRO", 2);
    eventually(PATIENCE, "sessions can be sold", || async {
        server.checkout(Uuid::new_v4(), "PRO", Some("click")).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn where_others_have_taken_all_connections_it_is_waited_for_one() {
    let cluster = PostgresServer::start_own_with(&[("max_connections", "16")]).await;
    let world = World { database: TestDatabase::on(&cluster).await, ..World::new().await };
    let server = world.serve().await;
    let known = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &known).await;
    let (first, others) = (world.database.connect().await.unwrap(), RefCell::new(Vec::new()));
    let ours = "FROM pg_stat_activity WHERE application_name = 'tollgate'";
    until_ok(PATIENCE, "the others have them all", || async {
        first.batch_execute(&format!("SELECT pg_terminate_backend(pid) {ours}")).await.unwrap();
        let refused = loop {
            match world.database.connect().await {
                Ok(another) => others.borrow_mut().push(another),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code().map(|code| code.code()), Some("53300"));
        let left: i64 = first.query_one(&format!("SELECT count(*) {ours}"), &[]).await.unwrap().get(0);
        if left == 0 { Ok(()) } else { Err("the server has some again") }
    })
    .await;
    let refused = SessionEvent::paid(Uuid::new_v4());
    assert_unavailable(&server.deliver(&refused.json()).await);
    assert_unavailable(&server.read(Uuid::new_v4()).await);
    assert_eq!(assert_reads(&server.read(known.user).await, "PRO", 1), "cache");
    drop((first, others));
    until_taken(&server, &refused).await;
}

/// A statement that takes too long, outside of the lanes: it was answered 500.
#[tokio::test]
async fn a_limit_of_time_of_the_databases_was_taken_for_a_fault_of_ours() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_LEDGER_LOCK_TIMEOUT", "200ms")]).await;
    let known = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &known).await;
    let other = world.database.connect().await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE user_entitlements IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let ending = ending_of_nobody();
    assert_unavailable(&server.deliver(&ending).await);
    assert_unavailable(&server.checkout(Uuid::new_v4(), "PRO", Some("click")).await);
    assert_unavailable(&server.read(Uuid::new_v4()).await);
    assert_unavailable(&server.deliver(&SessionEvent::paid(known.user).json()).await);
    assert_eq!(assert_reads(&server.read(known.user).await, "PRO", 1), "cache");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(server.deliver(&ending).await.json["parked"], true, "it is nobody's");
    assert_sessions_are_clean(&world.database, 0).await;
}

/// Whatever the server says once, in the middle of a transaction, is gone with that transaction.
#[tokio::test]
async fn a_transaction_that_the_server_aborts_has_its_effect_once_or_is_sent_again() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    database
        .execute(
            "CREATE TABLE fault (state text); CREATE SEQUENCE met; \
             CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE state text; BEGIN \
               SELECT fault.state INTO state FROM fault; \
               IF state IS NOT NULL AND nextval('met') = 1 THEN RAISE EXCEPTION 'once' USING ERRCODE = state; END IF; \
               RETURN NEW; END $$; \
             CREATE TRIGGER meet BEFORE INSERT OR UPDATE ON user_entitlements FOR EACH ROW EXECUTE FUNCTION meet()",
        )
        .await;
    let buyer = user();
    let mut lane = ledger.lane();
    // Serialization, deadlock, time-outs, shutdown, read-only, disk and memory full, connections, a bug of the server's.
    let states = ["40001", "40P01", "55P03", "57014", "57P01", "25006", "53100", "53200", "53300", "58030", "XX000"];
    for (version, state) in (1_u64..).zip(states) {
        database
            .execute(&format!("TRUNCATE fault; INSERT INTO fault VALUES ('{state}'); ALTER SEQUENCE met RESTART"))
            .await;
        let entry = purchase(buyer, &format!("evt_{state}"), &format!("cs_{state}"));
        let first = commit(&mut *lane, vec![entry.clone()]).await.pop().unwrap();
        assert_ne!(database.value("SELECT last_value FROM met").await, "0");
        match first {
            Ok(committed) => assert_eq!(committed.outcome, Outcome::Applied, "{state}"),
            Err(LedgerError::Unavailable(_) | LedgerError::InDoubt) => {
                assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Applied, "{state}");
            }
            Err(other) => panic!("{state}: {other}"),
        }
        assert_eq!(ledger.entitlement(buyer).await.unwrap().version, version, "{state}");
    }
    assert_sessions_are_clean(&database, 0).await;
}
