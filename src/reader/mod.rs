//! What may a user do now? A stand-in with the room's signatures, so that what calls it compiles.

use crate::domain::{entitlement::Entitlement, id::UserId};

/// Reads entitlements.
#[derive(Debug, Clone)]
pub struct EntitlementReader;

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSource {
    /// Redis.
    Cache,
    /// The ledger.
    Database,
}

impl ReadSource {
    /// The word in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Database => "database",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What the user may do.
    pub entitlement: Entitlement,
    /// Where it was found.
    pub source: ReadSource,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Neither cache nor ledger could be reached.
    #[error("neither cache nor ledger can be reached")]
    Unavailable,
    /// The ledger has not reached the version asked for.
    #[error("the ledger has not reached that version")]
    Older,
}

impl EntitlementReader {
    /// Reads a user's state, at least as new as `min_version`.
    ///
    /// # Errors
    /// Always, in this stand-in.
    pub async fn read(&self, _user: UserId, _min_version: Option<u64>) -> Result<Reading, ReadError> {
        Err(ReadError::Unavailable)
    }
}
