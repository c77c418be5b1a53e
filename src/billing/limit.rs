//! How often somebody may have Stripe asked: a user, or an address.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DashMapStateStore,
};

use super::CheckoutError;
use crate::domain::id::UserId;

/// A bucket per user.
pub(super) type UserLimit = Limit<UserId>;

/// Six: with ten sessions a minute that is twice what one page that waits may ask.
const LOOKUPS_PER_CHECKOUT: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);

/// After so many questions, keys that have not asked for a while are forgotten.
const FORGET_EVERY: u32 = 1024;

/// A bucket per key. This replica's only: with several replicas a key gets as many times more.
pub(crate) struct Limit<K: Hash + Eq + Clone> {
    buckets: RateLimiter<K, DashMapStateStore<K>, DefaultClock>,
    clock: DefaultClock,
    asked: AtomicU32,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    pub(crate) fn per_minute(most: NonZeroU32) -> Self {
        let clock = DefaultClock::default();
        let buckets = RateLimiter::new(Quota::per_minute(most), DashMapStateStore::default(), clock.clone());
        Self { buckets, clock, asked: AtomicU32::new(0) }
    }

    /// How often Stripe may be asked how a session stands, where so many may be opened: a page that waits for a payment asks every few
    /// seconds.
    pub(crate) fn of_lookups(checkouts: NonZeroU32) -> Self {
        Self::per_minute(checkouts.saturating_mul(LOOKUPS_PER_CHECKOUT))
    }

    /// # Errors
    /// Too often: with the time to wait.
    pub(crate) fn check(&self, key: K) -> Result<(), CheckoutError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.buckets.retain_recent();
            self.buckets.shrink_to_fit();
        }
        self.buckets
            .check_key(&key)
            .map_err(|refusal| CheckoutError::RateLimited { retry_after: refusal.wait_time_from(self.clock.now()) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_users_haste_is_not_anothers() {
        let limit = UserLimit::per_minute(NonZeroU32::new(2).unwrap());
        let (one, other) = (UserId::from(Uuid::from_u128(1)), UserId::from(Uuid::from_u128(2)));
        assert_eq!((limit.check(one), limit.check(one)), (Ok(()), Ok(())));
        let Err(CheckoutError::RateLimited { retry_after }) = limit.check(one) else { panic!("limited") };
        assert!(retry_after > Duration::from_secs(20) && retry_after <= Duration::from_secs(30), "{retry_after:?}");
        assert_eq!(limit.check(other), Ok(()));
    }

    #[test]
    fn users_are_forgotten() {
        // A bucket that refills within a microsecond is full again, and so worth nothing, at the next question.
        let limit = UserLimit {
            buckets: RateLimiter::new(
                Quota::with_period(Duration::from_nanos(1)).unwrap(),
                DashMapStateStore::default(),
                DefaultClock::default(),
            ),
            clock: DefaultClock::default(),
            asked: AtomicU32::new(0),
        };
        for user in 0..10_000 {
            assert_eq!(limit.check(UserId::from(Uuid::from_u128(user))), Ok(()));
        }
        assert!(limit.buckets.len() <= 2048, "{}", limit.buckets.len());
    }
}
