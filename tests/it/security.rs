//! The security checklist (docs/SECURITY.md), where no other test has it: what is said to pages, proxies and strangers.

use std::sync::Arc;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    raw::{Raw, status, webhook},
    server::{Answer, SERVICE_TOKEN, World, client, session_token},
};

const APP: &str = "https://app.example.com";

#[tokio::test]
async fn only_named_sites_pages_may_call_and_read() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_CORS_ORIGINS", "https://app.example.com,http://localhost:5173")]).await;
    let preflight = async |path: &str, origin: &str| {
        let request = client()
            .request(Method::OPTIONS, server.url(path))
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type,idempotency-key");
        Answer::of(request).await
    };
    for origin in [APP, "http://localhost:5173"] {
        let answer = preflight("/api/checkout/session", origin).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""));
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
        assert!(answer.header("access-control-allow-headers").unwrap().contains("Authorization"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let user = Uuid::new_v4();
    let read = async |origin: &str| {
        let request = client().get(server.url("/api/entitlements")).bearer_auth(session_token(user));
        Answer::of(request.header("Origin", origin)).await
    };
    let answer = read(APP).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(APP)));
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["Authorization", "Origin"]);
    // A refusal is told as well, or the page would learn of it as a broken network.
    let refused = Answer::of(client().get(server.url("/api/entitlements")).header("Origin", APP)).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(APP)));
    for wrong in [
        "null",
        "*",
        "https://app.example.com.evil.test",
        "https://evil.test/?https://app.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "https://sub.app.example.com",
        "http://localhost",
    ] {
        let answer = preflight("/api/checkout/session", wrong).await;
        answer.assert_error(405, "METHOD_NOT_ALLOWED");
        let answers = [answer, read(wrong).await];
        for answer in answers {
            assert_eq!(answer.header("access-control-allow-origin"), None, "{wrong}");
            assert!(answer.headers.get_all("vary").iter().any(|vary| vary == "Origin"));
        }
    }
    preflight("/api/webhooks/stripe", APP).await.assert_error(405, "METHOD_NOT_ALLOWED");
    assert_eq!(preflight("/health/live", APP).await.header("access-control-allow-origin"), None);
    let two = client().get(server.url("/api/plans")).header("Origin", APP).header("Origin", "https://evil.test");
    assert_eq!(Answer::of(two).await.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn without_a_list_the_applications_own_site_is_it() {
    let world = World::new().await;
    for (settings, allowed) in [(vec![], Some(APP)), (vec![("TOLLGATE_APP_URL", "")], None)] {
        let server = world.serve_with(&settings).await;
        let answer = Answer::of(client().get(server.url("/api/plans")).header("Origin", APP)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, allowed));
    }
}

#[tokio::test]
async fn every_answer_tells_browsers_to_trust_nothing() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let own = client().get(server.url("/api/entitlements")).bearer_auth(session_token(user));
    for answer in [
        Answer::of(client().get(server.url("/health/live"))).await,
        Answer::of(client().get(server.url("/nowhere"))).await,
        Answer::of(client().get(server.url("/openapi.json"))).await,
        Answer::of(client().get(server.admin_url("/metrics"))).await,
        Answer::of(client().put(server.url("/api/webhooks/stripe"))).await,
        server.deliver(&SessionEvent::paid(user).json()).await,
        Answer::of(own).await,
        server.checkout(user, "NOPE", None).await,
    ] {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{}", answer.text);
        }
        assert!(answer.header("cache-control").unwrap().contains("no-store"), "{}", answer.text);
        assert!(answer.header("server").is_none() && answer.header("x-powered-by").is_none());
    }
}

/// Regression: a proxy before the admin listener showed it to the world, where no token was set.
#[tokio::test]
async fn a_proxy_showed_the_admin_listener_to_the_world() {
    let world = World::new().await;
    let server = world.serve().await;
    let paths = ["/metrics", "/api/admin/events", "/api/admin/summary"];
    for path in paths {
        assert_eq!(Answer::of(client().get(server.admin_url(path))).await.status, 200, "{path}");
        for (name, value) in [
            ("X-Forwarded-For", "203.0.113.9"),
            ("Forwarded", "for=203.0.113.9"),
            ("Via", "1.1 p"),
            ("X-Real-IP", "::1"),
        ] {
            let answer = Answer::of(client().get(server.admin_url(path)).header(name, value)).await;
            answer.assert_error(403, "FORBIDDEN");
        }
        Answer::of(client().get(server.admin_url(path)).header("Host", "evil.test"))
            .await
            .assert_error(403, "FORBIDDEN");
    }
    drop(server);
    let token = "an-admin-token-for-tests-only-0001";
    let server = world.serve_with(&[("TOLLGATE_ADMIN_TOKEN", token)]).await;
    for path in paths {
        let passed_on = || client().get(server.admin_url(path)).header("X-Forwarded-For", "203.0.113.9");
        assert_eq!(Answer::of(passed_on().bearer_auth(token)).await.status, 200, "{path}: the token is enough");
        Answer::of(passed_on()).await.assert_error(401, "UNAUTHORIZED");
    }
}

/// Three ways to have Stripe asked, each with a limit of its own.
#[tokio::test]
async fn one_address_is_limited_whoever_its_users_are() {
    let world = World::new().await;
    let settings = [("TOLLGATE_CHECKOUT_PER_ADDRESS", "1"), ("TOLLGATE_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8")];
    let server = world.serve_with(&settings).await;
    let checkout = async |user: Uuid, forwarded: &str| {
        let request = client().post(server.url("/api/checkout/session")).bearer_auth(session_token(user));
        Answer::of(request.header("X-Forwarded-For", forwarded).json(&json!({ "entitlementLevel": "PRO" }))).await
    };
    let portal = async |forwarded: &str| {
        let request = client().post(server.url("/api/billing/portal")).bearer_auth(session_token(Uuid::new_v4()));
        Answer::of(request.header("X-Forwarded-For", forwarded)).await
    };
    let look = async |(user, session): &(Uuid, String), forwarded: String| {
        let url = server.url(&format!("/api/checkout/session/{session}"));
        Answer::of(client().get(url).bearer_auth(session_token(*user)).header("X-Forwarded-For", forwarded)).await
    };
    // What the client writes before the proxy's word changes nothing.
    let forwarded = |n: usize| format!("192.0.2.{n}, 203.0.113.9, 10.0.0.7");
    let assert_limited = |refused: Answer| {
        refused.assert_error(429, "RATE_LIMITED");
        assert!(refused.header("retry-after").unwrap().parse::<u32>().is_ok_and(|seconds| seconds >= 1));
    };
    assert_eq!(checkout(Uuid::new_v4(), &forwarded(1)).await.status, 200);
    assert_limited(checkout(Uuid::new_v4(), "203.0.113.9").await);
    portal(&forwarded(1)).await.assert_error(409, "NO_CUSTOMER");
    assert_limited(portal("203.0.113.9").await);
    portal("203.0.113.10").await.assert_error(409, "NO_CUSTOMER");

    let mut sessions = Vec::new();
    for n in 0..7 {
        let user = Uuid::new_v4();
        let opened = checkout(user, &format!("198.51.100.{n}")).await;
        sessions.push((user, opened.json["sessionId"].as_str().unwrap().to_owned()));
    }
    let looks = sessions.iter().zip(0..).map(|(session, n)| look(session, format!("192.0.2.{n}, 203.0.113.9")));
    let (refused, answered): (Vec<_>, Vec<_>) = join_all(looks).await.into_iter().partition(|look| look.status != 200);
    assert_eq!((answered.len(), world.stripe.fetches()), (6, 6), "for one Stripe is not asked");
    refused.into_iter().for_each(assert_limited);
    assert_eq!(look(&sessions[0], "203.0.113.10".to_owned()).await.json["state"], "open", "others are not held up");

    // A stranger's word is not believed: these all come from this machine, which is not limited.
    let server = world.serve_with(&[("TOLLGATE_CHECKOUT_PER_ADDRESS", "1")]).await;
    for _ in 0..3 {
        let request = client()
            .post(server.url("/api/checkout/session"))
            .bearer_auth(session_token(Uuid::new_v4()))
            .header("X-Forwarded-For", "203.0.113.9")
            .json(&json!({ "entitlementLevel": "PRO" }));
        assert_eq!(Answer::of(request).await.status, 200);
    }
}

/// A page may ask as often as it likes: what is limited is how often Stripe is asked for it.
#[tokio::test]
async fn a_users_looks_at_his_sessions_are_limited_where_stripe_is_asked() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_CHECKOUT_PER_MINUTE", "1")]).await;
    let user = Uuid::new_v4();
    let opened = server.checkout(user, "PRO", None).await.json["sessionId"].as_str().unwrap().to_owned();
    let more = "INSERT INTO checkout_sessions SELECT (jsonb_populate_record(s, jsonb_build_object('id', 'cs_test_more' || n, 'url', s.url || n))).* \
                FROM checkout_sessions AS s, generate_series(1, 6) AS n";
    world.database.execute(more).await;
    let look = async |session: &str| {
        let url = server.url(&format!("/api/checkout/session/{session}"));
        Answer::of(client().get(url).bearer_auth(session_token(user))).await
    };
    let sessions = [vec![opened], (1..=6).map(|n| format!("cs_test_more{n}")).collect()].concat();
    let looks = join_all(sessions.iter().map(|session| look(session))).await;
    let (refused, answered): (Vec<_>, Vec<_>) = looks.into_iter().partition(|look| look.status != 200);
    assert_eq!((answered.len(), world.stripe.fetches()), (6, 6));
    refused.into_iter().for_each(|refused| refused.assert_error(429, "RATE_LIMITED"));
}

/// Whoever is not Stripe costs one HMAC: nothing is asked of anybody, and Stripe is served beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_signatures_costs_no_question_and_holds_up_nobody() {
    const CONNECTIONS: usize = 8;
    const EACH: usize = 125;
    const GOOD: usize = 20;
    let world = World::new().await;
    let server = Arc::new(world.serve_with(&[("TOLLGATE_LOG", "info")]).await);
    let deliver = async || {
        let answer = server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await;
        assert_eq!(answer.json["processed"], true, "{}", answer.text);
    };
    // The script is loaded by the first.
    deliver().await;
    // What webhooks ask of Redis and of the ledger; what is asked beside them is something else.
    let asked = async || {
        let stats: String = world.redis.command(&["INFO", "commandstats"]).await;
        let calls = |command: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse::<usize>().unwrap())
        };
        let entries = server.metric("tollgate_ledger_batch_size_sum").await;
        (calls("get") + calls("evalsha"), entries)
    };
    let before = asked().await;
    let flood = (0..CONNECTIONS).map(|_| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let mut raw = Raw::open(&server).await;
            let good = webhook(&server, &SessionEvent::paid(Uuid::new_v4()).json());
            let forged = good.replacen("evt_", "evt-", 1);
            for _ in 0..EACH {
                raw.send(&forged).await;
                assert_eq!(status(&raw.answer().await), 400);
            }
        })
    });
    let flood: Vec<_> = flood.collect();
    for _ in 0..GOOD {
        deliver().await;
    }
    for connection in flood {
        connection.await.unwrap();
    }
    let after = asked().await;
    assert_eq!(after.1 - before.1, GOOD, "the ledger is asked for the good ones");
    // What a slow Redis has to be told again counts, too.
    assert!(after.0 - before.0 < CONNECTIONS * EACH / 2, "{} of Redis", after.0 - before.0);
    let outcomes = Answer::of(client().get(server.admin_url("/metrics"))).await.text;
    let refused = format!(r#"tollgate_webhook_events_total{{outcome="invalid_signature"}} {}"#, CONNECTIONS * EACH);
    assert!(outcomes.contains(&refused), "{outcomes}");
}

/// SQL, and what no text of PostgreSQL's may hold, in every text of an event, one after the other: kept as it is, or refused.
#[tokio::test]
async fn sql_in_any_text_of_an_event_is_only_text() {
    const TEXTS: [&str; 3] = ["'; DROP TABLE stripe_events; --", "\u{0}", "$1') RETURNING (SELECT 1); --"];
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_LOG", "info")]).await;
    let paths = paths_of_texts(&SessionEvent::subscribed(Uuid::new_v4()).json());
    assert!(paths.len() >= 15, "{paths:?}");
    for path in &paths {
        for text in TEXTS {
            let mut event = SessionEvent::subscribed(Uuid::new_v4()).json();
            *event.pointer_mut(path).unwrap() = text.into();
            let answer = server.deliver(&event).await;
            assert!([200, 400].contains(&answer.status), "{text:?} at {path}: {}", answer.text);
        }
    }
    let user = Uuid::new_v4();
    let level = SessionEvent { level: TEXTS[0].into(), ..SessionEvent::paid(user) };
    assert_eq!(server.deliver(&level.json()).await.json["parked"], true);
    let kept = format!(
        "SELECT payload::jsonb #>> '{{data,object,metadata,entitlementLevel}}' FROM stripe_events WHERE id = '{}'",
        level.id
    );
    assert_eq!(world.database.value(&kept).await, TEXTS[0], "to the letter");
    let gift = json!({ "id": Uuid::new_v4(), "level": "PRO", "until": "2099-01-01T00:00:00Z", "operator": TEXTS[0], "reason": TEXTS[2] });
    let admin = |what: &str| server.admin_url(&format!("/api/admin/entitlements/{user}/{what}"));
    assert_eq!(Answer::of(client().post(admin("grants")).json(&gift)).await.status, 200);
    let history = Answer::of(client().get(admin("history"))).await.text;
    assert!(history.contains(TEXTS[0]) && history.contains(TEXTS[2]), "{history}");
    assert_eq!(server.checkout(user, TEXTS[0], Some(TEXTS[0])).await.status, 400);
    assert_eq!(server.checkout(user, "TRIAL", Some(TEXTS[0])).await.status, 200);
    assert_eq!(server.deliver(&SessionEvent::paid(user).json()).await.json["processed"], true, "all is still there");
}

/// Where in a value there are texts.
fn paths_of_texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(_) => vec![String::new()],
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, inner)| paths_of_texts(inner).into_iter().map(move |path| format!("/{name}{path}")))
            .collect(),
        _ => vec![],
    }
}

#[tokio::test]
async fn other_spellings_of_a_path_or_a_method_lead_nowhere() {
    let world = World::new().await;
    let server = world.serve().await;
    for path in [
        "/api//entitlements",
        "/api/./entitlements",
        "/api/x/../entitlements",
        "/API/entitlements",
        "/api/entitlements/",
        "/api/entitlements;a=b",
        "/api%2fentitlements",
        "/%2e%2e/metrics",
        "/../metrics",
        "/api/webhooks/..%2f..%2f..%2fmetrics",
        "//metrics",
        "/api/admin/events",
        "/debug",
        "/docs/../metrics",
        "/docs/..%2f..%2fCargo.toml",
        "/.env",
    ] {
        let answer = Raw::ask(&server, format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), 404, "{path}: {answer}");
    }
    let override_headers =
        ["X-HTTP-Method-Override: POST", "X-HTTP-Method: POST", "X-Original-URL: /metrics", "X-Rewrite-URL: /metrics"];
    for header in override_headers {
        let request = format!("GET /api/webhooks/stripe HTTP/1.1\r\nHost: t\r\n{header}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&Raw::ask(&server, request).await), 405, "{header}");
    }
    let query = "POST /health/live?_method=GET HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&Raw::ask(&server, query).await), 405);
}

#[tokio::test]
async fn ids_that_only_look_right_are_nobodys() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    server.deliver(&SessionEvent::paid(user).json()).await;
    let read = async |id: &str| {
        Answer::of(client().get(server.url(&format!("/api/entitlements/{id}"))).bearer_auth(SERVICE_TOKEN)).await
    };
    assert_eq!(read(&user.to_string()).await.json["entitlementLevel"], "PRO");
    let plain = user.to_string();
    for wrong in [
        plain.replace('-', "%E2%80%90"),
        format!("%EF%BC%91{}", &plain[1..]),
        format!("{plain}%00"),
        format!("%20{plain}"),
        format!("{plain}%0d%0aSET-Cookie:x"),
        plain.replace('-', ""),
        format!("%7B{plain}%7D"),
        format!("urn:uuid:{plain}"),
        "%27%3B+DROP+TABLE+stripe_events%3B--".to_owned(),
        "1".repeat(5_000),
    ] {
        read(&wrong).await.assert_error(400, "INVALID_REQUEST");
    }
    // The same user, spelt loudly, or a stranger: never a second record of him.
    let loud = read(&plain.to_uppercase()).await;
    assert!(loud.status == 400 || loud.json["userId"] == plain, "{}", loud.text);
}

#[tokio::test]
async fn json_that_is_a_bomb_is_a_bad_request() {
    let world = World::new().await;
    let server = world.serve().await;
    let token = session_token(Uuid::new_v4());
    for body in [
        format!("{}1{}", "[".repeat(8_000), "]".repeat(8_000)),
        format!("{}1{}", "{\"entitlementLevel\":".repeat(700), "}".repeat(700)),
        r#"{"entitlementLevel":"PRO","entitlementLevel":"TRIAL"}"#.to_owned(),
        format!(r#"{{"entitlementLevel":{}}}"#, "9".repeat(10_000)),
        r#"{"entitlementLevel":1e999999999}"#.to_owned(),
        format!(r#"{{"entitlementLevel":"{}"}}"#, "\\u0000".repeat(100)),
        r#"{"entitlementLevel":"\ud800"}"#.to_owned(),
        "\u{feff}{\"entitlementLevel\":\"PRO\"}".to_owned(),
    ] {
        let request = client()
            .post(server.url("/api/checkout/session"))
            .bearer_auth(&token)
            .header("Content-Type", "application/json")
            .body(body.clone());
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 400, "{body:.60}: {}", answer.text);
    }
    assert!(world.stripe.requests().is_empty());
}

/// Whoever writes into the log through us must not be able to begin a line of his own, or to colour a terminal.
#[tokio::test]
async fn what_strangers_write_stays_within_its_log_line() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_LOG", "trace")]).await;
    let forged = r#"{"level":"INFO","fields":{"message":"forged"}}"#;
    let evil = format!("a\u{1b}[31m\r\n{forged}\n");
    let event = SessionEvent {
        level: evil.clone(),
        client_reference_id: Some(evil.clone()),
        ..SessionEvent::paid(Uuid::new_v4())
    };
    assert_eq!(server.deliver(&event.json()).await.status, 200);
    let mut named = SessionEvent::paid(Uuid::new_v4()).json();
    named["type"] = evil.clone().into();
    server.deliver(&named).await.assert_error(400, "INVALID_PAYLOAD");
    server.checkout(Uuid::new_v4(), &evil, Some("a\tb")).await;
    let path =
        format!("/x{}", evil.replace('\n', "%0a").replace('\r', "%0d").replace('\u{1b}', "%1b").replace(' ', ""));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: t\r\nUser-Agent: {}\r\nX-Request-Id: a\x1b[31m\r\nConnection: close\r\n\r\n",
        forged
    );
    let answer = Raw::ask(&server, request).await;
    assert!(!answer.contains('\u{1b}'), "{answer}");
    server.signal("TERM").await;
    server.ended().await;
    let log = server.log();
    assert!(!log.contains('\u{1b}'));
    // All but the words of the start that are for people.
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("forged") || line.starts_with('{')).collect();
    assert!(lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert!(server.log_lines().iter().all(|line| line["fields"]["message"] != "forged"));
}
