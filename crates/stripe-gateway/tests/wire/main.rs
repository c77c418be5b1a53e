//! The gateway on the wire: connections, headers, attempts, limits, and what its errors give away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod server;

use std::time::Duration;

use server::{Reply, Server};
use stripe_gateway::{
    CreatedSession, GatewayConfig, GatewayError, Mode, NewCheckoutSession, PageOptions, Price, StripeGateway,
    Unavailability,
};

const KEY: &str = "sk_test_do_not_print";

fn session() -> NewCheckoutSession {
    NewCheckoutSession {
        user_id: "u1".into(),
        customer: None,
        level: "PRO".into(),
        mode: Mode::Subscription,
        price: Price::Id("price_1".into()),
        success_url: "https://app.test/ok?id={CHECKOUT_SESSION_ID}".into(),
        cancel_url: "https://app.test/no".into(),
        page: PageOptions::default(),
        more_metadata: vec![],
    }
}

fn config(server: &Server) -> GatewayConfig {
    GatewayConfig { api_base: server.url.clone(), ..GatewayConfig::new(KEY.into()) }
}

async fn create(config: GatewayConfig) -> Result<CreatedSession, GatewayError> {
    let gateway = StripeGateway::new(config).unwrap();
    gateway.create_checkout_session(session(), "purchase-1").await
}

fn created() -> Reply {
    let body = r#"{"id":"cs_test_1","object":"checkout.session","url":"https://checkout.stripe.com/c/pay/cs_test_1",
        "expires_at":1800000000,"something_new":[{"a":null}],"mode":"future_mode"}"#;
    Reply::Answer("200 OK", "", body.to_owned())
}

fn failed(status: &'static str, headers: &'static str) -> Reply {
    let body = r#"{"error":{"type":"api_error","code":"some_code","message":"SECRET DETAIL"}}"#;
    Reply::Answer(status, headers, body.to_owned())
}

#[tokio::test]
async fn a_session_is_read_although_most_of_its_fields_are_missing() {
    let server = Server::start(vec![created()]).await;
    let expected = CreatedSession {
        id: "cs_test_1".into(),
        url: "https://checkout.stripe.com/c/pay/cs_test_1".into(),
        expires_at: 1_800_000_000,
    };
    assert_eq!(create(config(&server)).await.unwrap(), expected);
}

#[tokio::test]
async fn calls_share_one_connection_and_say_who_what_and_which_version() {
    let server = Server::start((0..4).map(|_| created()).collect()).await;
    let gateway = StripeGateway::new(config(&server)).unwrap();
    for call in 0..4 {
        let key = format!("purchase-{call}");
        let gateway = gateway.clone();
        gateway.create_checkout_session(session(), &key).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    for (call, seen) in server.seen().iter().enumerate() {
        assert!(seen.head.starts_with("POST /v1/checkout/sessions HTTP/1.1"));
        assert_eq!(seen.header("authorization").unwrap(), format!("Bearer {KEY}"));
        assert_eq!(seen.header("idempotency-key").unwrap(), format!("purchase-{call}"));
        assert_eq!(seen.header("stripe-version"), Some("2026-09-30.endive"));
        assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
        assert!(seen.header("user-agent").unwrap().starts_with("Tollgate/"));
        assert!(seen.body.contains("client_reference_id=u1"));
    }
}

#[tokio::test]
async fn passing_faults_are_retried_with_the_same_key() {
    let html = "<html>Bad Gateway</html>".to_owned();
    let server = Server::start(vec![
        failed("500 Internal Server Error", ""),
        Reply::Answer("502 Bad Gateway", "content-type: text/html\r\n", html),
        failed("409 Conflict", "stripe-should-retry: true\r\n"),
        Reply::HangUp,
        Reply::CutShort,
        created(),
    ])
    .await;
    let config = GatewayConfig { attempts: 6, ..config(&server) };
    create(config).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 6);
    for attempt in &seen {
        assert_eq!(attempt.header("idempotency-key"), Some("purchase-1"));
        assert_eq!(attempt.body, seen[0].body);
    }
}

#[tokio::test]
async fn after_the_last_attempt_the_caller_learns_whether_its_key_is_spent() {
    let server = Server::start(vec![failed("503 Service Unavailable", ""), Reply::HangUp]).await;
    let twice = GatewayConfig { attempts: 2, ..config(&server) };
    let error = create(twice).await.unwrap_err();
    let expected = GatewayError::Unavailable { cause: Unavailability::Network, attempts: 2, stored_failure: true };
    assert_eq!(error, expected);
    assert!(error.needs_new_key());

    let limited = (0..3).map(|_| failed("429 Too Many Requests", "")).collect();
    let server = Server::start(limited).await;
    let error = create(config(&server)).await.unwrap_err();
    assert!(matches!(error, GatewayError::Unavailable { attempts: 3, stored_failure: false, .. }));
    assert!(!error.needs_new_key());
}

#[tokio::test]
async fn a_refusal_is_final_and_shows_only_status_and_code() {
    let server = Server::start(vec![failed("400 Bad Request", "")]).await;
    let error = create(config(&server)).await.unwrap_err();
    let expected = GatewayError::Refused { status: 400, code: Some("some_code".into()) };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "Stripe refused the request (status 400, code some_code)");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_code_that_is_not_one_word_is_dropped() {
    let body = r#"{"error":{"code":"No such price: SECRET"}}"#.to_owned();
    let server = Server::start(vec![Reply::Answer("404 Not Found", "", body)]).await;
    let error = create(config(&server)).await.unwrap_err();
    assert_eq!(error, GatewayError::Refused { status: 404, code: None });
}

#[tokio::test]
async fn stripe_can_forbid_another_attempt_and_a_replayed_failure_is_not_repeated() {
    for header in ["stripe-should-retry: false\r\n", "idempotent-replayed: true\r\n"] {
        let server = Server::start(vec![failed("500 Internal Server Error", header)]).await;
        let error = create(config(&server)).await.unwrap_err();
        assert!(matches!(error, GatewayError::Unavailable { attempts: 1, stored_failure: true, .. }));
    }
}

#[tokio::test]
async fn an_attempt_and_the_whole_call_are_bounded_in_time() {
    let server = Server::start(vec![Reply::Silence, created()]).await;
    let quick = GatewayConfig { timeout: Duration::from_millis(100), ..config(&server) };
    create(quick).await.expect("the second attempt is answered");

    let server = Server::start(vec![Reply::Silence]).await;
    let short = GatewayConfig {
        timeout: Duration::from_secs(60),
        total_timeout: Duration::from_millis(100),
        ..config(&server)
    };
    let error = create(short).await.unwrap_err();
    let expected = GatewayError::Unavailable { cause: Unavailability::Timeout, attempts: 1, stored_failure: false };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn a_pause_longer_than_the_time_left_is_not_begun() {
    let limited = failed("429 Too Many Requests", "retry-after: 3600\r\n");
    let server = Server::start(vec![limited]).await;
    let error = create(config(&server)).await.unwrap_err();
    assert!(matches!(error, GatewayError::Unavailable { attempts: 1, .. }));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(vec![created()]).await;
    // The header must be 'static for the script; one leaked line in a test is harmless.
    let location: &'static str = format!("location: {}/v1/checkout/sessions\r\n", elsewhere.url).leak();
    let redirect = Reply::Answer("307 Temporary Redirect", location, String::new());
    let server = Server::start(vec![redirect]).await;
    let error = create(config(&server)).await.unwrap_err();
    assert_eq!(error, GatewayError::Refused { status: 307, code: None });
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_success_that_is_no_session_is_unreadable() {
    for body in ["", "<html>", "{}", r#"{"id":"cs_1","url":null,"expires_at":1}"#] {
        let answer = Reply::Answer("200 OK", "", body.to_owned());
        let server = Server::start(vec![answer]).await;
        let error = create(config(&server)).await.unwrap_err();
        assert_eq!(error, GatewayError::Unreadable, "{body}");
    }
}

#[tokio::test]
async fn no_more_than_a_mebibyte_is_read() {
    let announced = Reply::Answer("200 OK", "", " ".repeat(1024 * 1024 + 1));
    for oversized in [announced, Reply::Flood] {
        let server = Server::start(vec![oversized]).await;
        let error = create(config(&server)).await.unwrap_err();
        assert_eq!(error, GatewayError::Unreadable);
    }
}

#[tokio::test]
async fn nothing_shows_the_key_or_stripes_message() {
    let server = Server::start(vec![failed("402 Payment Required", "")]).await;
    let gateway = StripeGateway::new(config(&server)).unwrap();
    let error = gateway.create_checkout_session(session(), "purchase-1").await.unwrap_err();
    for shown in [format!("{gateway:?}"), format!("{:?}", config(&server)), format!("{error:?}"), error.to_string()] {
        assert!(!shown.contains("do_not_print") && !shown.contains("SECRET"), "{shown}");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_sent_stops_the_call() {
    let server = Server::start(Vec::new()).await;
    let gateway = StripeGateway::new(config(&server)).unwrap();
    for key in ["", "a b", "ключ", &"k".repeat(256)] {
        let error = gateway.create_checkout_session(session(), key).await;
        assert!(matches!(error, Err(GatewayError::Configuration(_))), "{key}");
    }
    assert_eq!(server.connections(), 0);
}

/// The certificate roots and the provider come with the crate: no process-wide provider is installed in this test.
#[tokio::test]
async fn https_needs_no_provider_installed_by_the_process() {
    let config = GatewayConfig {
        // A port that nobody listens on: getting as far as "no connection" is enough.
        api_base: "https://127.0.0.1:1".into(),
        attempts: 1,
        ..GatewayConfig::new(KEY.into())
    };
    let error = create(config).await.unwrap_err();
    assert!(matches!(error, GatewayError::Unavailable { cause: Unavailability::Network, .. }));
}

const fn assert_send_sync<T: Clone + Send + Sync>() {}
const _: () = assert_send_sync::<StripeGateway>();

#[tokio::test]
async fn objects_are_fetched_as_they_are_with_stripes_time() {
    let body = r#"{"id":"x","new":[1,null]}"#;
    let dated = "date: Wed, 21 Oct 2026 07:28:00 GMT\r\n";
    let script = vec![
        failed("500 Internal Server Error", ""),
        Reply::Answer("200 OK", dated, body.to_owned()),
        Reply::Answer("200 OK", dated, body.to_owned()),
        Reply::Answer("200 OK", dated, body.to_owned()),
        Reply::Answer("200 OK", dated, body.to_owned()),
        Reply::Answer("200 OK", dated, body.to_owned()),
        Reply::Answer("200 OK", dated, body.to_owned()),
    ];
    let server = Server::start(script).await;
    let gateway = StripeGateway::new(config(&server)).unwrap().in_background();
    let fetched = gateway.retrieve_session("cs_test_1").await.unwrap();
    assert_eq!((&fetched.json[..], fetched.at), (body.as_bytes(), 1_792_567_680));
    gateway.retrieve_subscription("sub_1").await.unwrap();
    gateway.retrieve_payment_intent("pi_1").await.unwrap();
    gateway.invoice_payments_of("pi_1&limit=1").await.unwrap();
    gateway.retrieve_invoice("in_1").await.unwrap();
    gateway.paid_invoices_of("sub_1").await.unwrap();
    let seen = server.seen();
    let asked: Vec<&str> = seen.iter().map(|seen| seen.head.split(' ').nth(1).unwrap()).collect();
    let list =
        "/v1/invoice_payments?limit=100&payment%5Bpayment_intent%5D=pi_1%26limit%3D1&payment%5Btype%5D=payment_intent";
    assert_eq!(
        asked.iter().map(|path| path.replace("[", "%5B").replace("]", "%5D")).collect::<Vec<_>>(),
        [
            "/v1/checkout/sessions/cs_test_1",
            "/v1/checkout/sessions/cs_test_1",
            "/v1/subscriptions/sub_1",
            "/v1/payment_intents/pi_1?expand%5B%5D=latest_charge",
            list,
            "/v1/invoices/in_1",
            "/v1/invoices?limit=10&status=paid&subscription=sub_1",
        ]
    );
    for seen in &seen {
        assert!(seen.head.starts_with("GET "), "{}", seen.head);
        assert_eq!((seen.header("stripe-version"), seen.header("idempotency-key")), (Some("2026-09-30.endive"), None));
    }
}

#[tokio::test]
async fn what_cannot_be_told_apart_from_older_news_is_no_answer() {
    let server = Server::start(vec![Reply::Answer("200 OK", "", "{}".to_owned())]).await;
    let gateway = StripeGateway::new(config(&server)).unwrap();
    assert_eq!(gateway.retrieve_session("cs_test_1").await, Err(GatewayError::Unreadable));
}

#[tokio::test]
async fn an_id_leads_nowhere_else() {
    let server = Server::start(vec![]).await;
    let gateway = StripeGateway::new(config(&server)).unwrap();
    for id in ["", "../customers", "cs_1?expand[]=customer", "cs_1/expire", "cs 1", "cs_\u{e9}"] {
        assert!(matches!(gateway.retrieve_session(id).await, Err(GatewayError::Configuration(_))), "{id}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_portal_is_opened_for_a_customer_who_is_there() {
    let missing =
        r#"{"error":{"type":"invalid_request_error","code":"resource_missing","message":"No such customer"}}"#;
    let server = Server::start(vec![
        Reply::HangUp,
        Reply::Answer("200 OK", "", r#"{"url":"https://billing.stripe.com/p/1"}"#.to_owned()),
        Reply::Answer("400 Bad Request", "", missing.to_owned()),
    ])
    .await;
    let gateway = StripeGateway::new(config(&server)).unwrap();
    let open = async || gateway.create_portal_session("cus_1", "https://app.test/a&b").await;
    assert_eq!(open().await.unwrap(), "https://billing.stripe.com/p/1");
    assert!(open().await.unwrap_err().is_missing());
    let seen = server.seen();
    assert!(seen[0].head.starts_with("POST /v1/billing_portal/sessions HTTP/1.1"));
    assert_eq!(seen[1].body, "customer=cus_1&return_url=https://app.test/a%26b");
    let keys: Vec<_> = seen.iter().map(|seen| seen.header("idempotency-key").unwrap()).collect();
    assert!(keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
}

/// Whoever has used up the background's share keeps no buyer waiting, and is told at once that his turn would come too late.
#[tokio::test]
async fn the_background_never_holds_up_a_buyer() {
    let dated = "date: Wed, 21 Oct 2026 07:28:00 GMT\r\n";
    let answers = (0..40).map(|_| Reply::Answer("200 OK", dated, "{}".to_owned())).chain([created()]).collect();
    let server = Server::start(answers).await;
    let impatient = GatewayConfig { total_timeout: Duration::from_millis(20), ..config(&server) };
    let gateway = StripeGateway::new(GatewayConfig { timeout: Duration::from_secs(5), ..impatient }).unwrap();
    let paced = |result: &Result<_, GatewayError>| {
        matches!(result, Err(GatewayError::Unavailable { cause: Unavailability::Paced, attempts: 0, .. }))
    };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let background = gateway.in_background();
        calls.spawn(async move { background.retrieve_session("cs_test_1").await });
    }
    assert!(calls.join_all().await.iter().any(paced));
    assert!(!paced(&gateway.retrieve_session("cs_test_1").await));
}
