//! Stripe's objects: what the sandbox knows of each, and how it shows them in the API version below.

mod clock;
mod customer;
mod endpoint;
mod event;
mod given_back;
mod invoice;
mod payment;
mod portal;
mod price;
mod session;
mod subscription;

use std::collections::BTreeMap;

use rand::{Rng, distr::Alphanumeric};
use serde_json::Value;

pub(super) use self::{
    clock::{Clock, Shift},
    customer::Customer,
    endpoint::Endpoint,
    event::{Event, Origin},
    given_back::{Dispute, DisputeStatus, Refund},
    invoice::{Invoice, InvoiceLine, InvoicePayment, InvoiceStatus},
    payment::{Charge, Method, PaymentIntent},
    portal::Portal,
    price::Price,
    session::{Delayed, Line, Mode, Payer, PaymentStatus, Recurring, Session, Status},
    subscription::{Item, Pause, Standing, Subscription},
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

/// An object with the fields that say nothing in the sandbox.
fn with_nulls(mut shown: Value, names: &[&str]) -> Value {
    for name in names {
        shown.as_object_mut().map(|fields| fields.entry(*name).or_insert(Value::Null));
    }
    shown
}
