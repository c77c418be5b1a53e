//! ROOM 4: order per user. A stand-in with the room's signatures, so that what calls it compiles.

use crate::domain::{
    change::Change,
    event::{Note, Outcome},
};

/// The way to every user's entitlements.
#[derive(Debug, Clone)]
pub struct Entitlements;

/// Why a change has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Too much is waiting.
    #[error("too much is waiting")]
    Busy,
    /// The ledger cannot be reached.
    #[error("the ledger cannot be reached")]
    Unavailable,
    /// It may have been written.
    #[error("the outcome is unknown")]
    InDoubt,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// A bug.
    #[error("deciding about the change panicked")]
    Panicked,
    /// The ledger refused it.
    #[error("the ledger refused the change")]
    Refused,
}

impl Entitlements {
    /// Applies a change.
    ///
    /// # Errors
    /// Always, in this stand-in.
    pub async fn apply(&self, _change: Change) -> Result<Outcome, ApplyError> {
        Err(ApplyError::Unavailable)
    }

    /// Records an event that changes nothing.
    ///
    /// # Errors
    /// Always, in this stand-in.
    pub async fn record(&self, _note: Note) -> Result<Outcome, ApplyError> {
        Err(ApplyError::Unavailable)
    }
}
