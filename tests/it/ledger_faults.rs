//! The ledger in bad company: a server that hangs, a schema that moves under prepared statements, another program that writes
//! the same tables, a copy of the database.

use std::{sync::Arc, time::Duration};

use tollgate::{
    domain::{
        change::{Cause, Change},
        event::{Outcome, ParkReason},
    },
    ledger::{
        Entry, Ledger, LedgerError, Note, Verdict,
        postgres::{Limits, PostgresLedger},
    },
};

use crate::{
    harness::{TestDatabase, eventually, until_ok},
    ledger::{built_in, commit, commit_one, event, ledger_on, purchase, user},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Limits that only this process enforces: the server would wait for a minute.
const OURS_ALONE: Limits = Limits {
    connect: Duration::from_secs(5),
    statement: Duration::from_secs(60),
    lock: Duration::from_secs(60),
    transaction: Duration::from_secs(1),
    acquire: Duration::from_millis(500),
    pool_size: 1,
};

async fn connect(database: &TestDatabase, limits: Limits) -> Arc<PostgresLedger> {
    Arc::new(PostgresLedger::connect(&database.url(), limits, built_in()).await.unwrap())
}

async fn migrated() -> TestDatabase {
    let database = TestDatabase::new().await;
    PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    database
}

#[tokio::test]
async fn a_lane_that_cannot_open_its_connection_is_not_stuck() {
    let database = migrated().await;
    let ledger = connect(&database, OURS_ALONE).await;
    let other = database.connect().await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE tollgate_ledger IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut lane = ledger.lane();
    let blocked = tokio::time::timeout(PATIENCE, commit(&mut *lane, vec![purchase(user(), "evt_1", "cs_1")])).await;
    let error = blocked.expect("the lane gives up by itself").pop().unwrap().unwrap_err();
    assert!(error.is_certainly_aborted(), "{error}");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(commit_one(&mut *lane, purchase(user(), "evt_1", "cs_1")).await.outcome, Outcome::Applied);
}

#[tokio::test]
async fn a_read_that_is_not_answered_ends_and_gives_the_pool_a_fresh_connection() {
    let database = migrated().await;
    let ledger = connect(&database, OURS_ALONE).await;
    let other = database.connect().await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE entitlement_state IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let blocked = tokio::time::timeout(PATIENCE, ledger.entitlement(user())).await;
    assert!(matches!(blocked.expect("the read gives up by itself"), Err(LedgerError::Unavailable(_))));
    ledger.now().await.expect("the only connection of the pool does not wait for the lock");
    other.batch_execute("ROLLBACK").await.unwrap();
    ledger.entitlement(user()).await.unwrap();
}

/// A column whose type changes makes every prepared statement that reads it useless, on every connection that has one.
#[tokio::test]
async fn connections_whose_statements_have_become_useless_are_replaced() {
    let database = migrated().await;
    let ledger = connect(&database, Limits { pool_size: 1, ..Limits::default() }).await;
    let user = user();
    let mut lane = ledger.lane();
    assert_eq!(commit_one(&mut *lane, purchase(user, "evt_1", "cs_1")).await.outcome, Outcome::Applied);
    ledger.entitlement(user).await.unwrap();
    database.execute("ALTER TABLE user_entitlements ALTER COLUMN customer TYPE varchar(255)").await;
    let mut answers = Vec::new();
    for n in 2..5 {
        let entry = purchase(user, &format!("evt_{n}"), &format!("cs_{n}"));
        answers.push(commit(&mut *lane, vec![entry]).await.pop().unwrap().is_ok());
    }
    assert_eq!(answers, [true; 3], "tried again on a connection that knows the new schema");
    until_ok(PATIENCE, "reads work again", || ledger.entitlement(user)).await;
}

#[tokio::test]
async fn a_read_connection_notices_another_epoch_too() {
    let database = migrated().await;
    let ledger = connect(&database, Limits::default()).await;
    ledger.now().await.unwrap();
    let before = ledger.epoch();
    database
        .execute(
            "UPDATE tollgate_ledger SET epoch = gen_random_uuid(); SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND datname = current_database()",
        )
        .await;
    eventually(PATIENCE, "reads go on", || async { ledger.now().await.is_ok() }).await;
    assert_ne!(ledger.epoch(), before, "marks and cached values of what is gone are void without a write");
}

/// During a cut-over the program that Tollgate replaces goes on selling into the same tables after they were migrated.
#[tokio::test]
async fn what_the_original_sells_after_the_migration_counts() {
    let database = TestDatabase::new().await;
    database.execute(include_str!("../fixtures/original_schema.sql")).await;
    let ledger = ledger_on(&database).await;
    let buyer = user();
    database
        .execute(&format!(
            "INSERT INTO auth.users VALUES ('{buyer}', 'buyer@example.com'); \
             INSERT INTO public.user_entitlements (user_id, entitlement_level, expires_at, stripe_event_id) \
             VALUES ('{buyer}', 'PRO', now() + interval '300 days', 'evt_both')"
        ))
        .await;
    assert_eq!(ledger.entitlement(buyer).await.unwrap().level.as_str(), "PRO");
    // Both had a webhook endpoint for a while, and Stripe told both.
    let mut lane = ledger.lane();
    let told = commit_one(&mut *lane, purchase(buyer, "evt_both", "cs_1")).await;
    assert_eq!(told.outcome, Outcome::Superseded, "it is the purchase that is there");
    let next = commit_one(&mut *lane, purchase(buyer, "evt_next", "cs_2")).await;
    assert_eq!((next.outcome, next.entitlement.unwrap().level.as_str()), (Outcome::Applied, "PRO"));
    assert_eq!(ledger.grants(buyer).await.unwrap().len(), 2);
}

/// A burst of copies in one batch: each took a transaction of its own, one inside the other, until the stack was full.
#[tokio::test]
async fn a_thousand_copies_in_one_batch_are_one_transaction() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let mut lane = ledger.lane();
    let entry = purchase(user(), "evt_1", "cs_1");
    let note = Entry::Note(Note {
        event: event("evt_2"),
        verdict: Verdict::Parked(ParkReason::UnknownLevel),
        user: Some(user()),
    });
    let batch = [vec![entry; 1000], vec![note; 1000]].concat();
    let results = commit(&mut *lane, batch).await;
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.as_ref().unwrap().outcome).collect();
    assert_eq!((outcomes[0], outcomes[1000]), (Outcome::Applied, Outcome::Parked(ParkReason::UnknownLevel)));
    assert_eq!(outcomes[1..1000], [Outcome::Duplicate; 999]);
    assert_eq!(outcomes[1001..], [Outcome::DuplicateWaiting; 999]);
    assert!(results[..1000].iter().all(|result| result.as_ref().unwrap().entitlement.as_ref().unwrap().version == 1));
    assert_eq!(database.value("SELECT count(DISTINCT xmin::text) FROM stripe_events").await, "1");
}

/// Copies that differ, which Stripe does not send, are told apart by asking: the first one holds.
#[tokio::test]
async fn many_bodies_under_one_event_id_do_not_fill_the_stack() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let buyer = user();
    let bodies = (0..200).map(|n| purchase(buyer, "evt_1", &format!("cs_{n}"))).collect();
    let results = commit(&mut *ledger.lane(), bodies).await;
    assert_eq!(results[0].as_ref().unwrap().outcome, Outcome::Applied);
    assert!(results[1..].iter().all(|result| result.as_ref().unwrap().outcome == Outcome::Duplicate));
    assert_eq!(database.value("SELECT count(*) FROM user_entitlements").await, "1");
}

/// Parks an event whose session is somebody else's, and makes it due.
async fn park_a_foreign_session(database: &TestDatabase, ledger: &Arc<PostgresLedger>) -> Change {
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(user(), "evt_1", "cs_1")).await;
    let entry = purchase(user(), "evt_2", "cs_1");
    let outcome = commit_one(&mut *lane, entry.clone()).await.outcome;
    assert_eq!(outcome, Outcome::Parked(ParkReason::ForeignSource));
    database.execute("UPDATE stripe_events SET processed_at = now() - interval '31 seconds' WHERE id = 'evt_2'").await;
    let Entry::Change(change) = entry else { unreachable!() };
    Change { cause: Cause::Retry(event("evt_2")), ..change }
}

#[tokio::test]
async fn a_foreign_session_is_tried_again_with_back_off() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let retry = park_a_foreign_session(&database, &ledger).await;
    assert_eq!(ledger.parked_due(10).await.unwrap().len(), 1);
    let outcome = commit_one(&mut *ledger.lane(), Entry::Change(retry)).await.outcome;
    assert_eq!(outcome, Outcome::Parked(ParkReason::ForeignSource));
    assert_eq!(ledger.parked_due(10).await.unwrap(), [], "a retry does not wake what it retries");
    assert_eq!(database.value("SELECT reason FROM stripe_events WHERE id = 'evt_2'").await, "foreign_source");
}

/// The user is there by now, and yet the event cannot be applied: it must not be tried every second for ever.
#[tokio::test]
async fn an_event_whose_user_has_appeared_is_tried_again_with_back_off() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE users (id uuid PRIMARY KEY)").await;
    let ledger = ledger_on(&database).await;
    let user = user();
    commit_one(&mut *ledger.lane(), purchase(user, "evt_1", "cs_1")).await;
    database.execute(&format!("INSERT INTO users VALUES ('{user}')")).await;
    let mut waits = Vec::new();
    for _ in 0..16 {
        database.execute("UPDATE stripe_events SET processed_at = now() - interval '2 hours'").await;
        assert_eq!(ledger.parked_due(10).await.unwrap().len(), 1);
        // The longest time after which it would not be tried again yet.
        for seconds in [1, 2, 10, 60, 600, 3500] {
            let sql = format!("UPDATE stripe_events SET processed_at = now() - interval '{seconds} seconds'");
            let before = database.value("SELECT attempts FROM stripe_events").await;
            database.execute(&sql).await;
            if !ledger.parked_due(10).await.unwrap().is_empty() {
                database.execute(&format!("UPDATE stripe_events SET attempts = {before}")).await;
                break;
            }
            waits.push(seconds);
        }
    }
    assert!(waits.contains(&3500), "an hour apart in the end: {waits:?}");
    assert!(waits.first().is_none_or(|first| *first <= 2), "and soon at first: {waits:?}");
}
