//! `POST /api/billing/portal`: the page where a customer manages what he has.

use serde_json::json;
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    server::{Answer, TestServer, World, client, session_token},
};

async fn portal(server: &TestServer, user: Uuid) -> Answer {
    Answer::of(client().post(server.url("/api/billing/portal")).bearer_auth(session_token(user))).await
}

#[tokio::test]
async fn a_customer_is_sent_to_his_own_page() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    portal(&server, user).await.assert_error(409, "NO_CUSTOMER");
    assert!(world.stripe.requests().is_empty(), "Stripe is not asked for nobody");

    server.deliver(&SessionEvent::subscribed(user).json()).await;
    let answer = portal(&server, user).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.json["url"].as_str().unwrap().starts_with("https://billing.stripe.com/"), "{}", answer.text);
    assert_eq!(answer.json.as_object().unwrap().len(), 1);
    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    let request = world.stripe.requests().pop().unwrap();
    assert_eq!(request.params, json!({ "customer": "cus_Test", "return_url": "https://app.example.com/" }));
    assert_eq!(request.header("stripe-version"), Some("2026-09-30.endive"));
    assert_eq!(world.stripe.violations(), Vec::<String>::new());

    world.stripe.delete_customer("cus_Test");
    portal(&server, user).await.assert_error(409, "NO_CUSTOMER");
}

/// Whoever else is the same customer would see, and could cancel, what is not his.
#[tokio::test]
async fn a_shared_customer_is_shown_to_nobody() {
    let world = World::new().await;
    let server = world.serve().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    for user in [one, other] {
        server.deliver(&SessionEvent::subscribed(user).json()).await;
    }
    for user in [one, other] {
        portal(&server, user).await.assert_error(409, "NO_CUSTOMER");
    }
    assert!(world.stripe.requests().is_empty());
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_stripes_failures_stay_stripes() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_CHECKOUT_PER_MINUTE", "3"), ("TOLLGATE_STRIPE_ATTEMPTS", "1")]).await;
    let user = Uuid::new_v4();
    server.deliver(&SessionEvent::subscribed(user).json()).await;
    let anonymous = Answer::of(client().post(server.url("/api/billing/portal"))).await;
    anonymous.assert_error(401, "UNAUTHORIZED");
    Answer::of(client().get(server.url("/api/billing/portal"))).await.assert_error(405, "METHOD_NOT_ALLOWED");
    let elsewhere = client()
        .post(server.url("/api/billing/portal"))
        .bearer_auth(session_token(user))
        .json(&json!({ "returnUrl": "https://evil.example" }));
    Answer::of(elsewhere).await.assert_error(400, "INVALID_REQUEST");

    let body = json!({ "error": { "type": "invalid_request_error", "message": "sk_test_leak" } }).to_string();
    world.stripe.fail_next(400, &body, 1);
    let failed = portal(&server, user).await;
    failed.assert_error(502, "STRIPE_ERROR");
    assert!(!failed.text.contains("leak"));
    for _ in 0..2 {
        assert_eq!(portal(&server, user).await.status, 200);
    }
    portal(&server, user).await.assert_error(429, "RATE_LIMITED");
    assert_eq!(server.checkout(user, "TRIAL", None).await.status, 200, "buying has a limit of its own");
}
