//! The gateway against the stand-in for Stripe: what it sends is what Stripe accepts, and failures end as they should.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use stripe_gateway::{
    GatewayConfig, GatewayError, Interval, Mode, NewCheckoutSession, PageOptions, Price, StripeGateway, Unavailability,
};

use crate::harness::stripe::StandInStripe;

fn gateway(stripe: &StandInStripe) -> StripeGateway {
    StripeGateway::new(GatewayConfig {
        api_base: stripe.url().to_owned(),
        timeout: Duration::from_secs(2),
        ..GatewayConfig::new("sk_test_standin".into())
    })
    .unwrap()
}

fn session(mode: Mode, price: Price) -> NewCheckoutSession {
    NewCheckoutSession {
        user_id: "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71".into(),
        customer: None,
        level: "PRO".into(),
        mode,
        price,
        success_url: "https://app.test/ok?session_id={CHECKOUT_SESSION_ID}".into(),
        cancel_url: "https://app.test/pricing?a=b&c=d".into(),
        page: PageOptions::default(),
        more_metadata: vec![],
    }
}

fn by_id(mode: Mode) -> NewCheckoutSession {
    session(mode, Price::Id("price_1STc6rB7WZ01zgkWNy0Cn5nw".into()))
}

fn inline(amount: i64, interval: Option<Interval>) -> Price {
    Price::Inline {
        amount,
        currency: "usd".into(),
        product_name: "PRO, \"for teams\" & friends: 100 %".into(),
        interval,
    }
}

#[tokio::test]
async fn every_kind_of_session_is_one_that_stripe_accepts() {
    let stripe = StandInStripe::start().await;
    let gateway = gateway(&stripe);
    let intervals = [Interval::Day, Interval::Week, Interval::Month, Interval::Year];
    let sessions: Vec<_> = [
        by_id(Mode::Payment),
        by_id(Mode::Subscription),
        session(Mode::Payment, inline(0, None)),
        session(Mode::Payment, inline(2900, None)),
    ]
    .into_iter()
    .chain(intervals.map(|interval| session(Mode::Subscription, inline(2900, Some(interval)))))
    .collect();
    for (number, session) in sessions.into_iter().enumerate() {
        let created = gateway.create_checkout_session(session, &format!("purchase-{number}")).await.unwrap();
        assert!(created.id.starts_with("cs_test_"));
        assert_eq!(created.url, format!("https://checkout.stripe.com/c/pay/{}", created.id));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let lasts = created.expires_at - i64::try_from(now).unwrap();
        assert!((86_300..=86_400).contains(&lasts), "{lasts} s");
    }
    assert_eq!(stripe.violations(), Vec::<String>::new());
    assert_eq!(stripe.requests().len(), 8);
}

#[tokio::test]
async fn a_subscription_with_a_price_id_sends_exactly_this() {
    let stripe = StandInStripe::start().await;
    let gateway = gateway(&stripe);
    gateway.create_checkout_session(by_id(Mode::Subscription), "purchase-1").await.unwrap();
    let metadata = json!({"userId": "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71", "entitlementLevel": "PRO"});
    let expected = json!({
        "mode": "subscription",
        "client_reference_id": "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71",
        "line_items": [{"price": "price_1STc6rB7WZ01zgkWNy0Cn5nw", "quantity": 1}],
        "metadata": metadata,
        "subscription_data": {"metadata": metadata},
        "success_url": "https://app.test/ok?session_id={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://app.test/pricing?a=b&c=d",
    });
    let request = &stripe.requests()[0];
    assert_eq!(request.params, expected);
    assert_eq!(request.header("idempotency-key"), Some("purchase-1"));
    assert_eq!(request.header("stripe-version"), Some("2026-09-30.endive"));
}

#[tokio::test]
async fn a_free_inline_payment_sends_exactly_this() {
    let stripe = StandInStripe::start().await;
    let gateway = gateway(&stripe);
    gateway.create_checkout_session(session(Mode::Payment, inline(0, None)), "purchase-1").await.unwrap();
    let params = &stripe.requests()[0].params;
    let item = json!([{
        "price_data": {
            "currency": "usd",
            "unit_amount": 0,
            "product_data": {"name": "PRO, \"for teams\" & friends: 100 %"},
        },
        "quantity": 1,
    }]);
    assert_eq!(params["line_items"], item);
    assert_eq!(params["payment_intent_data"], json!({"metadata": params["metadata"]}));
}

#[tokio::test]
async fn one_key_is_one_session_and_not_for_another_purchase() {
    let stripe = StandInStripe::start().await;
    let gateway = gateway(&stripe);
    let create = |mode, key| gateway.create_checkout_session(by_id(mode), key);
    let first = create(Mode::Subscription, "k1").await.unwrap();
    assert_eq!(create(Mode::Subscription, "k1").await.unwrap(), first);
    assert_ne!(create(Mode::Subscription, "k2").await.unwrap().id, first.id);
    let refused = GatewayError::Refused { status: 400, code: Some("idempotency_error".into()) };
    assert_eq!(create(Mode::Payment, "k1").await.unwrap_err(), refused);
}

#[tokio::test]
async fn a_stored_failure_needs_a_new_key() {
    let stripe = StandInStripe::start().await;
    let gateway = gateway(&stripe);
    let create = |key| gateway.create_checkout_session(by_id(Mode::Payment), key);
    stripe.fail_next(500, r#"{"error":{"type":"api_error"}}"#, 1);
    let error = create("k1").await.unwrap_err();
    let stored = GatewayError::Unavailable {
        cause: Unavailability::Status { status: 500, code: Some("api_error".into()) },
        // The second brought back the first one's answer, so there was no third.
        attempts: 2,
        stored_failure: true,
    };
    assert_eq!(error, stored);
    assert!(error.needs_new_key());
    create("k1").await.expect_err("the failure is stored for this key");
    create("k2").await.expect("a new key is a new request");
}

#[tokio::test]
async fn what_passes_is_outlasted_under_the_same_key() {
    let stripe = StandInStripe::start().await;
    let gateway = gateway(&stripe);
    stripe.fail_next(429, r#"{"error":{"type":"invalid_request_error","code":"rate_limit"}}"#, 1);
    stripe.fail_next(503, "<html>", 1);
    let create = gateway.create_checkout_session(by_id(Mode::Payment), "k1");
    create.await.unwrap();
    let requests = stripe.requests();
    let statuses: Vec<_> = requests.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(429), Some(503), Some(200)]);
    assert!(requests.iter().all(|request| request.header("idempotency-key") == Some("k1")));
}

#[tokio::test]
async fn a_stripe_that_hangs_is_given_up() {
    let stripe = StandInStripe::start().await;
    let impatient = StripeGateway::new(GatewayConfig {
        api_base: stripe.url().to_owned(),
        timeout: Duration::from_millis(50),
        ..GatewayConfig::new("sk_test_standin".into())
    })
    .unwrap();
    stripe.hang_next(3);
    let error = impatient.create_checkout_session(by_id(Mode::Payment), "k1").await.unwrap_err();
    let lost = GatewayError::Unavailable { cause: Unavailability::Timeout, attempts: 3, stored_failure: false };
    assert_eq!(error, lost);
    assert!(stripe.requests().iter().all(|request| request.status.is_none()));
}

#[tokio::test]
async fn the_key_does_not_follow_a_redirect() {
    let stripe = StandInStripe::start().await;
    stripe.redirect_next();
    let gateway = gateway(&stripe);
    let error = gateway.create_checkout_session(by_id(Mode::Payment), "k1").await.unwrap_err();
    assert_eq!(error, GatewayError::Refused { status: 307, code: None });
    let paths: Vec<_> = stripe.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/v1/checkout/sessions"]);
}

#[tokio::test]
async fn a_wrong_request_is_refused_and_reported() {
    let stripe = StandInStripe::start().await;
    let other_key = StripeGateway::new(GatewayConfig {
        api_base: stripe.url().to_owned(),
        ..GatewayConfig::new("pk_test_public".into())
    })
    .unwrap();
    let error = other_key.create_checkout_session(by_id(Mode::Payment), "k1").await.unwrap_err();
    assert!(matches!(error, GatewayError::Refused { status: 401, .. }));

    let no_success_url = NewCheckoutSession {
        success_url: String::new(),
        price: Price::Inline { amount: 100, currency: "usd".into(), product_name: "PRO".into(), interval: None },
        ..by_id(Mode::Payment)
    };
    gateway(&stripe).create_checkout_session(no_success_url, "k1").await.expect_err("Stripe needs somewhere to go");
    assert_eq!(stripe.violations().len(), 2);
}
