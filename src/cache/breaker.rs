//! The circuit breaker before Redis: after a few failures in a row nobody waits for it any more, until a probe of its own gets
//! an answer.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
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

/// Keeps requests from waiting for a Redis that does not answer.
#[derive(Debug, Default)]
pub struct Breaker {
    open: AtomicBool,
    failures: AtomicU32,
    opened_at: Mutex<Option<Instant>>,
    opened: Notify,
}

impl Breaker {
    /// Whether requests go through.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        if self.open.load(Ordering::Relaxed) { BreakerState::Open } else { BreakerState::Closed }
    }

    /// A request was answered.
    pub fn succeeded(&self) {
        // A plain load first: the shared cache line is written only when there is something to forget.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed or was not answered in time.
    pub fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures >= FAILURES_MAX && !self.open.swap(true, Ordering::Relaxed) {
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
        self.failures.store(0, Ordering::Relaxed);
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
        for _ in 0..FAILURES_MAX - 1 {
            breaker.failed();
        }
        breaker.succeeded();
        for _ in 0..FAILURES_MAX - 1 {
            breaker.failed();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed();
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.until_open().await;
        breaker.close();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed();
        assert_eq!(breaker.state(), BreakerState::Closed, "old failures are forgotten");
    }
}
