//! ROOM 6: hints. Never the truth: a failed read is a miss, a failed write is tried again by whoever waits for it.
//!
//! What applications and Tollgate itself find in Redis is described in [`key`]. No correctness rests on it: every value
//! carries the ledger's epoch and a version, and the ledger is asked whenever there is doubt.

mod breaker;
mod budget;
pub mod key;
mod redis_cache;

pub use self::{
    breaker::{Breaker, BreakerState},
    budget::Budget,
    redis_cache::{Publication, Published, RedisCache, RedisSettings},
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
