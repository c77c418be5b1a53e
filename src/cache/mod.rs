//! ROOM 6: hints. Never the truth: a failed read is a miss, a failed write is tried again by whoever waits for it.
//!
//! There are two of them, and whoever uses a [`Cache`] cannot tell which: Redis, which replicas share and applications read
//! ([`key`] describes what they find there), and this process' own memory, where one replica is all there is. No correctness
//! rests on either: every value carries the ledger's epoch and a version, and the ledger is asked whenever there is doubt.

mod announcements;
mod breaker;
mod budget;
pub mod key;
mod memory_cache;
mod redis_cache;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::{
    announcements::{Announced, Announcements},
    breaker::{Breaker, BreakerState},
    budget::Budget,
    memory_cache::{MemoryCache, MemorySettings},
    redis_cache::{RedisCache, RedisSettings},
};
use crate::clock;
use crate::domain::{
    entitlement::Entitlement,
    id::{EventId, UserId},
};

/// Why the cache gave no answer. For the caller it is always the same: go on without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The breaker is open: Redis was not asked.
    #[error("the cache is out of reach")]
    Open,
    /// The request's time for Redis is used up.
    #[error("the cache took too long")]
    TooSlow,
    /// Redis answered with an error, or the connection broke.
    #[error("the cache failed: {0}")]
    Failed(String),
}

/// A state to be shown to readers.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// Whose.
    pub user: UserId,
    /// The state.
    pub entitlement: &'a Entitlement,
    /// The ledger it is from.
    pub epoch: &'a str,
    /// The event to be marked as done, if one led to it.
    pub mark: Option<&'a EventId>,
}

/// What a publication met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It was not there, and is now, for all to read.
    Written,
    /// This very version was there already, and is fresh again.
    Again,
    /// A newer version was there already: as good.
    NewerThere,
}

/// One of the caches. Cheap to clone. An enum, since a trait object would allocate a future for every question.
#[derive(Clone)]
pub enum Cache {
    /// Shared by all replicas.
    Redis(RedisCache),
    /// This process' own. Never fails and never waits, so budgets are not touched.
    Memory(MemoryCache),
}

impl From<RedisCache> for Cache {
    fn from(cache: RedisCache) -> Self {
        Self::Redis(cache)
    }
}

impl From<MemoryCache> for Cache {
    fn from(cache: MemoryCache) -> Self {
        Self::Memory(cache)
    }
}

impl Cache {
    /// The breaker: its state, and the probe that closes it. Memory's never opens.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        match self {
            Self::Redis(cache) => cache.breaker(),
            Self::Memory(cache) => cache.breaker(),
        }
    }

    /// Whether an event is marked as done by this ledger.
    ///
    /// # Errors
    /// [`CacheError`]: ask the ledger.
    pub async fn is_marked(&self, event: &EventId, epoch: &str, budget: &mut Budget) -> Result<bool, CacheError> {
        match self {
            Self::Redis(cache) => cache.is_marked(event, epoch, budget).await,
            Self::Memory(cache) => Ok(cache.is_marked(event, epoch, clock::now())),
        }
    }

    /// A user's state, if it is there, ours, fresh and not over.
    ///
    /// # Errors
    /// [`CacheError`]: ask the ledger.
    pub async fn get(
        &self,
        user: UserId,
        epoch: &str,
        now: DateTime<Utc>,
        budget: &mut Budget,
    ) -> Result<Option<Entitlement>, CacheError> {
        match self {
            Self::Redis(cache) => cache.get(user, epoch, now, budget).await,
            Self::Memory(cache) => Ok(cache.get(user, epoch, now)),
        }
    }

    /// Writes a state, and the event's mark, in one round trip.
    ///
    /// # Errors
    /// [`CacheError`]: try again later.
    pub async fn publish(
        &self,
        publication: Publication<'_>,
        now: DateTime<Utc>,
        budget: &mut Budget,
    ) -> Result<Published, CacheError> {
        match self {
            Self::Redis(cache) => cache.publish(publication, now, budget).await,
            Self::Memory(cache) => Ok(cache.publish(publication, now)),
        }
    }

    /// Writes many states in one round trip, in their order.
    ///
    /// # Errors
    /// [`CacheError`]: try all of them again later.
    pub async fn publish_all(
        &self,
        publications: &[Publication<'_>],
        now: DateTime<Utc>,
        budget: &mut Budget,
    ) -> Result<Vec<Published>, CacheError> {
        match self {
            Self::Redis(cache) => cache.publish_all(publications, now, budget).await,
            Self::Memory(cache) => {
                Ok(publications.iter().map(|publication| cache.publish(*publication, now)).collect())
            }
        }
    }

    /// Asks for an answer of any kind, past the breaker.
    ///
    /// # Errors
    /// [`CacheError`] if there was none.
    pub async fn ping(&self) -> Result<(), CacheError> {
        match self {
            Self::Redis(cache) => cache.ping().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Tries whether writes are taken, past the breaker.
    ///
    /// # Errors
    /// [`CacheError`] if they are not.
    pub async fn probe(&self) -> Result<(), CacheError> {
        match self {
            Self::Redis(cache) => cache.probe().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Reads this replica's canary and writes the next one. Gives what was read.
    ///
    /// # Errors
    /// [`CacheError`] if Redis gave no answer.
    pub async fn swap_canary(&self, instance: Uuid, next: u64, budget: &mut Budget) -> Result<Option<u64>, CacheError> {
        match self {
            Self::Redis(cache) => cache.swap_canary(instance, next, budget).await,
            Self::Memory(cache) => Ok(cache.swap_canary(instance, next)),
        }
    }

    /// Listens to what other replicas announce. `None` if nothing can be heard, now or ever.
    pub async fn announcements(&self) -> Option<Announcements> {
        match self {
            Self::Redis(cache) => cache.announcements().await,
            Self::Memory(_) => None,
        }
    }
}
