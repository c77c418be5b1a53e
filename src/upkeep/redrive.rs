//! Showing readers again what changed since a moment. The version script makes it harmless to show anything twice.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::Upkeep;
use crate::{
    cache::{Budget, Cache, Publication, Published},
    clock,
    fail_point::{self, Point},
    ledger::Ledger,
};

/// States read from the ledger at once.
const PAGE: u32 = 2000;
/// States of a single moment that are read at once where a page does not hold them: more than one transaction writes.
const MOMENT_MAX: u32 = 16 * PAGE;
/// States written to Redis in one round trip.
const PIPELINE: usize = 200;
/// For one such round trip.
const PIPELINE_BUDGET: Duration = Duration::from_millis(500);
/// What changed shortly before an outage began may have been lost in it.
const MARGIN: TimeDelta = TimeDelta::seconds(10);
/// A cache write that has waited this long was not simply on its way.
const RETRY_AGE: Duration = Duration::from_millis(200);
const RETRIES_MAX: usize = 512;

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Redriver {
    ledger: Arc<dyn Ledger>,
    cache: Cache,
    owed: Arc<Mutex<Owed>>,
}

/// What readers have yet to be shown again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Owed {
    since: Option<Instant>,
    /// Grows with each addition, so that what was added in the meantime is not taken for settled.
    additions: u64,
}

impl Redriver {
    pub(super) fn new(ledger: Arc<dyn Ledger>, cache: Cache) -> Self {
        Self { ledger, cache, owed: Arc::default() }
    }

    /// Notes that what changed since so long ago must be shown again. [`settle`](Self::settle) does it, however often it takes:
    /// the first attempt comes when Redis has only just come back, and may go again.
    pub(super) fn owe(&self, ago: Duration) {
        let since = Instant::now().checked_sub(ago).unwrap_or_else(Instant::now);
        let mut owed = self.owed();
        owed.since = Some(owed.since.map_or(since, |known| known.min(since)));
        owed.additions += 1;
    }

    /// For how long something has been owed.
    pub(super) fn behind(&self) -> Duration {
        self.owed().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Shows what is owed. What fails stays owed.
    pub(super) async fn settle(&self) {
        let owed = *self.owed();
        let Some(since) = owed.since else { return };
        let Ok(now) = self.ledger.now().await else { return };
        let ago = TimeDelta::from_std(since.elapsed()).unwrap_or(TimeDelta::days(1));
        if self.since(now - ago - MARGIN, usize::MAX, "owed").await {
            let mut still = self.owed();
            if *still == owed {
                still.since = None;
            }
        }
    }

    fn owed(&self) -> std::sync::MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows everything changed since a moment, by the database's clock, newest first, at most so many. Gives whether it got
    /// through.
    pub(super) async fn since(&self, since: DateTime<Utc>, most: usize, why: &'static str) -> bool {
        self.show(since, most, why).await.is_some()
    }

    /// The same as a matter of course. What the cache did not have although it changed before `settled`, and waits for nothing,
    /// had been overlooked: that is drift.
    pub(super) async fn compare(&self, since: DateTime<Utc>, settled: DateTime<Utc>, most: usize) {
        let Some(news) = self.show(since, most, "comparison").await else { return };
        let drifted = news.into_iter().filter(|changed_at| *changed_at < settled).count();
        if drifted > 0 {
            metrics::counter!("tollgate_cache_drift_total").increment(u64::try_from(drifted).unwrap_or(u64::MAX));
            tracing::warn!(drifted, "the cache had drifted: readers are shown what they had not been");
        }
    }

    /// Gives when those states changed that the cache did not have; none if it did not get through.
    async fn show(&self, since: DateTime<Utc>, most: usize, why: &'static str) -> Option<Vec<DateTime<Utc>>> {
        let mut news = Vec::new();
        let (mut until, mut limit) = (DateTime::<Utc>::MAX_UTC, PAGE);
        let mut shown = 0;
        loop {
            // What is shown is as old as the question, and the ledger's that was asked.
            let (asked, epoch) = (clock::now(), self.ledger.epoch());
            let page = self.ledger.changed_between(since, until, limit).await.ok()?;
            for part in page.chunks(PIPELINE) {
                let publications: Vec<_> = part
                    .iter()
                    .map(|changed| Publication {
                        user: changed.user,
                        entitlement: &changed.entitlement,
                        epoch: epoch.as_str(),
                        mark: None,
                    })
                    .collect();
                let about = || part.iter().map(|changed| changed.user.to_string()).collect::<Vec<_>>().join(" ");
                let mut budget = Budget::new(PIPELINE_BUDGET);
                fail_point::try_pass(Point::RedriveShow, about).await.ok()?;
                let published = self.cache.publish_all(&publications, asked, &mut budget).await.ok()?;
                fail_point::pass(Point::RedriveShown, about).await;
                shown += part.len();
                let met = part.iter().zip(published).filter(|(_, met)| *met == Published::Written);
                news.extend(met.map(|(changed, _)| changed.changed_at));
            }
            let oldest = page.last().map(|changed| changed.changed_at);
            match oldest {
                Some(oldest) if page.len() >= usize::try_from(limit).unwrap_or(usize::MAX) && shown < most => {
                    // Inclusive, so that states of one microsecond are not torn apart, as one transaction may write them.
                    (until, limit) = match oldest == until {
                        false => (oldest, PAGE),
                        true if limit < MOMENT_MAX => (until, limit * 2),
                        true => (until - TimeDelta::microseconds(1), PAGE),
                    };
                }
                _ => break,
            }
        }
        if shown > 0 {
            metrics::counter!("tollgate_cache_redriven_total").increment(u64::try_from(shown).unwrap_or(u64::MAX));
            tracing::debug!(shown, why, "showed readers again what had changed");
        }
        Some(news)
    }
}

/// Tries cache writes again that failed, through their users' actors.
pub(super) async fn retry_unpublished(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.retry);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if upkeep.cache.breaker().state() == crate::cache::BreakerState::Open {
            continue;
        }
        upkeep.entitlements.republish_due(RETRY_AGE, RETRIES_MAX).await;
        if let Some(ago) = upkeep.entitlements.take_overflow() {
            upkeep.redriver.owe(ago);
        }
        upkeep.redriver.settle().await;
    }
}

/// While the breaker is open: tries whether Redis takes writes, and then shows readers what they missed.
pub(super) async fn probe(upkeep: Upkeep) {
    let breaker = upkeep.cache.breaker();
    loop {
        breaker.until_open().await;
        while upkeep.cache.probe().await.is_err() {
            tokio::time::sleep(upkeep.rhythm.probe).await;
        }
        upkeep.redriver.owe(breaker.close());
        upkeep.redriver.settle().await;
    }
}
