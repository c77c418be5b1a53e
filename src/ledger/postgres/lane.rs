//! A lane: one connection, one batch at a time, and what to do when a batch does not commit.
//!
//! - Users locked by another replica leave the batch and are tried alone, waiting, on a connection of their own.
//! - A refused batch is halved until the culprit is alone; the others lose nothing but time.
//! - A lost `COMMIT` is in doubt: neither success nor failure is claimed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio::sync::Semaphore;

use super::{
    super::{Committed, Entry, Lane, LedgerError, Note, Reply, Ticket, Verdict},
    Shared,
    apply::{Failure, Locks, Slot, transact, warm},
    connection::{OTHER_STATE, classify, identity},
};
use crate::domain::{
    change::{Cause, Change},
    event::{Outcome, ParkReason},
};

/// How often a transaction is tried again that the server aborted for no fault of its own.
const RETRIES: u32 = 3;

/// Transactions of one entry at a time that may wait for locks at once, per lane.
const ALONE_AT_ONCE: usize = 4;

/// One way into the ledger.
pub(super) struct PostgresLane {
    writer: Writer,
    alone: Arc<Semaphore>,
}

impl PostgresLane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { writer: Writer { shared, connection: None }, alone: Arc::new(Semaphore::new(ALONE_AT_ONCE)) }
    }

    /// Lets an entry wait for its user's lock without holding up the lane. A task of its own: nobody's future to drop.
    fn commit_alone(&self, ticket: Ticket) {
        metrics::counter!("tollgate_ledger_alone_total").increment(1);
        let (shared, alone) = (Arc::clone(&self.writer.shared), Arc::clone(&self.alone));
        tokio::spawn(async move {
            let Ok(_permit) = alone.acquire().await else { return };
            let mut writer = Writer { shared, connection: None };
            let mut results = writer.run(&[&ticket.entry], Locks::Wait).await;
            let result = match results.pop() {
                Some(Ok(Slot::Committed(committed))) => Ok(committed),
                Some(Ok(Slot::LockedElsewhere)) | None => Err(LedgerError::Contended),
                Some(Err(error)) => Err(error),
            };
            (ticket.reply)(result);
        });
    }
}

#[async_trait]
impl Lane for PostgresLane {
    async fn commit(&mut self, batch: Vec<Ticket>) {
        metrics::histogram!("tollgate_ledger_batch_size")
            .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        let mut rest = bundle_copies(batch);
        while !rest.is_empty() {
            let (batch, twins) = set_twins_aside(rest);
            let entries: Vec<&Entry> = batch.iter().map(|ticket| &ticket.entry).collect();
            let results = self.writer.run(&entries, Locks::Try).await;
            for (ticket, result) in batch.into_iter().zip(results) {
                match result {
                    Ok(Slot::Committed(committed)) => (ticket.reply)(Ok(committed)),
                    Ok(Slot::LockedElsewhere) => self.commit_alone(ticket),
                    Err(error) => (ticket.reply)(Err(error)),
                }
            }
            // Their first is decided now.
            rest = twins;
        }
    }
}

/// Makes one ticket of deliveries that are the same to the byte: of a burst of copies only the first asks the database.
fn bundle_copies(batch: Vec<Ticket>) -> Vec<Ticket> {
    let mut bundles: Vec<(Ticket, Vec<Reply>)> = Vec::with_capacity(batch.len());
    let mut places = HashMap::new();
    for ticket in batch {
        let place = ticket.entry.event().map(|event| *places.entry(event.id.clone()).or_insert(bundles.len()));
        match place.and_then(|place| bundles.get_mut(place)) {
            Some((first, copies)) if first.entry == ticket.entry => copies.push(ticket.reply),
            _ => bundles.push((ticket, Vec::new())),
        }
    }
    bundles
        .into_iter()
        .map(|(ticket, copies)| if copies.is_empty() { ticket } else { answer_all(ticket, copies) })
        .collect()
}

fn answer_all(first: Ticket, copies: Vec<Reply>) -> Ticket {
    let Ticket { entry, reply } = first;
    let reply = Box::new(move |result: Result<Committed, LedgerError>| {
        let again = result.clone().map(|committed| Committed { outcome: committed.outcome.again(), ..committed });
        reply(result);
        copies.into_iter().for_each(|copy| copy(again.clone()));
    });
    Ticket { entry, reply }
}

/// Splits off other deliveries of an event that is in the batch already: within one statement they could not be told from each
/// other.
fn set_twins_aside(batch: Vec<Ticket>) -> (Vec<Ticket>, Vec<Ticket>) {
    let mut seen = HashSet::new();
    let places: Vec<bool> =
        batch.iter().map(|ticket| ticket.entry.event().is_none_or(|event| seen.insert(event.id.clone()))).collect();
    let mut places = places.into_iter();
    batch.into_iter().partition(|_| places.next().unwrap_or(true))
}

fn parked_as_foreign() -> Slot {
    Slot::Committed(Committed { outcome: Outcome::Parked(ParkReason::ForeignSource), entitlement: None })
}

/// It may work later.
fn given_up() -> LedgerError {
    LedgerError::Unavailable("the transaction was given up".into())
}

/// A connection, and the transactions run on it.
struct Writer {
    shared: Arc<Shared>,
    connection: Option<AsyncPgConnection>,
}

impl Writer {
    /// One result per entry, in order. Halves what is refused, iteratively: spans still to do are kept on a stack.
    /// What is still undecided when the time is up is given up: nobody waits for it any more, and others do wait.
    async fn run(&mut self, entries: &[&Entry], locks: Locks) -> Vec<Result<Slot, LedgerError>> {
        let deadline = Instant::now() + self.shared.connector.limits.transaction;
        let mut results: Vec<Option<Result<Slot, LedgerError>>> = entries.iter().map(|_| None).collect();
        let mut spans = Vec::new();
        spans.push(0..entries.len());
        while let Some(span) = spans.pop() {
            let Some(part) = entries.get(span.clone()).filter(|part| !part.is_empty()) else { continue };
            let mut put = |offset: usize, result| {
                if let Some(slot) = results.get_mut(span.start + offset) {
                    *slot = Some(result);
                }
            };
            if Instant::now() >= deadline {
                (0..part.len()).for_each(|offset| put(offset, Err(given_up())));
                continue;
            }
            match self.transact_with_retries(part, locks).await {
                Ok(slots) => slots.into_iter().enumerate().for_each(|(offset, slot)| put(offset, Ok(slot))),
                Err(Failure::Culprit(offset, error)) => {
                    put(offset, Err(error));
                    spans.push(span.start + offset + 1..span.end);
                    spans.push(span.start..span.start + offset);
                }
                Err(Failure::Aborted(LedgerError::Refused { .. }) | Failure::ForeignSource) if part.len() > 1 => {
                    let middle = span.start + part.len() / 2;
                    spans.push(middle..span.end);
                    spans.push(span.start..middle);
                }
                Err(Failure::ForeignSource) => {
                    let result = match part.first() {
                        Some(Entry::Change(change)) => self.park_foreign(change, locks).await,
                        _ => Err(LedgerError::Panicked),
                    };
                    put(0, result);
                }
                Err(Failure::Aborted(LedgerError::Refused { sqlstate, .. })) if sqlstate == OTHER_STATE => {
                    put(0, Err(given_up()));
                }
                Err(Failure::Aborted(error)) => (0..part.len()).for_each(|offset| put(offset, Err(error.clone()))),
                Err(Failure::InDoubt) => {
                    metrics::counter!("tollgate_ledger_in_doubt_total").increment(1);
                    (0..part.len()).for_each(|offset| put(offset, Err(LedgerError::InDoubt)));
                }
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Err(LedgerError::InDoubt))).collect()
    }

    /// Records a change whose grant is another user's as a parked event.
    async fn park_foreign(&mut self, change: &Change, locks: Locks) -> Result<Slot, LedgerError> {
        let event = match &change.cause {
            Cause::Delivery(event) => event,
            // It is parked already. Recording it again would be a redelivery, which makes it due at once, and so for ever.
            Cause::Retry(_) => return Ok(parked_as_foreign()),
            Cause::Time => return Err(LedgerError::Panicked),
        };
        let note = Entry::Note(Note {
            event: event.clone(),
            verdict: Verdict::Parked(ParkReason::ForeignSource),
            user: Some(change.user),
        });
        match self.transact_with_retries(&[&note], locks).await {
            Ok(_) => Ok(parked_as_foreign()),
            Err(Failure::InDoubt) => Err(LedgerError::InDoubt),
            Err(Failure::Aborted(error) | Failure::Culprit(_, error)) => Err(error),
            Err(Failure::ForeignSource) => Err(LedgerError::Panicked),
        }
    }

    /// Runs the transaction, again where the server aborted it for reasons that pass.
    async fn transact_with_retries(&mut self, entries: &[&Entry], locks: Locks) -> Result<Vec<Slot>, Failure> {
        let mut attempt = 0;
        loop {
            let reused = self.connection.is_some();
            let failure = match self.transact_once(entries, locks).await {
                Ok(slots) => return Ok(slots),
                Err(failure) => failure,
            };
            attempt += 1;
            let again = match &failure {
                Failure::Aborted(LedgerError::Contended) => attempt <= RETRIES,
                // A connection that had died unnoticed says nothing about the database, nor does one whose statements were
                // prepared for a schema that has changed: once more, on a fresh one.
                Failure::Aborted(LedgerError::Unavailable(_)) => reused && attempt == 1,
                Failure::Aborted(LedgerError::Refused { sqlstate, .. }) if sqlstate == OTHER_STATE => {
                    reused && attempt == 1 && (entries.len() == 1 || self.connection.is_none())
                }
                _ => false,
            };
            if !again {
                metrics::counter!("tollgate_ledger_aborted_total").increment(1);
                tracing::warn!(?failure, entries = entries.len(), "a ledger transaction did not commit");
                return Err(failure);
            }
            if reused && !matches!(failure, Failure::Aborted(LedgerError::Contended)) {
                self.connection = None;
            }
            let pause = rand::random_range(5..20 * u64::from(attempt));
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Runs the transaction once. Leaves the connection clean, or leaves none.
    async fn transact_once(&mut self, entries: &[&Entry], locks: Locks) -> Result<Vec<Slot>, Failure> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open().await.map_err(Failure::Aborted)?,
        };
        let limit = self.shared.connector.limits.transaction;
        // Pipelined statements must be sent in one go: no yielding between them for fairness.
        let work = tokio::task::unconstrained(transact(
            &connection,
            entries,
            locks,
            &self.shared.catalogue,
            self.shared.owns_users,
        ));
        let Ok(result) = tokio::time::timeout(limit, work).await else {
            // Where it stood is not known: perhaps at COMMIT. The connection is dropped with it, which aborts what can be.
            return Err(Failure::InDoubt);
        };
        match &result {
            Ok(_) => self.connection = Some(connection),
            // Of no use any more, or not known to be.
            Err(Failure::InDoubt | Failure::Aborted(LedgerError::Unavailable(_))) => {}
            Err(_) => {
                let mut shared_connection = &connection;
                let rollback = tokio::time::timeout(limit, shared_connection.batch_execute("ROLLBACK")).await;
                if matches!(rollback, Ok(Ok(()))) {
                    self.connection = Some(connection);
                }
            }
        }
        result
    }

    /// Opens a connection and makes it ready, within the limit of a transaction: the lane waits for it.
    async fn open(&self) -> Result<AsyncPgConnection, LedgerError> {
        let ready = async {
            let connection = self.shared.connector.connect().await?;
            let (epoch, _) = identity(&connection).await?;
            self.shared.epoch.observe(epoch);
            warm(&connection).await.map_err(|error| classify(&error))?;
            Ok(connection)
        };
        let connection = tokio::time::timeout(self.shared.connector.limits.transaction, ready)
            .await
            .map_err(|_| LedgerError::Unavailable("a connection was not ready in time".into()))??;
        metrics::counter!("tollgate_ledger_connections_total").increment(1);
        Ok(connection)
    }
}
