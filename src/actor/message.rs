//! What actors are asked. Callers outside this room never see these: they call [`Entitlements`](super::Entitlements).

use actix::Message;

use super::{
    error::ApplyError,
    registry::{Hold, Lookup},
};
use crate::domain::{change::Change, event::Outcome, id::UserId};

/// To a user's actor: apply a change. Answered when the outcome is durable, and readers have been told or are going to be.
pub(super) struct Apply {
    pub(super) change: Change,
    /// Until it has been handled, whether anybody still waits for that or not.
    pub(super) hold: Hold,
}

impl Message for Apply {
    type Result = Result<Outcome, ApplyError>;
}

/// To a user's actor: show readers the newest state; an earlier attempt failed.
pub(super) struct Republish {
    pub(super) hold: Hold,
}

impl Message for Republish {
    type Result = Result<(), ApplyError>;
}

/// To a router: see to it that the registry has a live actor for the user, and give the right to send to it.
#[derive(Debug)]
pub(super) struct Start(pub(super) UserId);

impl Message for Start {
    type Result = Lookup;
}
