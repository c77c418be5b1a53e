//! `GET /api/entitlements` and `GET /api/entitlements/{userId}`: every row of the contract.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{Answer, JWT_SECRET, SERVICE_TOKEN, TestServer, World, client, session_token, unix_now},
};

async fn own(server: &TestServer, token: &str) -> Answer {
    Answer::of(client().get(server.url("/api/entitlements")).bearer_auth(token)).await
}

async fn get(server: &TestServer, path: &str, token: Option<&str>) -> Answer {
    let mut request = client().get(server.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    Answer::of(request).await
}

#[tokio::test]
async fn a_user_reads_his_own_and_a_service_reads_anybodys() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::subscribed(Uuid::new_v4());
    server.deliver(&event.json()).await;

    let answer = own(&server, &session_token(event.user)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let expires_at = answer.json["expiresAt"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let paid = chrono::DateTime::from_timestamp(event.created, 0).unwrap();
    let expected = paid.checked_add_months(chrono::Months::new(1)).unwrap() + chrono::TimeDelta::days(3);
    assert_eq!(expires_at, expected, "one period and the grace, by Stripe's time");
    let mut body = answer.json.clone();
    body.as_object_mut().unwrap().remove("expiresAt");
    assert_eq!(
        body,
        json!({
            "userId": event.user.to_string(), "entitlementLevel": "PRO",
            "quantity": 1, "features": ["projects", "export"], "source": "cache", "version": 1,
        })
    );
    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(server.read(event.user).await.json, answer.json);
}

#[tokio::test]
async fn whoever_has_nothing_is_free() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let answer = server.read(user).await;
    assert_eq!(
        answer.json,
        json!({
            "userId": user.to_string(), "entitlementLevel": "FREE", "expiresAt": null, "quantity": 1, "features": [],
            "source": "database", "version": 0,
        })
    );
    eventually(Duration::from_secs(30), "FREE is cached too", || async {
        server.read(user).await.json["source"] == "cache"
    })
    .await;
    assert_eq!(world.redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("FREE"));
}

#[tokio::test]
async fn features_of_the_level_are_told() {
    let world = World::new().await;
    let catalogue = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        catalogue.path(),
        "[[plan]]\nlevel = \"PRO\"\nrank = 20\nmode = \"payment\"\namount = 100\ncurrency = \"usd\"\nfeatures = [\"export\", \"api\"]\n",
    )
    .unwrap();
    let server = world.serve_with(&[("TOLLGATE_CATALOGUE", catalogue.path().to_str().unwrap())]).await;
    let event = SessionEvent::paid(Uuid::new_v4());
    server.deliver(&event.json()).await;
    assert_eq!(server.read(event.user).await.json["features"], json!(["export", "api"]));
}

#[tokio::test]
async fn an_older_answer_than_asked_for_is_never_given() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    server.deliver(&event.json()).await;
    // A cache that has fallen behind: another writer's old value under the same epoch.
    let meta = format!("{{entitlements:{}}}:meta", event.user);
    let next = SessionEvent::paid(event.user);
    server.deliver(&next.json()).await;
    world.redis.command::<i64>(&["HSET", &meta, "version", "1", "quantity", "1@1"]).await;
    assert_eq!(server.read(event.user).await.json["version"], 1, "a plain read takes the cache's word");
    let answer = server.read_at_least(event.user, 2).await;
    assert_eq!((answer.json["version"].as_u64(), answer.json["source"].as_str()), (Some(2), Some("database")));
    let behind = server.read_at_least(event.user, 3).await;
    behind.assert_error(503, "UNAVAILABLE");
    assert!(behind.header("retry-after").is_some());
    for wrong in ["-1", "x", "1.5", "", "18446744073709551616"] {
        let path = format!("/api/entitlements/{}?minVersion={wrong}", event.user);
        get(&server, &path, Some(SERVICE_TOKEN)).await.assert_error(400, "INVALID_REQUEST");
    }
    let path = format!("/api/entitlements/{}?min_version=1", event.user);
    get(&server, &path, Some(SERVICE_TOKEN)).await.assert_error(400, "INVALID_REQUEST");
}

#[tokio::test]
async fn whose_request_it_is_decides() {
    let world = World::new().await;
    let server = world.serve().await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let path = format!("/api/entitlements/{two}");
    for path in ["/api/entitlements", &path] {
        for token in [None, Some("nonsense"), Some("")] {
            let answer = get(&server, path, token).await;
            answer.assert_error(401, "UNAUTHORIZED");
            assert_eq!(answer.json["error"], "Authentication required");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    get(&server, &path, Some(&session_token(one))).await.assert_error(403, "FORBIDDEN");
    get(&server, &path, Some(&session_token(two))).await.assert_error(403, "FORBIDDEN");
    get(&server, "/api/entitlements", Some(SERVICE_TOKEN)).await.assert_error(401, "UNAUTHORIZED");
    for wrong in ["me", "7f6a3e2c5d1b4c8e9a602f1d0c9b8a71", "%27%3B%20drop"] {
        get(&server, &format!("/api/entitlements/{wrong}"), Some(SERVICE_TOKEN))
            .await
            .assert_error(400, "INVALID_REQUEST");
    }
    let upper =
        get(&server, &format!("/api/entitlements/{}", two.to_string().to_uppercase()), Some(SERVICE_TOKEN)).await;
    assert_eq!(upper.json["userId"], two.to_string());
    get(&server, "/api/nothing", Some(SERVICE_TOKEN)).await.assert_error(404, "NOT_FOUND");
    get(&server, "/metrics", Some(SERVICE_TOKEN)).await.assert_error(404, "NOT_FOUND");
}

#[tokio::test]
async fn only_session_tokens_are_session_tokens() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let token = |algorithm, secret: &str, change: &dyn Fn(&mut Value)| {
        let mut claims = json!({
            "sub": user.to_string(), "aud": "authenticated", "role": "authenticated", "exp": unix_now() + 3600,
        });
        change(&mut claims);
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let hs256 = |change: &dyn Fn(&mut Value)| token(Algorithm::HS256, JWT_SECRET, change);
    assert_eq!(own(&server, &hs256(&|_| {})).await.status, 200);
    let unsigned = {
        let good = hs256(&|_| {});
        let mut parts = good.split('.');
        let (_, claims) = (parts.next().unwrap(), parts.next().unwrap());
        // {"alg":"none","typ":"JWT"}
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
    };
    let refused = [
        ("no signature", unsigned),
        ("another secret", token(Algorithm::HS256, "another-secret-of-thirty-two-chars!!", &|_| {})),
        ("another algorithm", token(Algorithm::HS512, JWT_SECRET, &|_| {})),
        ("expired", hs256(&|claims| claims["exp"] = (unix_now() - 60).into())),
        ("no expiry", hs256(&|claims| drop(claims.as_object_mut().unwrap().remove("exp")))),
        ("expiry as text", hs256(&|claims| claims["exp"] = "4102444800".into())),
        ("not yet", hs256(&|claims| claims["nbf"] = (unix_now() + 600).into())),
        ("anon key", hs256(&|claims| claims["role"] = "anon".into())),
        ("service key", hs256(&|claims| claims["role"] = "service_role".into())),
        ("no role", hs256(&|claims| drop(claims.as_object_mut().unwrap().remove("role")))),
        ("other audience", hs256(&|claims| claims["aud"] = "anon".into())),
        ("no audience", hs256(&|claims| drop(claims.as_object_mut().unwrap().remove("aud")))),
        ("no user", hs256(&|claims| claims["sub"] = "".into())),
        ("user is no UUID", hs256(&|claims| claims["sub"] = "admin".into())),
        ("20 KiB", "a".repeat(20 * 1024)),
    ];
    for (what, token) in refused {
        let answer = own(&server, &token).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text);
        answer.assert_error(401, "UNAUTHORIZED");
    }
}

/// The cache may be gone at any moment: answers stay true, and none is a 5xx.
#[tokio::test]
async fn without_redis_the_ledger_answers() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    server.deliver(&event.json()).await;
    world.redis.sigkill().await;
    for _ in 0..20 {
        let answer = server.read(event.user).await;
        assert_eq!((answer.status, answer.json["entitlementLevel"].as_str()), (200, Some("PRO")), "{}", answer.text);
        assert_eq!(answer.json["source"], "database");
    }
    let second = SessionEvent::paid(Uuid::new_v4());
    assert_eq!(server.deliver(&second.json()).await.json["processed"], true);
    let ready = Answer::of(client().get(server.url("/health/ready"))).await;
    assert_eq!((ready.status, ready.json["status"].as_str()), (200, Some("degraded")), "{}", ready.text);

    world.redis.start_again().await;
    for event in [&event, &second] {
        let key = format!("entitlements:{}", event.user);
        eventually(Duration::from_secs(30), "the cache is right again without a request", || async {
            world.redis.get(&key).await.as_deref() == Some("PRO")
        })
        .await;
    }
}

#[tokio::test]
async fn with_both_stores_gone_nothing_is_guessed() {
    let own_cluster = crate::harness::PostgresServer::start_own().await;
    let database = crate::harness::TestDatabase::on(&own_cluster).await;
    let world = World { database, ..World::new().await };
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    server.deliver(&event.json()).await;
    own_cluster.stop().await;
    assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO", "the cache goes on");
    server.read(Uuid::new_v4()).await.assert_error(503, "UNAVAILABLE");
    world.redis.sigkill().await;
    let answer = server.read(event.user).await;
    answer.assert_error(503, "UNAVAILABLE");
    assert!(answer.header("retry-after").is_some());
    let ready = Answer::of(client().get(server.url("/health/ready"))).await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    assert_eq!(Answer::of(client().get(server.url("/health/live"))).await.status, 200, "alive all the same");
    server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await.assert_error(503, "UNAVAILABLE");
    own_cluster.start().await;
    eventually(Duration::from_secs(30), "it comes back by itself", || async {
        server.read(event.user).await.json["entitlementLevel"] == "PRO"
    })
    .await;
}
