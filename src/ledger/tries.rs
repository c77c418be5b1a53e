//! Tries of events that panic, or end the process, are counted where the count outlives it.

use super::LedgerError;

/// Tries that are counted at most before an event is made the only one that is tried: whose fault a further death is, is then known.
pub(super) const TOGETHER_MAX: i32 = 2;

/// The last try that may be made. Before it is counted as failed it may be under way elsewhere, so long as this, in seconds.
pub(super) const LAST: i32 = 3;
pub(super) const UNDER_WAY_SECONDS: i32 = 15;

/// A count that nobody has touched for so many days is of an event that Stripe does not send again.
pub(super) const KEPT_DAYS: i32 = 30;

/// How a try ended that was counted before it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryEnd {
    /// As it should: nothing is held against the event any more.
    InOrder,
    /// It could not be made, for reasons that are not the event's: it does not count.
    NotMade,
    /// It panicked: it counts.
    Panicked,
}

/// A count as databases give it.
pub(super) fn count(rows: Vec<i32>) -> Option<u32> {
    rows.first().map(|tries| u32::try_from(*tries).unwrap_or(0))
}

/// The same where there is always one.
pub(super) fn counted(rows: Vec<i32>) -> Result<u32, LedgerError> {
    count(rows).ok_or_else(|| LedgerError::Unavailable("a try was not counted".into()))
}
