//! The process's time: that of the machine, unless the sandbox's clock was put forward.
//!
//! A year of a subscription takes a year. Where no money is real it can be lived through in seconds: the sandbox's test clock goes
//! ahead, and with it everything here that asks whether a level is over. What proves an identity or a signature stays with the machine's
//! own clock. One process has one time, hence a static; nothing but `app` sets it, and only where the sandbox runs beside a ledger that
//! has no clock of its own.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// By how many seconds the process is ahead of the machine.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// What time it is.
#[must_use]
pub(crate) fn now() -> DateTime<Utc> {
    let ahead = TimeDelta::try_seconds(AHEAD.load(Ordering::Relaxed)).unwrap_or_default();
    Utc::now().checked_add_signed(ahead).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Puts the process ahead of the machine by so many seconds. It never goes back: what was written later would be over before it began.
pub(crate) fn put_ahead(seconds: i64) {
    AHEAD.fetch_max(seconds, Ordering::Relaxed);
}
