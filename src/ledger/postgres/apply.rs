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
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use diesel::{QueryResult, result::Error as DieselError};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures::future::{try_join3, try_join4};

use super::{
    super::{Committed, Entry, LedgerError, Verdict},
    batch::{EventColumns, Loaded, Users, WriteColumns, is_retry, load, text},
    connection::classify,
    statements::{
        AccountRow, ClaimEvents, CorrectEvents, FOREIGN_SOURCE, FindEvents, InsertEvents, ReadAccounts, TryLocks,
        WaitLocks, WakeEvents, WriteAccounts,
    },
};
use crate::domain::{
    change::{Change, Decision, Effect},
    event::{EventRecord, Outcome, ParkReason},
    plan::Catalogue,
};

/// How the users' locks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Locks {
    /// Whoever is locked elsewhere is left out: nobody waits for somebody else's user.
    Try,
    /// Waits. Only for one entry at a time.
    Wait,
}

/// What a committed transaction did with one entry.
#[derive(Debug)]
pub(super) enum Slot {
    /// It is durable.
    Committed(Committed),
    /// Its user is locked elsewhere; nothing was written for it.
    LockedElsewhere,
}

/// Why a transaction did not commit.
#[derive(Debug)]
pub(super) enum Failure {
    /// Certainly nothing was written.
    Aborted(LedgerError),
    /// Certainly nothing was written, and it is this entry's fault.
    Culprit(usize, LedgerError),
    /// A grant's business key belongs to another user.
    ForeignSource,
    /// `COMMIT` was sent and not answered.
    InDoubt,
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Aborted(classify(&error))
    }
}

/// Prepares every hot statement on a fresh connection, so that pipelined ones are sent in order.
pub(super) async fn warm(mut connection: &AsyncPgConnection) -> QueryResult<()> {
    connection.batch_execute("BEGIN").await?;
    let _: Vec<String> = TryLocks { keys: &[] }.get_results(&mut connection).await?;
    let _: Vec<String> = WaitLocks { keys: &[] }.get_results(&mut connection).await?;
    let _: Vec<String> = insert_events(&EventColumns::default()).get_results(&mut connection).await?;
    let _: Vec<String> = claim_events(&EventColumns::default()).get_results(&mut connection).await?;
    let _: Vec<(String, String, Option<Vec<u8>>)> = FindEvents { ids: &[] }.get_results(&mut connection).await?;
    let _: Vec<AccountRow> = ReadAccounts { users: &[] }.get_results(&mut connection).await?;
    let _: Vec<i64> = write_accounts(&WriteColumns::default()).get_results(&mut connection).await?;
    let _: Vec<i32> =
        CorrectEvents { ids: &[], outcomes: &[], reasons: &[], payloads: &[] }.get_results(&mut connection).await?;
    let _: Vec<i32> = WakeEvents { ids: &[] }.get_results(&mut connection).await?;
    connection.batch_execute("ROLLBACK").await
}

/// Runs the transaction. After a failure the caller rolls back, or drops the connection.
pub(super) async fn transact(
    connection: &AsyncPgConnection,
    entries: &[&Entry],
    locks: Locks,
    catalogue: &Catalogue,
    owns_users: bool,
) -> Result<Vec<Slot>, Failure> {
    let users = Users::of(entries);
    let (fresh, waiting) = event_columns(entries, &users);
    let (held, first, rows) = open(connection, &users, &fresh, &waiting, locks).await?;
    let mut first: HashSet<&str> = first.iter().map(String::as_str).collect();
    let known = settle_known(connection, entries, &users, &held, &first).await?;
    first.extend(known.claimed.iter().map(String::as_str));
    let mut loaded = load(users.ids.len(), rows);

    let mut slots = Vec::with_capacity(entries.len());
    let mut corrections = Corrections::default();
    let mut expired_sessions = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let place = users.place(entry.user());
        if !held.contains(&place) {
            slots.push(Slot::LockedElsewhere);
            continue;
        }
        let is_first = entry.event().is_none_or(|event| first.contains(event.id.as_str()));
        let duplicate = match entry.event() {
            Some(event) if known.waiting.contains(event.id.as_str()) => Outcome::DuplicateWaiting,
            _ => Outcome::Duplicate,
        };
        let account = usize::try_from(place - 1).ok().and_then(|place| loaded.get_mut(place));
        let outcome = match (entry, account) {
            (Entry::Note(note), _) => match (is_first, note.verdict) {
                (false, _) => duplicate,
                (true, Verdict::Ignored(reason)) => Outcome::Ignored(reason),
                (true, Verdict::Parked(reason)) => Outcome::Parked(reason),
            },
            (Entry::Change(_), _) if !is_first => duplicate,
            (Entry::Change(change), Some(account)) => {
                let outcome = decide(change, account, catalogue, owns_users)
                    .map_err(|()| Failure::Culprit(index, LedgerError::Panicked))?;
                if let (Outcome::Applied, Effect::SessionExpired(session)) = (outcome, &change.effect) {
                    expired_sessions.push(session.as_str());
                }
                if let Some(event) = entry.event() {
                    corrections.note(event, outcome);
                }
                outcome
            }
            // Unreachable: every change has a user, and every user a place.
            (Entry::Change(_), None) => return Err(Failure::Culprit(index, LedgerError::Panicked)),
        };
        let entitlement = usize::try_from(place - 1)
            .ok()
            .and_then(|place| loaded.get(place))
            .map(|loaded| loaded.account.entitlement.clone());
        slots.push(Slot::Committed(Committed { outcome, entitlement }));
    }

    let mut writes = WriteColumns::default();
    for (user, loaded) in users.ids.iter().zip(&loaded) {
        writes.push(*user, loaded);
    }
    writes.expired_sessions = expired_sessions;
    close(connection, &writes, &corrections).await?;
    Ok(slots)
}

/// The inbox columns of new deliveries, and those of events that wait in the inbox already.
fn event_columns<'a>(entries: &[&'a Entry], users: &Users) -> (EventColumns<'a>, EventColumns<'a>) {
    let (mut fresh, mut waiting) = (EventColumns::default(), EventColumns::default());
    for entry in entries {
        if let Some(event) = entry.event() {
            let columns = if is_retry(entry) { &mut waiting } else { &mut fresh };
            columns.push(users.place(entry.user()), entry, event);
        }
    }
    (fresh, waiting)
}

/// The first round trip. Gives the places whose locks are held, the events that nobody had before, and the accounts.
async fn open(
    connection: &AsyncPgConnection,
    users: &Users,
    fresh: &EventColumns<'_>,
    waiting: &EventColumns<'_>,
    locks: Locks,
) -> Result<(HashSet<i64>, Vec<String>, Vec<AccountRow>), Failure> {
    let (mut a, mut b, mut c, mut d) = (connection, connection, connection, connection);
    let keys = users.keys.as_slice();
    let lock = async {
        match locks {
            Locks::Try => TryLocks { keys }.get_results(&mut b).await,
            Locks::Wait => WaitLocks { keys }.get_results(&mut b).await,
        }
    };
    let insert = insert_events(fresh);
    let read = ReadAccounts { users: &users.ids };
    let ((), held, mut first, rows): ((), Vec<String>, Vec<String>, Vec<AccountRow>) =
        try_join4(a.batch_execute("BEGIN"), lock, insert.get_results(&mut c), read.get_results(&mut d)).await?;
    if !waiting.ids.is_empty() {
        let mut again = connection;
        let claimed: Vec<String> = claim_events(waiting).get_results(&mut again).await?;
        first.extend(claimed);
    }
    let held =
        held.iter().flat_map(|list| list.trim_matches(['{', '}']).split(',')).filter_map(|i| i.parse().ok()).collect();
    Ok((held, first, rows))
}

/// Events of a batch that the inbox had already.
#[derive(Default)]
struct Known {
    /// Ignored before, and applied by this transaction now that their type is handled.
    claimed: Vec<String>,
    /// Parked, or still ignored.
    waiting: HashSet<String>,
}

/// Deals with deliveries whose event the inbox had already. An ignored one is no duplicate if its type is handled by now: it is
/// claimed. A parked one is woken. A different object under a known id is somebody's mistake, and said so.
async fn settle_known(
    mut connection: &AsyncPgConnection,
    entries: &[&Entry],
    users: &Users,
    held: &HashSet<i64>,
    first: &HashSet<&str>,
) -> Result<Known, Failure> {
    let entries: HashMap<&str, (&Entry, &EventRecord)> = entries
        .iter()
        .filter(|entry| held.contains(&users.place(entry.user())))
        .filter_map(|entry| entry.event().map(|event| (event.id.as_str(), (*entry, event))))
        .filter(|(id, _)| !first.contains(id))
        .collect();
    if entries.is_empty() {
        return Ok(Known::default());
    }
    let ids: Vec<&str> = entries.keys().copied().collect();
    let found: Vec<(String, String, Option<Vec<u8>>)> = FindEvents { ids: &ids }.get_results(&mut connection).await?;
    let (mut ignored, mut parked, mut known) = (EventColumns::default(), Vec::new(), Known::default());
    for (id, outcome, hash) in &found {
        let Some((entry, event)) = entries.get(id.as_str()) else { continue };
        if hash.as_ref().is_some_and(|hash| hash.as_slice() != event.object_hash) {
            metrics::counter!("tollgate_events_conflicting_total").increment(1);
            tracing::warn!(event.id = id, "a known event id came with another object: the first one holds");
        }
        match (outcome.as_str(), entry) {
            ("ignored", Entry::Change(_)) if !is_retry(entry) => ignored.push(users.place(entry.user()), entry, event),
            ("parked", _) if !is_retry(entry) => {
                parked.push(id.as_str());
                known.waiting.insert(id.clone());
            }
            ("ignored" | "parked", _) => {
                known.waiting.insert(id.clone());
            }
            _ => {}
        }
    }
    if !parked.is_empty() {
        let _: Vec<i32> = WakeEvents { ids: &parked }.get_results(&mut connection).await?;
    }
    if !ignored.ids.is_empty() {
        known.claimed = claim_events(&ignored).get_results(&mut connection).await?;
    }
    Ok(known)
}

/// The decision about one change. `Err` if it panicked: a fault of ours that must not take the whole batch down.
fn decide(change: &Change, account: &mut Loaded, catalogue: &Catalogue, owns_users: bool) -> Result<Outcome, ()> {
    if !account.exists && !owns_users {
        return Ok(Outcome::Parked(ParkReason::UnknownUser));
    }
    let now = account.now;
    let decision =
        catch_unwind(AssertUnwindSafe(|| account.account.apply(&change.effect, catalogue, now))).map_err(|_| ())?;
    match decision {
        Decision::Applied { grant } => {
            account.changed = true;
            if let Some(grant) = grant
                && !account.touched.contains(&grant)
            {
                account.touched.push(grant);
            }
            Ok(Outcome::Applied)
        }
        Decision::Superseded => Ok(Outcome::Superseded),
    }
}

/// Inbox rows that were written as applied and turned out otherwise.
#[derive(Default)]
struct Corrections<'a> {
    ids: Vec<&'a str>,
    outcomes: Vec<&'a str>,
    reasons: Vec<Option<&'a str>>,
    payloads: Vec<Option<&'a str>>,
}

impl<'a> Corrections<'a> {
    fn note(&mut self, event: &'a EventRecord, outcome: Outcome) {
        let (word, reason, payload) = match outcome {
            Outcome::Applied | Outcome::Duplicate | Outcome::DuplicateWaiting => return,
            Outcome::Superseded => ("superseded", None, None),
            Outcome::Ignored(reason) => ("ignored", Some(reason.as_str()), None),
            Outcome::Parked(reason) => ("parked", Some(reason.as_str()), text(event)),
        };
        self.ids.push(event.id.as_str());
        self.outcomes.push(word);
        self.reasons.push(reason);
        self.payloads.push(payload);
    }
}

/// The second round trip. Once `COMMIT` is on its way, only the server's answer tells what happened.
async fn close(
    connection: &AsyncPgConnection,
    writes: &WriteColumns<'_>,
    corrections: &Corrections<'_>,
) -> Result<(), Failure> {
    let (mut a, mut b, mut c) = (connection, connection, connection);
    let correct = async {
        if corrections.ids.is_empty() {
            return Ok(());
        }
        let columns = CorrectEvents {
            ids: &corrections.ids,
            outcomes: &corrections.outcomes,
            reasons: &corrections.reasons,
            payloads: &corrections.payloads,
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
    let commit = async { c.batch_execute("COMMIT").await.map_err(|_| Failure::InDoubt) };
    try_join3(correct, write, commit).await.map(|_| ())
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

fn write_accounts<'a>(columns: &'a WriteColumns<'a>) -> WriteAccounts<'a> {
    WriteAccounts {
        new_users: &columns.new_users,
        grant_users: &columns.grant_users,
        levels: &columns.levels,
        events: &columns.events,
        source_kinds: &columns.source_kinds,
        source_ids: &columns.source_ids,
        statuses: &columns.statuses,
        period_ends: &columns.period_ends,
        reported_ats: &columns.reported_ats,
        sessions: &columns.sessions,
        payment_intents: &columns.payment_intents,
        customers: &columns.customers,
        state_users: &columns.state_users,
        state_levels: &columns.state_levels,
        state_ends: &columns.state_ends,
        state_versions: &columns.state_versions,
        expired_sessions: &columns.expired_sessions,
    }
}
