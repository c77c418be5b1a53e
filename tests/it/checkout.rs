//! `POST /api/checkout/session` and `GET /api/checkout/session/{id}`: the contract's rows, against a stand-in that checks each
//! request with Stripe's own schema.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    server::{Answer, STRIPE_KEY, TestServer, World, client, session_token},
};

async fn post(server: &TestServer, token: Option<&str>, content_type: &str, body: &str) -> Answer {
    let mut request =
        client().post(server.url("/api/checkout/session")).header("Content-Type", content_type).body(body.to_owned());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    Answer::of(request).await
}

async fn session(server: &TestServer, user: Uuid, id: &str) -> Answer {
    Answer::of(client().get(server.url(&format!("/api/checkout/session/{id}"))).bearer_auth(session_token(user))).await
}

#[tokio::test]
async fn a_session_is_created_as_stripe_wants_it() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let answer = server.checkout(user, "PRO", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.json["sessionId"].as_str().unwrap().starts_with("cs_"));
    assert!(answer.json["url"].as_str().unwrap().starts_with("https://"));
    assert!(answer.json["expiresAt"].as_str().unwrap().ends_with('Z'), "{}", answer.text);
    assert_eq!(answer.json.as_object().unwrap().len(), 3);

    assert_eq!(world.stripe.violations(), Vec::<String>::new());
    let requests = world.stripe.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.header("authorization"), Some(format!("Bearer {STRIPE_KEY}").as_str()));
    assert_eq!(request.header("stripe-version"), Some("2026-09-30.endive"));
    assert!(request.header("idempotency-key").is_some());
    let expected = json!({ "userId": user.to_string(), "entitlementLevel": "PRO" });
    assert_eq!(request.params["client_reference_id"], user.to_string());
    assert_eq!(request.params["metadata"], expected);
    assert_eq!(request.params["subscription_data"]["metadata"], expected);
    assert_eq!(request.params["mode"], "subscription");
    let app = "https://app.example.com/";
    for address in ["success_url", "cancel_url"] {
        assert!(request.params[address].as_str().unwrap().starts_with(app), "{}", request.params[address]);
    }
    assert!(request.params["success_url"].as_str().unwrap().contains("{CHECKOUT_SESSION_ID}"));

    server.checkout(user, "TRIAL", None).await;
    let trial = world.stripe.requests().pop().unwrap();
    assert_eq!(trial.params["mode"], "payment");
    assert_eq!(trial.params["payment_intent_data"]["metadata"]["entitlementLevel"], "TRIAL");
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_price_kept_at_stripe_replaces_the_inline_one() {
    let world = World::new().await;
    let server = world.serve_with(&[("STRIPE_PRO_PRICE_ID", "price_1Pro")]).await;
    assert_eq!(server.checkout(Uuid::new_v4(), "PRO", None).await.status, 200);
    assert_eq!(world.stripe.requests()[0].params["line_items"], json!([{ "price": "price_1Pro", "quantity": 1 }]));
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn two_clicks_are_one_session() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let (a, b) =
        tokio::join!(server.checkout(user, "PRO", Some("click-1")), server.checkout(user, "PRO", Some("click-1")));
    let later = server.checkout(user, "PRO", Some("click-1")).await;
    assert_eq!((a.status, b.status, later.status), (200, 200, 200), "{} {}", a.text, b.text);
    assert_eq!(a.json["sessionId"], b.json["sessionId"]);
    assert_eq!(a.json["sessionId"], later.json["sessionId"]);
    for key in [Some("click-2"), None] {
        assert_eq!(server.checkout(user, "PRO", key).await.json, a.json, "whoever comes anew, while it is open");
    }
    assert_ne!(
        server.checkout(Uuid::new_v4(), "PRO", Some("click-1")).await.json["sessionId"],
        a.json["sessionId"],
        "another user's key is another key"
    );
    server.checkout(user, "TRIAL", Some("click-1")).await.assert_error(409, "IDEMPOTENCY_CONFLICT");
    let requests = world.stripe.requests();
    assert!(requests.iter().all(|request| !request.header("idempotency-key").unwrap().contains("click")), "namespaced");
    for wrong in ["", &"k".repeat(256)] {
        server.checkout(user, "PRO", Some(wrong)).await.assert_error(400, "INVALID_REQUEST");
    }
}

/// No key, no lock: the attempt's own key makes Stripe answer all of them with one session.
#[tokio::test]
async fn clicks_at_once_on_two_replicas_without_any_key_open_one_session() {
    let world = World::new().await;
    let (one, other) = tokio::join!(world.serve(), world.serve());
    for level in ["PRO", "TRIAL"] {
        let user = Uuid::new_v4();
        let before = world.stripe.sessions_opened();
        let clicks = (0..8).map(|click| {
            let server = if click % 2 == 0 { &one } else { &other };
            server.checkout(user, level, None)
        });
        let answers = futures::future::join_all(clicks).await;
        for answer in &answers {
            assert_eq!((answer.status, &answer.json), (200, &answers[0].json), "{}", answer.text);
        }
        assert_eq!(world.stripe.sessions_opened() - before, 1, "{level}");
    }
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_session_that_is_over_or_used_makes_room_for_another() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let open = async || server.checkout(user, "PRO", None).await.json["sessionId"].as_str().unwrap().to_owned();
    let first = open().await;
    let event = |session: &str, kind| SessionEvent { session: session.into(), kind, ..SessionEvent::paid(user) };
    server.deliver(&event(&first, "checkout.session.expired").json()).await;
    let second = open().await;
    assert_ne!(first, second);
    server.deliver(&event(&second, "checkout.session.completed").json()).await;
    let third = open().await;
    assert_ne!(second, third, "what is bought once may be bought again");
    world.database.execute("UPDATE checkout_sessions SET expires_at = now() + interval '9 minutes'").await;
    assert_ne!(open().await, third, "there must be time to pay");
}

/// Who dies between asking Stripe and noting the answer has locked nobody out, and the page that he opened is found again.
#[tokio::test]
async fn a_server_that_dies_while_it_asks_stripe_leaves_nothing_behind() {
    let world = World::new().await;
    let dying = world.serve().await;
    let user = Uuid::new_v4();
    world.stripe.hang_next(1);
    let click = client()
        .post(dying.url("/api/checkout/session"))
        .bearer_auth(session_token(user))
        .json(&json!({ "entitlementLevel": "PRO" }));
    let (answer, ()) = tokio::join!(Answer::try_of(click), async {
        eventually(PATIENCE, "Stripe is asked", || async { !world.stripe.requests().is_empty() }).await;
        dying.signal("KILL").await;
    });
    assert!(answer.is_err(), "nobody answers");
    let answer = world.serve().await.checkout(user, "PRO", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let requests = world.stripe.requests();
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_buyer_stays_the_customer_that_he_was() {
    let world = World::new().await;
    let server = world.serve().await;
    let (user, stranger) = (Uuid::new_v4(), Uuid::new_v4());
    let asked_as = async |level: &str| {
        assert_eq!(server.checkout(user, level, None).await.status, 200);
        world.stripe.requests().pop().unwrap().params
    };
    assert_eq!(asked_as("TRIAL").await["customer_creation"], "always");
    server.deliver(&SessionEvent::paid(user).json()).await;
    assert_eq!(asked_as("PRO").await["customer"], "cus_Test");
    assert_eq!(world.stripe.violations(), Vec::<String>::new());

    world.database.execute("UPDATE checkout_sessions SET state = 'expired'").await;
    world.stripe.delete_customer("cus_Test");
    assert_eq!(asked_as("PRO").await.get("customer"), None, "a deleted one keeps nobody from buying");
    server.deliver(&SessionEvent::paid(stranger).json()).await;
    world.database.execute("UPDATE checkout_sessions SET state = 'expired'").await;
    let requests = world.stripe.requests().len();
    assert_eq!(asked_as("PRO").await.get("customer"), None, "one that two users share is nobody's");
    assert_eq!(world.stripe.requests().len(), requests + 1);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_before_stripe_is_asked() {
    let world = World::new().await;
    let server = world.serve().await;
    let token = session_token(Uuid::new_v4());
    let json_type = "application/json";
    let pro = r#"{"entitlementLevel":"PRO"}"#;
    for token in [None, Some("x.y.z")] {
        let answer = post(&server, token, json_type, pro).await;
        answer.assert_error(401, "UNAUTHORIZED");
        assert_eq!(answer.json["error"], "Authentication required");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    for level in ["FREE", "ADMIN", "pro", ""] {
        let body = json!({ "entitlementLevel": level }).to_string();
        post(&server, Some(&token), json_type, &body).await.assert_error(400, "INVALID_ENTITLEMENT_LEVEL");
    }
    for body in [
        "",
        "not json",
        "[]",
        "{}",
        r#"{"entitlementLevel":7}"#,
        r#"{"entitlementLevel":null}"#,
        r#"{"entitlementLevel":"PRO","userId":"somebody"}"#,
        r#"{"entitlementLevel":"PRO","successUrl":"https://evil.example"}"#,
        r#"{"entitlementLevel":"PRO","price":1}"#,
    ] {
        post(&server, Some(&token), json_type, body).await.assert_error(400, "INVALID_REQUEST");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        post(&server, Some(&token), content_type, pro).await.assert_error(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let evil = client()
        .post(server.url("/api/checkout/session"))
        .bearer_auth(&token)
        .header("X-Forwarded-Host", "evil.example")
        .header("Host", "evil.example")
        .json(&json!({ "entitlementLevel": "PRO" }));
    assert_eq!(Answer::of(evil).await.status, 200);
    let params = world.stripe.requests().pop().unwrap().params.to_string();
    assert!(!params.contains("evil"), "addresses come from the configuration only: {params}");
    assert_eq!(world.stripe.requests().len(), 1, "nothing else reached Stripe");
    assert_eq!(post(&server, Some(&token), "application/json; charset=utf-8", pro).await.status, 200);
}

#[tokio::test]
async fn nobody_buys_what_he_has() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    server.deliver(&SessionEvent::subscribed(user).json()).await;
    let refused = server.checkout(user, "PRO", None).await;
    refused.assert_error(409, "ALREADY_ENTITLED");
    assert_eq!(refused.json["portal"], "/api/billing/portal");
    let trial =
        SessionEvent { level: "TRIAL".into(), payment_status: "no_payment_required", ..SessionEvent::paid(user) };
    assert_eq!(server.checkout(user, "TRIAL", None).await.status, 200);
    server.deliver(&trial.json()).await;
    server.checkout(user, "TRIAL", None).await.assert_error(409, "ALREADY_ENTITLED");
}

#[tokio::test]
async fn what_is_being_paid_is_not_sold_again_until_that_has_failed() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let unpaid = SessionEvent { payment_status: "unpaid", ..SessionEvent::paid(user) };
    server.deliver(&unpaid.json()).await;
    server.checkout(user, "PRO", None).await.assert_error(409, "PAYMENT_PENDING");
    assert_eq!(server.checkout(user, "TRIAL", None).await.status, 200, "another level is another matter");
    let failed = SessionEvent { kind: "checkout.session.async_payment_failed", ..unpaid.sibling() };
    server.deliver(&failed.json()).await;
    assert_eq!(server.checkout(user, "PRO", None).await.status, 200);
}

#[tokio::test]
async fn too_many_wishes_have_to_wait() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_CHECKOUT_PER_MINUTE", "3")]).await;
    let user = Uuid::new_v4();
    for _ in 0..3 {
        assert_eq!(server.checkout(user, "PRO", None).await.status, 200);
    }
    let answer = server.checkout(user, "PRO", None).await;
    answer.assert_error(429, "RATE_LIMITED");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().is_ok_and(|seconds| seconds >= 1));
    assert_eq!(server.checkout(Uuid::new_v4(), "PRO", None).await.status, 200, "others are not held up");
}

#[tokio::test]
async fn stripes_failures_stay_stripes() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_STRIPE_TIMEOUT", "800ms")]).await;
    let user = Uuid::new_v4();
    let secret = "Your card number 4242 and key sk_test_leak";
    let error = |kind: &str| json!({ "error": { "type": kind, "message": secret } }).to_string();
    world.stripe.fail_next(400, &error("invalid_request_error"), 1);
    let answer = server.checkout(user, "PRO", Some("a")).await;
    answer.assert_error(502, "STRIPE_ERROR");
    assert!(!answer.text.contains("4242") && !answer.text.contains("sk_test"), "{}", answer.text);
    assert!(!server.log().contains("4242"), "nor in the log");

    world.stripe.fail_next(500, &error("api_error"), 10);
    server.checkout(user, "PRO", Some("b")).await.assert_error(502, "STRIPE_ERROR");
    world.stripe.redirect_next();
    server.checkout(user, "PRO", None).await.assert_error(502, "STRIPE_ERROR");
}

/// Stripe stores a failure under its key and would repeat it for a day: the next try of the same click has another key.
#[tokio::test]
async fn a_stored_failure_does_not_stick_to_the_callers_key() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_STRIPE_ATTEMPTS", "1")]).await;
    let user = Uuid::new_v4();
    let body = json!({ "error": { "type": "api_error" } }).to_string();
    world.stripe.fail_next(500, &body, 1);
    server.checkout(user, "PRO", Some("click")).await.assert_error(502, "STRIPE_ERROR");
    let answer = server.checkout(user, "PRO", Some("click")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let keys: Vec<Option<String>> =
        world.stripe.requests().iter().map(|request| request.header("idempotency-key").map(String::from)).collect();
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_buyer_follows_his_session_and_nobody_elses() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let id = server.checkout(user, "TRIAL", None).await.json["sessionId"].as_str().unwrap().to_owned();
    let state = async |expected: Value| {
        let answer = session(&server, user, &id).await;
        assert_eq!(
            (answer.status, &answer.json["state"], &answer.json["granted"]),
            (200, &expected[0], &expected[1]),
            "{}",
            answer.text
        );
    };
    state(json!(["open", false])).await;
    let unpaid = SessionEvent {
        session: id.clone(),
        level: "TRIAL".into(),
        payment_status: "unpaid",
        ..SessionEvent::paid(user)
    };
    server.deliver(&unpaid.json()).await;
    state(json!(["pending", false])).await;
    let paid =
        SessionEvent { kind: "checkout.session.async_payment_succeeded", payment_status: "paid", ..unpaid.sibling() };
    server.deliver(&paid.json()).await;
    state(json!(["complete", true])).await;

    session(&server, Uuid::new_v4(), &id).await.assert_error(404, "NOT_FOUND");
    session(&server, user, "cs_test_unknown").await.assert_error(404, "NOT_FOUND");
    session(&server, user, "evt_1").await.assert_error(404, "NOT_FOUND");
    let anonymous = Answer::of(client().get(server.url(&format!("/api/checkout/session/{id}")))).await;
    anonymous.assert_error(401, "UNAUTHORIZED");

    let other = server.checkout(user, "PRO", None).await.json["sessionId"].as_str().unwrap().to_owned();
    let expired = SessionEvent {
        session: other.clone(),
        kind: "checkout.session.expired",
        payment_status: "unpaid",
        mode: "subscription",
        ..SessionEvent::paid(user)
    };
    server.deliver(&expired.json()).await;
    assert_eq!(session(&server, user, &other).await.json["state"], "expired");
}
