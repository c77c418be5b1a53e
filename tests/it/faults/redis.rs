//! Faults of Redis and of the way to it: no webhook and no read fails for it, nothing old is served for it, and the cache is right again
//! by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::Utc;
use tollgate::{
    cache::{BreakerState, Budget, CacheError, Publication, Published, RedisCache, RedisSettings},
    domain::{entitlement::Entitlement, id::UserId, level::Level},
};
use uuid::Uuid;

use super::{PATIENCE, assert_reads, deliver, deliver_again, metric, until_shown};
use crate::harness::{
    RedisServer,
    event::SessionEvent,
    eventually,
    proxy::{Proxy, redis_that_says},
    server::{Answer, REDIS_DEADLINE_AS_SHIPPED, TestServer, World, client},
};

/// As few threads as can be: each has a connection to Redis, and each connection is given up by itself.
const FEW_THREADS: [(&str, &str); 2] = [("TOLLGATE_HTTP_WORKERS", "1"), ("TOLLGATE_ACTOR_THREADS", "1")];

/// Buys and reads, many times over; gives whose purchases they were.
async fn trade(server: &TestServer) -> Vec<Uuid> {
    let mut users = Vec::new();
    for _ in 0..15 {
        let event = SessionEvent::paid(Uuid::new_v4());
        deliver(server, &event).await;
        assert_reads(&server.read(event.user).await, "PRO", 1);
        deliver_again(server, &event).await;
        users.push(event.user);
    }
    users
}

async fn until_cached(server: &TestServer, user: Uuid) {
    eventually(PATIENCE, "reads are answered by Redis again", || async {
        server.read(user).await.json["source"] == "cache"
    })
    .await;
}

/// Whatever is between us and Redis. Where nothing came back any more, the same connection was asked for ever, also when Redis was in
/// reach again.
#[tokio::test]
async fn a_connection_to_redis_that_nothing_comes_back_on_was_kept() {
    let world = World::new().await;
    let proxy = Proxy::before(&world.redis.url()).await;
    let server =
        world.serve_with(&[&FEW_THREADS[..], &[REDIS_DEADLINE_AS_SHIPPED, ("REDIS_URL", proxy.url())]].concat()).await;
    for fault in ["silent", "slow", "refusing"] {
        until_cached(&server, trade(&server).await[0]).await;
        let failures = metric(&server, "tollgate_cache_failures_total").await;
        match fault {
            "silent" => proxy.silence(),
            "slow" => proxy.delay(Duration::from_millis(400)),
            _ => proxy.refuse(),
        }
        let users = trade(&server).await;
        let failures = metric(&server, "tollgate_cache_failures_total").await - failures;
        // Five for each of three threads, and what was under way: the other requests lost no time at all.
        assert!((1.0..25.0).contains(&failures), "{failures} of 45 requests had to find out that Redis is {fault}");
        proxy.heal();
        for user in users {
            until_shown(&world.redis, user, 1).await;
            until_cached(&server, user).await;
        }
    }
}

#[tokio::test]
async fn a_server_starts_while_redis_is_out_of_reach() {
    let world = World::new().await;
    let proxy = Proxy::before(&world.redis.url()).await;
    for begin in [Proxy::silence, Proxy::refuse] {
        begin(&proxy);
        let server = world.serve_with(&[REDIS_DEADLINE_AS_SHIPPED, ("REDIS_URL", proxy.url())]).await;
        let users = trade(&server).await;
        let ready = Answer::of(client().get(server.url("/health/ready"))).await;
        assert_eq!((ready.status, ready.json["status"].as_str()), (200, Some("degraded")), "{}", ready.text);
        proxy.heal();
        for user in users {
            until_shown(&world.redis, user, 1).await;
        }
    }
}

/// Reads found what it still held, and hid from the breaker that nothing could be written.
async fn takes_no_writes(begin: &[&str], end: &[&str]) {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &event).await;
    assert_eq!(assert_reads(&server.read(event.user).await, "PRO", 1), "cache");
    world.redis.command::<String>(begin).await;
    for version in 2..12 {
        deliver(&server, &SessionEvent::paid(event.user)).await;
        assert_reads(&server.read(event.user).await, "PRO", version);
    }
    trade(&server).await;
    assert_eq!(
        metric(&server, "tollgate_cache_breaker_opened_total").await,
        1.0,
        "it answers PING, and stays shut out"
    );
    world.redis.command::<String>(end).await;
    until_shown(&world.redis, event.user, 11).await;
    until_cached(&server, event.user).await;
}

#[tokio::test]
async fn a_full_redis_went_on_serving_what_it_held() {
    takes_no_writes(&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]).await;
}

#[tokio::test]
async fn a_redis_that_had_become_a_replica_went_on_serving_what_it_held() {
    takes_no_writes(&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]).await;
}

/// What a real Redis cannot be made to say at a given moment.
#[tokio::test]
async fn a_redis_that_says_it_is_of_no_use_is_believed_at_once() {
    let redis = RedisServer::start().await;
    let pro = Entitlement { level: Level::parse("PRO").unwrap(), ..Entitlement::none() };
    for (word, says) in [
        ("LOADING", "-LOADING Redis is loading the dataset in memory"),
        ("MISCONF", "-MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk"),
        ("MASTERDOWN", "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'"),
        ("CLUSTERDOWN", "-CLUSTERDOWN The cluster is down"),
        ("NOREPLICAS", "-NOREPLICAS Not enough good replicas to write"),
    ] {
        let proxy = Proxy::before(&format!("redis://127.0.0.1:{}", redis_that_says(says).await)).await;
        let patient = RedisSettings { connect: PATIENCE, response: PATIENCE };
        let cache = RedisCache::new(proxy.url(), patient).unwrap();
        let user = UserId::from(Uuid::new_v4());
        let publish = async || {
            let publication = Publication { user, entitlement: &pro, epoch: "e1", mark: None };
            cache.publish(publication, Utc::now(), &mut Budget::new(PATIENCE)).await
        };
        assert_eq!(publish().await, Err(CacheError::Failed(word.into())));
        assert_eq!(cache.breaker().state(), BreakerState::Open, "{word}");
        assert_eq!(publish().await, Err(CacheError::Open));
        assert_eq!(cache.probe().await, Err(CacheError::Failed(word.into())));
        proxy.lead_to(redis.port());
        cache.probe().await.unwrap();
        cache.breaker().close();
        assert_eq!(publish().await, Ok(Published::Written), "{word}");
    }
}

#[tokio::test]
async fn scripts_that_are_flushed_all_the_time_fail_nothing() {
    let world = World::new().await;
    let server = world.serve().await;
    let (done, flushed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flushing = tokio::spawn({
        let (redis, done, flushed) = (world.redis.clone(), Arc::clone(&done), Arc::clone(&flushed));
        async move {
            let mut connection = redis.connect().await.unwrap();
            while !done.load(Ordering::Relaxed) {
                redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut connection).await.unwrap();
                flushed.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut users = trade(&server).await;
    let before = flushed.load(Ordering::Relaxed);
    users.extend(trade(&server).await);
    assert!(flushed.load(Ordering::Relaxed) > before, "they were flushed meanwhile");
    done.store(true, Ordering::Relaxed);
    flushing.await.unwrap();
    assert_eq!(metric(&server, "tollgate_cache_breaker_opened_total").await, 0.0, "Redis is well");
    for user in users {
        until_shown(&world.redis, user, 1).await;
    }
}
