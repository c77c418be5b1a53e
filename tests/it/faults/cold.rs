//! A cold cache must not become the ledger's trouble.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::join_all;
use tollgate::{
    cache::{MemoryCache, MemorySettings},
    domain::id::UserId,
    reader::{EntitlementReader, ReadError},
};
use uuid::Uuid;

use super::PATIENCE;
use crate::harness::{eventually, scripted::ScriptedLedger};

const AT_ONCE: usize = 4;

fn reader_of(ledger: &ScriptedLedger) -> EntitlementReader {
    let cache = MemoryCache::new(MemorySettings::default()).into();
    EntitlementReader::new(cache, Arc::new(ledger.clone()), Duration::from_millis(50), AT_ONCE)
}

fn users(count: usize) -> Vec<UserId> {
    (0..count).map(|_| UserId::from(Uuid::new_v4())).collect()
}

#[tokio::test]
async fn however_many_ask_for_a_user_the_ledger_is_asked_once() {
    let ledger = ScriptedLedger::new();
    let reader = reader_of(&ledger);
    ledger.close_gate();
    let users = users(AT_ONCE);
    let asking = users.iter().cycle().take(200).map(|user| reader.read(*user, None));
    let (answers, ()) = tokio::join!(join_all(asking), async {
        eventually(PATIENCE, "each user is asked about", || async { ledger.reads().len() == AT_ONCE }).await;
        ledger.open_gate();
    });
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(ledger.reads().len(), AT_ONCE, "200 readers, {AT_ONCE} questions");
}

/// In an outage with a cold cache they waited on for ever, more with every request, and were all asked when it was over.
#[tokio::test]
async fn readers_without_a_turn_at_the_ledger_waited_for_ever() {
    let ledger = ScriptedLedger::new();
    let reader = reader_of(&ledger);
    ledger.close_gate();
    let first = users(AT_ONCE);
    let answers = tokio::spawn({
        let (reader, first) = (reader.clone(), first.clone());
        async move { join_all(first.iter().map(|user| reader.read(*user, None))).await }
    });
    eventually(PATIENCE, "as many are asked about as may be", || async { ledger.reads().len() == AT_ONCE }).await;
    let others = users(20);
    let refused = join_all(others.iter().map(|user| reader.read(*user, None)));
    let refused = tokio::time::timeout(PATIENCE, refused).await.expect("they are told");
    assert!(refused.iter().all(|answer| *answer == Err(ReadError::Unavailable)), "{refused:?}");
    assert_eq!(HashSet::from_iter(ledger.reads()), HashSet::<UserId>::from_iter(first), "no other was asked about");
    ledger.open_gate();
    assert!(answers.await.unwrap().iter().all(Result::is_ok));
    assert!(reader.read(others[0], None).await.is_ok(), "whoever asks again gets an answer");
    assert_eq!(ledger.reads().len(), AT_ONCE + 1, "nothing is asked for those who have gone");
}
