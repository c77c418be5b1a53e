//! What to do when the transaction of a batch does not commit: a refused one is halved until the culprit is alone; the others
//! lose nothing but time. Knows no database: it says which entries to try next, and is told what came of it.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{Committed, Entry, LedgerError, Note, Verdict, decide::Slot};
use crate::domain::{
    change::{Cause, Change},
    event::{Outcome, ParkReason},
};

/// Why a transaction did not commit.
#[derive(Debug)]
pub(super) enum Failure {
    /// Certainly nothing was written.
    Aborted(LedgerError),
    /// Certainly nothing was written, and it is this entry's fault.
    Culprit(usize, LedgerError),
    /// A grant's business key belongs to another user.
    ForeignSource,
    /// `COMMIT` was sent, and what came of it is not known.
    InDoubt,
}

/// It may work later.
pub(super) fn given_up() -> LedgerError {
    LedgerError::Unavailable("the transaction was given up".into())
}

/// A batch on its way through as many transactions as it needs. Iterative: spans still to do are kept on a stack.
pub(super) struct Halving<'a> {
    entries: &'a [&'a Entry],
    results: Vec<Option<Result<Slot, LedgerError>>>,
    todo: Vec<Range<usize>>,
    deadline: Instant,
}

impl<'a> Halving<'a> {
    /// What is still undecided after `limit` is given up: nobody waits for it any more, and others do wait.
    pub(super) fn new(entries: &'a [&'a Entry], limit: Duration) -> Self {
        Self {
            entries,
            results: entries.iter().map(|_| None).collect(),
            todo: std::iter::once(0..entries.len()).collect(),
            deadline: Instant::now() + limit,
        }
    }

    /// The entries of the next transaction, and where they stand in the batch.
    pub(super) fn next(&mut self) -> Option<(Range<usize>, &'a [&'a Entry])> {
        while let Some(span) = self.todo.pop() {
            let Some(part) = self.entries.get(span.clone()).filter(|part| !part.is_empty()) else { continue };
            if Instant::now() < self.deadline {
                return Some((span, part));
            }
            self.fail(span, &given_up());
        }
        None
    }

    /// Takes what came of it. Gives what is to be recorded, alone, where a grant turned out to be another user's:
    /// [`settle_parked`](Self::settle_parked) takes what came of that.
    pub(super) fn settle(&mut self, span: Range<usize>, result: Result<Vec<Slot>, Failure>) -> Option<Entry> {
        let (start, end) = (span.start, span.end);
        match result {
            Ok(slots) => (start..).zip(slots).for_each(|(place, slot)| self.put(place, Ok(slot))),
            Err(Failure::Culprit(offset, error)) => {
                self.put(start + offset, Err(error));
                self.todo.push(start + offset + 1..end);
                self.todo.push(start..start + offset);
            }
            // A panic outside of the decision, too, is mostly one entry's.
            Err(Failure::Aborted(LedgerError::Refused { .. } | LedgerError::Panicked) | Failure::ForeignSource)
                if span.len() > 1 =>
            {
                let middle = start + span.len() / 2;
                self.todo.push(middle..end);
                self.todo.push(start..middle);
            }
            Err(Failure::ForeignSource) => match self.entries.get(start) {
                Some(Entry::Change(change)) => match parked_note(change) {
                    Ok(Some(note)) => return Some(note),
                    Ok(None) => self.put(start, Ok(parked_as_foreign())),
                    Err(error) => self.put(start, Err(error)),
                },
                _ => self.put(start, Err(LedgerError::Panicked)),
            },
            Err(Failure::Aborted(error)) => self.fail(span, &error),
            Err(Failure::InDoubt) => {
                metrics::counter!("tollgate_ledger_in_doubt_total").increment(1);
                self.fail(span, &LedgerError::InDoubt);
            }
        }
        None
    }

    /// Takes what came of recording the entry at `place` as parked.
    pub(super) fn settle_parked(&mut self, place: usize, result: Result<Vec<Slot>, Failure>) {
        let result = match result {
            Ok(_) => Ok(parked_as_foreign()),
            Err(Failure::InDoubt) => Err(LedgerError::InDoubt),
            Err(Failure::Aborted(error) | Failure::Culprit(_, error)) => Err(error),
            Err(Failure::ForeignSource) => Err(LedgerError::Panicked),
        };
        self.put(place, result);
    }

    /// One result per entry, in order.
    pub(super) fn into_results(self) -> Vec<Result<Slot, LedgerError>> {
        self.results.into_iter().map(|result| result.unwrap_or(Err(LedgerError::InDoubt))).collect()
    }

    fn put(&mut self, place: usize, result: Result<Slot, LedgerError>) {
        if let Some(slot) = self.results.get_mut(place) {
            *slot = Some(result);
        }
    }

    fn fail(&mut self, span: Range<usize>, error: &LedgerError) {
        span.for_each(|place| self.put(place, Err(error.clone())));
    }
}

fn parked_as_foreign() -> Slot {
    Slot::Committed(Committed {
        outcome: Outcome::Parked(ParkReason::ForeignSource),
        entitlement: None,
        others: Vec::new(),
    })
}

/// A change whose grant is another user's, as a parked event to be recorded; none if it is parked already, or no event. Recording that again
/// would be a redelivery, which makes it due at once, and so for ever.
fn parked_note(change: &Change) -> Result<Option<Entry>, LedgerError> {
    match &change.cause {
        Cause::Delivery(event) => Ok(Some(Entry::Note(Note {
            event: event.clone(),
            verdict: Verdict::Parked(ParkReason::ForeignSource),
            user: Some(change.user),
        }))),
        // The id that was chosen for a grant by hand is another user's, or Stripe was asked: there is nothing to be kept.
        Cause::Retry(_) | Cause::Fetched | Cause::Operator(_) => Ok(None),
        Cause::Time => Err(LedgerError::Panicked),
    }
}

#[cfg(test)]
mod tests;
