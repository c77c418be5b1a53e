//! More than can be done: who is refused, who is served all the same, and who goes first. By order and count, never by the clock.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt, future::join_all, stream};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    server::{Answer, World, client, session_token},
};

/// Were everybody to wait behind the hot user's queue, each of the others would wait for all that is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hot_user_does_not_hold_up_the_others() {
    const HOT: usize = 600;
    const AT_ONCE: usize = 64;
    const OTHERS: usize = 20;
    let world = World::new().await;
    let server = Arc::new(world.serve_with(&[("TOLLGATE_REPLY_TIMEOUT", "30s")]).await);
    let (hot, done) = (Uuid::new_v4(), Arc::new(AtomicUsize::new(0)));
    let load = tokio::spawn({
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        async move {
            let deliveries = (0..HOT).map(|_| {
                let (server, done) = (Arc::clone(&server), Arc::clone(&done));
                async move {
                    let answer = server.deliver(&SessionEvent::paid(hot).json()).await;
                    done.fetch_add(1, Ordering::AcqRel);
                    answer.status
                }
            });
            stream::iter(deliveries).buffer_unordered(AT_ONCE).collect::<Vec<u16>>().await
        }
    });
    eventually(PATIENCE, "the hot user's queue is full", || async { done.load(Ordering::Acquire) > 0 }).await;
    for _ in 0..OTHERS {
        let answer = server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await;
        assert_eq!(answer.json["processed"], true, "{}", answer.text);
    }
    let before_the_others = done.load(Ordering::Acquire);
    assert!(before_the_others < OTHERS * AT_ONCE / 2, "{before_the_others} of {HOT} came before {OTHERS} of others");
    let statuses = load.await.unwrap();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(server.read(hot).await.json["version"], HOT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stripe_that_hangs_costs_checkouts_and_no_webhook() {
    let world = World::new().await;
    let settings =
        [("TOLLGATE_STRIPE_TIMEOUT", "1m"), ("TOLLGATE_STRIPE_ATTEMPTS", "1"), ("TOLLGATE_HTTP_WORKERS", "1")];
    let server = Arc::new(world.serve_with(&settings).await);
    world.stripe.hang_next(1_000);
    let buyers: Vec<_> = (0..300)
        .map(|_| {
            let server = Arc::clone(&server);
            let request = client()
                .post(server.url("/api/checkout/session"))
                .bearer_auth(session_token(Uuid::new_v4()))
                .json(&json!({ "entitlementLevel": "PRO" }));
            tokio::spawn(async move { Answer::try_of(request).await.map(|answer| answer.status) })
        })
        .collect();
    eventually(PATIENCE, "those who may wait for Stripe do, and the others are refused", || async {
        let asked = world.stripe.requests().len();
        asked > 0 && asked + buyers.iter().filter(|buyer| buyer.is_finished()).count() == buyers.len()
    })
    .await;
    for _ in 0..20 {
        let event = SessionEvent::paid(Uuid::new_v4());
        assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
        assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO");
    }
    let waiting = buyers.iter().filter(|buyer| !buyer.is_finished()).count();
    assert_eq!(waiting, world.stripe.requests().len(), "they still wait for Stripe");
    for buyer in buyers {
        if buyer.is_finished() {
            assert_eq!(buyer.await.unwrap().unwrap(), 503);
        } else {
            buyer.abort();
        }
    }
}

/// More than there is room for, all at once, each tried again until it is taken: nothing is lost, nothing is done twice, and
/// whoever was refused was refused at the door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_comes_again_and_all_are_served() {
    const EVENTS: usize = 400;
    let world = World::new().await;
    let server = Arc::new(world.serve_with(&[("TOLLGATE_WEBHOOKS_IN_FLIGHT", "8")]).await);
    let refused = Arc::new(AtomicUsize::new(0));
    let deliveries = (0..EVENTS).map(|_| {
        let (server, refused) = (Arc::clone(&server), Arc::clone(&refused));
        tokio::spawn(async move {
            let event = SessionEvent::paid(Uuid::new_v4()).json();
            loop {
                let answer = server.deliver(&event).await;
                match answer.status {
                    200 => return answer.json["idempotent"] == false,
                    503 => assert!(answer.header("retry-after").is_some()),
                    status => panic!("{status}"),
                }
                refused.fetch_add(1, Ordering::AcqRel);
            }
        })
    });
    let firsts = join_all(deliveries).await;
    assert!(firsts.into_iter().all(|first| first.unwrap()), "a refusal claims nothing and does nothing");
    assert!(refused.load(Ordering::Acquire) > 0, "it was too much");
    let applied = "SELECT count(*) FROM stripe_events WHERE outcome = 'applied'";
    assert_eq!(world.database.value(applied).await, EVENTS.to_string());
}
