//! Clocks that are wrong, and that step: of the service's machine, and of the database's. What a level's end is, the database's clock says;
//! whether a webhook is fresh, the machine's.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{PATIENCE, assert_reads, deliver, metric, until_shown, until_taken};
use crate::{
    expiry::give_until,
    harness::{
        PostgresServer, RedisServer, TestDatabase,
        clock::SteppingClock,
        event::SessionEvent,
        eventually,
        server::{Answer, TestServer, World, client, unix_now},
        shop::Shop,
        until_ok,
    },
};

const AN_HOUR: i64 = 3600;

async fn readiness(server: &TestServer) -> (u16, Value) {
    let Answer { status, json, .. } = Answer::of(client().get(server.url("/health/ready"))).await;
    let clock = json["dependencies"].as_array().unwrap().iter().find(|dependency| dependency["name"] == "clock");
    (status, clock.cloned().unwrap_or_default())
}

/// Waits until readiness says this of the clock.
async fn until_clock_is(server: &TestServer, status: u16, word: &str) {
    until_ok(PATIENCE, "readiness tells how the clock is", async || match readiness(server).await {
        (found, clock) if (found, &clock["status"]) == (status, &json!(word)) => Ok(()),
        (found, clock) => Err(format!("{found} {clock}")),
    })
    .await;
}

/// Delivers an event as it is signed so many seconds from now.
async fn deliver_at(server: &TestServer, event: &SessionEvent, seconds: i64) -> Answer {
    let body = serde_json::to_vec(&event.json()).unwrap();
    server.post_webhook(&body, Some(&server.sign_at(&body, unix_now() + seconds))).await
}

/// No part of it has died.
#[track_caller]
fn assert_lives_on(server: &TestServer) {
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Every key in Redis ends.
async fn assert_all_keys_end(redis: &RedisServer) {
    for key in redis.keys().await {
        let left: i64 = redis.command(&["PTTL", &key]).await;
        // -1: it has no end. -2: it is over already.
        assert!(left != -1, "{key} would stay for ever");
    }
}

#[tokio::test]
async fn a_clock_that_is_ten_minutes_wrong_is_told_of_until_it_is_right() {
    let Some(clock) = SteppingClock::ahead(600) else { return };
    let world = World::new().await;
    let server = world.serve_with(&clock.settings()).await;
    let user = Uuid::new_v4();
    let event = SessionEvent::paid(user);
    server.deliver(&event.json()).await.assert_error(400, "INVALID_SIGNATURE");
    let (status, told) = readiness(&server).await;
    let detail = "this machine's clock and the database's are so far apart that webhooks are refused";
    assert_eq!((status, told), (503, json!({ "name": "clock", "status": "unready", "detail": detail })));
    let ahead = until_ok(PATIENCE, "the skew is measured", async || {
        let ahead = metric(&server, "tollgate_clock_skew_seconds").await;
        if ahead == 0.0 { Err("not yet") } else { Ok(ahead) }
    })
    .await;
    assert!((599.0..601.0).contains(&ahead), "{ahead}");

    clock.step(200);
    until_clock_is(&server, 200, "degraded").await;
    deliver(&server, &event).await;
    assert_eq!(assert_reads(&server.read(user).await, "PRO", 1), "cache");

    clock.step(-600);
    until_clock_is(&server, 503, "unready").await;
    server.deliver(&event.json()).await.assert_error(400, "INVALID_SIGNATURE");

    clock.step(-200);
    until_clock_is(&server, 200, "degraded").await;
    deliver(&server, &SessionEvent::paid(user)).await;
    assert_eq!(assert_reads(&server.read(user).await, "PRO", 2), "cache");
    assert_eq!(server.checkout(Uuid::new_v4(), "PRO", None).await.status, 200);

    clock.step(0);
    until_clock_is(&server, 200, "ready").await;
    until_taken(&server, &event).await;
    let told = server.log_lines().iter().filter(|line| line["fields"]["message"] == detail).count();
    assert_eq!(told, 1, "once, not with every beat");
}

#[tokio::test]
async fn a_clock_that_steps_back_by_an_hour_keeps_no_level_and_stops_no_timer() {
    let Some(clock) = SteppingClock::ahead(0) else { return };
    let world = World::new().await;
    let server = world.serve_with(&clock.settings()).await;
    let (buyer, ending) = (Uuid::new_v4(), Uuid::new_v4());
    deliver(&server, &SessionEvent::paid(buyer)).await;
    give_until(&server, ending, Utc::now() + TimeDelta::seconds(2)).await;
    assert_reads(&server.read(ending).await, "PRO", 1);

    clock.step(-AN_HOUR);
    let again = deliver_at(&server, &SessionEvent::paid(buyer), -AN_HOUR).await;
    assert_eq!(again.status, 200, "{}", again.text);
    assert_reads(&server.read(buyer).await, "PRO", 2);
    eventually(PATIENCE, "a level ends when the database's clock says so", async || {
        let read = server.read(ending).await.json;
        (&read["entitlementLevel"], &read["version"]) == (&json!("FREE"), &json!(2))
    })
    .await;
    until_shown(&world.redis, ending, 2).await;
    assert_all_keys_end(&world.redis).await;

    clock.step(0);
    deliver(&server, &SessionEvent::paid(buyer)).await;
    assert_eq!(assert_reads(&server.read(buyer).await, "PRO", 3), "cache");
    assert_eq!(world.redis.get(&format!("entitlements:{buyer}")).await.as_deref(), Some("PRO"));
    assert_lives_on(&server);
}

/// There the file's clock is the machine's: the levels' ends go with it.
#[tokio::test]
async fn a_clock_that_steps_back_takes_the_ends_of_a_file_with_it() {
    let Some(clock) = SteppingClock::ahead(0) else { return };
    let shop = Shop::new();
    let server = shop.serve_with(&clock.settings()).await.unwrap();
    let (kept, ending) = (Uuid::new_v4(), Uuid::new_v4());
    give_until(&server, kept, Utc::now() + TimeDelta::seconds(2)).await;
    let ended = async |user| {
        eventually(PATIENCE, "the level ends", async || {
            let read = server.read(user).await.json;
            (&read["entitlementLevel"], &read["version"]) == (&json!("FREE"), &json!(2))
        })
        .await;
    };

    clock.step(-AN_HOUR);
    give_until(&server, ending, Utc::now() + TimeDelta::seconds(2 - AN_HOUR)).await;
    ended(ending).await;
    assert_reads(&server.read(kept).await, "PRO", 1);

    clock.step(0);
    ended(kept).await;
    assert_eq!(readiness(&server).await, (200, Value::Null), "there is nothing to compare it with");
    assert_lives_on(&server);
}

#[tokio::test]
async fn a_database_whose_clock_steps_back_counts_versions_up_and_forgets_nobody() {
    let Some(clock) = SteppingClock::ahead(0) else { return };
    let cluster = PostgresServer::start_in(&clock.settings(), &[]).await;
    let world = World { database: TestDatabase::on(&cluster).await, ..World::new().await };
    let server = world.serve().await;
    let (buyer, ending) = (Uuid::new_v4(), Uuid::new_v4());
    deliver(&server, &SessionEvent::paid(buyer)).await;
    let end = Utc::now() + TimeDelta::seconds(2);
    give_until(&server, ending, end).await;

    clock.step(-AN_HOUR);
    until_clock_is(&server, 503, "unready").await;
    let changed = format!("SELECT extract(epoch FROM changed_at) FROM entitlement_state WHERE user_id = '{buyer}'");
    let before: f64 = world.database.value(&changed).await.parse().unwrap();
    deliver(&server, &SessionEvent::paid(buyer)).await;
    assert_reads(&server.read_at_least(buyer, 2).await, "PRO", 2);
    let after: f64 = world.database.value(&changed).await.parse().unwrap();
    assert!(after < before - 3000.0, "the database lives an hour earlier: {before}, {after}");
    world.redis.stop().await;
    deliver(&server, &SessionEvent::paid(buyer)).await;
    world.redis.start_again().await;
    until_shown(&world.redis, buyer, 3).await;
    eventually(PATIENCE, "the end is past by the machine's clock", async || {
        let asked = Utc::now();
        assert_reads(&server.read(ending).await, "PRO", 1) == "database" && asked > end
    })
    .await;
    until_ok(PATIENCE, "the replica beats by the database's clock", async || {
        let late = "SELECT extract(epoch FROM max(last_seen) - now()) FROM instances";
        let late: f64 = world.database.value(late).await.parse().unwrap();
        if late <= 0.0 { Ok(()) } else { Err(late) }
    })
    .await;

    clock.step(0);
    eventually(PATIENCE, "the level ends", async || {
        let read = server.read(ending).await.json;
        (&read["entitlementLevel"], &read["version"]) == (&json!("FREE"), &json!(2))
    })
    .await;
    until_clock_is(&server, 200, "ready").await;
    deliver(&server, &SessionEvent::paid(buyer)).await;
    assert_reads(&server.read_at_least(buyer, 4).await, "PRO", 4);
    assert_lives_on(&server);
}
