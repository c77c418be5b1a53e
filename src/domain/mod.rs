//! ROOM 3: who may have what. Pure: no I/O, no async, no clock; `now` is always an argument.
//!
//! Everything that decides about money lives here, so that every database gives the same answer and every rule can be
//! tested over all orders of events without a server.

pub mod by_hand;
pub mod change;
pub mod entitlement;
pub mod event;
pub mod grant;
pub mod id;
pub mod level;
pub mod live;
pub mod money;
pub mod plan;
pub mod price;
pub mod subscription;

use serde::{
    Deserialize,
    de::value::{Error, StrDeserializer},
};

/// One of Stripe's words, as the ledger keeps it too; `None` for one that did not exist when this was written.
fn known_word<'de, T: Deserialize<'de>>(word: &'de str) -> Option<T> {
    T::deserialize(StrDeserializer::<Error>::new(word)).ok()
}

#[cfg(test)]
mod tests;
