//! What can go wrong with the ledger, sorted by what the caller must do about it.

/// A failure of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The database cannot be reached or did not answer in time, and nothing was committed.
    #[error("the ledger is unreachable: {0}")]
    Unavailable(String),
    /// It could not be put in order with what others did at the same time; nothing was committed.
    #[error("others were at work on the same rows")]
    Contended,
    /// The database refused this very change; nothing was committed. A bug, or a schema that is not ours.
    #[error("the ledger refused the change: SQLSTATE {sqlstate}, constraint {constraint}")]
    Refused {
        /// The five-character code of the refusal, or a word where the driver gives none.
        sqlstate: String,
        /// The constraint, where one was violated; else `-`.
        constraint: String,
    },
    /// The decision about this change panicked; nothing was committed.
    #[error("deciding about the change panicked")]
    Panicked,
    /// What the event is about belongs to somebody else than was found before; nothing was committed. The owner is to be looked up again.
    #[error("the owner has changed")]
    OwnerChanged,
    /// `COMMIT` was sent and its answer never came: it may have happened. Never to be read as a failure or as a success; the
    /// redelivery finds out.
    #[error("the outcome of the commit is unknown")]
    InDoubt,
}

impl LedgerError {
    /// Whether nothing can have been written. Listed by hand: a new variant must be thought about.
    #[must_use]
    pub const fn is_certainly_aborted(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Contended | Self::Refused { .. } | Self::Panicked | Self::OwnerChanged => true,
            Self::InDoubt => false,
        }
    }
}
