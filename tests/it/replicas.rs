//! Several replicas on one database and one Redis: whoever gets what, each event has one effect and readers never go back.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use serde_json::json;
use tollgate::{
    cache::{Budget, Cache, MemoryCache, MemorySettings},
    domain::{entitlement::Entitlement, id::UserId, level::Level},
    ledger::Ledger,
    reader::EntitlementReader,
};
use uuid::Uuid;

use crate::harness::{event::SessionEvent, eventually, scripted::ScriptedLedger, server::World};

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: usize = 200;
const DELIVERIES: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_simultaneous_deliveries_of_each_of_200_events_have_one_effect_each() {
    let world = World::new().await;
    let quiet = [("TOLLGATE_LOG", "info")];
    let (one, two) = tokio::join!(world.serve_with(&quiet), world.serve_with(&quiet));
    let servers = Arc::new([one, two]);
    let events: Vec<SessionEvent> = (0..EVENTS).map(|_| SessionEvent::paid(Uuid::new_v4())).collect();
    // Twenty events, each in sixteen hands, are under way at any moment.
    for wave in events.chunks(20) {
        let mut deliveries = tokio::task::JoinSet::new();
        for event in wave {
            for hand in 0..DELIVERIES {
                let (servers, event) = (Arc::clone(&servers), event.clone());
                deliveries.spawn(async move { (event.id.clone(), servers[hand % 2].deliver(&event.json()).await) });
            }
        }
        let mut processed = std::collections::HashMap::<String, usize>::new();
        while let Some(answer) = deliveries.join_next().await {
            let (id, answer) = answer.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text);
            if answer.json["processed"] == true {
                *processed.entry(id).or_default() += 1;
            } else {
                assert_eq!(answer.json, json!({ "ok": true, "idempotent": true }));
            }
        }
        assert_eq!(processed.len(), wave.len());
        assert!(processed.values().all(|times| *times == 1), "{processed:?}");
    }
    let database = &world.database;
    assert_eq!(
        database.value("SELECT count(*) FROM stripe_events WHERE outcome = 'applied'").await,
        EVENTS.to_string()
    );
    assert_eq!(database.value("SELECT count(*) FROM user_entitlements").await, EVENTS.to_string());
    assert_eq!(database.value("SELECT count(*) FROM entitlement_state WHERE version = 1").await, EVENTS.to_string());
    for event in &events {
        for server in servers.iter() {
            let read = server.read(event.user).await;
            assert_eq!((read.json["entitlementLevel"].as_str(), read.json["version"].as_u64()), (Some("PRO"), Some(1)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_event_ids_for_one_session_at_once_on_two_replicas_are_one_grant() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    for _ in 0..40 {
        let event = SessionEvent::paid(Uuid::new_v4());
        let sibling = event.sibling();
        let (event_json, sibling_json) = (event.json(), sibling.json());
        let (a, b) = tokio::join!(one.deliver(&event_json), two.deliver(&sibling_json));
        assert_eq!((a.status, b.status), (200, 200), "{} {}", a.text, b.text);
        let grants = format!("SELECT count(*) FROM user_entitlements WHERE user_id = '{}'", event.user);
        assert_eq!(world.database.value(&grants).await, "1");
    }
}

/// A read that starts after the 200 sees the new state, on every replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_acknowledged_the_other_serves() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    let user = Uuid::new_v4();
    assert_eq!(two.read(user).await.json["entitlementLevel"], "FREE", "a cached FREE must not survive");
    for version in 1..=20 {
        let event = SessionEvent::paid(user);
        let server = if version % 2 == 0 { &one } else { &two };
        assert_eq!(server.deliver(&event.json()).await.status, 200);
        for reader in [&one, &two] {
            let read = reader.read(user).await;
            assert_eq!(read.json["entitlementLevel"], "PRO");
            assert_eq!(read.json["version"], version, "{}", read.text);
            assert_eq!(reader.read_at_least(user, version).await.status, 200);
        }
    }
    one.read_at_least(user, 21).await.assert_error(503, "UNAVAILABLE");
}

/// Beside other replicas a level is served from memory for so long: from when the ledger was asked, not from when it had answered.
#[tokio::test]
async fn the_time_that_the_ledger_took_was_added_to_the_life_of_its_answer() {
    let life = Duration::from_millis(100);
    let ledger = ScriptedLedger::new();
    let cache: Cache = MemoryCache::new(MemorySettings { life_max: Some(life), ..MemorySettings::default() }).into();
    let reader = EntitlementReader::new(cache.clone(), Arc::new(ledger.clone()), PATIENCE, 1);
    let user = UserId::from(Uuid::new_v4());
    let pro = Entitlement { level: Level::parse("PRO").unwrap(), expires_at: None, quantity: 1, version: 1 };
    ledger.write(user, pro.clone());
    ledger.close_gate();
    let asking = tokio::spawn({
        let reader = reader.clone();
        async move { reader.read(user, None).await }
    });
    // A life goes by while the ledger does not answer.
    tokio::time::sleep(life * 2).await;
    ledger.open_gate();
    assert_eq!(asking.await.unwrap().unwrap().entitlement, pro);
    // Nothing but what is under way here runs between.
    for _ in 0..20 {
        tokio::task::yield_now().await;
        let found = cache.get(user, ledger.epoch().as_str(), Utc::now(), &mut Budget::new(PATIENCE)).await;
        assert_eq!(found, Ok(None));
    }
}

/// The ledger was failed over, with loss, while it was asked. Its answer was shown as the new ledger's, with a version that this one had not
/// reached, and stayed until it had.
#[tokio::test]
async fn an_answer_of_the_ledger_before_was_shown_as_the_new_ones() {
    let ledger = ScriptedLedger::new();
    let cache: Cache = MemoryCache::new(MemorySettings::default()).into();
    let reader = EntitlementReader::new(cache, Arc::new(ledger.clone()), PATIENCE, 1);
    let user = UserId::from(Uuid::new_v4());
    let pro = Entitlement { level: Level::parse("PRO").unwrap(), expires_at: None, quantity: 1, version: 7 };
    ledger.write(user, pro);
    ledger.close_gate();
    let asking = tokio::spawn({
        let reader = reader.clone();
        async move { reader.read(user, None).await }
    });
    eventually(PATIENCE, "the ledger is asked", || async { !ledger.reads().is_empty() }).await;
    ledger.set_epoch("second");
    ledger.forget_user(user);
    ledger.open_gate();
    assert_eq!(asking.await.unwrap().unwrap().entitlement.version, 7);
    // Nothing but what is under way here runs between.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(reader.read(user, None).await.unwrap().entitlement.version, 0);
}
