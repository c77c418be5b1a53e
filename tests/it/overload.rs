//! More than can be done: who is refused, who is served all the same, and who goes first. By order and count, never by the clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    raw::{Raw, status, webhook},
    server::{Answer, TestServer, World, client, session_token},
};

/// Were everybody to wait behind the hot user's queue, each of the others would wait for all that is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hot_user_does_not_hold_up_the_others() {
    const HOT: usize = 240;
    const AT_ONCE: usize = 60;
    const OTHERS: usize = 6;
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

/// What Stripe could not deliver for days comes at once, some of it twice, while people go on buying. Whoever was refused was refused at
/// the door; nothing is lost, and nothing is done twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_of_days_is_taken_in_once_beside_what_is_bought_now() {
    const CONNECTIONS: usize = 40;
    const EACH: usize = 50;
    const NOW: usize = 20;
    let world = World::new().await;
    let settings = [("TOLLGATE_WEBHOOKS_IN_FLIGHT", "30"), ("TOLLGATE_LOG", "warn,tollgate::app=info")];
    let server = Arc::new(world.serve_with(&settings).await);
    let (firsts, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let backlog: Vec<Value> = (0..CONNECTIONS * EACH).map(|_| SessionEvent::paid(Uuid::new_v4()).json()).collect();
    let connections = (0..CONNECTIONS).map(|connection| {
        // The last ones are the first of the next connection, too.
        let events: Vec<Value> = backlog.iter().cycle().skip(connection * EACH).take(EACH + 5).cloned().collect();
        let (server, firsts, refused) = (Arc::clone(&server), Arc::clone(&firsts), Arc::clone(&refused));
        tokio::spawn(async move {
            let mut raw = Raw::open(&server).await;
            for event in events {
                let (first, times) = deliver_until_taken(&server, &mut raw, &event).await;
                firsts.fetch_add(usize::from(first), Ordering::AcqRel);
                refused.fetch_add(times, Ordering::AcqRel);
            }
        })
    });
    let connections: Vec<_> = connections.collect();
    let mut raw = Raw::open(&server).await;
    for _ in 0..NOW {
        let event = SessionEvent::paid(Uuid::new_v4());
        assert!(deliver_until_taken(&server, &mut raw, &event.json()).await.0);
        // A read may find no room either; it is never answered wrongly.
        eventually(PATIENCE, "it is read", || async {
            let read = server.read(event.user).await;
            assert!(read.status == 503 || read.json["entitlementLevel"] == "PRO", "{}", read.text);
            read.status == 200
        })
        .await;
    }
    join_all(connections).await.into_iter().for_each(Result::unwrap);
    assert_eq!(firsts.load(Ordering::Acquire), backlog.len(), "each once");
    assert!(refused.load(Ordering::Acquire) > 0, "it was too much");
    let all = (backlog.len() + NOW).to_string();
    for count in [
        "FROM stripe_events WHERE outcome = 'applied'",
        "FROM entitlement_state WHERE version = 1",
        "FROM user_entitlements",
    ] {
        assert_eq!(world.database.value(&format!("SELECT count(*) {count}")).await, all, "{count}");
    }
}

/// Whether it was the first delivery of the event, and how often it was refused before.
async fn deliver_until_taken(server: &TestServer, raw: &mut Raw, event: &Value) -> (bool, usize) {
    let (request, mut refused) = (webhook(server, event), 0);
    loop {
        raw.send(&request).await;
        let answer = raw.answer().await;
        match status(&answer) {
            200 => return (answer.contains(r#""idempotent":false"#), refused),
            503 => assert!(answer.contains("retry-after: "), "{answer}"),
            _ => panic!("{answer}"),
        }
        refused += 1;
        // As clients do that are told to come again: sooner than they are told, or the test would take as long as an outage. Whoever is refused
        // before his body was read needs a new connection.
        tokio::time::sleep(Duration::from_millis(50)).await;
        *raw = Raw::open(server).await;
    }
}
