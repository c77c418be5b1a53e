//! How fast Stripe is asked: below its limits, in two shares, so that what is fetched in the background never holds up a buyer.
//!
//! Stripe takes 100 requests a second with a live key and 25 with another (<https://docs.stripe.com/rate-limits>). Shares are this
//! process' own; several replicas, or other programs of the account, may still meet the limit, and 429 is tried again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Somebody who waits for it.
    Buyers,
    /// Whatever can wait.
    Background,
}

/// Both shares.
pub(crate) struct Pace {
    buyers: Bucket,
    background: Bucket,
}

impl Pace {
    pub(crate) fn of_key(key: &str) -> Self {
        let live = key.starts_with("sk_live_") || key.starts_with("rk_live_");
        let (buyers, background) = if live { (60, 30) } else { (14, 8) };
        Self { buyers: Bucket::per_second(buyers), background: Bucket::per_second(background) }
    }

    /// Waits for its turn; `false`, at once, if that comes only after the deadline.
    pub(crate) async fn turn(&self, share: Share, deadline: Instant) -> bool {
        let bucket = match share {
            Share::Buyers => &self.buyers,
            Share::Background => &self.background,
        };
        let Some(turn) = bucket.take(Instant::now(), deadline) else { return false };
        tokio::time::sleep_until(turn).await;
        true
    }
}

/// Turns at even distances, of which a second's may be saved up. Who waits is served in order.
struct Bucket {
    distance: Duration,
    next: Mutex<Instant>,
}

/// What may be saved up.
const SAVED_MAX: Duration = Duration::from_secs(1);

impl Bucket {
    fn per_second(turns: u32) -> Self {
        Self { distance: SAVED_MAX / turns, next: Mutex::new(Instant::now()) }
    }

    fn take(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now.checked_sub(SAVED_MAX).unwrap_or(now));
        if turn > deadline {
            return None;
        }
        *next = turn + self.distance;
        Some(turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_turns_may_be_saved_and_then_they_come_evenly() {
        let bucket = Bucket::per_second(10);
        let now = Instant::now() + Duration::from_secs(60);
        let deadline = now + Duration::from_millis(250);
        let turns: Vec<_> = (0..20).map_while(|_| bucket.take(now, deadline)).map(|turn| turn - now).collect();
        let ms = Duration::from_millis;
        assert_eq!(turns.len(), 13, "{turns:?}");
        assert_eq!(turns.iter().filter(|turn| turn.is_zero()).count(), 11);
        assert_eq!(turns.last(), Some(&ms(200)));
        assert!(bucket.take(now + ms(250), deadline).is_none(), "who was refused has taken nothing, nor has he a turn");
        assert_eq!(bucket.take(now + ms(300), now + ms(900)), Some(now + ms(300)));
    }

    #[tokio::test]
    async fn one_share_does_not_hold_up_the_other_and_both_stay_below_stripes_limit() {
        for (key, limit) in [("sk_test_1", 25), ("rk_live_1", 100)] {
            let pace = Pace::of_key(key);
            let rate = |bucket: &Bucket| 1.0 / bucket.distance.as_secs_f64();
            assert!(rate(&pace.buyers) + rate(&pace.background) < f64::from(limit));
            let now = Instant::now();
            while pace.background.take(now, now).is_some() {}
            assert!(pace.turn(Share::Buyers, now).await);
            assert!(!pace.turn(Share::Background, now).await);
        }
    }
}
