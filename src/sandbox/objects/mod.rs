//! Stripe's objects: what the sandbox knows of each, and how it shows them in the API version below.

mod customer;
mod endpoint;
mod event;
mod session;

use std::collections::BTreeMap;

use rand::{Rng, distr::Alphanumeric};

pub(super) use self::{
    customer::Customer,
    endpoint::Endpoint,
    event::{Event, Origin},
    session::{Delayed, Line, Mode, Payer, PaymentStatus, Recurring, Session, Status},
};
use crate::domain::id::UserId;

/// The version that objects are shown in: the one that the service's own client sends.
pub(super) const API_VERSION: &str = "2026-09-30.endive";

/// Texts that the caller hung on an object.
pub(super) type Metadata = BTreeMap<String, String>;

/// A new id: `prefix` and so many random letters and digits.
pub(super) fn new_id(prefix: &str, random: usize) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(random).map(char::from);
    prefix.chars().chain(random).collect()
}

/// Whom an object concerns, if its metadata says so.
pub(super) fn user_of(metadata: &Metadata) -> Option<UserId> {
    UserId::parse(metadata.get("userId")?).ok()
}
