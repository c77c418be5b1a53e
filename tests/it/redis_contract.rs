//! What applications find in Redis, and what can go wrong with nothing but a Redis. What every cache promises is in `cache.rs`.

use chrono::{TimeDelta, Utc};
use tollgate::{
    cache::{Budget, Publication, Published, RedisCache, RedisSettings},
    domain::{
        entitlement::Entitlement,
        id::{EventId, UserId},
        level::Level,
    },
};
use uuid::Uuid;

use crate::harness::{RedisServer, event::SessionEvent, server::World};

fn state(level: &str, version: u64) -> Entitlement {
    let expires_at = (level != "FREE").then(|| Utc::now() + TimeDelta::days(30));
    Entitlement { level: Level::parse(level).unwrap(), expires_at, quantity: 1, version }
}

fn cache_on(redis: &RedisServer) -> RedisCache {
    // Patient: these tests are about what is written, not about how soon.
    let patient = std::time::Duration::from_secs(5);
    RedisCache::new(&redis.url(), RedisSettings { connect: patient, response: patient }).unwrap()
}

fn budget() -> Budget {
    Budget::new(std::time::Duration::from_secs(5))
}

async fn publish(cache: &RedisCache, user: UserId, entitlement: &Entitlement, epoch: &str) -> Published {
    let publication = Publication { user, entitlement, epoch, mark: None };
    cache.publish(publication, Utc::now(), &mut budget()).await.unwrap()
}

async fn get(cache: &RedisCache, user: UserId, epoch: &str) -> Option<Entitlement> {
    cache.get(user, epoch, Utc::now(), &mut budget()).await.unwrap()
}

#[tokio::test]
async fn keys_values_and_lives_are_those_of_the_contract() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::subscribed(Uuid::new_v4());
    server.deliver(&event.json()).await;
    let (level, meta) = (format!("entitlements:{}", event.user), format!("{{entitlements:{}}}:meta", event.user));
    let mark = format!("webhook:event:{}", event.id);
    let epoch = world.database.value("SELECT epoch FROM tollgate_ledger").await;

    assert_eq!(world.redis.get(&level).await.as_deref(), Some("PRO"), "a plain string");
    let life = world.redis.ttl(&level).await;
    assert!((3240 - 5..=3600).contains(&life), "an hour less 0-10 %: {life}");
    assert!(world.redis.get(&mark).await.unwrap().starts_with(&epoch));
    let life = world.redis.ttl(&mark).await;
    assert!((86_395..=86_400).contains(&life), "{life}");
    let fields = world.redis.hgetall(&meta).await;
    assert_eq!(fields["level"], "PRO");
    assert_eq!(fields["version"], "1");
    assert!(fields["epoch"].starts_with(&epoch));
    assert!(fields.contains_key("expires_at"));
    let life = world.redis.ttl(&meta).await;
    assert!((86_395..=86_400).contains(&life), "meta outlives the level: {life}");
    let mut keys = world.redis.keys().await;
    keys.retain(|key| !key.starts_with("webhook:event:canary:"));
    keys.sort();
    let mut expected = vec![level, meta, mark];
    expected.sort();
    assert_eq!(keys, expected, "nothing else");
}

#[tokio::test]
async fn parked_and_ignored_events_leave_no_mark() {
    let world = World::new().await;
    let server = world.serve().await;
    let mut parked = SessionEvent::paid(Uuid::new_v4());
    parked.metadata = Some(serde_json::json!({}));
    let mut ignored = SessionEvent::paid(Uuid::new_v4()).json();
    ignored["type"] = "product.updated".into();
    for event in [parked.json(), ignored] {
        for _ in 0..2 {
            assert_eq!(server.deliver(&event).await.status, 200);
        }
    }
    let keys = world.redis.keys().await;
    assert!(!keys.iter().any(|key| key.contains("evt_")), "{keys:?}");
}

/// A refill that read version 5, paused, and wrote after version 6 was published; and a late grant after a revocation.
#[tokio::test]
async fn a_late_older_write_is_refused() {
    let redis = RedisServer::start().await;
    let cache = cache_on(&redis);
    let user = UserId::from(Uuid::new_v4());
    assert_eq!(publish(&cache, user, &state("PRO", 5), "e1").await, Published::Written);
    assert_eq!(publish(&cache, user, &state("FREE", 6), "e1").await, Published::Written);
    assert_eq!(publish(&cache, user, &state("PRO", 5), "e1").await, Published::NewerThere);
    assert_eq!(redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("FREE"));
    // The level's key has ended its life: meta still knows better.
    redis.command::<i64>(&["DEL", &format!("entitlements:{user}")]).await;
    assert_eq!(publish(&cache, user, &state("PRO", 5), "e1").await, Published::NewerThere);
    assert_eq!(redis.get(&format!("entitlements:{user}")).await, None);
    assert_eq!(publish(&cache, user, &state("FREE", 6), "e1").await, Published::Again, "the same version restores it");
    assert_eq!(redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("FREE"));
}

#[tokio::test]
async fn a_level_that_is_over_is_never_in_the_cache() {
    let redis = RedisServer::start().await;
    let cache = cache_on(&redis);
    let user = UserId::from(Uuid::new_v4());
    let over = Entitlement { expires_at: Some(Utc::now() - TimeDelta::seconds(1)), ..state("PRO", 1) };
    publish(&cache, user, &over, "e1").await;
    assert_eq!(redis.get(&format!("entitlements:{user}")).await, None);
    assert_eq!(get(&cache, user, "e1").await, None);
    let short = Entitlement { expires_at: Some(Utc::now() + TimeDelta::seconds(20)), ..state("PRO", 2) };
    publish(&cache, user, &short, "e1").await;
    assert!((17..=20).contains(&redis.ttl(&format!("entitlements:{user}")).await));
}

#[tokio::test]
async fn foreign_values_are_misses_and_are_repaired() {
    let redis = RedisServer::start().await;
    let cache = cache_on(&redis);
    let user = UserId::from(Uuid::new_v4());
    let meta = format!("{{entitlements:{user}}}:meta");
    redis.set(&meta, "not a hash").await;
    assert!(cache.get(user, "e1", Utc::now(), &mut budget()).await.is_err());
    assert_eq!(publish(&cache, user, &state("PRO", 1), "e1").await, Published::Written);
    assert_eq!(get(&cache, user, "e1").await.unwrap().version, 1);
    for version in ["", "x", "-5", "1e99"] {
        redis.command::<i64>(&["HSET", &meta, "version", version]).await;
        assert_eq!(get(&cache, user, "e1").await, None, "{version:?}");
        redis.command::<i64>(&["HSET", &meta, "epoch", "e0"]).await;
        assert_eq!(publish(&cache, user, &state("PRO", 1), "e1").await, Published::Written, "{version:?}");
    }
    for _ in 0..10 {
        let _is_a_miss = get(&cache, user, "e1").await;
    }
    assert_eq!(cache.breaker().state(), tollgate::cache::BreakerState::Closed, "strange values are no outage");
}

/// Lua takes many things for a number, and then nothing was ever new enough.
#[tokio::test]
async fn a_version_that_is_none_kept_every_newer_one_out() {
    let redis = RedisServer::start().await;
    let cache = cache_on(&redis);
    let user = UserId::from(Uuid::new_v4());
    let meta = format!("{{entitlements:{user}}}:meta");
    for (version, strange) in (1..).zip(["1e99", "99999999999999999999", "0x7fffffff", " 12345678", "inf", "123456.5"])
    {
        publish(&cache, user, &state("PRO", version), "e1").await;
        redis.command::<i64>(&["HSET", &meta, "version", strange]).await;
        assert_eq!(publish(&cache, user, &state("PRO", version), "e1").await, Published::Written, "{strange:?}");
        assert_eq!(get(&cache, user, "e1").await.unwrap().version, version);
    }
}

/// Bytes that are no text, and a megabyte of them, in each place of what we read.
#[tokio::test]
async fn whatever_stands_in_redis_is_a_miss_and_is_repaired() {
    let redis = RedisServer::start().await;
    let cache = cache_on(&redis);
    let user = UserId::from(Uuid::new_v4());
    let meta = format!("{{entitlements:{user}}}:meta");
    let (huge, binary) = (vec![b'9'; 1 << 20], b"\xff\x00\r\n$-1".to_vec());
    let mut connection = redis.connect().await.unwrap();
    for field in ["level", "expires_at", "version", "epoch", "fresh_until"] {
        for value in [&huge, &binary] {
            publish(&cache, user, &state("PRO", 1), "e1").await;
            redis::cmd("HSET").arg(&meta).arg(field).arg(value).query_async::<()>(&mut connection).await.unwrap();
            let found = cache.get(user, "e1", Utc::now(), &mut budget()).await;
            assert!(!matches!(found, Ok(Some(_))), "{field}: {found:?}");
            let met = publish(&cache, user, &state("PRO", 1), "e1").await;
            // Where the version stands, it is known to have been there.
            assert_eq!(met == Published::Written, ["version", "epoch"].contains(&field), "{field}: {met:?}");
            assert_eq!(get(&cache, user, "e1").await.unwrap().version, 1, "{field}");
        }
    }
    assert_eq!(cache.breaker().state(), tollgate::cache::BreakerState::Closed, "strange values are no outage");
}

#[tokio::test]
async fn a_flushed_script_is_loaded_again() {
    let redis = RedisServer::start().await;
    let cache = cache_on(&redis);
    let user = UserId::from(Uuid::new_v4());
    for version in 1..=3 {
        assert_eq!(publish(&cache, user, &state("PRO", version), "e1").await, Published::Written);
        redis.command::<String>(&["SCRIPT", "FLUSH"]).await;
    }
    let event = EventId::parse("evt_1").unwrap();
    let pro = state("PRO", 4);
    let publication = Publication { user, entitlement: &pro, epoch: "e1", mark: Some(&event) };
    cache.publish(publication, Utc::now(), &mut budget()).await.unwrap();
    assert!(cache.is_marked(&event, "e1", &mut budget()).await.unwrap());
    assert!(!cache.is_marked(&event, "e2", &mut budget()).await.unwrap());
}
