//! Sales: which page a buyer is given, and under which keys Stripe is asked.

use super::*;

#[tokio::test]
async fn a_session_is_opened_and_recorded() {
    let (stripe, ledger) = (Stripe::answering(vec![(200, OPEN)]).await, Arc::default());
    let started = shop(&stripe, &ledger).start_checkout(user(1), "PRO", None, None).await.unwrap();
    assert_eq!((started.session_id.as_str(), started.url.as_str()), ("cs_test_1", "https://pay.test/1"));
    assert_eq!(started.expires_at.timestamp(), 1_900_000_000);
    let sessions = ledger.sessions.lock().unwrap();
    assert_eq!((sessions[0].user, sessions[0].level.as_str()), (user(1), "PRO"));
    let request = stripe.requests.lock().unwrap()[0].clone();
    for part in [
        "https://app.test/checkout/success?session_id={CHECKOUT_SESSION_ID}",
        "https://app.test/checkout/cancel",
        "client_reference_id=00000000-0000-0000-0000-000000000001",
        "mode=subscription",
    ] {
        let decoded = percent_encoding::percent_decode_str(&request).decode_utf8().unwrap();
        assert!(decoded.contains(part), "{part} in {decoded}");
    }
}

#[tokio::test]
async fn whoever_wants_the_same_is_given_the_page_that_is_open() {
    let (stripe, ledger) = (Stripe::answering(vec![(200, OPEN), (200, OTHER)]).await, Arc::default());
    let shop = shop(&stripe, &ledger);
    let buy = async |level, key| shop.start_checkout(user(1), level, None, key).await;
    let first = buy("PRO", None).await.unwrap();
    for key in [Some("k"), Some("k"), Some("other"), None] {
        assert_eq!(buy("PRO", key).await, Ok(first.clone()), "{key:?}");
    }
    assert_eq!(buy("TEAM", None).await.unwrap().session_id.as_str(), "cs_test_2", "another wish");
    assert_eq!(stripe.keys().len(), 2, "Stripe was asked once for each");
    assert_eq!(buy("TEAM", Some("k")).await, Err(CheckoutError::IdempotencyConflict));
    assert_eq!(buy("PRO", Some("")).await, Err(CheckoutError::InvalidKey));
}

#[tokio::test]
async fn a_page_that_is_over_is_given_to_nobody_who_comes_anew() {
    let level = || Level::parse("TEAM").unwrap();
    let soon = Utc::now() + TimeDelta::minutes(9);
    let bought = || Grant { level: level(), ..grant("TEAM", SourceKind::Checkout, GrantStatus::Active, Utc::now()) };
    for (what, expired, expires_at, grants, by_key) in [
        ("expired", true, None, vec![], "cs_test_2"),
        ("no time to pay", false, Some(soon), vec![], "cs_test_1"),
        ("over", false, Some(Utc::now()), vec![], "cs_test_2"),
        ("bought", false, None, vec![bought()], "cs_test_1"),
    ] {
        let stripe = Stripe::answering(vec![(200, OPEN), (200, OTHER)]).await;
        let ledger = Arc::<MemoryLedger>::default();
        let shop = shop(&stripe, &ledger);
        let buy = async |key| shop.start_checkout(user(1), "TEAM", None, key).await.unwrap().session_id;
        assert_eq!(buy(Some("k")).await.as_str(), "cs_test_1", "{what}");
        {
            let mut sessions = ledger.sessions.lock().unwrap();
            sessions[0].expired = expired;
            sessions[0].expires_at = expires_at.unwrap_or(sessions[0].expires_at);
        }
        *ledger.grants.lock().unwrap() = grants;
        assert_eq!(buy(None).await.as_str(), "cs_test_2", "{what}");
        assert_eq!(buy(Some("new")).await.as_str(), "cs_test_2", "{what}");
        assert_eq!(buy(Some("k")).await.as_str(), by_key, "{what}: the key's page until it ends");
        let keys = stripe.keys();
        assert!(keys.len() == 2 && keys[0] != keys[1], "{keys:?}");
    }
}

/// The customer of an earlier purchase is used again; one that was deleted at Stripe is left out, under another key.
#[tokio::test]
async fn a_deleted_customer_does_not_keep_anybody_from_buying() {
    let gone = r#"{"error":{"type":"invalid_request_error","code":"resource_missing","param":"customer"}}"#;
    let (stripe, ledger) = (Stripe::answering(vec![(400, gone), (200, OPEN)]).await, Arc::<MemoryLedger>::default());
    let before = grant("TRIAL", SourceKind::Checkout, GrantStatus::Active, Utc::now());
    *ledger.grants.lock().unwrap() = vec![Grant { session: None, customer: CustomerId::parse("cus_1").ok(), ..before }];
    assert!(shop(&stripe, &ledger).start_checkout(user(1), "PRO", None, None).await.is_ok());
    let sent: Vec<bool> =
        stripe.requests.lock().unwrap().iter().map(|request| request.contains("customer=cus_1")).collect();
    assert_eq!(sent, [true, false]);
    let keys = stripe.keys();
    assert_ne!(keys[0], keys[1]);
}

/// Another click of the same moment is still at it, or has sent another order: no reason to send anybody away.
#[tokio::test]
async fn a_key_that_somebody_else_uses_is_asked_for_again() {
    let in_use = r#"{"error":{"type":"invalid_request_error","code":"idempotency_key_in_use"}}"#;
    let other = r#"{"error":{"type":"idempotency_error"}}"#;
    let answers = vec![(409, in_use), (400, other), (200, OPEN)];
    let (stripe, ledger) = (Stripe::answering(answers).await, Arc::default());
    assert!(shop(&stripe, &ledger).start_checkout(user(1), "PRO", None, None).await.is_ok());
    let keys = stripe.keys();
    assert!(keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
}

#[tokio::test]
async fn a_stored_failure_gets_another_key_and_a_passing_one_the_same() {
    let answers = vec![(429, ERROR), (402, ERROR), (200, r#"{"id":"odd","url":"","expires_at":1}"#), (200, OPEN)];
    let (stripe, ledger) = (Stripe::answering(answers).await, Arc::default());
    let shop = shop(&stripe, &ledger);
    for _ in 0..3 {
        assert_eq!(shop.start_checkout(user(1), "PRO", None, Some("k")).await, Err(CheckoutError::Stripe));
    }
    shop.start_checkout(user(1), "PRO", None, Some("k")).await.unwrap();
    let keys = stripe.keys();
    assert_eq!(keys[0], keys[1], "429 is not stored");
    assert!(keys[1] != keys[2] && keys[2] != keys[3], "{keys:?}");
}

#[tokio::test]
async fn a_session_that_was_not_recorded_is_given_again() {
    let (stripe, ledger) = (Stripe::answering(vec![(200, OPEN), (200, OPEN)]).await, Arc::<MemoryLedger>::default());
    let shop = shop(&stripe, &ledger);
    *ledger.refuse_sessions.lock().unwrap() = true;
    assert_eq!(shop.start_checkout(user(1), "PRO", None, Some("k")).await, Err(CheckoutError::Unavailable));
    *ledger.refuse_sessions.lock().unwrap() = false;
    assert!(shop.start_checkout(user(1), "PRO", None, Some("k")).await.is_ok());
    let keys = stripe.keys();
    assert_eq!(keys[0], keys[1]);
}
