//! The process's time: that of the machine, unless the sandbox's clock was put forward.
//!
//! A year of a subscription takes a year. Where no money is real it can be lived through in seconds: the sandbox's test clock goes
//! ahead, and with it everything here that asks whether a level is over. What proves an identity or a signature stays with the machine's
//! own clock. One process has one time, hence a static; nothing but `app` sets it, and only where the sandbox runs beside a ledger that
//! has no clock of its own.
//!
//! A ledger that has one is asked what time it is there: [`Skew`] tells how far the machine's is from it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

static PROCESS: Clock = Clock::new();

/// What time it is.
#[must_use]
pub(crate) fn now() -> DateTime<Utc> {
    PROCESS.at(Utc::now())
}

/// Puts the process ahead of the machine by so many seconds. It never goes back: what was written later would be over before it began.
pub(crate) fn put_ahead(seconds: i64) {
    PROCESS.put_ahead(seconds);
}

/// By how many seconds somebody is ahead of the machine.
struct Clock(AtomicI64);

impl Clock {
    const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    /// What time it is when it is so late by the machine.
    fn at(&self, machine: DateTime<Utc>) -> DateTime<Utc> {
        let ahead = TimeDelta::try_seconds(self.0.load(Ordering::Relaxed)).unwrap_or(TimeDelta::MAX);
        machine.checked_add_signed(ahead).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn put_ahead(&self, seconds: i64) {
        self.0.fetch_max(seconds, Ordering::Relaxed);
    }
}

/// From here on clocks are apart: the leeway that session tokens have.
const APART: Duration = Duration::from_secs(5);

/// A question for another clock's time, under way.
pub(crate) struct Question {
    asked: DateTime<Utc>,
    since: Instant,
}

impl Question {
    /// Begins now, by the machine's clock, which proves signatures.
    pub(crate) fn begin() -> Self {
        Self { asked: Utc::now(), since: Instant::now() }
    }

    /// What the answer shows, which has come just now.
    pub(crate) fn answered(&self, other: DateTime<Utc>) -> Skew {
        Skew::of(self.asked, self.since.elapsed(), other)
    }
}

/// How far the machine's clock is ahead of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skew {
    /// As if the question was read half-way between asking and being answered. Negative: behind.
    pub(crate) ahead: TimeDelta,
    /// Whenever it was read, the clocks differ by so much.
    at_least: Duration,
}

/// What a skew does. From good to bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Nothing.
    #[default]
    Agree,
    /// Session tokens and the ends of levels are off by it.
    Apart,
    /// No signature that is made now is taken for fresh.
    Hopeless,
}

impl Skew {
    fn of(asked: DateTime<Utc>, took: Duration, other: DateTime<Utc>) -> Self {
        let half = TimeDelta::from_std(took / 2).unwrap_or(TimeDelta::MAX);
        let ahead = (asked - other).checked_add(&half).unwrap_or(TimeDelta::MAX);
        let at_least = ahead.abs().checked_sub(&half).and_then(|sure| sure.to_std().ok()).unwrap_or_default();
        Self { ahead, at_least }
    }

    /// `tolerance` is how old a signature may be, or how far ahead.
    pub(crate) fn clocks(self, tolerance: Duration) -> Clocks {
        match self.at_least {
            sure if sure > tolerance => Clocks::Hopeless,
            sure if sure > APART => Clocks::Apart,
            _ => Clocks::Agree,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow answer is no wrong clock.
    #[test]
    fn only_what_is_sure_sets_clocks_apart() {
        let asked: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().unwrap();
        let tolerance = Duration::from_secs(300);
        for (other, took, ahead, clocks) in [
            (0, 0, 0, Clocks::Agree),
            (1, 2, 0, Clocks::Agree),
            (5, 0, -5, Clocks::Agree),
            (-6, 0, 6, Clocks::Apart),
            (6, 0, -6, Clocks::Apart),
            (0, 20, 10, Clocks::Agree),
            (20, 20, -10, Clocks::Agree),
            (-6, 20, 16, Clocks::Apart),
            (26, 20, -16, Clocks::Apart),
            (-300, 0, 300, Clocks::Apart),
            (-301, 0, 301, Clocks::Hopeless),
            (301, 0, -301, Clocks::Hopeless),
            (302, 2, -301, Clocks::Apart),
        ] {
            let skew = Skew::of(asked, Duration::from_secs(took), asked + TimeDelta::seconds(other));
            assert_eq!((skew.ahead.num_seconds(), skew.clocks(tolerance)), (ahead, clocks), "{other} s in {took} s");
        }
    }

    #[test]
    fn a_clock_goes_ahead_and_never_back() {
        let machine: DateTime<Utc> = "2026-11-23T12:00:00Z".parse().unwrap();
        let clock = Clock::new();
        assert_eq!(clock.at(machine), machine);
        for (put, ahead) in [(-5, 0), (60, 60), (30, 60), (86_400, 86_400)] {
            clock.put_ahead(put);
            assert_eq!(clock.at(machine), machine + TimeDelta::seconds(ahead), "after {put}");
        }
        clock.put_ahead(i64::MAX);
        assert_eq!(clock.at(machine), DateTime::<Utc>::MAX_UTC, "no time is later");
    }
}
