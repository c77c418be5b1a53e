//! The one write transaction.
//!
//! Two round trips, however many entries:
//!
//! 1. `BEGIN`; try the users' locks; write the inbox for those obtained; read their state and grants.
//! 2. Write grants and states; correct inbox rows; `COMMIT`.
//!
//! Between them the pure decision of `domain` is made. Inside a round trip the statements are pipelined: the server runs them one
//! after the other, each with its own snapshot, so what is read was written before the locks were ours. They arrive in order
//! because `futures`' joins poll in order and prepared statements are sent at their first poll ([`warm`]); `tokio::join!`
//! would not do.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use diesel::{QueryResult, result::Error as DieselError};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures::{
    TryFutureExt,
    future::{try_join, try_join3, try_join4},
};
use uuid::Uuid;

use super::{
    super::{
        Entry, LedgerError,
        account::{AccountRow, ObjectRow, load, objects},
        batch::{OwnerRow, Subjects, Users, is_retry},
        decide::{Correction, Found, Inbox, Known, Redelivered, Slot, decide, redelivered},
        fetches::Needs,
        halving::{Failure, given_up},
        reach::{ReachRow, Reaches, named},
    },
    batch::{EventColumns, LockColumns, ObjectColumns, WriteColumns, held_place, names},
    connection::{Rights, classify},
    statements::{
        ClaimEvents, CorrectEvents, FOREIGN_SOURCE, FindEvents, HoldUsers, InsertEvents, ReadAccounts, ReadObjects,
        ReadOwners, ReadReaches, TryLocks, WaitLocks, WakeEvents, WriteAccounts, WriteFetches, WriteObjects,
    },
};
use crate::{
    domain::plan::Catalogue,
    fail_point::{self, Point},
};

/// How the users' locks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locks {
    /// Whoever is locked elsewhere is left out: nobody waits for somebody else's user.
    Try,
    /// Waits. Only for one entry at a time.
    Wait,
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Aborted(classify(&error))
    }
}

/// Prepares every hot statement on a fresh connection, so that pipelined ones are sent in order.
pub(super) async fn warm(mut connection: &AsyncPgConnection, rights: Rights) -> QueryResult<()> {
    connection.batch_execute("BEGIN").await?;
    let _: Vec<String> = TryLocks { places: &[], keys: &[], shared: &[] }.get_results(&mut connection).await?;
    let _: Vec<String> = WaitLocks { places: &[], keys: &[], shared: &[] }.get_results(&mut connection).await?;
    if rights.may_hold_users {
        let _: Vec<Uuid> = HoldUsers { users: &[] }.get_results(&mut connection).await?;
    }
    let _: Vec<String> = insert_events(&EventColumns::default()).get_results(&mut connection).await?;
    let _: Vec<String> = claim_events(&EventColumns::default()).get_results(&mut connection).await?;
    let _: Vec<(String, String, Option<Vec<u8>>)> = FindEvents { ids: &[] }.get_results(&mut connection).await?;
    let _: Vec<AccountRow> = ReadAccounts { users: &[] }.get_results(&mut connection).await?;
    let _: Vec<ObjectRow> = ReadObjects { users: &[], names: &[] }.get_results(&mut connection).await?;
    let _: Vec<ReachRow> = ReadReaches { places: &[], names: &[] }.get_results(&mut connection).await?;
    let _: Vec<OwnerRow> = ReadOwners { subscriptions: &[], customers: &[] }.get_results(&mut connection).await?;
    let _: Vec<i64> = write_accounts(&WriteColumns::default()).get_results(&mut connection).await?;
    let _: Vec<i32> = write_objects(&ObjectColumns::default()).get_results(&mut connection).await?;
    let (answered_objects, answered_reasons): (&[&str], &[&str]) = (&[], &[]);
    let fetches = WriteFetches { answered_objects, answered_reasons, objects: &[], reasons: &[], delays: &[] };
    let _: Vec<i32> = fetches.get_results(&mut connection).await?;
    let _: Vec<i32> =
        CorrectEvents { ids: &[], outcomes: &[], reasons: &[], payloads: &[] }.get_results(&mut connection).await?;
    let _: Vec<i32> = WakeEvents { ids: &[] }.get_results(&mut connection).await?;
    connection.batch_execute("ROLLBACK").await
}

/// Runs the transaction. After a failure the caller rolls back, or drops the connection. `is_committing` is set when `COMMIT` may be on its
/// way.
pub(super) async fn transact(
    connection: &AsyncPgConnection,
    entries: &[&Entry],
    locks: Locks,
    catalogue: &Catalogue,
    rights: Rights,
    is_committing: &AtomicBool,
) -> Result<Vec<Slot>, Failure> {
    let reaches = read_reaches(connection, entries).await?;
    let users = Users::of(entries, &reaches);
    let (fresh, waiting) = event_columns(entries, &reaches);
    let subjects = Subjects::of(entries);
    let opened = open(connection, entries, &users, &reaches, &subjects, (&fresh, &waiting), (locks, rights)).await?;
    fail_point::try_pass(Point::LedgerLocked, || Entry::about(entries.iter().copied()))
        .await
        .map_err(|_| Failure::Aborted(given_up()))?;
    let may_write =
        |index: usize| entries.get(index).is_some_and(|entry| opened.held.contains(&held_place(entry, index)));
    let mut first: HashSet<&str> = opened.first.iter().map(String::as_str).collect();
    let redelivered = redelivered(entries, &first, may_write);
    let (claimed, waiting) = settle_known(connection, &reaches, &redelivered).await?;
    first.extend(claimed.iter().map(String::as_str));
    subjects.check(entries, &opened.owners, may_write)?;
    reaches.check(&opened.reaches, may_write)?;
    let mut found = Found {
        inbox: Inbox { first, waiting },
        accounts: load(users.ids.len(), opened.accounts),
        money: objects(opened.objects).map_err(Failure::Aborted)?,
    };
    let decided = decide(entries, &users, may_write, &mut found, catalogue, rights.owns_users)?;

    let mut writes = WriteColumns::default();
    for (user, loaded) in users.ids.iter().zip(&found.accounts) {
        writes.push(*user, loaded).map_err(Failure::Aborted)?;
    }
    writes.expired_sessions = decided.expired_sessions;
    let learnt = ObjectColumns::of(&found.money).map_err(Failure::Aborted)?;
    fail_point::try_pass(Point::LedgerCommit, || Entry::about(entries.iter().copied()))
        .await
        .map_err(|_| Failure::Aborted(given_up()))?;
    is_committing.store(true, Ordering::Relaxed);
    close(connection, &writes, &learnt, &decided.corrections, &decided.needs).await?;
    Ok(decided.slots)
}

/// What the reports of a batch reach: where there are any, a round trip more.
async fn read_reaches(mut connection: &AsyncPgConnection, entries: &[&Entry]) -> Result<Reaches, Failure> {
    let (places, names) = names(entries);
    let rows = if places.is_empty() {
        Vec::new()
    } else {
        ReadReaches { places: &places, names: &names }.get_results(&mut connection).await?
    };
    Ok(Reaches::of(entries, rows))
}

/// The inbox columns of new deliveries, and those of events that wait in the inbox already.
fn event_columns<'a>(entries: &[&'a Entry], reaches: &Reaches) -> (EventColumns<'a>, EventColumns<'a>) {
    let (mut fresh, mut waiting) = (EventColumns::default(), EventColumns::default());
    for (index, entry) in entries.iter().enumerate() {
        if let Some(event) = entry.event() {
            let columns = if is_retry(entry) { &mut waiting } else { &mut fresh };
            columns.push(held_place(entry, index), entry, event, reaches.only_user(index));
        }
    }
    (fresh, waiting)
}

/// What the first round trip gives.
struct Opened {
    /// Places whose locks are held.
    held: HashSet<i64>,
    /// Events that nobody had before.
    first: Vec<String>,
    accounts: Vec<AccountRow>,
    objects: Vec<ObjectRow>,
    owners: Vec<OwnerRow>,
    reaches: Reaches,
}

/// The first round trip; `events` are new deliveries, and those that wait in the inbox.
async fn open(
    connection: &AsyncPgConnection,
    entries: &[&Entry],
    users: &Users,
    reaches: &Reaches,
    subjects: &Subjects<'_>,
    events: (&EventColumns<'_>, &EventColumns<'_>),
    (locks, rights): (Locks, Rights),
) -> Result<Opened, Failure> {
    let (mut a, mut b, mut c, mut d, mut e, mut f, mut g) =
        (connection, connection, connection, connection, connection, connection, connection);
    let columns = LockColumns::of(entries, reaches);
    let (places, keys, shared) = (&*columns.places, &*columns.keys, &*columns.shared);
    let lock = async {
        match locks {
            Locks::Try => TryLocks { places, keys, shared }.get_results(&mut b).await,
            Locks::Wait => WaitLocks { places, keys, shared }.get_results(&mut b).await,
        }
    };
    let (fresh, waiting) = events;
    let insert = insert_events(fresh);
    let accounts = ReadAccounts { users: &users.ids };
    let named: Vec<&str> = named(entries).into_iter().collect();
    let objects = ReadObjects { users: &users.ids, names: &named };
    let hold = async {
        if rights.may_hold_users {
            let _: Vec<Uuid> = HoldUsers { users: &users.ids }.get_results(&mut g).await?;
        }
        Ok(())
    };
    let read = try_join3(hold, accounts.get_results(&mut d), objects.get_results(&mut f));
    let again = async {
        if subjects.is_empty() {
            return Ok((Vec::new(), read_reaches(connection, entries).await?));
        }
        let (subscriptions, customers) = subjects.columns();
        let owners = ReadOwners { subscriptions: &subscriptions, customers: &customers };
        try_join(owners.get_results(&mut e).map_err(Failure::from), read_reaches(connection, entries)).await
    };
    let begin = a.batch_execute("BEGIN");
    let first = try_join4(begin, lock, insert.get_results(&mut c), read).map_err(Failure::from);
    let (((), held, mut first, ((), accounts, objects)), (owners, reaches)) = try_join(first, again).await?;
    let held: Vec<String> = held;
    if !waiting.ids.is_empty() {
        let mut again = connection;
        let claimed: Vec<String> = claim_events(waiting).get_results(&mut again).await?;
        first.extend(claimed);
    }
    let held =
        held.iter().flat_map(|list| list.trim_matches(['{', '}']).split(',')).filter_map(|i| i.parse().ok()).collect();
    Ok(Opened { held, first, accounts, objects, owners, reaches })
}

/// Deals with events that the inbox had already: gives those that were claimed, and those that wait.
async fn settle_known<'a>(
    mut connection: &AsyncPgConnection,
    reaches: &Reaches,
    redelivered: &Redelivered<'a>,
) -> Result<(Vec<String>, HashSet<&'a str>), Failure> {
    if redelivered.is_empty() {
        return Ok((Vec::new(), HashSet::new()));
    }
    let ids: Vec<&str> = redelivered.keys().copied().collect();
    let found: Vec<(String, String, Option<Vec<u8>>)> = FindEvents { ids: &ids }.get_results(&mut connection).await?;
    let known = Known::sort(redelivered, &found);
    if !known.parked.is_empty() {
        let _: Vec<i32> = WakeEvents { ids: &known.parked }.get_results(&mut connection).await?;
    }
    let mut claimed = Vec::new();
    if !known.ignored.is_empty() {
        let mut columns = EventColumns::default();
        for (index, entry, event) in &known.ignored {
            columns.push(held_place(entry, *index), entry, event, reaches.only_user(*index));
        }
        claimed = claim_events(&columns).get_results(&mut connection).await?;
    }
    Ok((claimed, known.waiting))
}

/// The second round trip. Once `COMMIT` is on its way, only the server's answer tells what happened.
async fn close(
    connection: &AsyncPgConnection,
    writes: &WriteColumns<'_>,
    learnt: &ObjectColumns<'_>,
    corrections: &[Correction<'_>],
    needs: &Needs,
) -> Result<(), Failure> {
    let (mut a, mut b, mut c, mut d, mut e) = (connection, connection, connection, connection, connection);
    let correct = async {
        if corrections.is_empty() {
            return Ok(());
        }
        let columns = CorrectEvents {
            ids: &corrections.iter().map(|row| row.id).collect::<Vec<_>>(),
            outcomes: &corrections.iter().map(|row| row.outcome).collect::<Vec<_>>(),
            reasons: &corrections.iter().map(|row| row.reason).collect::<Vec<_>>(),
            payloads: &corrections.iter().map(|row| row.payload).collect::<Vec<_>>(),
        };
        let _: Vec<i32> = columns.get_results(&mut a).await.map_err(|error| before_commit(&error))?;
        Ok(())
    };
    let write = async {
        if writes.is_empty() {
            return Ok(());
        }
        let _: Vec<i64> = write_accounts(writes).get_results(&mut b).await.map_err(|error| before_commit(&error))?;
        Ok(())
    };
    let learn = async {
        if learnt.ids.is_empty() {
            return Ok(());
        }
        let _: Vec<i32> = write_objects(learnt).get_results(&mut d).await.map_err(|error| before_commit(&error))?;
        Ok(())
    };
    let ask = async {
        if needs.is_empty() {
            return Ok(());
        }
        let columns = |wanted| needs.rows(wanted).map(|(object, reason)| (object, reason.as_str())).unzip();
        let (objects, reasons): (Vec<&str>, Vec<&str>) = columns(true);
        let (answered_objects, answered_reasons): (Vec<&str>, Vec<&str>) = columns(false);
        let write = WriteFetches {
            answered_objects: &answered_objects,
            answered_reasons: &answered_reasons,
            objects: &objects,
            reasons: &reasons,
            delays: &needs.rows(true).map(|(_, reason)| reason.delay_seconds()).collect::<Vec<_>>(),
        };
        let _: Vec<i32> = write.get_results(&mut e).await.map_err(|error| before_commit(&error))?;
        Ok(())
    };
    let commit = async { c.batch_execute("COMMIT").await.map_err(|_| Failure::InDoubt) };
    try_join4(correct, write, try_join(learn, ask), commit).await.map(|_| ())
}

/// What it means that a statement failed with `COMMIT` pipelined behind it: refused by the server, the transaction is aborted
/// and its `COMMIT` a rollback; with the connection gone, the `COMMIT` may have got through.
fn before_commit(error: &DieselError) -> Failure {
    match classify(error) {
        LedgerError::Refused { constraint, .. } if FOREIGN_SOURCE.contains(&constraint.as_str()) => {
            Failure::ForeignSource
        }
        LedgerError::Unavailable(_) => Failure::InDoubt,
        other => Failure::Aborted(other),
    }
}

/// The claim's columns are those of an insert.
fn claim_events<'a>(columns: &'a EventColumns<'a>) -> ClaimEvents<'a> {
    ClaimEvents {
        places: &columns.places,
        ids: &columns.ids,
        users: &columns.users,
        object_ids: &columns.object_ids,
        hashes: &columns.hashes,
    }
}

fn insert_events<'a>(columns: &'a EventColumns<'a>) -> InsertEvents<'a> {
    InsertEvents {
        places: &columns.places,
        ids: &columns.ids,
        kinds: &columns.kinds,
        object_ids: &columns.object_ids,
        created: &columns.created,
        livemodes: &columns.livemodes,
        api_versions: &columns.api_versions,
        hashes: &columns.hashes,
        users: &columns.users,
        outcomes: &columns.outcomes,
        reasons: &columns.reasons,
        payloads: &columns.payloads,
    }
}

fn write_objects<'a>(columns: &'a ObjectColumns<'a>) -> WriteObjects<'a> {
    WriteObjects {
        ids: &columns.ids,
        parents: &columns.parents,
        period_ends: &columns.period_ends,
        facts: &columns.facts,
    }
}

fn write_accounts<'a>(columns: &'a WriteColumns<'a>) -> WriteAccounts<'a> {
    WriteAccounts {
        new_users: &columns.new_users,
        grant_users: &columns.grant_users,
        levels: &columns.levels,
        events: &columns.events,
        source_kinds: &columns.source_kinds,
        source_ids: &columns.source_ids,
        statuses: &columns.statuses,
        reported_statuses: &columns.reported_statuses,
        period_ends: &columns.period_ends,
        reported_ats: &columns.reported_ats,
        sessions: &columns.sessions,
        payment_intents: &columns.payment_intents,
        customers: &columns.customers,
        snapshots: &columns.snapshots,
        state_users: &columns.state_users,
        state_levels: &columns.state_levels,
        state_ends: &columns.state_ends,
        state_versions: &columns.state_versions,
        state_quantities: &columns.state_quantities,
        past_users: &columns.past_users,
        past_versions: &columns.past_versions,
        past_levels: &columns.past_levels,
        past_ends: &columns.past_ends,
        past_quantities: &columns.past_quantities,
        past_causes: &columns.past_causes,
        past_events: &columns.past_events,
        past_operators: &columns.past_operators,
        past_reasons: &columns.past_reasons,
        past_sources: &columns.past_sources,
        expired_sessions: &columns.expired_sessions,
    }
}
