//! The one write transaction: `BEGIN IMMEDIATE`, inbox, read, decide, write, `COMMIT`. There is one writer, so nothing is locked
//! but the file, and nobody can come between.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, RunQueryDsl,
    connection::SimpleConnection,
    result::{DatabaseErrorKind, Error as DieselError},
    sqlite::SqliteConnection,
};
use uuid::Uuid;

use super::{
    super::{
        Entry, LedgerError,
        account::{AccountRow, Loaded, load, quantity, snapshots, standing, version},
        batch::{EventRow, OwnerRow, Subjects, Users, is_retry},
        decide::{Decided, Found, Inbox, Known, Slot, decide, redelivered},
        halving::{Failure, Halving},
        reach::Reaches,
    },
    connection::{Loan, classify, micros, moment},
    fetches, money,
    statements::{
        AccountColumns, ClaimEvent, CorrectEvent, ExpireSession, FindEvent, InsertEvent, InsertUser, ReadAccount,
        ReadOwner, WakeEvent, WriteGrant, WriteHistory, WriteState,
    },
};
use crate::{
    domain::{
        event::EventRecord,
        id::{CustomerId, EventId, PaymentIntentId, SessionId, UserId},
        plan::Catalogue,
    },
    fail_point::{self, Point},
};

pub(super) fn aborted(error: DieselError) -> Failure {
    Failure::Aborted(classify(&error))
}

/// Commits a batch, mostly in one transaction. One result per entry, in order.
pub(super) fn commit(
    loan: &mut Loan,
    entries: &[Entry],
    catalogue: &Catalogue,
    limit: Duration,
) -> Vec<Result<Slot, LedgerError>> {
    let entries: Vec<&Entry> = entries.iter().collect();
    let mut halving = Halving::new(&entries, limit);
    while let Some((span, part)) = halving.next() {
        let start = span.start;
        let result = transact(loan, part, catalogue);
        if let Some(note) = halving.settle(span, result) {
            let result = transact(loan, &[&note], catalogue);
            halving.settle_parked(start, result);
        }
    }
    halving.into_results()
}

/// Runs the transaction. Leaves the connection clean, or says that it is broken.
fn transact(loan: &mut Loan, entries: &[&Entry], catalogue: &Catalogue) -> Result<Vec<Slot>, Failure> {
    if loan.broken {
        return Err(Failure::Aborted(LedgerError::Unavailable("the connection is broken".into())));
    }
    let connection = &mut loan.connection;
    let mut committing = false;
    let begun = connection.batch_execute("BEGIN IMMEDIATE").map_err(aborted);
    let written = begun.and_then(|()| {
        let write = || {
            let slots = write(connection, entries, catalogue)?;
            fail_point::pass_now(Point::FileCommit, || Entry::about(entries.iter().copied()));
            Ok(slots)
        };
        catch_unwind(AssertUnwindSafe(write)).map_err(|_| Failure::Aborted(LedgerError::Panicked)).flatten()
    });
    let result = written.and_then(|slots| {
        committing = true;
        connection.batch_execute("COMMIT").map_err(aborted)?;
        fail_point::pass_now(Point::FileCommitted, || Entry::about(entries.iter().copied()));
        Ok(slots)
    });
    result.map_err(|failure| {
        // Where the transaction is still there, nothing of it was committed. Where SQLite has ended it by itself, which it does
        // for the worst of errors, a COMMIT may be in the log although it was said to have failed.
        loan.broken = connection.batch_execute("ROLLBACK").is_err();
        metrics::counter!("tollgate_ledger_aborted_total").increment(1);
        tracing::warn!(?failure, entries = entries.len(), "a ledger transaction did not commit");
        if committing && loan.broken { Failure::InDoubt } else { failure }
    })
}

fn write(connection: &mut SqliteConnection, entries: &[&Entry], catalogue: &Catalogue) -> Result<Vec<Slot>, Failure> {
    let now = super::connection::now();
    let reaches = money::reaches(connection, entries).map_err(aborted)?;
    let users = Users::of(entries, &reaches);
    let mut first = HashSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some(event) = entry.event() else { continue };
        let enter = if is_retry(entry) { claim } else { record };
        if enter(connection, (entry, event, reaches.only_user(index)), now).map_err(aborted)? {
            first.insert(event.id.as_str());
        }
    }
    let waiting = settle_known(connection, entries, &reaches, &mut first, now).map_err(aborted)?;
    let names: Vec<String> = users.ids.iter().map(ToString::to_string).collect();
    let mut rows = Vec::with_capacity(names.len());
    for (place, name) in (1..).zip(&names) {
        rows.extend(account(connection, place, name, now).map_err(aborted)?);
    }
    let accounts = load(users.ids.len(), rows);
    let subjects = Subjects::of(entries);
    let mut owners = Vec::new();
    let (subscriptions, customers) = subjects.columns();
    for (place, (subscription, customer)) in (1..).zip(subscriptions.into_iter().zip(customers)) {
        owners.extend(owner(connection, place, subscription, customer).map_err(aborted)?);
    }
    subjects.check(entries, &owners, |_| true)?;
    let money = money::read(connection, entries, &accounts)?;
    let mut found = Found { inbox: Inbox { first, waiting }, accounts, money };
    let decided = decide(entries, &users, |_| true, &mut found, catalogue, true)?;
    for (name, account) in names.iter().zip(&found.accounts).filter(|(_, account)| account.changed) {
        write_account(connection, name, account, now)?;
    }
    money::write(connection, &found.money)?;
    fetches::write(connection, &decided.needs).map_err(aborted)?;
    correct(connection, &decided).map_err(aborted)?;
    Ok(decided.slots)
}

/// An entry with its event, and the user whom it turned out to be about if it names none.
type Arrival<'a> = (&'a Entry, &'a EventRecord, Option<Uuid>);

/// Writes an event into the inbox. Whether nobody had it before.
fn record(
    connection: &mut SqliteConnection,
    (entry, event, reached): Arrival<'_>,
    now: DateTime<Utc>,
) -> QueryResult<bool> {
    let row = EventRow::of(entry, event, reached);
    let user = row.user.map(|user| user.to_string());
    let insert = InsertEvent {
        id: row.id,
        kind: row.kind,
        object_id: row.object_id,
        created: row.created.map(micros),
        livemode: row.livemode,
        api_version: row.api_version,
        object_hash: row.object_hash,
        user: user.as_deref(),
        outcome: row.outcome,
        reason: row.reason,
        payload: row.payload,
        received_at: micros(now),
        processed_at: micros(now),
    };
    Ok(insert.execute(connection)? > 0)
}

/// Claims an event that waits in the inbox. Whether it is ours to apply.
fn claim(
    connection: &mut SqliteConnection,
    (entry, event, reached): Arrival<'_>,
    now: DateTime<Utc>,
) -> QueryResult<bool> {
    let row = EventRow::of(entry, event, reached);
    let user = row.user.map(|user| user.to_string());
    let claim = ClaimEvent {
        now: micros(now),
        user: user.as_deref(),
        object_id: row.object_id,
        object_hash: row.object_hash,
        id: row.id,
    };
    Ok(claim.execute(connection)? > 0)
}

/// Deals with events that the inbox had already: those that are claimed join the first, and those that wait are given.
fn settle_known<'a>(
    connection: &mut SqliteConnection,
    entries: &[&'a Entry],
    reaches: &Reaches,
    first: &mut HashSet<&'a str>,
    now: DateTime<Utc>,
) -> QueryResult<HashSet<&'a str>> {
    let redelivered = redelivered(entries, first, |_| true);
    let mut found = Vec::with_capacity(redelivered.len());
    for id in redelivered.keys() {
        found.extend(FindEvent { id }.get_results(connection)?);
    }
    let known = Known::sort(&redelivered, &found);
    for id in &known.parked {
        WakeEvent { id }.execute(connection)?;
    }
    for (index, entry, event) in &known.ignored {
        if claim(connection, (entry, event, reaches.only_user(*index)), now)? {
            first.insert(event.id.as_str());
        }
    }
    Ok(known.waiting)
}

/// Reads whose a subject may be.
pub(super) fn owner(
    connection: &mut SqliteConnection,
    place: i64,
    subscription: &str,
    customer: Option<&str>,
) -> QueryResult<Vec<OwnerRow>> {
    let rows: Vec<(bool, String)> = ReadOwner { subscription, customer }.get_results(connection)?;
    let row = |(is_certain, user): (bool, String)| Some((place, is_certain, UserId::parse(&user).ok()?.uuid()));
    Ok(rows.into_iter().filter_map(row).collect())
}

/// Reads a user's rows.
pub(super) fn account(
    connection: &mut SqliteConnection,
    place: i64,
    user: &str,
    now: DateTime<Utc>,
) -> QueryResult<Vec<AccountRow>> {
    let rows: Vec<AccountColumns> = ReadAccount { user }.get_results(connection)?;
    let row = |row: AccountColumns| {
        let (exists, level, end, version, n, source, grant_level, status, period_end, reported_at, e, s, p, c, all) =
            row;
        let (end, period_end, reported_at) = (end.map(moment), period_end.map(moment), reported_at.map(moment));
        (
            place,
            now,
            exists,
            level,
            end,
            (version, n),
            source,
            grant_level,
            status,
            period_end,
            reported_at,
            e,
            s,
            p,
            c,
            all,
        )
    };
    Ok(rows.into_iter().map(row).collect())
}

fn write_account(
    connection: &mut SqliteConnection,
    user: &str,
    account: &Loaded,
    now: DateTime<Utc>,
) -> Result<(), Failure> {
    let now = micros(now);
    if !account.exists {
        InsertUser { id: user, created_at: now }.execute(connection).map_err(aborted)?;
    }
    for grant in account.touched_grants() {
        let snapshots = snapshots(grant).map_err(Failure::Aborted)?;
        let (standing, reported_status) = standing(grant);
        let write = WriteGrant {
            user,
            level: grant.level.as_str(),
            event: grant.event.as_ref().map(EventId::as_str),
            source_kind: grant.source.kind.as_str(),
            source_id: &grant.source.id,
            status: standing,
            reported_status,
            period_end: micros(grant.period_end),
            reported_at: micros(grant.reported_at),
            session: grant.session.as_ref().map(SessionId::as_str),
            payment_intent: grant.payment_intent.as_ref().map(PaymentIntentId::as_str),
            customer: grant.customer.as_ref().map(CustomerId::as_str),
            snapshots: snapshots.as_deref(),
            now,
        };
        match write.execute(connection) {
            Ok(0) => return Err(Failure::ForeignSource),
            Ok(_) => {}
            // The event has made a grant of another user's.
            Err(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
                return Err(Failure::ForeignSource);
            }
            Err(error) => return Err(aborted(error)),
        }
    }
    let state = &account.account.entitlement;
    let changed_at = micros(super::connection::now());
    let write = WriteState {
        user,
        level: state.level.as_str(),
        expires_at: state.expires_at.map(micros),
        version: version(state),
        quantity: quantity(state),
        changed_at,
    };
    if write.execute(connection).map_err(aborted)? == 0 {
        let refused = LedgerError::Refused { sqlstate: "-".into(), constraint: "a version that does not grow".into() };
        return Err(Failure::Aborted(refused));
    }
    for row in &account.history {
        let source = row.source.as_ref().map(ToString::to_string);
        let write = WriteHistory {
            user,
            version: version(&row.entitlement),
            level: row.entitlement.level.as_str(),
            expires_at: row.entitlement.expires_at.map(micros),
            quantity: quantity(&row.entitlement),
            changed_at,
            cause: row.cause,
            event: row.event.as_ref().map(EventId::as_str),
            operator: row.operator(),
            reason: row.reason(),
            source: source.as_deref(),
        };
        write.execute(connection).map_err(aborted)?;
    }
    Ok(())
}

fn correct(connection: &mut SqliteConnection, decided: &Decided<'_>) -> QueryResult<()> {
    for row in &decided.corrections {
        let correct = CorrectEvent { outcome: row.outcome, reason: row.reason, payload: row.payload, id: row.id };
        correct.execute(connection)?;
    }
    for id in &decided.expired_sessions {
        ExpireSession { id }.execute(connection)?;
    }
    Ok(())
}
