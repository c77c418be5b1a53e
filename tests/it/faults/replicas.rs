//! A replica stands still in the middle of its work, stopped like a machine that swaps or a virtual one that is moved: it holds up nobody but the
//! users it holds, these not for long, and what it does when it goes on has the effect of one event, or none.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tollgate::{fail_point::Point, ledger::Ledger, upkeep::Rhythm};
use uuid::Uuid;

use super::{
    PATIENCE, assert_reads, assert_unavailable, deliver, deliver_again, points::arm, until_shown, until_taken,
};
use crate::{
    harness::{
        event::SessionEvent,
        eventually,
        server::{Answer, TestServer, World, client},
    },
    ledger::ledger_on,
    upkeep::Replica,
};

/// Who waits for a lock is told soon that it is not to be had.
const SHORT_OF_TIME: (&str, &str) = ("TOLLGATE_LEDGER_LOCK_TIMEOUT", "200ms");

/// What would help by and by must not hide what does not help at once.
const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(20);

/// Delivers an event that is held at a point, and stops the replica there. Gives the delivery's answer to come.
async fn stopped_at(point: Point, server: &TestServer, event: &SessionEvent, about: &str) -> JoinHandle<Answer> {
    arm(server, &format!("{point}=hold@{about}")).await;
    let body = serde_json::to_vec(&event.json()).unwrap();
    let request = client().post(server.url("/api/webhooks/stripe"));
    let delivery = tokio::spawn(Answer::of(request.header("Stripe-Signature", server.sign(&body)).body(body)));
    eventually(PATIENCE, "it is there", || async {
        let hits = Answer::of(client().get(server.admin_url("/api/admin/fail-points"))).await;
        hits.json[point.name()] == 1
    })
    .await;
    server.signal("STOP").await;
    delivery
}

async fn goes_on(server: &TestServer) {
    server.signal("CONT").await;
    arm(server, "").await;
}

async fn in_transaction(world: &World) -> String {
    let held = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'tollgate' AND state = 'idle in transaction'";
    world.database.value(held).await
}

#[tokio::test]
async fn a_replica_that_stands_still_in_a_transaction_holds_up_nobody_else_and_its_users_not_for_long() {
    let world = World::new().await;
    let settings = [SHORT_OF_TIME, ("TOLLGATE_LEDGER_COMMIT_TIMEOUT", "2s")];
    let (one, two) = tokio::join!(world.serve_with(&settings), world.serve_with(&settings));
    let event = SessionEvent::paid(Uuid::new_v4());
    let delivery = stopped_at(Point::LedgerCommit, &one, &event, &event.id).await;
    assert_eq!(in_transaction(&world).await, "1");
    assert_unavailable(&two.deliver(&event.json()).await);
    for _ in 0..5 {
        deliver(&two, &SessionEvent::paid(Uuid::new_v4())).await;
    }
    assert_reads(&two.read(event.user).await, "FREE", 0);
    until_taken(&two, &event).await;
    assert_eq!(in_transaction(&world).await, "0");
    deliver(&two, &SessionEvent::paid(event.user)).await;

    goes_on(&one).await;
    assert_unavailable(&delivery.await.unwrap());
    deliver_again(&one, &event).await;
    assert_reads(&one.read(event.user).await, "PRO", 2);
    until_shown(&world.redis, event.user, 2).await;
    let grants = format!("SELECT count(*) FROM user_entitlements WHERE user_id = '{}'", event.user);
    assert_eq!(world.database.value(&grants).await, "2");
}

#[tokio::test]
async fn a_replica_that_goes_on_in_its_transaction_finishes_it_and_the_redelivery_is_none() {
    let world = World::new().await;
    let patient = [("TOLLGATE_LEDGER_COMMIT_TIMEOUT", "50s"), ("TOLLGATE_REPLY_TIMEOUT", "1m")];
    let short = [SHORT_OF_TIME];
    let (one, two) = tokio::join!(world.serve_with(&patient), world.serve_with(&short));
    let event = SessionEvent::paid(Uuid::new_v4());
    let delivery = stopped_at(Point::LedgerCommit, &one, &event, &event.id).await;
    assert_unavailable(&two.deliver(&event.json()).await);
    goes_on(&one).await;
    assert_eq!(delivery.await.unwrap().json["processed"], true);
    deliver_again(&two, &event).await;
    assert_reads(&two.read(event.user).await, "PRO", 1);
    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "1");
}

/// Between the commit and what readers are shown: the others show it, and what comes late is refused.
#[actix_web::test]
async fn what_a_replica_that_stands_still_has_not_shown_others_show_and_its_late_write_is_refused() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_REPLY_TIMEOUT", "1m")]).await;
    let ledger = ledger_on(&world.database).await;
    eventually(PATIENCE, "the replica has made itself known", || async {
        world.database.value("SELECT count(*) FROM instances").await == "1"
    })
    .await;
    let rhythm = Rhythm { beat: SOON, compare: NEVER, ..Rhythm::default() };
    let _other = Replica::start(Arc::clone(&ledger) as Arc<dyn Ledger>, &world.redis.url(), rhythm);
    eventually(PATIENCE, "the other has looked round", || async { world.redis.keys().await.len() > 1 }).await;
    let event = SessionEvent { level: "TRIAL".into(), ..SessionEvent::paid(Uuid::new_v4()) };
    let delivery = stopped_at(Point::CacheShow, &server, &event, &event.user.to_string()).await;
    assert_eq!(world.redis.get(&format!("entitlements:{}", event.user)).await, None);
    // The other beats on; whoever stands still is silent for too long.
    world.database.execute("UPDATE instances SET last_seen = last_seen - interval '1 minute'").await;
    until_shown(&world.redis, event.user, 1).await;

    let two = world.serve().await;
    deliver(&two, &SessionEvent::paid(event.user)).await;
    goes_on(&server).await;
    assert_eq!(delivery.await.unwrap().json["processed"], true, "it was committed");
    until_shown(&world.redis, event.user, 2).await;
    assert_eq!(world.redis.get(&format!("entitlements:{}", event.user)).await.as_deref(), Some("PRO"));
    assert_reads(&server.read(event.user).await, "PRO", 2);
}
