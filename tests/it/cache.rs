//! What every cache promises, tried on each: on a real Redis and on this process' own memory. What only Redis has is in
//! `redis_contract.rs`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use tollgate::{
    cache::{
        BreakerState, Budget, Cache, MemoryCache, MemorySettings, Publication, Published, RedisCache, RedisSettings,
    },
    domain::{
        entitlement::Entitlement,
        id::{EventId, UserId},
        level::Level,
    },
};
use uuid::Uuid;

use crate::harness::{RedisServer, eventually};

/// Patient: these tests are about what is written, not about how soon.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cache as its users see it, without their budgets.
#[derive(Clone)]
struct TestCache {
    cache: Cache,
    /// Runs as long as it is asked.
    _server: Option<RedisServer>,
}

impl TestCache {
    async fn redis() -> Self {
        let server = RedisServer::start().await;
        let settings = RedisSettings { connect: PATIENCE, response: PATIENCE };
        let cache = RedisCache::new(&server.url(), settings).unwrap().into();
        Self { cache, _server: Some(server) }
    }

    async fn memory() -> Self {
        Self { cache: MemoryCache::new(MemorySettings::default()).into(), _server: None }
    }

    async fn publish_all(&self, publications: &[Publication<'_>], now: DateTime<Utc>) -> Vec<Published> {
        self.cache.publish_all(publications, now, &mut Budget::new(PATIENCE)).await.unwrap()
    }

    async fn publish_at(&self, now: DateTime<Utc>, publication: Publication<'_>) -> Published {
        self.cache.publish(publication, now, &mut Budget::new(PATIENCE)).await.unwrap()
    }

    async fn publish(&self, user: UserId, entitlement: &Entitlement, epoch: &str) -> Published {
        self.publish_at(Utc::now(), Publication { user, entitlement, epoch, mark: None }).await
    }

    async fn get_at(&self, now: DateTime<Utc>, user: UserId, epoch: &str) -> Option<Entitlement> {
        self.cache.get(user, epoch, now, &mut Budget::new(PATIENCE)).await.unwrap()
    }

    async fn get(&self, user: UserId, epoch: &str) -> Option<Entitlement> {
        self.get_at(Utc::now(), user, epoch).await
    }

    async fn is_marked(&self, event: &EventId, epoch: &str) -> bool {
        self.cache.is_marked(event, epoch, &mut Budget::new(PATIENCE)).await.unwrap()
    }

    async fn swap_canary(&self, instance: Uuid, next: u64) -> Option<u64> {
        self.cache.swap_canary(instance, next, &mut Budget::new(PATIENCE)).await.unwrap()
    }
}

fn somebody() -> UserId {
    UserId::from(Uuid::new_v4())
}

fn event(id: &str) -> EventId {
    EventId::parse(id).unwrap()
}

fn state(level: &str, version: u64) -> Entitlement {
    Entitlement { level: Level::parse(level).unwrap(), expires_at: None, quantity: 1, version }
}

fn until(expires_at: DateTime<Utc>, version: u64) -> Entitlement {
    Entitlement { expires_at: Some(expires_at), ..state("PRO", version) }
}

/// Whole microseconds, as the ledger keeps time.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(Utc::now().timestamp_micros()).unwrap()
}

macro_rules! on_every_cache {
    ($($case:ident),+ $(,)?) => {
        on_every_cache!(@on redis: $($case),+);
        on_every_cache!(@on memory: $($case),+);
    };
    (@on $kind:ident: $($case:ident),+) => {
        mod $kind {
            use super::TestCache;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(TestCache::$kind().await).await;
                }
            )+
        }
    };
}

on_every_cache!(
    it_answers_and_its_breaker_is_closed,
    what_was_written_is_read,
    an_older_version_is_refused,
    another_epoch_is_no_version,
    a_level_is_fresh_for_an_hour_at_most_and_its_version_outlives_it,
    a_level_that_is_over_is_never_served,
    a_short_life_ends_by_itself,
    a_mark_comes_with_a_publication_and_is_its_epochs,
    a_canary_is_found_as_it_was_left,
    many_are_published_in_their_order,
    the_newest_version_stays_whatever_the_order,
);

async fn it_answers_and_its_breaker_is_closed(cache: TestCache) {
    cache.cache.ping().await.unwrap();
    assert_eq!(cache.cache.breaker().state(), BreakerState::Closed);
}

async fn what_was_written_is_read(cache: TestCache) {
    let (subscriber, visitor, stranger) = (somebody(), somebody(), somebody());
    assert_eq!(cache.get(subscriber, "e1").await, None);
    let (pro, free) = (until(now() + TimeDelta::days(30), 7), state("FREE", 0));
    assert_eq!(cache.publish(subscriber, &pro, "e1").await, Published::Written);
    assert_eq!(cache.publish(visitor, &free, "e1").await, Published::Written);
    assert_eq!(cache.get(subscriber, "e1").await, Some(pro));
    assert_eq!(cache.get(visitor, "e1").await, Some(free));
    assert_eq!(cache.get(stranger, "e1").await, None);
}

/// A refill that read version 5, paused, and wrote after version 6 was published; and a late grant after a revocation.
async fn an_older_version_is_refused(cache: TestCache) {
    let user = somebody();
    assert_eq!(cache.publish(user, &state("PRO", 5), "e1").await, Published::Written);
    assert_eq!(cache.publish(user, &state("FREE", 6), "e1").await, Published::Written);
    assert_eq!(cache.publish(user, &state("PRO", 5), "e1").await, Published::NewerThere);
    assert_eq!(cache.get(user, "e1").await, Some(state("FREE", 6)));
    assert_eq!(cache.publish(user, &state("TRIAL", 6), "e1").await, Published::Again, "the same version");
    assert_eq!(cache.get(user, "e1").await, Some(state("TRIAL", 6)));
    assert_eq!(cache.publish(user, &state("PRO", 10), "e1").await, Published::Written, "as a number, not as a text");
    assert_eq!(cache.publish(user, &state("PRO", 9), "e1").await, Published::NewerThere);
}

async fn another_epoch_is_no_version(cache: TestCache) {
    let user = somebody();
    cache.publish(user, &state("PRO", 900), "before the restore").await;
    assert_eq!(cache.get(user, "after").await, None);
    assert_eq!(cache.publish(user, &state("TRIAL", 3), "after").await, Published::Written);
    assert_eq!(cache.get(user, "after").await, Some(state("TRIAL", 3)));
    assert_eq!(cache.get(user, "before the restore").await, None);
    assert_eq!(cache.publish(user, &state("PRO", 2), "after").await, Published::NewerThere);
    assert_eq!(
        cache.publish(user, &state("PRO", 1), "before the restore").await,
        Published::Written,
        "no memory of it"
    );
}

async fn a_level_is_fresh_for_an_hour_at_most_and_its_version_outlives_it(cache: TestCache) {
    let (user, written) = (somebody(), now());
    let (older, pro) = (state("TRIAL", 3), state("PRO", 4));
    let publication = |entitlement| Publication { user, entitlement, epoch: "e1", mark: None };
    cache.publish_at(written, publication(&pro)).await;
    assert_eq!(cache.get_at(written + TimeDelta::minutes(53), user, "e1").await, Some(pro.clone()), "less 0-10 %");
    let stale = written + TimeDelta::hours(1);
    assert_eq!(cache.get_at(stale, user, "e1").await, None);
    assert_eq!(cache.publish_at(stale, publication(&older)).await, Published::NewerThere);
    assert_eq!(cache.get_at(stale, user, "e1").await, None);
    assert_eq!(cache.publish_at(stale, publication(&pro)).await, Published::Again, "the same version, fresh again");
    assert_eq!(cache.get_at(stale, user, "e1").await, Some(pro));
}

async fn a_level_that_is_over_is_never_served(cache: TestCache) {
    let (user, now) = (somebody(), now());
    let publish = |entitlement: Entitlement| {
        let cache = cache.clone();
        async move {
            let publication = Publication { user, entitlement: &entitlement, epoch: "e1", mark: None };
            cache.publish_at(now, publication).await
        }
    };
    let second = TimeDelta::seconds(1);
    for (over, met) in [(now - TimeDelta::days(2), Published::Written), (now - second, Published::Again)] {
        assert_eq!(publish(until(over, 5)).await, met);
        assert_eq!(cache.get_at(now, user, "e1").await, None, "over since {over}");
        assert_eq!(cache.get_at(now - second, user, "e1").await, None, "nor after the clock was set back");
        assert_eq!(publish(state("PRO", 4)).await, Published::NewerThere, "its version counts");
    }
    let end = now + TimeDelta::minutes(10);
    publish(until(end, 6)).await;
    let near = end - TimeDelta::minutes(1) - TimeDelta::milliseconds(1);
    assert_eq!(cache.get_at(near, user, "e1").await, Some(until(end, 6)), "its life less 0-10 %");
    assert_eq!(cache.get_at(end, user, "e1").await, None);
}

async fn a_short_life_ends_by_itself(cache: TestCache) {
    let user = somebody();
    let end = now() + TimeDelta::seconds(1);
    cache.publish(user, &until(end, 1), "e1").await;
    eventually(PATIENCE, "the level has had its time", || async {
        let asked = Utc::now();
        let served = cache.get_at(asked, user, "e1").await;
        assert!(served.is_none() || asked < end, "served at {asked}, over since {end}");
        served.is_none()
    })
    .await;
}

async fn a_mark_comes_with_a_publication_and_is_its_epochs(cache: TestCache) {
    let (user, first, late, other) = (somebody(), event("evt_1"), event("evt_2"), event("evt_3"));
    let (older, newer) = (state("TRIAL", 1), state("PRO", 2));
    cache.publish(user, &newer, "e1").await;
    assert!(!cache.is_marked(&first, "e1").await, "no publication has named it");

    let publication = Publication { user, entitlement: &newer, epoch: "e1", mark: Some(&first) };
    cache.publish_at(now(), publication).await;
    assert!(cache.is_marked(&first, "e1").await);
    assert!(!cache.is_marked(&first, "e2").await, "another epoch's mark is none");
    assert!(!cache.is_marked(&other, "e1").await);

    let superseded = Publication { entitlement: &older, mark: Some(&late), ..publication };
    assert_eq!(cache.publish_at(now(), superseded).await, Published::NewerThere);
    assert!(cache.is_marked(&late, "e1").await, "it has had its effect all the same");

    cache.publish_at(now(), Publication { epoch: "e2", ..publication }).await;
    assert!(cache.is_marked(&first, "e2").await);
    assert!(!cache.is_marked(&first, "e1").await, "one mark for an event");
}

async fn a_canary_is_found_as_it_was_left(cache: TestCache) {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(cache.swap_canary(one, 1).await, None);
    assert_eq!(cache.swap_canary(one, 2).await, Some(1));
    assert_eq!(cache.swap_canary(two, 1).await, None, "each replica has its own");
    assert_eq!(cache.swap_canary(one, 3).await, Some(2));
}

async fn many_are_published_in_their_order(cache: TestCache) {
    let (alice, bob) = (somebody(), somebody());
    cache.publish(bob, &state("PRO", 2), "e1").await;
    let states = [state("TRIAL", 1), state("PRO", 2)];
    let [older, newer] = &states;
    let (first, second) = (event("evt_1"), event("evt_2"));
    let publication = |user, entitlement, mark| Publication { user, entitlement, epoch: "e1", mark };
    let published = cache
        .publish_all(
            &[
                publication(alice, older, Some(&first)),
                publication(bob, older, Some(&second)),
                publication(alice, newer, None),
                publication(alice, older, None),
            ],
            now(),
        )
        .await;
    let expected = [Published::Written, Published::NewerThere, Published::Written, Published::NewerThere];
    assert_eq!(published, expected);
    assert_eq!(cache.get(alice, "e1").await.as_ref(), Some(newer));
    assert_eq!(cache.get(bob, "e1").await.as_ref(), Some(newer));
    assert!(cache.is_marked(&first, "e1").await && cache.is_marked(&second, "e1").await);
    assert_eq!(cache.publish_all(&[], now()).await, []);
}

/// Eight writers publish versions in any order, many rounds: what stays is the newest, never what came last. No reader sees a
/// version after a newer one.
async fn the_newest_version_stays_whatever_the_order(cache: TestCache) {
    for round in 0..20_u64 {
        let user = somebody();
        let writers = (0..8_u64).map(|writer| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for step in 0..40_u64 {
                    // Each version once, in an order that differs by writer and round.
                    let version = (step * 7 + writer * 5 + round) % 40 + 1;
                    cache.publish(user, &state("PRO", version), "e1").await;
                }
            })
        });
        let writers = join_all(writers);
        let reader = {
            let cache = cache.clone();
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < 40 {
                    let version = cache.get(user, "e1").await.map_or(0, |found| found.version);
                    assert!(version >= seen, "{version} after {seen}");
                    seen = version;
                    tokio::task::yield_now().await;
                }
            })
        };
        for writer in writers.await {
            writer.unwrap();
        }
        assert_eq!(cache.get(user, "e1").await.unwrap().version, 40);
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn memory_is_bounded_and_the_newest_stay() {
    const BOUND: usize = 10_000;
    let memory = MemoryCache::new(MemorySettings { entries_max: BOUND, life_max: None });
    let cache = TestCache { cache: memory.into(), _server: None };
    let users: Vec<UserId> = (0..BOUND * 10).map(|_| somebody()).collect();
    let pro = state("PRO", 1);
    for user in &users {
        cache.publish(*user, &pro, "e1").await;
    }
    let kept = async |users: &[UserId]| {
        let mut kept = 0;
        for user in users {
            kept += usize::from(cache.get(*user, "e1").await.is_some());
        }
        kept
    };
    assert!(kept(&users).await <= BOUND);
    let newest = &users[users.len() - BOUND / 20..];
    assert_eq!(kept(newest).await, newest.len());
}
