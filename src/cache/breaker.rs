//! The circuit breaker before Redis: after a few failures in a row on one connection, or once Redis says itself that it is of no use,
//! nobody waits for it any more, until a probe of its own has been able to write.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;

/// Whether Redis is asked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through.
    Closed,
    /// Requests are spared; a probe is on its way.
    Open,
}

/// The failures of one connection, in a row. Counted for each, since a dead one among good ones would never be noticed.
#[derive(Debug)]
pub(super) struct Failures {
    in_a_row: AtomicU32,
    /// How often the breaker had opened when the connection was made.
    openings: u64,
}

/// Keeps requests from waiting for a Redis that does not answer.
#[derive(Debug, Default)]
pub struct Breaker {
    open: AtomicBool,
    openings: AtomicU64,
    opened_at: Mutex<Option<Instant>>,
    opened: Notify,
}

impl Breaker {
    /// Whether requests go through.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        if self.open.load(Ordering::Relaxed) { BreakerState::Open } else { BreakerState::Closed }
    }

    /// Those of a connection that is made now: none.
    pub(super) fn failures(&self) -> Failures {
        Failures { in_a_row: AtomicU32::new(0), openings: self.openings.load(Ordering::Relaxed) }
    }

    /// Whether it has opened since the connection was made. Such a one is not to be used again: nothing may come back on it. Nor does
    /// what still fails on it tell anything of those that have taken its place.
    pub(super) fn has_outlived(&self, failures: &Failures) -> bool {
        failures.openings != self.openings.load(Ordering::Relaxed)
    }

    /// A request was answered.
    pub(super) fn succeeded(&self, Failures { in_a_row, .. }: &Failures) {
        // A plain load first: the shared cache line is written only when there is something to forget.
        if in_a_row.load(Ordering::Relaxed) != 0 {
            in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed or was not answered in time.
    pub(super) fn failed(&self, failures: &Failures) {
        let in_a_row = failures.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if in_a_row >= FAILURES_MAX && !self.has_outlived(failures) {
            self.open();
        }
    }

    /// Opens it, if it is not open.
    pub(super) fn open(&self) {
        if !self.open.swap(true, Ordering::Relaxed) {
            self.openings.fetch_add(1, Ordering::Relaxed);
            *self.opened_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            metrics::counter!("tollgate_cache_breaker_opened_total").increment(1);
            metrics::gauge!("tollgate_cache_breaker_open").set(1.0);
            tracing::warn!("the cache does not answer: going on without it");
            self.opened.notify_one();
        }
    }

    /// Waits until the breaker is open.
    pub async fn until_open(&self) {
        while self.state() == BreakerState::Closed {
            self.opened.notified().await;
        }
    }

    /// The probe got an answer: requests go through again. Gives how long they did not.
    pub fn close(&self) -> Duration {
        self.open.store(false, Ordering::Relaxed);
        metrics::gauge!("tollgate_cache_breaker_open").set(0.0);
        let opened_at = self.opened_at.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outage = opened_at.map_or(Duration::ZERO, |opened_at| opened_at.elapsed());
        tracing::info!(outage_ms = u64::try_from(outage.as_millis()).unwrap_or(u64::MAX), "the cache answers again");
        outage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_after_failures_in_a_row_and_closes_by_a_probe() {
        let breaker = Breaker::default();
        let failures = breaker.failures();
        for _ in 0..FAILURES_MAX - 1 {
            breaker.failed(&failures);
        }
        breaker.succeeded(&failures);
        for _ in 0..FAILURES_MAX - 1 {
            breaker.failed(&failures);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(&failures);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.has_outlived(&failures) && !breaker.has_outlived(&breaker.failures()));
        breaker.until_open().await;
        breaker.close();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(&breaker.failures());
        assert_eq!(breaker.state(), BreakerState::Closed, "a fresh connection has not failed yet");
    }

    /// What had been asked before the outage ran out of time after it: the breaker opened once more, and everybody connected anew.
    #[test]
    fn a_question_left_over_from_an_outage_began_the_next_one() {
        let breaker = Breaker::default();
        let failures = breaker.failures();
        for _ in 0..FAILURES_MAX {
            breaker.failed(&failures);
        }
        breaker.close();
        breaker.failed(&failures);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    /// The answers of the others hid it: each request of its thread lost all its time for Redis.
    #[test]
    fn a_dead_connection_among_good_ones_was_never_noticed() {
        let breaker = Breaker::default();
        let (dead, good) = (breaker.failures(), breaker.failures());
        for _ in 0..FAILURES_MAX {
            breaker.failed(&dead);
            breaker.succeeded(&good);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
