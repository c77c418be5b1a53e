//! A lane: one connection, one batch at a time, and what to do when a batch does not commit.
//!
//! - Users locked by another replica leave the batch and are tried alone, waiting, on a connection of their own.
//! - A refused batch is halved (`halving`).
//! - A lost `COMMIT` is in doubt: neither success nor failure is claimed.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures::FutureExt;
use tokio::sync::Semaphore;

use super::{
    super::{
        Entry, Lane, LedgerError, Ticket,
        batch::Rounds,
        decide::Slot,
        halving::{Failure, Halving, given_up},
    },
    Shared,
    apply::{Locks, transact, warm},
    connection::{OTHER_STATE, classify, identity},
};
use crate::fail_point::{self, Point};

/// How often a transaction is tried again that the server aborted for no fault of its own.
const RETRIES: u32 = 3;

/// Transactions of one entry at a time that may wait for locks at once, per lane.
const ALONE_AT_ONCE: usize = 4;

/// Those, and the entries that wait for their turn, per lane; each for no longer than a transaction may take, by when hardly anybody waits for its
/// answer.
const ALONE_MAX: usize = 1024;

/// One way into the ledger.
pub(super) struct PostgresLane {
    writer: Writer,
    alone: Arc<Semaphore>,
    /// Who may wait to be alone.
    places: Arc<Semaphore>,
}

impl PostgresLane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let [alone, places] = [ALONE_AT_ONCE, ALONE_MAX].map(|most| Arc::new(Semaphore::new(most)));
        Self { writer: Writer { shared, connection: None }, alone, places }
    }

    /// Lets an entry wait for its user's lock without holding up the lane. A task of its own: nobody's future to drop.
    fn commit_alone(&self, ticket: Ticket) {
        metrics::counter!("tollgate_ledger_alone_total").increment(1);
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return (ticket.reply)(Err(LedgerError::Contended));
        };
        let (shared, alone) = (Arc::clone(&self.writer.shared), Arc::clone(&self.alone));
        tokio::spawn(async move {
            let _place = place;
            let turn = tokio::time::timeout(shared.connector.limits.transaction, alone.acquire()).await;
            let Ok(Ok(_turn)) = turn else { return (ticket.reply)(Err(LedgerError::Contended)) };
            let mut writer = Writer { shared, connection: None };
            let mut results = writer.run(&[&ticket.entry], Locks::Wait).await;
            let result = results.pop().unwrap_or(Ok(Slot::LockedElsewhere)).and_then(Slot::into_committed);
            (ticket.reply)(result);
        });
    }
}

#[async_trait]
impl Lane for PostgresLane {
    async fn commit(&mut self, batch: Vec<Ticket>) {
        for batch in Rounds::of(batch) {
            let entries: Vec<&Entry> = batch.iter().map(|ticket| &ticket.entry).collect();
            let results = self.writer.run(&entries, Locks::Try).await;
            for (ticket, result) in batch.into_iter().zip(results) {
                match result {
                    Ok(Slot::Committed(committed)) => (ticket.reply)(Ok(committed)),
                    Ok(Slot::LockedElsewhere) => self.commit_alone(ticket),
                    Err(error) => (ticket.reply)(Err(error)),
                }
            }
        }
    }
}

/// A connection, and the transactions run on it.
struct Writer {
    shared: Arc<Shared>,
    connection: Option<AsyncPgConnection>,
}

impl Writer {
    /// One result per entry, in order.
    async fn run(&mut self, entries: &[&Entry], locks: Locks) -> Vec<Result<Slot, LedgerError>> {
        let mut halving = Halving::new(entries, self.shared.connector.limits.transaction);
        while let Some((span, part)) = halving.next() {
            let start = span.start;
            let result = self.transact_with_retries(part, locks).await;
            if let Some(note) = halving.settle(span, result) {
                let result = self.transact_with_retries(&[&note], locks).await;
                halving.settle_parked(start, result);
            }
        }
        halving.into_results()
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
                return Err(match failure {
                    Failure::Aborted(LedgerError::Refused { sqlstate, .. })
                        if sqlstate == OTHER_STATE && entries.len() == 1 =>
                    {
                        Failure::Aborted(given_up())
                    }
                    other => other,
                });
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
        let catalogue = self.shared.catalogue.get();
        // Pipelined statements must be sent in one go: no yielding between them for fairness.
        let (is_committing, rights) = (AtomicBool::new(false), self.shared.rights);
        let work = transact(&connection, entries, locks, &catalogue, rights, &is_committing);
        let work = tokio::task::unconstrained(AssertUnwindSafe(work).catch_unwind());
        let result = match tokio::time::timeout(limit, work).await {
            Ok(Ok(result)) => result,
            // The connection is dropped with it, which aborts what was begun.
            Ok(Err(_panic)) if !is_committing.load(Ordering::Relaxed) => {
                return Err(Failure::Aborted(LedgerError::Panicked));
            }
            // Where it stood is not known: perhaps at COMMIT. The connection is dropped with it, which aborts what can be.
            Ok(Err(_)) | Err(_) => return Err(Failure::InDoubt),
        };
        match &result {
            Ok(_) => {
                fail_point::pass(Point::LedgerCommitted, || Entry::about(entries.iter().copied())).await;
                self.connection = Some(connection);
            }
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
            warm(&connection, self.shared.rights).await.map_err(|error| classify(&error))?;
            Ok(connection)
        };
        let connection = tokio::time::timeout(self.shared.connector.limits.transaction, ready)
            .await
            .map_err(|_| LedgerError::Unavailable("a connection was not ready in time".into()))??;
        metrics::counter!("tollgate_ledger_connections_total").increment(1);
        Ok(connection)
    }
}
