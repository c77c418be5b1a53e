//! The ledger in bad company: a server that hangs, a schema that moves under prepared statements, another program that writes
//! the same tables, a copy of the database, replicas that hold locks.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tollgate::{
    domain::{
        change::{Cause, Change},
        event::{Outcome, ParkReason},
        id::UserId,
        money::DisputeStatus,
    },
    ledger::{
        Entry, Lane, Ledger, LedgerError,
        postgres::{Limits, PostgresLedger},
    },
};

use crate::{
    harness::{TestDatabase, eventually, until_ok},
    ledger::{built_in, cases::money, commit, commit_one, event, ledger_on, purchase, ticket, user},
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

/// Where `users` is another role's, its rows cannot be kept from being deleted meanwhile; the foreign keys see to it later.
#[tokio::test]
async fn a_role_that_may_not_lock_users_writes_all_the_same() {
    let database = TestDatabase::new().await;
    let (role, buyer) = (format!("tollgate_{}", uuid::Uuid::new_v4().simple()), user());
    database
        .execute(&format!(
            "CREATE TABLE users (id uuid PRIMARY KEY); INSERT INTO users VALUES ('{buyer}'); CREATE ROLE {role} LOGIN; \
             GRANT CREATE, USAGE ON SCHEMA public TO {role}; GRANT SELECT, INSERT, REFERENCES ON users TO {role}"
        ))
        .await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    PostgresLedger::migrate(&url, &built_in()).await.unwrap();
    let ledger = PostgresLedger::connect(&url, Limits::default(), built_in()).await.unwrap();
    assert_eq!(commit_one(&mut *ledger.lane(), purchase(buyer, "evt_1", "cs_1")).await.outcome, Outcome::Applied);
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

#[tokio::test]
async fn a_locked_user_holds_up_nobody_else() {
    let database = TestDatabase::new().await;
    PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    // Patient: nothing here may end by a limit of time.
    let patient = Duration::from_secs(60);
    let limits = Limits { lock: patient, statement: patient, transaction: patient, ..Limits::default() };
    let ledger = Arc::new(PostgresLedger::connect(&database.url(), limits, built_in()).await.unwrap());
    let (stuck, free) = (user(), user());
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(stuck, "evt_1", "cs_1")).await;

    // Another replica in the middle of a transaction: it holds the very lock that a commit for this user takes.
    let other = database.connect().await.unwrap();
    hold_lock_of(&ledger, &database, &other, stuck).await;

    let (blocked, mut blocked_answer) = ticket(purchase(stuck, "evt_2", "cs_2"));
    let (open, open_answer) = ticket(purchase(free, "evt_3", "cs_3"));
    lane.commit(vec![blocked, open]).await;
    assert_eq!(open_answer.await.unwrap().unwrap().outcome, Outcome::Applied, "others go on");
    assert!(blocked_answer.try_recv().is_err(), "the locked user waits");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(blocked_answer.await.unwrap().unwrap().outcome, Outcome::Applied);
}

/// A report waits for whom it concerns, and for nobody else.
#[tokio::test]
async fn a_refund_of_a_locked_user_holds_up_nobody_else() {
    let database = TestDatabase::new().await;
    PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    let patient = Duration::from_secs(60);
    let limits = Limits { lock: patient, statement: patient, transaction: patient, ..Limits::default() };
    let ledger = connect(&database, limits).await;
    let (stuck, free) = (user(), user());
    let mut lane = ledger.lane();
    commit_one(&mut *lane, money::paid(stuck, "evt_1", "cs_1", "pi_1")).await;
    commit_one(&mut *lane, money::paid(free, "evt_2", "cs_2", "pi_2")).await;
    let other = database.connect().await.unwrap();
    hold_lock_of(&ledger, &database, &other, stuck).await;

    let lost = |event: &str, payment: &str| ticket(money::disputed(event, payment, DisputeStatus::Lost, 2));
    let ((blocked, mut blocked_answer), (open, open_answer)) = (lost("evt_3", "pi_1"), lost("evt_4", "pi_2"));
    lane.commit(vec![blocked, open]).await;
    assert_eq!(open_answer.await.unwrap().unwrap().others.len(), 1, "others go on");
    assert!(blocked_answer.try_recv().is_err(), "it waits for the locked user");
    other.batch_execute("ROLLBACK").await.unwrap();
    let changed: Vec<UserId> = blocked_answer.await.unwrap().unwrap().others.iter().map(|(user, _)| *user).collect();
    assert_eq!(changed, [stuck]);
}

/// However much is known of payments, a batch looks only at what it is about.
#[tokio::test]
async fn what_is_known_of_payments_is_found_by_indexes() {
    let database = migrated().await;
    database
        .execute(
            "INSERT INTO stripe_objects SELECT 'pi_' || n, 'in_' || n, NULL, '{}' FROM generate_series(1, 3000) AS n; \
             INSERT INTO stripe_objects SELECT 'in_' || n, 'sub_' || n % 9, to_timestamp(n), '{}' \
               FROM generate_series(1, 3000) AS n; ANALYZE stripe_objects; SELECT pg_stat_reset()",
        )
        .await;
    let ledger = connect(&database, Limits::default()).await;
    let mut lane = ledger.lane();
    commit_one(&mut *lane, money::paid(user(), "evt_1", "cs_1", "pi_7")).await;
    commit_one(&mut *lane, money::disputed("evt_2", "pi_7", DisputeStatus::Lost, 2)).await;
    // A connection tells what it has read when it ends.
    drop(lane);
    eventually(PATIENCE, "the lane has told what it has read", || async {
        let read = "SELECT idx_scan > 0 FROM pg_stat_user_tables WHERE relname = 'stripe_objects'";
        database.value(read).await == "t"
    })
    .await;
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'stripe_objects'";
    assert_eq!(database.value(scans).await, "0");
}

/// Statements are prepared when a lane connects, and the server may learn how much there is by now only minutes later.
#[tokio::test]
async fn a_plan_made_for_empty_tables_went_through_all_subscriptions_and_payments() {
    let database = migrated().await;
    let ledger = connect(&database, Limits::default()).await;
    let mut lane = ledger.lane();
    commit_one(&mut *lane, money::paid(user(), "evt_1", "cs_1", "pi_7")).await;
    database
        .execute(
            "ALTER TABLE stripe_objects SET (autovacuum_enabled = off); \
             ALTER TABLE user_entitlements SET (autovacuum_enabled = off); \
             INSERT INTO users (id) SELECT md5(n::text)::uuid FROM generate_series(1, 3000) AS n; \
             INSERT INTO user_entitlements (user_id, entitlement_level, expires_at, source_kind, source_id, status, period_end) \
               SELECT md5(n::text)::uuid, 'PRO', now(), 'subscription', 'sub_' || n, 'active', now() FROM generate_series(1, 3000) AS n; \
             INSERT INTO stripe_objects SELECT 'pi_' || n, 'in_' || n, NULL, '{}' FROM generate_series(1, 3000) AS n",
        )
        .await;
    database.execute("SELECT pg_stat_reset()").await;
    commit_one(&mut *lane, money::disputed("evt_2", "pi_7", DisputeStatus::Lost, 2)).await;
    // A connection tells what it has read when it ends.
    drop(lane);
    let indexes = "FROM pg_stat_user_indexes WHERE relname IN ('stripe_objects', 'user_entitlements')";
    let told = format!("SELECT sum(idx_scan) > 0 {indexes}");
    eventually(PATIENCE, "the lane has told what it has read", || async { database.value(&told).await == "t" }).await;
    assert_eq!(database.value(&format!("SELECT sum(idx_tup_read) < 100 {indexes}")).await, "t");
}

/// Opens a transaction that holds the user's advisory lock. The key is the ledger's own secret: it is found by watching a
/// commit take it.
pub(crate) async fn hold_lock_of(
    ledger: &Arc<PostgresLedger>,
    database: &TestDatabase,
    other: &tokio_postgres::Client,
    user: UserId,
) {
    // A row lock on the user's state stops a commit after it has taken the advisory lock and before it ends.
    other
        .batch_execute(&format!("BEGIN; SELECT 1 FROM entitlement_state WHERE user_id = '{user}' FOR UPDATE"))
        .await
        .unwrap();
    let mut lane = ledger.lane();
    let (probe, answer) = ticket(purchase(user, "evt_probe", "cs_probe"));
    let committing = tokio::spawn(async move { lane.commit(vec![probe]).await });
    let query = "SELECT (classid::bigint << 32 | objid::bigint)::text FROM pg_locks \
                 WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND database = \
                   (SELECT oid FROM pg_database WHERE datname = current_database())";
    let key = until_ok(Duration::from_secs(30), "the commit holds its lock", || async {
        database.query(query).await.first().and_then(|row| row[0].clone()).ok_or("no lock yet")
    })
    .await;
    other.batch_execute(&format!("ROLLBACK; BEGIN; SELECT pg_advisory_xact_lock({key})")).await.unwrap();
    committing.await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().outcome, Outcome::Applied);
}

#[tokio::test]
async fn an_unknown_user_waits_and_is_served_when_he_appears() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE users (id uuid PRIMARY KEY, email text NOT NULL)").await;
    let ledger = ledger_on(&database).await;
    let user = user();
    let mut lane = ledger.lane();
    let entry = purchase(user, "evt_1", "cs_1");
    assert_eq!(commit_one(&mut *lane, entry.clone()).await.outcome, Outcome::Parked(ParkReason::UnknownUser));
    assert_eq!(database.value("SELECT payload FROM stripe_events").await, "{\"id\":\"evt\"}", "kept for the next try");
    assert_eq!(ledger.parked_due(10).await.unwrap(), []);
    assert_eq!(commit_one(&mut *lane, entry.clone()).await.outcome, Outcome::DuplicateWaiting);

    database.execute(&format!("INSERT INTO users VALUES ('{user}', 'a@example.com')")).await;
    let due = until_ok(Duration::from_secs(30), "the event is due", || async {
        ledger.parked_due(10).await.unwrap().pop().ok_or("not due")
    })
    .await;
    assert_eq!(due.id.as_str(), "evt_1");
    let Entry::Change(change) = entry.clone() else { unreachable!() };
    let retry = Entry::Change(Change { cause: Cause::Retry(event("evt_1")), ..change });
    assert_eq!(commit_one(&mut *lane, retry.clone()).await.outcome, Outcome::Applied);
    assert_eq!(commit_one(&mut *lane, retry).await.outcome, Outcome::Duplicate, "whoever claims it applies it, once");
    assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Duplicate);
    assert_eq!(
        database.query("SELECT outcome, reason, payload FROM stripe_events").await,
        [[Some("applied".to_owned()), None, None]]
    );
}

#[tokio::test]
async fn a_lost_connection_is_replaced_without_anybody_noticing() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let user = user();
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(user, "evt_1", "cs_1")).await;
    database
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
        .await;
    assert_eq!(commit_one(&mut *lane, purchase(user, "evt_2", "cs_2")).await.outcome, Outcome::Applied);
    assert_eq!(database.value("SELECT version FROM entitlement_state").await, "2");
}

/// Those for whom there was no turn waited on for ever, more with every delivery, when nobody waited for their answers any more.
#[tokio::test]
async fn who_waited_for_a_locked_user_had_no_limit() {
    let database = migrated().await;
    let (patient, ledger) = tokio::join!(
        connect(&database, Limits { lock: PATIENCE, ..Limits::default() }),
        connect(&database, OURS_ALONE)
    );
    let stuck = user();
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(stuck, "evt_1", "cs_1")).await;
    let other = database.connect().await.unwrap();
    hold_lock_of(&patient, &database, &other, stuck).await;
    let waiting = async |lane: &mut dyn Lane, count: usize| {
        let (tickets, answers): (Vec<_>, Vec<_>) = (0..count)
            .map(|n| ticket(purchase(stuck, &format!("evt_{count}x{n}"), &format!("cs_{count}x{n}"))))
            .unzip();
        lane.commit(tickets).await;
        answers
    };
    // Four may try at once. The others are told as soon as the first of the four have given up, and not one after the other.
    let answers = join_all(waiting(&mut *lane, 12).await).await;
    let told = answers.iter().filter(|answer| **answer == Ok(Err(LedgerError::Contended))).count();
    assert_eq!(told, 8, "{answers:?}");
    let mut many = waiting(&mut *lane, 1030).await;
    let told = many.iter_mut().map(tokio::sync::oneshot::Receiver::try_recv);
    let refused = told.filter(|answer| *answer == Ok(Err(LedgerError::Contended))).count();
    assert_eq!(refused, 6, "at once: so many may wait");
}
