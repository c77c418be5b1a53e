//! From a signed body to what it means. A stand-in with the signatures, so that what calls it compiles.

use super::signature::VerifiedPayload;
use crate::domain::{change::Change, event::Note, plan::Catalogue};

/// Tells what events mean.
#[derive(Debug, Clone)]
pub struct Interpreter;

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Something happened to a user.
    Change(Change),
    /// Nothing changes; it is recorded.
    Note(Note),
}

/// Why a signed body is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body is not an event: {0}")]
pub struct PayloadError(String);

impl Interpreter {
    /// For a catalogue and an account's mode.
    #[must_use]
    pub fn new(_catalogue: Catalogue, _livemode: bool) -> Self {
        Self
    }

    /// Reads an event.
    ///
    /// # Errors
    /// Always, in this stand-in.
    pub fn read(&self, _payload: &VerifiedPayload) -> Result<Meaning, PayloadError> {
        Err(PayloadError("stand-in".to_owned()))
    }
}
