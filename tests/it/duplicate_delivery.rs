//! The replay test: the same delivery twice is one effect, and the second is skipped, said so, and logged.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::harness::{event::SessionEvent, eventually, server::World};

#[tokio::test]
async fn the_second_delivery_is_skipped() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let event = SessionEvent::paid(user);

    let first = server.deliver(&event.json()).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(first.json["ok"], true);
    assert_eq!(first.json["idempotent"], false);
    assert_eq!(first.json["processed"], true);
    assert_eq!(first.json["eventId"], event.id);
    assert_eq!(first.json["eventType"], "checkout.session.completed");
    assert!(first.json["message"].is_string());
    assert!(first.json["timestamp"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok());
    assert_eq!(first.json.as_object().unwrap().len(), 7, "{}", first.text);

    let second = server.deliver(&event.json()).await;
    assert_eq!((second.status, second.json), (200, json!({ "ok": true, "idempotent": true })));
    eventually(Duration::from_secs(30), "the replay is logged", || async {
        server.count_logged("skipped replay", &event.id) == 1
    })
    .await;

    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "1");
    assert_eq!(world.database.value("SELECT count(*) FROM stripe_events").await, "1");
    assert_eq!(world.database.value("SELECT version FROM entitlement_state").await, "1");
    assert_eq!(world.redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("PRO"));
}

/// The mark in Redis is a hint: without it the ledger knows, and a restarted server has no memory of its own.
#[tokio::test]
async fn a_replay_is_known_without_redis_and_without_memory() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
    drop(server);
    world.redis.flushall().await;
    let server = world.serve().await;
    assert_eq!(server.deliver(&event.json()).await.json, json!({ "ok": true, "idempotent": true }));
    assert_eq!(world.redis.get(&format!("entitlements:{}", event.user)).await.as_deref(), Some("PRO"), "repaired");
    assert_eq!(world.database.value("SELECT version FROM entitlement_state").await, "1");
}

/// A mark of another ledger (restored, recreated, a second environment on one Redis) is no mark.
#[tokio::test]
async fn a_mark_of_another_epoch_loses_nobody_a_purchase() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    world.redis.set(&format!("webhook:event:{}", event.id), "some-other-ledger").await;
    assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
    assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO");
}

/// Two Event objects for one session at the same moment: one grant.
#[tokio::test]
async fn two_events_about_one_session_are_one_grant() {
    let world = World::new().await;
    let server = world.serve().await;
    for _ in 0..20 {
        let one = SessionEvent::paid(Uuid::new_v4());
        let mut two = one.sibling();
        two.kind = "checkout.session.async_payment_succeeded";
        let (one_json, two_json) = (one.json(), two.json());
        let (a, b) = tokio::join!(server.deliver(&one_json), server.deliver(&two_json));
        assert_eq!((a.status, b.status), (200, 200));
        let grants = format!("SELECT count(*) FROM user_entitlements WHERE user_id = '{}'", one.user);
        assert_eq!(world.database.value(&grants).await, "1");
    }
}

/// The same id with another object: the first one holds, the second is acknowledged and counted.
#[tokio::test]
async fn another_object_under_a_known_id_changes_nothing() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    server.deliver(&event.json()).await;
    let forged = SessionEvent { level: "TRIAL".into(), session: "cs_test_other".into(), ..event.clone() };
    drop(server);
    world.redis.flushall().await;
    let server = world.serve().await;
    assert_eq!(server.deliver(&forged.json()).await.json, json!({ "ok": true, "idempotent": true }));
    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "1");
    eventually(Duration::from_secs(30), "it is logged", || async {
        server.count_logged("a known event id came with another object: the first one holds", &event.id) == 1
    })
    .await;
}
