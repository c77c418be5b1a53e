//! The cache in this process' own memory: what `publish.lua` and [`key`] promise, without Redis.
//!
//! Bounded by count, not by time: what was written last stays, and a user who is asked for is written again within the hour.
//! A cache crate would forget by its own clock, where everything here is told what time it is, and may turn away what is new in
//! favour of what is asked for often: then an older version could win.
//!
//! 100,000 users take some 20 MB, as many marks some 12 MB: the most that [`MemorySettings::default`] leads to is twice that.

use std::{
    cmp::Ordering,
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Publication, Published, breaker::Breaker, key};
use crate::{
    domain::{
        entitlement::Entitlement,
        id::{EventId, UserId},
    },
    recent::Recent,
};

/// How much is remembered, and for how long it is served.
#[derive(Debug, Clone, Copy)]
pub struct MemorySettings {
    /// Users kept at most, and as many marks; the half of them that was written last is kept for certain. 64 at least.
    pub entries_max: usize,
    /// The longest that a level is served without asking the ledger again, if less than an hour: short where other replicas
    /// write, of which this one's memory hears nothing.
    pub life_max: Option<Duration>,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self { entries_max: 200_000, life_max: None }
    }
}

/// Levels and marks in this process' own memory. Cheap to clone: the clones share one memory.
#[derive(Clone)]
pub struct MemoryCache {
    inner: Arc<Inner>,
}

struct Inner {
    shown: Sharded<UserId, Shown>,
    marks: Sharded<EventId, Mark>,
    /// One per replica that asks, and in a process that is one.
    canaries: Mutex<HashMap<Uuid, u64>>,
    /// The one written last, so that entries share it.
    epoch: Mutex<Arc<str>>,
    life: Duration,
    /// Nothing ever fails here, so it stays closed.
    breaker: Breaker,
}

/// What readers are shown of a user. Kept when it is no longer fresh: its version still refuses older ones.
struct Shown {
    entitlement: Entitlement,
    epoch: Arc<str>,
    fresh_until: DateTime<Utc>,
    /// A life has an end also where the clock is set back.
    written: Instant,
}

/// An event that has had its effect.
struct Mark {
    epoch: Arc<str>,
    until: DateTime<Utc>,
}

impl MemoryCache {
    /// An empty memory. It takes room as it fills.
    #[must_use]
    pub fn new(settings: MemorySettings) -> Self {
        let life_max = key::LEVEL_TTL.to_std().unwrap_or_default();
        let inner = Inner {
            shown: Sharded::new(settings.entries_max),
            marks: Sharded::new(settings.entries_max),
            canaries: Mutex::default(),
            epoch: Mutex::new("".into()),
            life: settings.life_max.map_or(life_max, |life| life.min(life_max)),
            breaker: Breaker::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(super) fn is_marked(&self, event: &EventId, epoch: &str, now: DateTime<Utc>) -> bool {
        self.inner.marks.of(event).get(event).is_some_and(|mark| *mark.epoch == *epoch && now < mark.until)
    }

    pub(super) fn get(&self, user: UserId, epoch: &str, now: DateTime<Utc>) -> Option<Entitlement> {
        let users = self.inner.shown.of(&user);
        let Shown { entitlement, epoch: written_epoch, fresh_until, written } = users.get(&user)?;
        let is_fresh = now < *fresh_until && written.elapsed() < self.inner.life;
        (**written_epoch == *epoch && is_fresh && !entitlement.is_over(now)).then(|| entitlement.clone())
    }

    pub(super) fn publish(&self, publication: Publication<'_>, now: DateTime<Utc>) -> Published {
        let epoch = self.inner.shared(publication.epoch);
        let published = self.inner.show(publication, Arc::clone(&epoch), now);
        // Marked also beside a newer version: the event has had its effect all the same.
        if let Some(event) = publication.mark {
            self.inner.marks.of(event).insert(event.clone(), Mark { epoch, until: now + key::META_TTL });
        }
        published
    }

    pub(super) fn swap_canary(&self, instance: Uuid, next: u64) -> Option<u64> {
        lock(&self.inner.canaries).insert(instance, next)
    }
}

impl Inner {
    /// Shows readers a state, unless they have been shown a newer version of the same epoch.
    fn show(&self, publication: Publication<'_>, epoch: Arc<str>, now: DateTime<Utc>) -> Published {
        let Publication { user, entitlement, .. } = publication;
        // A level that is over: its version still counts.
        let life = TimeDelta::from_std(self.life).unwrap_or(key::LEVEL_TTL);
        let fresh_until = key::fresh_until(entitlement, life, now, rand::random_range(0..=1000)).unwrap_or(now);
        let mut users = self.shown.of(&user);
        let known = users.get(&user).filter(|known| known.epoch == epoch).map(|known| known.entitlement.version);
        let published = match known.map(|known| known.cmp(&entitlement.version)) {
            Some(Ordering::Greater) => return Published::NewerThere,
            Some(Ordering::Equal) => Published::Again,
            Some(Ordering::Less) | None => Published::Written,
        };
        users.insert(user, Shown { entitlement: entitlement.clone(), epoch, fresh_until, written: Instant::now() });
        published
    }

    /// The epoch as entries hold it.
    fn shared(&self, epoch: &str) -> Arc<str> {
        let mut last = lock(&self.epoch);
        if **last != *epoch {
            *last = epoch.into();
        }
        Arc::clone(&last)
    }
}

/// So many threads can ask at once, and so much smaller is what is freed at once.
const SHARDS: usize = 64;

/// A bounded memory in parts with a lock each.
struct Sharded<K, V> {
    shards: [Mutex<Recent<K, V>>; SHARDS],
    hasher: RandomState,
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    fn new(entries_max: usize) -> Self {
        // Of each part two generations are kept.
        let generation_max = entries_max / SHARDS / 2;
        let shards = std::array::from_fn(|_| Mutex::new(Recent::new(generation_max)));
        Self { shards, hasher: RandomState::new() }
    }

    /// The part that holds a key.
    fn of(&self, key: &K) -> MutexGuard<'_, Recent<K, V>> {
        let [byte, ..] = self.hasher.hash_one(key).to_le_bytes();
        #[expect(clippy::indexing_slicing, reason = "a remainder is less than its divisor")]
        lock(&self.shards[usize::from(byte) % SHARDS])
    }
}

/// No guard is held across anything that panics half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::level::Level;

    fn now() -> DateTime<Utc> {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn user() -> UserId {
        UserId::from(Uuid::from_u128(7))
    }

    fn pro(expires_at: Option<DateTime<Utc>>, version: u64) -> Entitlement {
        Entitlement { level: Level::parse("PRO").unwrap(), expires_at, quantity: 1, version }
    }

    fn publication(entitlement: &Entitlement) -> Publication<'_> {
        Publication { user: user(), entitlement, epoch: "e1", mark: None }
    }

    fn living(life_max: Duration) -> MemoryCache {
        MemoryCache::new(MemorySettings { life_max: Some(life_max), ..MemorySettings::default() })
    }

    #[test]
    fn a_level_lives_no_longer_than_it_is_allowed_to() {
        let millis = TimeDelta::milliseconds;
        let cache = living(Duration::from_secs(1));
        cache.publish(publication(&pro(None, 1)), now());
        assert!(cache.get(user(), "e1", now() + millis(899)).is_some(), "a second less 0-10 %");
        assert_eq!(cache.get(user(), "e1", now() + millis(1000)), None);

        let ends_sooner = pro(Some(now() + millis(500)), 2);
        cache.publish(publication(&ends_sooner), now());
        assert!(cache.get(user(), "e1", now() + millis(449)).is_some());
        assert_eq!(cache.get(user(), "e1", now() + millis(500)), None);

        let none = living(Duration::ZERO);
        none.publish(publication(&pro(None, 1)), now());
        assert_eq!(none.get(user(), "e1", now()), None);
    }

    #[test]
    fn a_clock_that_was_set_back_made_a_level_live_longer() {
        let cache = living(Duration::ZERO);
        cache.publish(publication(&pro(None, 1)), now());
        assert_eq!(cache.get(user(), "e1", now() - TimeDelta::hours(1)), None);
    }

    #[test]
    fn no_life_is_longer_than_in_redis() {
        for cache in [MemoryCache::new(MemorySettings::default()), living(Duration::MAX)] {
            cache.publish(publication(&pro(None, 1)), now());
            assert!(cache.get(user(), "e1", now() + TimeDelta::minutes(53)).is_some());
            assert_eq!(cache.get(user(), "e1", now() + TimeDelta::hours(1)), None);
        }
    }

    #[test]
    fn a_version_outlives_its_level_by_a_day_and_more() {
        let cache = living(Duration::from_secs(1));
        cache.publish(publication(&pro(None, 2)), now());
        let later = now() + TimeDelta::days(1);
        assert_eq!(cache.publish(publication(&pro(None, 1)), later), Published::NewerThere);
        assert_eq!(cache.get(user(), "e1", later), None, "nor does it come back");
    }

    #[test]
    fn a_mark_lives_a_day() {
        let cache = MemoryCache::new(MemorySettings::default());
        let event = EventId::parse("evt_1").unwrap();
        let state = pro(None, 1);
        cache.publish(Publication { mark: Some(&event), ..publication(&state) }, now());
        let end = now() + TimeDelta::days(1);
        assert!(cache.is_marked(&event, "e1", end - TimeDelta::milliseconds(1)));
        assert!(!cache.is_marked(&event, "e1", end));
        cache.publish(Publication { mark: Some(&event), ..publication(&state) }, end);
        assert!(cache.is_marked(&event, "e1", end), "written again, it begins anew");
    }

    #[test]
    fn marks_are_bounded_and_the_newest_stay() {
        const BOUND: usize = 10_000;
        let cache = MemoryCache::new(MemorySettings { entries_max: BOUND, life_max: None });
        let events: Vec<EventId> = (0..BOUND * 10).map(|n| EventId::parse(&format!("evt_{n}")).unwrap()).collect();
        let state = pro(None, 1);
        for event in &events {
            cache.publish(Publication { mark: Some(event), ..publication(&state) }, now());
        }
        let kept = |events: &[EventId]| events.iter().filter(|event| cache.is_marked(event, "e1", now())).count();
        assert!(kept(&events) <= BOUND);
        let newest = &events[events.len() - BOUND / 20..];
        assert_eq!(kept(newest), newest.len());
    }
}
