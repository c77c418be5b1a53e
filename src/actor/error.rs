//! Why a change was not applied, as callers see it.

use crate::ledger::LedgerError;

/// None of these claims that nothing happened, but for what its text says: the sender may always send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Too much is waiting already; nothing happened.
    #[error("too much is waiting")]
    Busy,
    /// The ledger is out of reach; nothing happened.
    #[error("the ledger is out of reach")]
    Unavailable,
    /// It may have happened.
    #[error("the outcome is unknown")]
    InDoubt,
    /// It goes on without us.
    #[error("it took too long")]
    TimedOut,
    /// Something of ours broke on the way.
    #[error("a fault on our side")]
    Panicked,
    /// What it is about belongs to somebody else by now; nothing happened.
    #[error("the owner has changed")]
    OwnerChanged,
    /// The ledger refused the change; nothing happened.
    #[error("the ledger refused the change")]
    Refused,
}

impl ApplyError {
    /// As a label of a metric.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::InDoubt => "in_doubt",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::OwnerChanged => "owner_changed",
            Self::Refused => "refused",
        }
    }
}

impl From<LedgerError> for ApplyError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable(_) | LedgerError::Contended => Self::Unavailable,
            LedgerError::InDoubt => Self::InDoubt,
            LedgerError::Panicked => Self::Panicked,
            LedgerError::OwnerChanged => Self::OwnerChanged,
            LedgerError::Refused { .. } => Self::Refused,
        }
    }
}
