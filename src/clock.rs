//! The process's time: that of the machine, unless the sandbox's clock was put forward.
//!
//! A year of a subscription takes a year. Where no money is real it can be lived through in seconds: the sandbox's test clock goes
//! ahead, and with it everything here that asks whether a level is over. What proves an identity or a signature stays with the machine's
//! own clock. One process has one time, hence a static; nothing but `app` sets it, and only where the sandbox runs beside a ledger that
//! has no clock of its own.

use std::sync::atomic::{AtomicI64, Ordering};

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

#[cfg(test)]
mod tests {
    use super::*;

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
