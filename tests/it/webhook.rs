//! `POST /api/webhooks/stripe`: every row of the contract's table, by sending it.

use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tollgate::intake::signature;
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    server::{Answer, TestServer, WEBHOOK_SECRET, World, client, unix_now},
};

fn signed(body: &[u8], at: i64) -> String {
    signature::sign(&SecretString::from(WEBHOOK_SECRET), at, body)
}

async fn nothing_is_stored(world: &World) {
    assert_eq!(world.database.value("SELECT count(*) FROM stripe_events").await, "0");
    let keys = world.redis.keys().await;
    assert!(keys.iter().all(|key| key.starts_with("webhook:event:canary:")), "{keys:?}");
}

/// Sends raw bytes and reads until the server closes, or the answer is complete.
async fn raw(server: &TestServer, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.public).await.unwrap();
    // The server may close before it has read all: that is its right after a 413.
    let _closed = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_not_signed_by_stripe_is_refused_and_leaves_no_trace() {
    let world = World::new().await;
    let server = world.serve().await;
    let body = serde_json::to_vec(&SessionEvent::paid(Uuid::new_v4()).json()).unwrap();

    let unsigned = server.post_webhook(&body, None).await;
    unsigned.assert_error(400, "MISSING_SIGNATURE");
    assert_eq!(unsigned.json["error"], "Missing stripe signature");

    let other = signature::sign(&SecretString::from("whsec_another0123456789abcdef0123"), unix_now(), &body);
    let mut changed = body.clone();
    *changed.last_mut().unwrap() = b' ';
    let now = unix_now();
    let good = signed(&body, now);
    for (what, body, header) in [
        ("another secret", &body, other),
        ("one byte changed", &changed, good.clone()),
        ("too old", &body, signed(&body, now - 310)),
        ("too new", &body, signed(&body, now + 310)),
        ("nothing in it", &body, "nonsense".into()),
        ("no v1", &body, good.replace("v1=", "v0=")),
        ("upper case", &body, good.to_uppercase().replace("T=", "t=").replace("V1=", "v1=")),
        ("no time", &body, good.split_once(',').unwrap().1.to_owned()),
    ] {
        let answer = server.post_webhook(body, Some(&header)).await;
        assert_eq!(answer.json["error"], "Invalid signature", "{what}");
        answer.assert_error(400, "INVALID_SIGNATURE");
    }
    nothing_is_stored(&world).await;
}

#[tokio::test]
async fn while_a_secret_is_rolled_both_are_good() {
    let world = World::new().await;
    let new = "whsec_new0123456789abcdef0123456789ab";
    let server = world.serve_with(&[("STRIPE_WEBHOOK_SECRET", &format!("{new},{WEBHOOK_SECRET}"))]).await;
    for secret in [new, WEBHOOK_SECRET] {
        let body = serde_json::to_vec(&SessionEvent::paid(Uuid::new_v4()).json()).unwrap();
        let header = signature::sign(&SecretString::from(secret), unix_now(), &body);
        assert_eq!(server.post_webhook(&body, Some(&header)).await.json["processed"], true);
        let rolled = header.replace(",v1=", &format!(",v1={},v1=", "0".repeat(64)));
        assert_eq!(server.post_webhook(&body, Some(&rolled)).await.json["idempotent"], true, "any v1 may match");
    }
}

#[tokio::test]
async fn a_good_signature_over_something_else_than_an_event_is_an_invalid_payload() {
    let world = World::new().await;
    let server = world.serve().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let long =
        format!(r#"{{"id":"evt_{}","object":"event","type":"a.b","created":1,"livemode":false}}"#, "a".repeat(300));
    for body in [
        "",
        "{}",
        "[]",
        "null",
        "not json",
        r#"{"id":"cs_1","object":"event","type":"a.b","created":1,"livemode":false,"data":{"object":{}}}"#,
        r#"{"id":"evt_1:*","object":"event","type":"a.b","created":1,"livemode":false,"data":{"object":{}}}"#,
        r#"{"id":"evt_1","object":"charge","type":"a.b","created":1,"livemode":false,"data":{"object":{}}}"#,
        r#"{"id":"evt_1","object":"event","type":"a b","created":1,"livemode":false,"data":{"object":{}}}"#,
        r#"{"id":"evt_1","object":"event","type":"a.b","created":99999999999999999999,"livemode":false,"data":{"object":{}}}"#,
        &deep,
        &long,
    ] {
        server.deliver_bytes(body.as_bytes()).await.assert_error(400, "INVALID_PAYLOAD");
    }
    server.deliver_bytes(b"\xff\xfe").await.assert_error(400, "INVALID_PAYLOAD");
    nothing_is_stored(&world).await;
}

#[tokio::test]
async fn what_is_not_handled_is_acknowledged_and_recorded() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let other_type = {
        let mut event = SessionEvent::paid(user).json();
        event["type"] = "customer.updated".into();
        event
    };
    let livemode = SessionEvent { livemode: true, ..SessionEvent::paid(user) }.json();
    let setup = SessionEvent { mode: "setup", ..SessionEvent::paid(user) }.json();
    let connected = {
        let mut event = SessionEvent::paid(user).json();
        event["account"] = "acct_1".into();
        event
    };
    let thin = json!({
        "id": "evt_thin_1", "object": "v2.core.event", "type": "v1.checkout.session.completed",
        "created": "2026-11-20T12:00:00.000Z", "livemode": false, "related_object": { "id": "cs_1" },
    });
    let events = [
        (other_type, "unhandled_type"),
        (livemode, "livemode_mismatch"),
        (setup, "setup_mode"),
        (connected, "connected_account"),
        (thin, "thin_event"),
    ];
    for (event, reason) in &events {
        let answer = server.deliver(event).await;
        assert_eq!((answer.status, answer.json["processed"].as_bool()), (200, Some(false)), "{}", answer.text);
        assert_eq!(answer.json["idempotent"], false);
        assert_eq!(answer.json["eventId"], event["id"]);
        assert!(answer.json.get("parked").is_none());
        let id = event["id"].as_str().unwrap();
        let row = format!("SELECT outcome || ' ' || reason FROM stripe_events WHERE id = '{id}'");
        assert_eq!(world.database.value(&row).await, format!("ignored {reason}"));
        // Of these two an endpoint that is registered in the wrong place sends many.
        let is_misplaced = matches!(*reason, "livemode_mismatch" | "connected_account");
        let warns = |line: &Value| line["fields"]["event.id"] == id && line["level"] == "WARN";
        assert_eq!(server.log_lines().iter().any(warns), is_misplaced, "{reason}");
        assert_eq!(server.deliver(event).await.json, json!({ "ok": true, "idempotent": true }));
    }
    assert_eq!(server.read(user).await.json["entitlementLevel"], "FREE");
    let metrics = Answer::of(client().get(server.admin_url("/metrics"))).await;
    let ignored = format!("tollgate_webhook_events_total{{outcome=\"ignored\"}} {}", events.len());
    assert!(metrics.text.contains(&ignored), "{}", metrics.text);
}

#[tokio::test]
async fn what_cannot_be_decided_is_parked_with_its_reason() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let with = |change: &dyn Fn(&mut SessionEvent)| {
        let mut event = SessionEvent::paid(user);
        change(&mut event);
        event
    };
    let cases = [
        ("missing_metadata", with(&|event| event.metadata = Some(json!({})))),
        ("missing_metadata", with(&|event| event.metadata = Some(json!({ "userId": user.to_string() })))),
        ("missing_metadata", with(&|event| event.metadata = Some(json!({ "entitlementLevel": "PRO" })))),
        ("invalid_user", with(&|event| event.metadata = Some(json!({ "userId": "me", "entitlementLevel": "PRO" })))),
        ("user_mismatch", with(&|event| event.client_reference_id = Some(Uuid::new_v4().to_string()))),
        ("unknown_level", with(&|event| event.level = "ADMIN".into())),
        ("unknown_level", with(&|event| event.level = "pro".into())),
        ("unknown_level", with(&|event| event.level = "FREE".into())),
        ("unknown_status", with(&|event| event.payment_status = "promised")),
        ("unknown_status", with(&|event| event.mode = "lease")),
        ("incomplete_object", with(&|event| event.mode = "subscription")),
    ];
    for (reason, event) in cases {
        let answer = server.deliver(&event.json()).await;
        assert_eq!((answer.status, answer.json["parked"].as_bool()), (200, Some(true)), "{reason}: {}", answer.text);
        assert_eq!(answer.json["processed"], false);
        assert!(answer.json["message"].as_str().unwrap().starts_with("parked:"), "{}", answer.text);
        let row = format!("SELECT reason, payload IS NOT NULL FROM stripe_events WHERE id = '{}'", event.id);
        assert_eq!(world.database.query(&row).await, [[Some(reason.to_owned()), Some("t".into())]], "{reason}");
        assert_eq!(server.deliver(&event.json()).await.json, json!({ "ok": true, "idempotent": true }), "{reason}");
    }
    assert_eq!(server.read(user).await.json["entitlementLevel"], "FREE", "nothing is given by default");
}

#[tokio::test]
async fn a_delayed_payment_grants_when_it_is_paid() {
    let world = World::new().await;
    let server = world.serve().await;
    let unpaid = SessionEvent { payment_status: "unpaid", ..SessionEvent::paid(Uuid::new_v4()) };
    assert_eq!(server.deliver(&unpaid.json()).await.json["processed"], true);
    assert_eq!(server.read(unpaid.user).await.json["entitlementLevel"], "FREE");
    let live = format!("SELECT status, expires_at > now() FROM user_entitlements WHERE user_id = '{}'", unpaid.user);
    assert_eq!(world.database.query(&live).await, [[Some("pending".to_owned()), Some("f".into())]]);

    let paid =
        SessionEvent { kind: "checkout.session.async_payment_succeeded", payment_status: "paid", ..unpaid.sibling() };
    assert_eq!(server.deliver(&paid.json()).await.json["processed"], true);
    assert_eq!(server.read(unpaid.user).await.json["entitlementLevel"], "PRO");
    assert_eq!(world.database.query(&live).await, [[Some("active".to_owned()), Some("t".into())]]);

    let late =
        SessionEvent { kind: "checkout.session.async_payment_failed", payment_status: "unpaid", ..unpaid.sibling() };
    let answer = server.deliver(&late.json()).await;
    assert_eq!((answer.json["processed"].as_bool(), answer.json["idempotent"].as_bool()), (Some(false), Some(false)));
    assert_eq!(server.read(unpaid.user).await.json["entitlementLevel"], "PRO", "superseded");

    let failed = SessionEvent {
        kind: "checkout.session.async_payment_failed",
        payment_status: "unpaid",
        ..SessionEvent::paid(Uuid::new_v4())
    };
    assert_eq!(server.deliver(&failed.json()).await.json["processed"], true);
    assert_eq!(server.read(failed.user).await.json["entitlementLevel"], "FREE");
    let expired = SessionEvent {
        kind: "checkout.session.expired",
        payment_status: "unpaid",
        ..SessionEvent::paid(Uuid::new_v4())
    };
    assert_eq!(server.deliver(&expired.json()).await.json["processed"], true);
    assert_eq!(server.read(expired.user).await.json["entitlementLevel"], "FREE");
}

#[tokio::test]
async fn other_methods_are_told_which_one_is_allowed() {
    let world = World::new().await;
    let server = world.serve().await;
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        let method = method.parse().unwrap();
        let answer = Answer::of(client().request(method, server.url("/api/webhooks/stripe"))).await;
        answer.assert_error(405, "METHOD_NOT_ALLOWED");
        assert_eq!(answer.header("allow"), Some("POST"));
        assert!(answer.header("access-control-allow-origin").is_none());
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_gets_its_answer() {
    let world = World::new().await;
    let server = world.serve().await;
    const LIMIT: usize = 1024 * 1024;
    let exactly = vec![b' '; LIMIT];
    server.deliver_bytes(&exactly).await.assert_error(400, "INVALID_PAYLOAD");
    let beyond = vec![b' '; LIMIT + 1];
    server.post_webhook(&beyond, Some(&signed(&beyond, unix_now()))).await.assert_error(413, "PAYLOAD_TOO_LARGE");

    // The same in chunks, where no length is announced.
    let mut chunked = format!(
        "POST /api/webhooks/stripe HTTP/1.1\r\nHost: t\r\nStripe-Signature: t=1,v1=00\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        LIMIT + 1
    )
    .into_bytes();
    chunked.extend(&beyond);
    chunked.extend(b"\r\n0\r\n\r\n");
    let answer = raw(&server, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
    nothing_is_stored(&world).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_BODY_TIMEOUT", "200ms")]).await;
    let request =
        "POST /api/webhooks/stripe HTTP/1.1\r\nHost: t\r\nStripe-Signature: t=1,v1=00\r\nContent-Length: 100\r\n\r\n{";
    let answer = raw(&server, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let world = World::new().await;
    let server = world.serve().await;
    let request = client()
        .post(server.url("/api/webhooks/stripe"))
        .header("Content-Encoding", "gzip")
        .header("Stripe-Signature", "t=1,v1=00")
        .body("x");
    Answer::of(request).await.assert_error(415, "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_refused() {
    let world = World::new().await;
    let server = world.serve().await;
    for headers in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 3",
        "Transfer-Encoding: xchunked",
    ] {
        let request =
            format!("POST /api/webhooks/stripe HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}\r\n\r\n{{}}");
        let answer = raw(&server, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{headers}: {answer}");
    }
}

#[tokio::test]
async fn without_a_secret_the_webhook_says_so_and_the_rest_works() {
    let world = World::new().await;
    let server = world.serve_with(&[("STRIPE_WEBHOOK_SECRET", "")]).await;
    server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await.assert_error(500, "WEBHOOK_SECRET_NOT_CONFIGURED");
    assert_eq!(Answer::of(client().get(server.url("/health/ready"))).await.status, 503, "readiness is red");
    assert_eq!(Answer::of(client().get(server.url("/health/live"))).await.status, 200);
    assert_eq!(server.checkout(Uuid::new_v4(), "PRO", None).await.status, 200);
}

#[tokio::test]
async fn without_the_ledger_nothing_is_claimed() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_LEDGER_LOCK_TIMEOUT", "300ms")]).await;
    let event = SessionEvent::paid(Uuid::new_v4());
    // Somebody holds the inbox: no transaction of ours can commit.
    let other = world.database.connect().await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE stripe_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let answer = server.deliver(&event.json()).await;
    answer.assert_error(503, "UNAVAILABLE");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().is_ok_and(|seconds| seconds >= 1));
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(server.deliver(&event.json()).await.json["processed"], true, "Stripe sends it again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_at_once_are_told_to_come_back() {
    let world = World::new().await;
    let settings = [("TOLLGATE_WEBHOOKS_IN_FLIGHT", "1"), ("TOLLGATE_LEDGER_LOCK_TIMEOUT", "30s")];
    let patient = [
        ("TOLLGATE_LEDGER_STATEMENT_TIMEOUT", "40s"),
        ("TOLLGATE_LEDGER_COMMIT_TIMEOUT", "40s"),
        ("TOLLGATE_REPLY_TIMEOUT", "50s"),
    ];
    let server = std::sync::Arc::new(world.serve_with(&[&settings[..], &patient[..]].concat()).await);
    // One delivery that waits for the ledger takes the only place.
    let other = world.database.connect().await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE stripe_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = SessionEvent::paid(Uuid::new_v4());
    let first = tokio::spawn({
        let (server, event) = (std::sync::Arc::clone(&server), waiting.json());
        async move { server.deliver(&event).await }
    });
    crate::harness::eventually(
        std::time::Duration::from_secs(30),
        "the first delivery waits for the ledger",
        || async {
            let waits = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                     WHERE c.relname = 'stripe_events' AND NOT l.granted";
            world.database.value(waits).await != "0"
        },
    )
    .await;
    let refused = SessionEvent::paid(Uuid::new_v4());
    let answer = server.deliver(&refused.json()).await;
    answer.assert_error(503, "UNAVAILABLE");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(server.count_logged("event not taken", &refused.id), 0, "refused at the door, not by the ledger");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(first.await.unwrap().json["processed"], true);
    assert_eq!(server.deliver(&refused.json()).await.json["processed"], true);
}

/// Regression: without a Stripe key live events were ignored with a 200, and Stripe never sent them again.
#[tokio::test]
async fn without_a_key_the_secret_alone_says_which_events_are_ours() {
    let world = World::new().await;
    let server = world.serve_with(&[("STRIPE_SECRET_KEY", "")]).await;
    for livemode in [true, false] {
        let event = SessionEvent { livemode, ..SessionEvent::paid(Uuid::new_v4()) };
        assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
    }
}
