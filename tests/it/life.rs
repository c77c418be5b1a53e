//! What happens between requests: parked events find their user, levels end, a stop loses nothing, a crash leaves nothing wrong.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{REDIS_DEADLINE_AS_SHIPPED, World, unix_now},
};

#[tokio::test]
async fn a_parked_event_is_applied_when_its_user_appears() {
    let world = World::new().await;
    world.database.execute("CREATE TABLE users (id uuid PRIMARY KEY, email text NOT NULL)").await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    assert_eq!(server.deliver(&event.json()).await.json["parked"], true);
    assert_eq!(server.read(event.user).await.json["entitlementLevel"], "FREE");
    world.database.execute(&format!("INSERT INTO users VALUES ('{}', 'a@example.com')", event.user)).await;
    eventually(Duration::from_secs(30), "the event is applied", || async {
        server.read(event.user).await.json["entitlementLevel"] == "PRO"
    })
    .await;
    eventually(Duration::from_secs(30), "readers of Redis see it", || async {
        world.redis.get(&format!("entitlements:{}", event.user)).await.as_deref() == Some("PRO")
    })
    .await;
    assert_eq!(server.deliver(&event.json()).await.json["idempotent"], true);
    assert_eq!(world.database.value("SELECT outcome FROM stripe_events").await, "applied");
}

/// A level that joins the catalogue later: the events that waited for it are applied by the next start.
#[tokio::test]
async fn an_event_of_an_unknown_level_waits_for_the_catalogue() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent { level: "TEAM".into(), ..SessionEvent::paid(Uuid::new_v4()) };
    assert_eq!(server.deliver(&event.json()).await.json["parked"], true);
    drop(server);
    let catalogue = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        catalogue.path(),
        "[[plan]]\nlevel = \"TEAM\"\nrank = 30\nmode = \"payment\"\namount = 100\ncurrency = \"usd\"\n",
    )
    .unwrap();
    let server = world.serve_with(&[("TOLLGATE_CATALOGUE", catalogue.path().to_str().unwrap())]).await;
    assert_eq!(server.deliver(&event.json()).await.json["idempotent"], true, "the redelivery wakes it");
    eventually(Duration::from_secs(30), "the event is applied", || async {
        server.read(event.user).await.json["entitlementLevel"] == "TEAM"
    })
    .await;
}

#[tokio::test]
async fn a_level_ends_everywhere_without_being_asked_for() {
    let world = World::new().await;
    let server = world.serve().await;
    // A trial of seven days, bought seven days less two seconds ago.
    let event = SessionEvent {
        level: "TRIAL".into(),
        created: unix_now() - 7 * 86_400 + 2,
        ..SessionEvent::paid(Uuid::new_v4())
    };
    server.deliver(&event.json()).await;
    assert_eq!(server.read(event.user).await.json["entitlementLevel"], "TRIAL");
    let key = format!("entitlements:{}", event.user);
    eventually(Duration::from_secs(30), "FREE replaces TRIAL in Redis with nobody asking", || async {
        world.redis.get(&key).await.as_deref() == Some("FREE")
    })
    .await;
    let read = server.read(event.user).await;
    assert_eq!((read.json["entitlementLevel"].as_str(), read.json["version"].as_u64()), (Some("FREE"), Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_leaves_no_200_without_a_commit() {
    let world = World::new().await;
    let server = Arc::new(world.serve_with(&[("TOLLGATE_LOG", "info")]).await);
    let url = server.url("/api/webhooks/stripe");
    let clients = (0..16).map(|_| {
        let (server, url) = (Arc::clone(&server), url.clone());
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            loop {
                let event = SessionEvent::paid(Uuid::new_v4());
                let body = serde_json::to_vec(&event.json()).unwrap();
                let header = server.sign(&body);
                let request = crate::harness::server::client().post(&url).header("Stripe-Signature", header).body(body);
                match crate::harness::server::Answer::try_of(request).await {
                    Ok(answer) if answer.status == 200 => acknowledged.push(event.id),
                    // Refused or cut off: nothing is claimed.
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            drop(server);
            acknowledged
        })
    });
    let clients: Vec<_> = clients.collect();
    eventually(Duration::from_secs(30), "the load runs", || async {
        world.database.value("SELECT count(*) FROM stripe_events").await.parse::<u32>().unwrap() > 50
    })
    .await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0, "{}", server.log());
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    assert!(acknowledged.len() > 50);
    let list = acknowledged.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
    let kept = format!("SELECT count(*) FROM stripe_events WHERE outcome = 'applied' AND id IN ({list})");
    assert_eq!(world.database.value(&kept).await, acknowledged.len().to_string());
    assert_eq!(world.database.value("SELECT count(*) FROM instances").await, "0", "nothing left behind, and said so");
}

/// Redis was down, the process that held the waiting cache write was killed: the next start repairs the cache by itself.
#[tokio::test]
async fn a_waiting_cache_write_survives_a_crash() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    eventually(Duration::from_secs(30), "the replica has made itself known", || async {
        world.database.value("SELECT count(*) FROM instances").await == "1"
    })
    .await;
    world.redis.sigkill().await;
    assert_eq!(server.deliver(&event.json()).await.json["processed"], true, "Redis is a hint");
    server.signal("KILL").await;
    server.ended().await;
    world.redis.start_again().await;
    let _next = world.serve().await;
    eventually(Duration::from_secs(30), "the cache is right with no request", || async {
        world.redis.get(&format!("entitlements:{}", event.user)).await.as_deref() == Some("PRO")
    })
    .await;
}

/// A Redis that accepts and never answers costs a request its 50 ms, not its answer.
#[tokio::test]
async fn a_stopped_redis_delays_and_fails_nothing() {
    let world = World::new().await;
    let server = world.serve_with(&[REDIS_DEADLINE_AS_SHIPPED]).await;
    let before = SessionEvent::paid(Uuid::new_v4());
    server.deliver(&before.json()).await;
    world.redis.pause().await;
    let events: Vec<SessionEvent> = (0..20).map(|_| SessionEvent::paid(Uuid::new_v4())).collect();
    for event in &events {
        assert_eq!(server.deliver(&event.json()).await.json["processed"], true);
        assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO");
    }
    world.redis.resume().await;
    for event in &events {
        eventually(Duration::from_secs(30), "the cache catches up", || async {
            world.redis.get(&format!("entitlements:{}", event.user)).await.as_deref() == Some("PRO")
        })
        .await;
    }
}

/// Canaries: no secret of ours or of a user's is in a log line, a metric or an answer, whatever happens, at the chattiest level.
#[tokio::test]
async fn no_secret_is_ever_shown() {
    use crate::harness::server::{
        Answer, JWT_SECRET, SERVICE_TOKEN, STRIPE_KEY, WEBHOOK_SECRET, client, session_token,
    };
    let world = World::new().await;
    let admin = "an-admin-token-for-tests-only-0001";
    let server = world.serve_with(&[("TOLLGATE_LOG", "trace"), ("TOLLGATE_ADMIN_TOKEN", admin)]).await;
    let user = Uuid::new_v4();
    let token = session_token(user);
    let event = SessionEvent::paid(user);
    let mut seen = String::new();
    for answer in [
        server.deliver(&event.json()).await,
        server.deliver(&event.json()).await,
        server.post_webhook(b"{}", Some("t=1,v1=00")).await,
        server.checkout(user, "PRO", Some("click")).await,
        server.checkout(user, "NOPE", None).await,
        server.read(user).await,
        Answer::of(client().get(server.url("/api/entitlements")).bearer_auth(&token)).await,
        Answer::of(client().get(server.url("/api/entitlements")).bearer_auth(format!("{token}x"))).await,
        Answer::of(client().get(server.admin_url("/metrics"))).await,
        Answer::of(client().get(server.admin_url("/metrics")).bearer_auth(admin)).await,
    ] {
        seen.push_str(&answer.text);
    }
    assert!(seen.contains("tollgate_webhook_events_total"), "the admin token opens the metrics");
    server.signal("TERM").await;
    server.ended().await;
    seen.push_str(&server.log());
    assert!(seen.contains("skipped replay"));
    let signature_of_token = token.rsplit('.').next().unwrap();
    for (what, secret) in [
        ("webhook secret", WEBHOOK_SECRET),
        ("session secret", JWT_SECRET),
        ("service token", SERVICE_TOKEN),
        ("Stripe key", STRIPE_KEY),
        ("admin token", admin),
        ("a user's token", signature_of_token),
    ] {
        assert!(
            !seen.contains(secret),
            "{what}: {}",
            seen.lines().find(|line| line.contains(secret)).unwrap_or_default()
        );
    }
}
