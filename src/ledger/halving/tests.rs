//! Batches with culprits, against a database that is a list of what it refuses.

use std::time::Duration;

use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;

use super::*;
use crate::domain::{
    change::Effect,
    event::{EventRecord, IgnoreReason},
    id::{EventId, SessionId},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn event(n: usize) -> EventRecord {
    EventRecord {
        id: EventId::parse(&format!("evt_{n}")).unwrap(),
        kind: "checkout.session.completed".into(),
        object_id: None,
        created: DateTime::UNIX_EPOCH,
        livemode: false,
        api_version: None,
        object_hash: [0; 32],
        payload: Bytes::new(),
    }
}

fn note(n: usize) -> Entry {
    Entry::Note(Note { event: event(n), verdict: Verdict::Ignored(IgnoreReason::UnhandledType), user: None })
}

fn change(cause: Cause) -> Entry {
    let effect = Effect::SessionExpired(SessionId::parse("cs_1").unwrap());
    Entry::Change(Change { user: Uuid::new_v4().into(), found_by: None, cause, effect })
}

fn written() -> Slot {
    Slot::Committed(Committed { outcome: Outcome::Applied, entitlement: None, others: Vec::new() })
}

fn refused() -> LedgerError {
    LedgerError::Refused { sqlstate: "23514".into(), constraint: "c".into() }
}

/// Runs a batch against a database of which the answer to each transaction is given. Gives the results, and how many
/// transactions there were.
fn run(
    entries: &[Entry],
    mut transact: impl FnMut(&[&Entry]) -> Result<Vec<Slot>, Failure>,
) -> (Vec<Result<Slot, LedgerError>>, usize) {
    let entries: Vec<&Entry> = entries.iter().collect();
    let mut halving = Halving::new(&entries, PATIENCE);
    let mut transactions = 0;
    while let Some((span, part)) = halving.next() {
        transactions += 1;
        let start = span.start;
        if let Some(note) = halving.settle(span, transact(part)) {
            transactions += 1;
            halving.settle_parked(start, transact(&[&note]));
        }
    }
    (halving.into_results(), transactions)
}

#[test]
fn whatever_is_refused_the_others_are_written_and_every_result_is_its_own() {
    for guilty in 0_u32..1 << 7 {
        let batch: Vec<Entry> = (0..7).map(note).collect();
        let is_guilty = |entry: &Entry| (0..7).any(|n| *entry == note(n) && guilty & 1 << n != 0);
        // The database says which entry it was, or only that there was one.
        for named in [false, true] {
            let (results, _) = run(&batch, |part| match part.iter().position(|entry| is_guilty(entry)) {
                Some(offset) if named => Err(Failure::Culprit(offset, LedgerError::Panicked)),
                Some(_) => Err(Failure::Aborted(refused())),
                None => Ok(part.iter().map(|_| written()).collect()),
            });
            let blamed: Vec<bool> = results.iter().map(Result::is_err).collect();
            let expected: Vec<bool> = batch.iter().map(is_guilty).collect();
            assert_eq!(blamed, expected, "{guilty:b}");
        }
    }
}

#[test]
fn one_culprit_among_many_costs_a_logarithm() {
    let batch: Vec<Entry> = (0..256).map(note).collect();
    let (results, transactions) = run(&batch, |part| {
        if part.contains(&&note(77)) {
            Err(Failure::Aborted(refused()))
        } else {
            Ok(part.iter().map(|_| written()).collect())
        }
    });
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    assert_eq!(transactions, 17);
}

#[test]
fn what_fails_for_no_entrys_fault_fails_for_all_at_once() {
    let batch: Vec<Entry> = (0..9).map(note).collect();
    let gone = LedgerError::Unavailable("gone".into());
    for (failure, error) in [(Failure::InDoubt, LedgerError::InDoubt), (Failure::Aborted(gone.clone()), gone)] {
        let mut failure = Some(failure);
        let (results, transactions) = run(&batch, |_| Err(failure.take().unwrap()));
        assert_eq!(transactions, 1);
        assert!(results.into_iter().all(|result| result.unwrap_err() == error));
    }
}

#[test]
fn what_is_undecided_when_the_time_is_up_is_given_up() {
    let (first, second) = (note(1), note(2));
    let entries = [&first, &second];
    let mut halving = Halving::new(&entries, Duration::ZERO);
    assert!(halving.next().is_none());
    assert!(halving.into_results().into_iter().all(|result| result.unwrap_err().is_certainly_aborted()));
}

#[test]
fn a_grant_of_somebody_else_is_recorded_as_parked_unless_it_is_already() {
    for (cause, transactions) in [(Cause::Delivery(event(1)), 2), (Cause::Retry(event(1)), 1)] {
        let (results, count) = run(&[change(cause)], |part| match part {
            [Entry::Change(_)] => Err(Failure::ForeignSource),
            [Entry::Note(note)] if note.verdict == Verdict::Parked(ParkReason::ForeignSource) => Ok(vec![written()]),
            other => panic!("{other:?}"),
        });
        assert_eq!(count, transactions);
        let [Ok(Slot::Committed(committed))] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!(committed.outcome, Outcome::Parked(ParkReason::ForeignSource));
    }
}
