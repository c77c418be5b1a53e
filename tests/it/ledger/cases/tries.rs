//! Tries are counted before they are made or after they panicked; what is held against an event ends with its first try that ends in order.

use std::time::Duration;

use tollgate::{
    domain::{event::ParkReason, id::EventId},
    ledger::{Entry, Note, TryEnd, Verdict},
};

use super::super::{commit_one, event};
use crate::harness::ledger::TestLedger;

pub(in super::super) async fn tries_are_counted_until_one_ends_in_order(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let id = EventId::parse("evt_1").unwrap();
    let begin = async |alone| ledger.begin_try(&id, alone).await.unwrap();
    let end = async |end| ledger.end_try(&id, end).await.unwrap();

    assert_eq!(begin(false).await, Some(2), "an uncounted one may have come before");
    assert_eq!(begin(false).await, None, "the last one is made alone");
    assert_eq!(begin(true).await, Some(3));
    assert_eq!(begin(true).await, None, "the last one may be under way");
    end(TryEnd::NotMade).await;
    assert_eq!(begin(false).await, None);
    assert_eq!(begin(true).await, Some(3), "the one before does not count");
    end(TryEnd::Panicked).await;
    assert_eq!(begin(true).await, Some(4));
    end(TryEnd::InOrder).await;
    assert_eq!(on.value("SELECT count(*) FROM stripe_tries").await, "0");

    assert_eq!(ledger.count_panic(&id).await.unwrap(), 1);
    assert_eq!(begin(false).await, Some(2));
    end(TryEnd::Panicked).await;
    assert_eq!(ledger.count_panic(&id).await.unwrap(), 3);
    assert_eq!(on.column("SELECT event_id FROM stripe_tries").await, ["evt_1"]);
}

pub(in super::super) async fn poison_is_never_due(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    for id in ["evt_1", "evt_2"] {
        let note = Note { event: event(id), verdict: Verdict::Parked(ParkReason::UnknownLevel), user: None };
        commit_one(&mut *lane, Entry::Note(note)).await;
    }
    ledger.park_for(&EventId::parse("evt_1").unwrap(), ParkReason::Poison).await.unwrap();
    for id in ["evt_1", "evt_2"] {
        on.last_tried(id, Duration::from_secs(3600)).await;
    }
    let due = ledger.parked_due(10).await.unwrap();
    assert_eq!(due.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["evt_2"]);
    ledger.park_for(&EventId::parse("evt_1").unwrap(), ParkReason::UnknownLevel).await.unwrap();
    assert_eq!(ledger.parked_due(10).await.unwrap().len(), 1);
}
