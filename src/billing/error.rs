//! Why nothing was sold, sorted by what the caller should do about it.

use std::time::Duration;

use crate::ledger::LedgerError;

/// Why there is no session. Holds nothing of what Stripe or the database said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// No such level, or one that is not for sale.
    #[error("the level is not for sale")]
    InvalidLevel,
    /// The level is for sale, but not by that interval.
    #[error("the level is not sold by that interval")]
    InvalidInterval,
    /// The caller's idempotency key cannot be one.
    #[error("an idempotency key has 1 to 255 printable ASCII characters")]
    InvalidKey,
    /// The caller's idempotency key was used for another level or interval.
    #[error("the idempotency key was used for another wish")]
    IdempotencyConflict,
    /// The user asked too often.
    #[error("too many sessions of one user")]
    RateLimited {
        /// When the next may be asked for.
        retry_after: Duration,
    },
    /// The user has it already, or had what can be had only once.
    #[error("the user has it already")]
    AlreadyEntitled,
    /// The user has bought it already, and the money is on its way.
    #[error("a payment for it is on its way")]
    PaymentPending,
    /// The user has never bought anything as a customer of Stripe's.
    #[error("Stripe knows no such customer")]
    NoCustomer,
    /// There is no Stripe key.
    #[error("payments are not configured")]
    NotConfigured,
    /// Stripe refused or failed.
    #[error("Stripe gave no session")]
    Stripe,
    /// Too many calls to Stripe are under way.
    #[error("too many calls to Stripe are under way")]
    Busy,
    /// The ledger cannot be reached.
    #[error("the ledger cannot be reached")]
    Unavailable,
    /// This user has no such session.
    #[error("this user has no such session")]
    NotFound,
    /// A bug, or a schema that is not ours.
    #[error("an unexpected failure")]
    Internal,
}

impl From<LedgerError> for CheckoutError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable(_) | LedgerError::Contended | LedgerError::InDoubt => {
                tracing::warn!(error = %error, "checkout without a ledger");
                Self::Unavailable
            }
            LedgerError::Refused { .. } | LedgerError::Panicked | LedgerError::OwnerChanged => {
                tracing::error!(error = %error, "checkout refused by the ledger");
                Self::Internal
            }
        }
    }
}
