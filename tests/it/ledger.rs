//! The ledger on a real PostgreSQL: one transaction per batch, two keys against duplicates, locks that hold nobody else up.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::oneshot;
use tollgate::{
    config::catalogue,
    domain::{
        change::{Cause, Change, Effect},
        event::{EventRecord, IgnoreReason, Outcome, ParkReason},
        grant::{Grant, GrantStatus, Source, SourceKind},
        id::{EventId, SessionId, UserId},
        level::Level,
        plan::{Catalogue, Mode},
    },
    ledger::{
        Committed, Entry, Lane, Ledger, LedgerError, Note, SessionRecord, Ticket, Verdict,
        postgres::{Limits, PostgresLedger},
    },
};
use uuid::Uuid;

use crate::harness::{TestDatabase, eventually};

pub(crate) fn built_in() -> Catalogue {
    catalogue::parse(catalogue::BUILT_IN).unwrap()
}

pub(crate) async fn ledger_on(database: &TestDatabase) -> Arc<PostgresLedger> {
    PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    connect(database).await
}

async fn connect(database: &TestDatabase) -> Arc<PostgresLedger> {
    Arc::new(PostgresLedger::connect(&database.url(), Limits::default(), built_in()).await.unwrap())
}

pub(crate) fn user() -> UserId {
    UserId::from(Uuid::new_v4())
}

fn seconds(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

pub(crate) fn event(id: &str) -> EventRecord {
    EventRecord {
        id: EventId::parse(id).unwrap(),
        kind: "checkout.session.completed".into(),
        object_id: Some("cs_1".into()),
        created: seconds(Utc::now().timestamp()),
        livemode: false,
        api_version: Some("2026-10-28.endive".into()),
        object_hash: [7; 32],
        payload: Bytes::from_static(b"{\"id\":\"evt\"}"),
    }
}

pub(crate) fn purchase(user: UserId, id: &str, session: &str) -> Entry {
    purchase_of(user, id, session, "PRO", Utc::now())
}

fn purchase_of(user: UserId, id: &str, session: &str, level: &str, at: DateTime<Utc>) -> Entry {
    let level = Level::parse(level).unwrap();
    let period_end = built_in().plan(&level).unwrap().period_end(Mode::Payment, at);
    Entry::Change(Change {
        user,
        cause: Cause::Delivery(event(id)),
        effect: Effect::Purchase(Grant {
            source: Source { kind: SourceKind::Checkout, id: session.into() },
            level,
            status: GrantStatus::Active,
            period_end: seconds(period_end.timestamp()),
            reported_at: seconds(at.timestamp()),
            event: Some(EventId::parse(id).unwrap()),
            session: Some(SessionId::parse(session).unwrap()),
            payment_intent: None,
            customer: None,
        }),
    })
}

/// Commits a batch and waits for all answers.
pub(crate) async fn commit(lane: &mut dyn Lane, entries: Vec<Entry>) -> Vec<Result<Committed, LedgerError>> {
    let (tickets, answers): (Vec<Ticket>, Vec<_>) = entries.into_iter().map(ticket).unzip();
    lane.commit(tickets).await;
    futures::future::join_all(answers)
        .await
        .into_iter()
        .map(|answer| answer.expect("every ticket is answered"))
        .collect()
}

pub(crate) fn ticket(entry: Entry) -> (Ticket, oneshot::Receiver<Result<Committed, LedgerError>>) {
    let (sender, receiver) = oneshot::channel();
    let reply = Box::new(move |result| drop(sender.send(result)));
    (Ticket { entry, reply }, receiver)
}

pub(crate) async fn commit_one(lane: &mut dyn Lane, entry: Entry) -> Committed {
    commit(lane, vec![entry]).await.pop().unwrap().unwrap()
}

#[tokio::test]
async fn a_purchase_is_grant_state_and_inbox_in_one() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let user = user();
    let mut lane = ledger.lane();

    let committed = commit_one(&mut *lane, purchase(user, "evt_1", "cs_1")).await;
    assert_eq!(committed.outcome, Outcome::Applied);
    let state = committed.entitlement.unwrap();
    assert_eq!((state.level.as_str(), state.version), ("PRO", 1));
    assert_eq!(ledger.entitlement(user).await.unwrap(), state);

    let again = commit_one(&mut *lane, purchase(user, "evt_1", "cs_1")).await;
    assert_eq!((again.outcome, again.entitlement), (Outcome::Duplicate, Some(state.clone())));
    let sibling = commit_one(&mut *lane, purchase(user, "evt_2", "cs_1")).await;
    assert_eq!((sibling.outcome, sibling.entitlement), (Outcome::Superseded, Some(state)));

    assert_eq!(database.value("SELECT count(*) FROM user_entitlements").await, "1");
    assert_eq!(
        database.query("SELECT id, outcome FROM stripe_events ORDER BY id").await,
        [[Some("evt_1".to_owned()), Some("applied".into())], [Some("evt_2".into()), Some("superseded".into())]]
    );
    assert_eq!(database.value("SELECT expires_at > now() AND status = 'active' FROM user_entitlements").await, "t");
}

#[tokio::test]
async fn one_batch_holds_many_users_and_many_events_of_one() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let users: Vec<UserId> = (0..40).map(|_| user()).collect();
    let mut entries: Vec<Entry> =
        users.iter().enumerate().map(|(n, user)| purchase(*user, &format!("evt_{n}"), &format!("cs_{n}"))).collect();
    // Three sessions of one user, the same event thrice, and one that only says something.
    entries.push(purchase(users[0], "evt_100", "cs_100"));
    entries.push(purchase(users[0], "evt_101", "cs_101"));
    entries.push(purchase(users[0], "evt_101", "cs_101"));
    entries.push(purchase(users[0], "evt_101", "cs_101"));
    entries.push(Entry::Note(Note {
        event: event("evt_200"),
        verdict: Verdict::Ignored(IgnoreReason::UnhandledType),
        user: None,
    }));
    let results = commit(&mut *ledger.lane(), entries).await;
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.as_ref().unwrap().outcome).collect();
    assert_eq!(outcomes[..42], [Outcome::Applied; 42]);
    assert_eq!(outcomes[42..44], [Outcome::Duplicate; 2]);
    assert_eq!(outcomes[44], Outcome::Ignored(IgnoreReason::UnhandledType));
    let versions: Vec<u64> =
        [0, 40, 41].map(|n| results[n].as_ref().unwrap().entitlement.as_ref().unwrap().version).to_vec();
    assert_eq!(versions, [1, 2, 3], "each change of one user has its own version");
    assert_eq!(database.value("SELECT count(*) FROM user_entitlements").await, "42");
    assert_eq!(database.value("SELECT max(version) FROM entitlement_state").await, "3");
    assert_eq!(
        database.query("SELECT type, object_id, user_id FROM stripe_events WHERE outcome = 'ignored'").await,
        [[Some("checkout.session.completed".to_owned()), None, None]],
        "an ignored event keeps id and type only"
    );
}

#[tokio::test]
async fn sixteen_lanes_at_once_apply_each_event_and_each_session_once() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let mut applied = 0;
    for round in 0..25 {
        let user = user();
        let racers = (0..16).map(|racer| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move {
                // Half deliver one event, half bring Event objects of their own about one session.
                let (id, session) = if racer % 2 == 0 {
                    (format!("evt_a{round}"), format!("cs_a{round}"))
                } else {
                    (format!("evt_b{round}x{racer}"), format!("cs_b{round}"))
                };
                commit_one(&mut *ledger.lane(), purchase_of(user, &id, &session, "PRO", seconds(1_790_000_000))).await
            })
        });
        for racer in futures::future::join_all(racers).await {
            match racer.unwrap().outcome {
                Outcome::Applied => applied += 1,
                Outcome::Duplicate | Outcome::Superseded => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(database.value("SELECT count(*) FROM user_entitlements").await, "50", "two sessions a round");
    // Event objects of one session and second differ in their id alone: a smaller one may still improve the report.
    assert!(applied >= 50, "{applied}");
    assert_eq!(database.value("SELECT count(*) FROM stripe_events").await, (25 * 9).to_string());
    assert_eq!(
        database.value("SELECT sum(version) FROM entitlement_state").await,
        applied.to_string(),
        "versions count exactly the applied changes"
    );
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

/// Opens a transaction that holds the user's advisory lock. The key is the ledger's own secret: it is found by watching a
/// commit take it.
async fn hold_lock_of(
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
    let key = crate::harness::until_ok(Duration::from_secs(30), "the commit holds its lock", || async {
        database.query(query).await.first().and_then(|row| row[0].clone()).ok_or("no lock yet")
    })
    .await;
    other.batch_execute(&format!("ROLLBACK; BEGIN; SELECT pg_advisory_xact_lock({key})")).await.unwrap();
    committing.await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().outcome, Outcome::Applied);
}

#[tokio::test]
async fn a_grant_of_somebody_else_is_parked_and_its_batch_goes_on() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let (owner, thief, bystander) = (user(), user(), user());
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(owner, "evt_1", "cs_1")).await;
    let results = commit(
        &mut *lane,
        vec![purchase(bystander, "evt_2", "cs_2"), purchase(thief, "evt_3", "cs_1"), purchase(user(), "evt_4", "cs_4")],
    )
    .await;
    let outcomes: Vec<Outcome> = results.into_iter().map(|result| result.unwrap().outcome).collect();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Parked(ParkReason::ForeignSource), Outcome::Applied]);
    assert!(ledger.entitlement(thief).await.unwrap().level.is_free());
    assert_eq!(ledger.entitlement(owner).await.unwrap().version, 1);
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
    let due = crate::harness::until_ok(Duration::from_secs(30), "the event is due", || async {
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
async fn an_ignored_event_is_no_duplicate_once_its_type_is_handled() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let mut lane = ledger.lane();
    let note =
        Entry::Note(Note { event: event("evt_1"), verdict: Verdict::Ignored(IgnoreReason::UnhandledType), user: None });
    assert_eq!(commit_one(&mut *lane, note.clone()).await.outcome, Outcome::Ignored(IgnoreReason::UnhandledType));
    assert_eq!(commit_one(&mut *lane, note).await.outcome, Outcome::DuplicateWaiting);
    let entry = purchase(user(), "evt_1", "cs_1");
    assert_eq!(commit_one(&mut *lane, entry.clone()).await.outcome, Outcome::Applied);
    assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Duplicate);
}

#[tokio::test]
async fn the_end_of_a_level_is_a_change_with_a_version_of_its_own() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let user = user();
    let mut lane = ledger.lane();
    let ended = Utc::now() - TimeDelta::days(7) + TimeDelta::milliseconds(1500);
    let state = commit_one(&mut *lane, purchase_of(user, "evt_1", "cs_1", "TRIAL", ended)).await.entitlement.unwrap();
    assert_eq!(state.level.as_str(), "TRIAL");
    eventually(Duration::from_secs(30), "the trial is over", || async {
        ledger.lapsed(10).await.unwrap() == [(user, 1)]
    })
    .await;
    assert!(ledger.entitlement(user).await.unwrap().level.is_free(), "never served beyond its end");
    let lapse = |version| Entry::Change(Change { user, cause: Cause::Time, effect: Effect::Lapse { version } });
    assert_eq!(commit_one(&mut *lane, lapse(7)).await.outcome, Outcome::Superseded);
    let lapsed = commit_one(&mut *lane, lapse(1)).await;
    assert_eq!(lapsed.outcome, Outcome::Applied);
    assert_eq!(lapsed.entitlement.unwrap().version, 2);
    assert_eq!(ledger.lapsed(10).await.unwrap(), []);
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

#[tokio::test]
async fn sessions_keys_and_replicas_have_their_books() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let (owner, other) = (user(), user());
    let session = SessionRecord {
        id: SessionId::parse("cs_1").unwrap(),
        user: owner,
        level: Level::parse("PRO").unwrap(),
        interval: None,
        expired: false,
        expires_at: seconds(1_800_000_000),
    };
    ledger.record_session(&session).await.unwrap();
    ledger.record_session(&session).await.unwrap();
    assert_eq!(ledger.session(owner, &session.id).await.unwrap(), Some(session.clone()));
    assert_eq!(ledger.session(other, &session.id).await.unwrap(), None, "somebody else's");
    let expired = Entry::Change(Change {
        user: owner,
        cause: Cause::Delivery(event("evt_1")),
        effect: Effect::SessionExpired(session.id.clone()),
    });
    assert_eq!(commit_one(&mut *ledger.lane(), expired).await.outcome, Outcome::Applied);
    assert!(ledger.session(owner, &session.id).await.unwrap().unwrap().expired);

    let (pro, trial) = (Level::parse("PRO").unwrap(), Level::parse("TRIAL").unwrap());
    assert_eq!(ledger.claim_key(owner, [1; 32], &pro).await.unwrap().attempt, 1);
    assert_eq!(ledger.claim_key(owner, [1; 32], &trial).await.unwrap().level, pro, "the first use counts");
    ledger.fail_key(owner, [1; 32], 1).await.unwrap();
    ledger.fail_key(owner, [1; 32], 1).await.unwrap();
    assert_eq!(ledger.claim_key(owner, [1; 32], &pro).await.unwrap().attempt, 2, "two failures of one attempt are one");

    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    ledger.beat(one, Duration::ZERO).await.unwrap();
    let seen: HashSet<Uuid> =
        ledger.beat(two, Duration::ZERO).await.unwrap().iter().map(|instance| instance.id).collect();
    assert_eq!(seen, HashSet::from([one, two]));
    ledger.forget_instance(one).await.unwrap();
    assert_eq!(ledger.beat(two, Duration::ZERO).await.unwrap().len(), 1);
    assert_eq!(ledger.levels_in_use().await.unwrap(), []);
}

#[tokio::test]
async fn what_changed_is_listed_newest_first() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let mut lane = ledger.lane();
    let users: Vec<UserId> = (0..5).map(|_| user()).collect();
    let start = ledger.now().await.unwrap();
    for (n, user) in users.iter().enumerate() {
        commit_one(&mut *lane, purchase(*user, &format!("evt_{n}"), &format!("cs_{n}"))).await;
    }
    let all = ledger.changed_between(start, DateTime::<Utc>::MAX_UTC, 10).await.unwrap();
    let expected: Vec<UserId> = users.iter().rev().copied().collect();
    assert_eq!(all.iter().map(|changed| changed.user).collect::<Vec<_>>(), expected);
    let page = ledger.changed_between(all[3].changed_at, all[1].changed_at, 2).await.unwrap();
    assert_eq!(page, all[1..3]);
    assert_eq!(ledger.levels_in_use().await.unwrap(), [Level::parse("PRO").unwrap()]);
}
