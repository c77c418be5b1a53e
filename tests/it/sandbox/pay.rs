//! What a buyer does on the pay page, and what comes of it.

use bytes::Bytes;
use serde_json::Value;
use tollgate::{
    activity::Step,
    domain::{
        change::Effect,
        grant::{GrantStatus, SourceKind},
    },
    intake::{Interpreter, Meaning},
};

use super::{CARD, World, browser, card, location, shape};
use crate::{harness::server::Answer, ledger::built_in};

/// What the service would make of an event.
fn effect(event: &Value) -> Effect {
    let interpreter = Interpreter::new(built_in(), Some(false));
    match interpreter.read_again(&Bytes::from(event.to_string())).unwrap() {
        Meaning::Change(change) => change.effect,
        Meaning::Unowned(unowned) => panic!("of nobody: {unowned:?}"),
        Meaning::Report(report) => panic!("of money: {report:?}"),
        Meaning::Note(note) => panic!("a note: {note:?}"),
    }
}

fn grant(event: &Value) -> (SourceKind, GrantStatus) {
    match effect(event) {
        Effect::Purchase(grant) => (grant.source.kind, grant.status),
        other => panic!("no purchase: {other:?}"),
    }
}

#[tokio::test]
async fn the_card_that_pays_completes_a_payment() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let page = world.page(&session).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("$29.00") && page.text.contains("PRO"), "{}", page.text);

    let answer = world.pay(&session, CARD).await;
    let id = session["id"].as_str().unwrap();
    assert_eq!(location(&answer), format!("https://app.test/ok?session_id={id}"));
    let paid = world.look(&session).await;
    shape::assert_object(&paid);
    assert_eq!((&paid["status"], &paid["payment_status"]), (&"complete".into(), &"paid".into()));
    assert!(paid["payment_intent"].as_str().unwrap().starts_with("pi_"), "{paid}");
    assert_eq!((&paid["subscription"], &paid["customer"], &paid["url"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(paid["customer_details"]["email"], "robin@example.com");

    let events = world.events("checkout.session.completed").await;
    assert_eq!(events.len(), 1);
    shape::assert_event(&events[0]);
    assert_eq!(events[0]["data"]["object"], paid);
    assert_eq!(events[0]["request"]["id"], Value::Null, "a buyer is no request");
    assert_eq!(grant(&events[0]), (SourceKind::Checkout, GrantStatus::Active));
    assert!(world.page(&session).await.text.contains("already paid"), "the back button finds it paid");
    let completed = Step::SessionCompleted { session: id.to_owned(), paid: true };
    assert_eq!(world.told("it is paid", |step| matches!(step, Step::SessionCompleted { .. })).await, [completed]);
}

#[tokio::test]
async fn a_subscription_has_a_customer_and_an_invoice() {
    let world = World::new().await;
    let session = world.session("subscription", "2900", &[("subscription_data[metadata][userId]", "u")]).await;
    location(&world.pay(&session, CARD).await);
    let paid = world.look(&session).await;
    shape::assert_object(&paid);
    for (field, prefix) in [("subscription", "sub_"), ("invoice", "in_"), ("customer", "cus_")] {
        assert!(paid[field].as_str().unwrap().starts_with(prefix), "{field} of {paid}");
    }
    assert_eq!(paid["payment_intent"], Value::Null);
    let event = &world.events("checkout.session.completed").await[0];
    assert_eq!(grant(event), (SourceKind::Subscription, GrantStatus::Active));
    let created = &world.events("customer.created").await[0];
    shape::assert_event(created);
    assert_eq!(created["data"]["object"]["id"], paid["customer"]);
    let customer = world.get(&format!("/v1/customers/{}", paid["customer"].as_str().unwrap())).await.json;
    assert_eq!((&customer["email"], &customer["name"]), (&"robin@example.com".into(), &"Robin Peeters".into()));
}

#[tokio::test]
async fn a_declined_card_leaves_the_session_open() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let answer = world.pay(&session, &card("4000 0000 0000 0002")).await;
    assert_eq!(answer.status, 402);
    assert!(answer.text.contains("Your card was declined"), "{}", answer.text);
    assert!(!answer.text.contains("value=\"4000"), "no card comes back");
    assert_eq!(world.look(&session).await["status"], "open");
    assert!(world.events("checkout.session.*").await.is_empty());
    world.told("it was declined", |step| matches!(step, Step::PaymentDeclined { .. })).await;
    location(&world.pay(&session, CARD).await);
}

#[tokio::test]
async fn a_wrong_form_pays_nothing_and_says_why() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let mut expired = CARD.to_vec();
    expired[3] = ("expiry", "01 / 20");
    for (form, why) in [
        (card("4242 4242 4242 4243"), "no card number"),
        (card("5555 5555 5555 4444"), "only test cards"),
        (expired, "This date has passed"),
        (vec![("method", "free")], "Choose how to pay"),
        (vec![], "Choose how to pay"),
    ] {
        let answer = world.pay(&session, &form).await;
        assert_eq!(answer.status, 422);
        assert!(answer.text.contains(why), "{why}: {}", answer.text);
    }
    assert_eq!(world.look(&session).await["status"], "open");
}

#[tokio::test]
async fn many_clicks_at_once_are_one_purchase() {
    let world = World::new().await;
    let session = world.session("subscription", "2900", &[]).await;
    let clicks = futures::future::join_all((0..24).map(|_| world.pay(&session, CARD))).await;
    for click in &clicks {
        assert!(location(click).starts_with("https://app.test/ok"));
    }
    assert_eq!(world.events("checkout.session.completed").await.len(), 1);
    assert_eq!(world.events("customer.created").await.len(), 1);
}

#[tokio::test]
async fn a_delayed_payment_arrives_once() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    location(&world.pay(&session, &[("method", "delayed")]).await);
    let ordered = world.look(&session).await;
    assert_eq!((&ordered["status"], &ordered["payment_status"]), (&"complete".into(), &"unpaid".into()));
    assert_eq!(
        grant(&world.events("checkout.session.completed").await[0]),
        (SourceKind::Checkout, GrantStatus::Pending)
    );
    assert!(world.page(&session).await.text.contains("on its way"));
    location(&world.pay(&session, CARD).await);
    assert_eq!(world.look(&session).await["payment_status"], "unpaid", "it cannot be paid twice");

    let settle = format!("/c/pay/{}/settle", session["id"].as_str().unwrap());
    assert_eq!(world.submit(&settle, &[("outcome", "perhaps")]).await.status, 400);
    for outcome in ["succeeded", "succeeded", "failed"] {
        location(&world.submit(&settle, &[("outcome", outcome)]).await);
    }
    let events = world.events("checkout.session.async_payment_*").await;
    assert_eq!(events.len(), 1);
    shape::assert_event(&events[0]);
    assert_eq!(events[0]["type"], "checkout.session.async_payment_succeeded");
    assert_eq!(grant(&events[0]), (SourceKind::Checkout, GrantStatus::Active));
    assert_eq!(world.look(&session).await["payment_status"], "paid");
}

#[tokio::test]
async fn a_subscription_that_is_paid_later_begins_later() {
    let world = World::new().await;
    let session = world.session("subscription", "2900", &[]).await;
    location(&world.pay(&session, &[("method", "delayed")]).await);
    let ordered = &world.events("checkout.session.completed").await[0];
    shape::assert_event(ordered);
    assert_eq!(ordered["data"]["object"]["subscription"], Value::Null);
    assert_eq!(grant(ordered), (SourceKind::Checkout, GrantStatus::Pending));
    let settle = format!("/c/pay/{}/settle", session["id"].as_str().unwrap());
    location(&world.submit(&settle, &[("outcome", "succeeded")]).await);
    let paid = &world.events("checkout.session.async_payment_succeeded").await[0];
    assert_eq!(grant(paid), (SourceKind::Subscription, GrantStatus::Active));
}

#[tokio::test]
async fn a_delayed_payment_may_fail() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    location(&world.pay(&session, &[("method", "delayed")]).await);
    let settle = format!("/c/pay/{}/settle", session["id"].as_str().unwrap());
    location(&world.submit(&settle, &[("outcome", "failed")]).await);
    let event = &world.events("checkout.session.async_payment_failed").await[0];
    assert_eq!(grant(event), (SourceKind::Checkout, GrantStatus::Revoked));
    assert_eq!(world.look(&session).await["payment_status"], "unpaid");
    assert!(world.page(&session).await.text.contains("payment failed"));
}

#[tokio::test]
async fn what_is_free_asks_for_no_card() {
    let world = World::new().await;
    let session = world.session("payment", "0", &[]).await;
    location(&world.pay(&session, &[("method", "free")]).await);
    let done = world.look(&session).await;
    shape::assert_object(&done);
    assert_eq!(done["payment_status"], "no_payment_required");
    assert_eq!(done["payment_intent"], Value::Null);
    let event = &world.events("checkout.session.completed").await[0];
    assert_eq!(grant(event), (SourceKind::Checkout, GrantStatus::Active));
}

#[tokio::test]
async fn going_back_pays_nothing() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let cancel = format!("/c/pay/{}/cancel", session["id"].as_str().unwrap());
    let answer = Answer::of(browser().get(world.url(&cancel))).await;
    assert_eq!(location(&answer), "https://app.test/pricing");
    assert_eq!(world.look(&session).await["status"], "open");
}

#[tokio::test]
async fn an_expired_session_cannot_be_paid() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let expire = format!("/v1/checkout/sessions/{}/expire", session["id"].as_str().unwrap());
    let expired = world.post(&expire, &[]).await;
    assert_eq!((expired.status, &expired.json["status"]), (200, &"expired".into()));
    shape::assert_object(&expired.json);
    let event = &world.events("checkout.session.expired").await[0];
    shape::assert_event(event);
    assert_eq!(event["request"]["id"], expired.header("request-id").unwrap());
    assert!(matches!(effect(event), Effect::SessionExpired(_)));

    assert!(world.pay(&session, CARD).await.text.contains("expired"));
    assert_eq!(world.look(&session).await["status"], "expired");
    assert_eq!(world.post(&expire, &[]).await.status, 400, "once");
}

#[tokio::test]
async fn a_form_of_another_site_is_not_the_buyers() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let path = format!("/c/pay/{}", session["id"].as_str().unwrap());
    let body = serde_urlencoded::to_string(CARD).unwrap();
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let foreign = browser().post(world.url(&path)).header("Origin", origin).body(body.clone());
        assert_eq!(Answer::of(foreign).await.status, 403, "{origin}");
    }
    assert_eq!(world.look(&session).await["status"], "open");
}

#[tokio::test]
async fn the_page_is_framed_nowhere_and_stored_nowhere() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    let page = world.page(&session).await;
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("referrer-policy"), Some("same-origin"));
    let css = Answer::of(browser().get(world.url("/c/assets/pay.css"))).await;
    assert_eq!((css.status, css.header("content-type")), (200, Some("text/css; charset=utf-8")));
    for path in ["/c/assets/none", "/c/pay/cs_test_none", "/c/pay/cs_test_none/cancel"] {
        assert_eq!(Answer::of(browser().get(world.url(path))).await.status, 404, "{path}");
    }
    for path in ["/c/pay/cs_test_none", "/c/pay/cs_test_none/settle"] {
        assert_eq!(world.submit(path, &[("outcome", "failed")]).await.status, 404, "{path}");
    }
}
