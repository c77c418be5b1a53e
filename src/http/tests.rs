//! The routes over a real socket, without stores: what is refused before anything is asked, and what every answer has.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use actix_web::{App, HttpServer};
use async_trait::async_trait;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::*;
use crate::{
    actor::ActorLimits,
    auth,
    billing::{
        Fulfilment,
        tests::{MemoryLedger, closed_shop},
    },
    cache::{Cache, RedisCache, RedisSettings},
    config::ServerConfig,
    domain::{id::UserId, plan},
    intake::{Interpreter, signature::sign},
    trial::Trials,
    watch::Hub,
};

const JWT_SECRET: &str = "0123456789abcdef0123456789abcdef";
const WEBHOOK_SECRET: &str = "whsec_0123456789abcdef";
const SERVICE_TOKEN: &str = "service-token-for-tests";
const ADMIN_TOKEN: &str = "operators-token";
const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
const WEBHOOK: &str = "/api/webhooks/stripe";
const CHECKOUT: &str = "/api/checkout/session";

struct Report(DependencyState);

#[async_trait]
impl Readiness for Report {
    async fn check(&self) -> ReadyReport {
        ReadyReport::new(vec![Dependency { name: "ledger", status: self.0, detail: None }])
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

fn parts() -> Parts {
    let catalogue = plan::tests::catalogue();
    let ledger = Arc::<MemoryLedger>::default();
    let cache = Cache::from(RedisCache::new("redis://127.0.0.1:1/", RedisSettings::default()).unwrap());
    let wait = Duration::from_secs(1);
    let actors = ActorLimits {
        arbiters: 1,
        idle: wait,
        live_max: 10,
        per_user_max: 64,
        reply_timeout: wait,
        commit_timeout: wait,
        cache_budget: Duration::from_millis(50),
        lanes: 1,
        queue_max: 10,
        batch_max: 10,
    };
    let hub = Hub::new(1);
    let reader = EntitlementReader::new(cache.clone(), ledger.clone(), actors.cache_budget, 4);
    let entitlements = Entitlements::start(ledger.clone(), cache, hub.clone(), Activity::unwatched(), actors);
    let interpreter = Interpreter::new(catalogue.clone(), Some(false));
    let trials = Trials::new(ledger.clone(), entitlements.clone(), interpreter.clone());
    let operators = Operators::new(ledger.clone(), entitlements.clone(), trials.clone());
    let billing = closed_shop(ledger.clone());
    Parts {
        fulfilment: Fulfilment::new(billing.clone(), interpreter, entitlements.clone()),
        billing,
        entitlements,
        watch: Watch::new(hub, reader.clone(), ledger),
        reader,
        trials,
        webhook_secrets: WebhookSecrets::new(&[WEBHOOK_SECRET.into()]).ok(),
        tolerance: Tolerance::STRIPE,
        activity: Activity::unwatched(),
        operators,
        sessions: SessionVerifier::new(&JWT_SECRET.into(), None),
        service_tokens: ServiceTokens::new(&[SERVICE_TOKEN.into()]),
        catalogue: catalogue.into(),
        readiness: Arc::new(Report(DependencyState::Degraded)),
        render_metrics: Arc::new(|| "up 1\n".to_owned()),
        admin_token: Some(ADMIN_TOKEN.into()),
        clients: Clients::new(&[], NonZeroU32::MAX),
        limits: Limits {
            body_timeout: Duration::from_millis(300),
            bodies_bytes_max: 8 * 1024 * 1024,
            webhooks_in_flight_max: 4,
        },
    }
}

fn session_token() -> String {
    let now = chrono::Utc::now().timestamp();
    auth::issue(&JWT_SECRET.into(), None, UserId::parse(USER).unwrap(), Duration::from_secs(60), now).unwrap()
}

async fn boom() -> HttpResponse {
    panic!("a handler's bug")
}

/// A server on a port of its own, until the test ends.
struct Site(SocketAddr);

impl Site {
    fn public(parts: Parts) -> Self {
        let state = State::new(parts);
        Self::start(move |app| {
            app.route("/boom", web::get().to(boom));
            routes(state.clone())(app);
        })
    }

    fn admin(parts: Parts) -> Self {
        let state = State::new(parts);
        Self::start(move |app| admin_routes(state.clone())(app))
    }

    fn start(routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static) -> Self {
        let server = HttpServer::new(move || App::new().wrap(RequestId::default()).configure(routes.clone()))
            .workers(1)
            .disable_signals()
            .bind("127.0.0.1:0")
            .unwrap();
        let address = server.addrs()[0];
        actix_web::rt::spawn(server.run());
        Self(address)
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            request += &format!("content-length: {}\r\n", body.len());
        }
        self.raw(&format!("{request}\r\n{body}")).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, "").await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.ask("POST", path, headers, body).await
    }

    async fn raw(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    /// Until the server closes; a head without a body's end is good enough.
    async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
        read.expect("the server closes").expect("no reset before the answer was read");
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.into()));
        let answer = Self { status, headers: headers.collect(), body: body.to_owned() };
        assert!(!answer.header("x-request-id").is_empty(), "every answer has an id");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        answer
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_str(&self.body).unwrap()
    }

    /// Status and code of a refusal.
    fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        assert!(!body["error"].as_str().unwrap().is_empty());
        (self.status, body["code"].as_str().unwrap().to_owned())
    }
}

fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[actix_web::test]
async fn every_answer_has_the_callers_id_or_a_new_one() {
    let site = Site::public(parts());
    assert_eq!(site.get("/health/live", &[("x-request-id", "mine-1")]).await.header("x-request-id"), "mine-1");
    for wrong in ["a b", "a;b", &"x".repeat(65)] {
        let answer = site.get("/health/live", &[("x-request-id", wrong)]).await;
        assert_eq!(answer.header("x-request-id").len(), 32, "{wrong}");
    }
    let (one, other) = (site.get("/nowhere", &[]).await, site.get("/nowhere", &[]).await);
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
}

#[actix_web::test]
async fn unknown_routes_and_methods() {
    let site = Site::public(parts());
    for path in
        ["/", "/metrics", "/api/admin/events", "/api/entitlements/", "/api/webhooks/stripe/", "/docs/nothing.js"]
    {
        assert_eq!(site.get(path, &[]).await.refusal(), refusal(404, "NOT_FOUND"), "{path}");
    }
    for (method, path, allow) in [
        ("GET", WEBHOOK, "POST"),
        ("PUT", WEBHOOK, "POST"),
        ("TRACE", WEBHOOK, "POST"),
        ("OPTIONS", WEBHOOK, "POST"),
        ("GET", CHECKOUT, "POST"),
        ("POST", "/api/entitlements", "GET, HEAD"),
        ("DELETE", "/api/checkout/session/cs_1", "GET, HEAD"),
        ("POST", "/health/ready", "GET, HEAD"),
    ] {
        let answer = site.ask(method, path, &[("origin", "https://evil.test")], "").await;
        assert_eq!(answer.refusal(), refusal(405, "METHOD_NOT_ALLOWED"), "{method} {path}");
        assert_eq!(answer.header("allow"), allow);
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    let head = site.ask("HEAD", "/health/live", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[actix_web::test]
async fn a_panic_is_a_500_and_the_server_goes_on() {
    let site = Site::public(parts());
    let answer = site.get("/boom", &[("x-request-id", "mine-2")]).await;
    assert_eq!(answer.refusal(), refusal(500, "INTERNAL"));
    assert_eq!(answer.header("x-request-id"), "mine-2");
    assert!(!answer.body.contains("bug"));
    assert_eq!(site.get("/health/live", &[]).await.json(), json!({ "status": "live" }));
}

#[actix_web::test]
async fn webhooks_that_are_refused() {
    let site = Site::public(parts());
    let now = chrono::Utc::now().timestamp();
    let good = sign(&WEBHOOK_SECRET.into(), now, b"{}");
    let old = sign(&WEBHOOK_SECRET.into(), now - 400, b"{}");
    let other = sign(&"whsec_another_secret_0".into(), now, b"{}");
    for (headers, status, code) in [
        (vec![], 400, "MISSING_SIGNATURE"),
        (vec![("stripe-signature", "")], 400, "MISSING_SIGNATURE"),
        (vec![("stripe-signature", "nonsense")], 400, "INVALID_SIGNATURE"),
        (vec![("stripe-signature", old.as_str())], 400, "INVALID_SIGNATURE"),
        (vec![("stripe-signature", other.as_str())], 400, "INVALID_SIGNATURE"),
        (vec![("stripe-signature", good.as_str()), ("stripe-signature", good.as_str())], 400, "INVALID_SIGNATURE"),
        (vec![("stripe-signature", good.as_str())], 400, "INVALID_PAYLOAD"),
        (vec![("stripe-signature", good.as_str()), ("content-type", "text/plain")], 400, "INVALID_PAYLOAD"),
        (vec![("stripe-signature", good.as_str()), ("content-encoding", "identity")], 400, "INVALID_PAYLOAD"),
        (vec![("stripe-signature", good.as_str()), ("content-encoding", "gzip")], 415, "UNSUPPORTED_MEDIA_TYPE"),
    ] {
        let answer = site.post(WEBHOOK, &headers, "{}").await;
        assert_eq!(answer.refusal(), refusal(status, code), "{headers:?}");
    }
    let answer = site.post(WEBHOOK, &[("stripe-signature", &good)], "{} ").await;
    assert_eq!(answer.refusal(), refusal(400, "INVALID_SIGNATURE"));
    assert_eq!(answer.json()["error"], "Invalid signature");
}

#[actix_web::test]
async fn what_the_ledger_does_not_hold_is_not_acknowledged() {
    let site = Site::public(parts());
    let object = json!({
        "id": "cs_test_1", "object": "checkout.session", "mode": "payment", "payment_status": "paid",
        "client_reference_id": USER, "metadata": { "userId": USER, "entitlementLevel": "TRIAL" },
    });
    for kind in ["checkout.session.completed", "customer.created"] {
        let event = json!({
            "id": "evt_1", "object": "event", "type": kind, "created": 1_700_000_000, "livemode": false,
            "api_version": "2025-01-27.acacia", "data": { "object": object },
        });
        let body = event.to_string();
        let signature = sign(&WEBHOOK_SECRET.into(), chrono::Utc::now().timestamp(), body.as_bytes());
        let answer = site.post(WEBHOOK, &[("stripe-signature", &signature)], &body).await;
        assert_eq!(answer.refusal(), refusal(503, "UNAVAILABLE"), "{kind}");
        assert!(!answer.header("retry-after").is_empty());
    }
}

#[actix_web::test]
async fn webhooks_without_a_secret_and_without_room() {
    let mut without = parts();
    without.webhook_secrets = None;
    let answer = Site::public(without).post(WEBHOOK, &[], "{}").await;
    assert_eq!(answer.refusal(), refusal(500, "WEBHOOK_SECRET_NOT_CONFIGURED"));

    let mut full = parts();
    full.limits.webhooks_in_flight_max = 0;
    let answer = Site::public(full).post(WEBHOOK, &[], "{}").await;
    assert_eq!(answer.refusal(), refusal(503, "UNAVAILABLE"));
    assert!((1..=5).contains(&answer.header("retry-after").parse::<u32>().unwrap()));
}

#[actix_web::test]
async fn a_slow_body_is_given_up() {
    let site = Site::public(parts());
    for start in ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"] {
        let answer = site.raw(&format!("POST {WEBHOOK} HTTP/1.1\r\nhost: t\r\nstripe-signature: t=1\r\n{start}")).await;
        assert_eq!(answer.refusal(), refusal(408, "REQUEST_TIMEOUT"));
        assert_eq!(answer.header("connection"), "close");
    }
}

#[actix_web::test]
async fn an_unfinished_body_does_not_keep_the_connection() {
    let site = Site::public(parts());
    let targets = [
        (format!("POST {WEBHOOK}"), "MISSING_SIGNATURE"),
        (format!("PUT {WEBHOOK}"), "METHOD_NOT_ALLOWED"),
        (format!("POST {CHECKOUT}"), "UNAUTHORIZED"),
        ("POST /nowhere".to_owned(), "NOT_FOUND"),
        ("GET /boom".to_owned(), "INTERNAL"),
    ];
    let bodies = ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"];
    // At once, since the server reads on for a second after each answer. (That time must not be shorter: its clock is up to
    // half a second late, and a time that is over when it is set is never noticed.)
    join_all(targets.iter().flat_map(|target| bodies.map(|body| (target, body))).map(
        async |((target, code), body)| {
            let answer = site.raw(&format!("{target} HTTP/1.1\r\nhost: t\r\n{body}")).await;
            assert_eq!(answer.refusal().1, *code);
        },
    ))
    .await;
    // One that is finished does: the second answer comes on the same connection, which is closed as asked.
    let first =
        format!("POST {WEBHOOK} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
    let second = "GET /health/live HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
    let both = site.raw(&format!("{first}{second}")).await;
    assert!(both.body.contains("MISSING_SIGNATURE") && both.body.ends_with(r#"{"status":"live"}"#), "{}", both.body);
}

#[actix_web::test]
async fn a_long_body_is_refused_and_the_answer_arrives() {
    let site = Site::public(parts());
    let head = format!("POST {WEBHOOK} HTTP/1.1\r\nhost: t\r\nstripe-signature: t=1\r\n");
    let long = "x".repeat(ServerConfig::BODY_BYTES_MAX + 1);
    let whole = format!("{head}content-length: {}\r\n\r\n{long}", long.len());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(17));
    // Twice what is drained; the rest is never sent.
    let endless = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(32));
    let claimed = format!("{head}content-length: 1000000000\r\n\r\nx");
    for (name, request) in [("whole", whole), ("chunked", chunked), ("endless", endless), ("claimed", claimed)] {
        let answer = site.raw(&request).await;
        assert_eq!(answer.refusal(), refusal(413, "PAYLOAD_TOO_LARGE"), "{name}");
        assert_eq!(answer.header("connection"), "close", "{name}");
    }
    // The longest that is taken is read to its end, and then its signature is wrong.
    let longest = &long[1..];
    let answer = site.post(WEBHOOK, &[("stripe-signature", "t=1,v1=00")], longest).await;
    assert_eq!(answer.refusal(), refusal(400, "INVALID_SIGNATURE"));
}

#[actix_web::test]
async fn checkout_says_who_then_what_then_why_not() {
    let site = Site::public(parts());
    let token = bearer(&session_token());
    let auth = ("authorization", token.as_str());
    let json = ("content-type", "application/json; charset=utf-8");
    let good = r#"{"entitlementLevel":"PRO"}"#;
    let service = bearer(SERVICE_TOKEN);
    for wrong in
        [vec![], vec![("authorization", "Bearer x")], vec![("authorization", service.as_str())], vec![auth, auth]]
    {
        let answer = site.post(CHECKOUT, &wrong, "not even JSON").await;
        assert_eq!(answer.refusal(), refusal(401, "UNAUTHORIZED"), "{wrong:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.json()["error"], "Authentication required");
    }
    for wrong in
        [vec![auth], vec![auth, ("content-type", "text/plain")], vec![auth, json, ("content-encoding", "gzip")]]
    {
        let answer = site.post(CHECKOUT, &wrong, "not even JSON").await;
        assert_eq!(answer.refusal(), refusal(415, "UNSUPPORTED_MEDIA_TYPE"), "{wrong:?}");
    }
    for wrong in [
        "not even JSON",
        "[]",
        "null",
        "{}",
        r#"{"entitlementLevel":1}"#,
        r#"{"entitlementLevel":"PRO","entitlementLevel":"PRO"}"#,
        r#"{"entitlementLevel":"PRO","userId":"7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71"}"#,
        r#"{"entitlementLevel":"PRO","successUrl":"https://evil.test"}"#,
    ] {
        assert_eq!(
            site.post(CHECKOUT, &[auth, json], wrong).await.refusal(),
            refusal(400, "INVALID_REQUEST"),
            "{wrong}"
        );
    }
    let key = "k".repeat(256);
    for wrong in [vec![("idempotency-key", key.as_str())], vec![("idempotency-key", "a"), ("idempotency-key", "b")]] {
        let headers: Vec<_> = [auth, json].into_iter().chain(wrong).collect();
        assert_eq!(site.post(CHECKOUT, &headers, good).await.refusal(), refusal(400, "INVALID_REQUEST"));
    }
    let level = site.post(CHECKOUT, &[auth, json], r#"{"entitlementLevel":"FREE"}"#).await;
    assert_eq!(level.refusal(), refusal(400, "INVALID_ENTITLEMENT_LEVEL"));
    let long = site.post(CHECKOUT, &[auth, json], &" ".repeat(16 * 1024 + 1)).await;
    assert_eq!(long.refusal(), refusal(413, "PAYLOAD_TOO_LARGE"));
    // Nothing is wrong any more, but there is no Stripe.
    assert_eq!(site.post(CHECKOUT, &[auth, json], good).await.refusal(), refusal(502, "STRIPE_ERROR"));
    let session = site.get("/api/checkout/session/cs_nobodys", &[auth]).await;
    assert_eq!(session.refusal(), refusal(404, "NOT_FOUND"));
    assert_eq!(site.get("/api/checkout/session/cs_1", &[]).await.refusal(), refusal(401, "UNAUTHORIZED"));
}

#[actix_web::test]
async fn entitlements_are_for_their_owner_and_for_servers() {
    let site = Site::public(parts());
    let (user, service) = (bearer(&session_token()), bearer(SERVICE_TOKEN));
    let theirs = format!("/api/entitlements/{USER}");
    for (path, token, status, code) in [
        ("/api/entitlements", "", 401, "UNAUTHORIZED"),
        ("/api/entitlements", service.as_str(), 401, "UNAUTHORIZED"),
        ("/api/entitlements?x=1", "Bearer x", 401, "UNAUTHORIZED"),
        ("/api/entitlements?minVersion=-1", user.as_str(), 400, "INVALID_REQUEST"),
        ("/api/entitlements?minversion=1", user.as_str(), 400, "INVALID_REQUEST"),
        (theirs.as_str(), "", 401, "UNAUTHORIZED"),
        (theirs.as_str(), "Bearer x", 401, "UNAUTHORIZED"),
        (theirs.as_str(), user.as_str(), 403, "FORBIDDEN"),
        ("/api/entitlements/nobody", user.as_str(), 403, "FORBIDDEN"),
        ("/api/entitlements/nobody", service.as_str(), 400, "INVALID_REQUEST"),
        ("/api/entitlements/%7f", service.as_str(), 400, "INVALID_REQUEST"),
        // All stores are out of reach: never a guess.
        ("/api/entitlements?minVersion=1", user.as_str(), 503, "UNAVAILABLE"),
        (theirs.as_str(), service.as_str(), 503, "UNAVAILABLE"),
    ] {
        let headers: &[_] = if token.is_empty() { &[] } else { &[("authorization", token)] };
        assert_eq!(site.get(path, headers).await.refusal(), refusal(status, code), "{path} {token:.10}");
    }
}

#[actix_web::test]
async fn plans_are_for_everybody() {
    let answer = Site::public(parts()).get("/api/plans", &[]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "public, max-age=60"));
    let levels: Vec<_> = answer.json()["plans"].as_array().unwrap().iter().map(|plan| plan["level"].clone()).collect();
    assert_eq!(levels, ["TRIAL", "PRO", "TEAM"]);
}

#[actix_web::test]
async fn health_and_documents() {
    let site = Site::public(parts());
    let ready = site.get("/health/ready", &[]).await;
    let report = json!({ "status": "degraded", "dependencies": [{ "name": "ledger", "status": "degraded" }] });
    assert_eq!((ready.status, ready.json()), (200, report));
    let mut sick = parts();
    sick.readiness = Arc::new(Report(DependencyState::Unready));
    assert_eq!(Site::public(sick).get("/health/ready", &[]).await.status, 503);

    assert_eq!(site.get("/openapi.json", &[]).await.json()["openapi"], "3.1.0");
    assert_eq!(site.get("/docs", &[]).await.header("location"), "/docs/");
    let page = site.get("/docs/", &[]).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html"));
    assert!(site.get("/docs/swagger-initializer.js", &[]).await.body.contains("/openapi.json"));
}

#[actix_web::test]
async fn metrics_are_for_operators() {
    let site = Site::admin(parts());
    for wrong in [vec![], vec![("authorization", "Bearer x")]] {
        assert_eq!(site.get("/metrics", &wrong).await.refusal(), refusal(401, "UNAUTHORIZED"));
    }
    let answer = site.get("/metrics", &[("authorization", &bearer(ADMIN_TOKEN))]).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "up 1\n"));
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert_eq!(site.get(WEBHOOK, &[]).await.refusal(), refusal(404, "NOT_FOUND"));
}
