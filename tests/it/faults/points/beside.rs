//! The points that no webhook on PostgreSQL passes: of what runs beside requests, of checkouts, and of a ledger in a file.

use futures::future::join_all;
use tollgate::fail_point::Point;
use uuid::Uuid;

use super::{Stage, Way, on, start, start_and_die};
use crate::{
    faults::{PATIENCE, assert_reads, until_shown},
    fetch::Tied,
    harness::{
        event::SessionEvent,
        eventually,
        server::{Answer, World},
    },
};

/// A6: the cache write fails, and whoever is about to do it again dies or panics.
#[tokio::test]
async fn a_cache_write_that_waits_is_done_whatever_happens_to_who_does_it() {
    for action in ["abort", "panic"] {
        let mut stage = Stage::new().await;
        let event = SessionEvent::paid(Uuid::new_v4());
        let user = event.user;
        stage.arm(&format!("cache.show=fail*1@{user};{}={action}*1@{user}", Point::Republish)).await;
        assert_eq!(stage.deliver(&event.json()).await.unwrap().json["processed"], true);
        if action == "abort" {
            stage.died().await;
            stage.restart().await;
        }
        until_shown(&stage.world.redis, user, 1).await;
        stage.ends(&format!("waits-{action}")).await;
    }
}

#[tokio::test]
async fn a_level_ends_although_who_ends_it_dies() {
    let mut stage = Stage::new().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    let user = event.user;
    assert_eq!(stage.deliver(&event.json()).await.unwrap().status, 200);
    stage.arm(&format!("{}=abort@{user}", Point::SweepLapse)).await;
    let over = "UPDATE user_entitlements SET expires_at = now() - interval '1 hour', period_end = now() - interval '1 hour'; \
                UPDATE entitlement_state SET expires_at = now() - interval '1 hour'";
    stage.world.database.execute(over).await;
    stage.died().await;
    stage.restart().await;
    until_shown(&stage.world.redis, user, 2).await;
    assert_reads(&stage.server.read(user).await, "FREE", 2);
}

#[tokio::test]
async fn a_parked_event_is_applied_although_who_tries_it_dies() {
    let world = World::new().await;
    world.database.execute("CREATE TABLE users (id uuid PRIMARY KEY)").await;
    let mut stage = Stage::in_world(world, &[]).await;
    let event = SessionEvent::paid(Uuid::new_v4());
    assert_eq!(stage.deliver(&event.json()).await.unwrap().json["parked"], true);
    stage.arm(&format!("{}=abort@{}", Point::SweepParked, event.id)).await;
    stage.world.database.execute(&format!("INSERT INTO users VALUES ('{}')", event.user)).await;
    stage.died().await;
    stage.restart().await;
    until_shown(&stage.world.redis, event.user, 1).await;
    stage.ends("parked").await;
}

#[tokio::test]
async fn a_question_to_stripe_is_asked_again_although_who_asks_it_dies() {
    join_all(on(&[Way::Fetch]).into_iter().map(async |point| {
        let mut stage = Stage::new().await;
        let tied = Tied::on(&stage.server).await;
        stage.world.stripe.have(&tied.path(), &tied.as_stripe_has_it("unpaid"));
        stage.arm(&format!("{point}=abort@{}", tied.id)).await;
        let due = "UPDATE stripe_fetches SET due_at = now()";
        stage.world.database.execute(due).await;
        stage.died().await;
        stage.restart().await;
        // What the dead one had leased for minutes.
        stage.world.database.execute(due).await;
        let plain = format!("entitlements:{}", tied.user);
        eventually(PATIENCE, "what Stripe says is shown", async || {
            stage.world.redis.get(&plain).await.as_deref() == Some("FREE")
        })
        .await;
        let open = "SELECT count(*) FROM stripe_fetches";
        eventually(PATIENCE, "nothing is left to ask", async || stage.world.database.value(open).await == "0").await;
    }))
    .await;
}

#[tokio::test]
async fn a_checkout_that_dies_beside_stripe_leaves_one_session() {
    let mut stage = Stage::new().await;
    for point in on(&[Way::Checkout]) {
        let user = Uuid::new_v4();
        let opened = stage.world.stripe.sessions_opened();
        stage.arm(&format!("{point}=abort@{user}")).await;
        let first = Answer::try_of(stage.server.checkout_request(user, "PRO")).await;
        assert!(first.is_err(), "it died at {point}");
        stage.died().await;
        stage.restart().await;
        let answer = stage.server.checkout(user, "PRO", None).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(stage.world.stripe.sessions_opened() - opened, 1, "after a death at {point}");
    }
}

#[tokio::test]
async fn whatever_happens_at_a_point_of_a_file_has_one_effect() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", directory.path().join("ledger.sqlite3").display());
    let settings = [("DATABASE_URL", ""), ("TOLLGATE_LEDGER", file.as_str())];
    let world = World::new().await;
    let own: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for point in on(&[Way::FileStart]) {
        start_and_die(&world, &own, point).await;
    }
    drop(start(&world, &own, None).await.unwrap());
    let mut stage = Stage::in_world(world, &settings).await;
    for (point, action) in on(&[Way::File]).into_iter().flat_map(|point| [(point, "abort"), (point, "panic")]) {
        let event = SessionEvent::paid(Uuid::new_v4());
        let what = format!("{point}={action}*1@{}", event.id);
        stage.arm(&what).await;
        let answer = stage.deliver(&event.json()).await;
        if action == "abort" {
            assert!(answer.is_none(), "{what}");
            stage.died().await;
            stage.restart().await;
        } else {
            assert!((500..=503).contains(&answer.unwrap().status), "{what}");
        }
        if point == Point::FileCommitted {
            until_shown(&stage.world.redis, event.user, 1).await;
        }
        stage.takes(&event, point == Point::FileCommitted, &what).await;
    }
}
