//! Idempotency keys: the caller's, the one that stands for an offer, and the one Stripe gets.
//!
//! Stripe's keys are one namespace for the whole account, so a caller's key never goes there: what goes is a digest over the
//! user, the offer and the attempt. It is the same for whoever of the user's asks for the same, at any replica, and so Stripe itself sees
//! to it that two clicks at once open one session.

use sha2::{Digest, Sha256};

use super::CheckoutError;
use crate::domain::{
    id::UserId,
    plan::{Plan, Price},
};

/// Longest key of a caller, in bytes; also Stripe's limit.
const KEY_LEN_MAX: usize = 255;

/// Tells these digests from any other use of SHA-256.
const DOMAIN: &[u8] = b"tollgate checkout session v2";

/// Begins what stands for an offer; no caller's key holds it, since it is not printable.
const OFFER: &[u8] = b"\0offer ";

/// A key as the ledger keeps it, its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyHash([u8; 32]);

impl KeyHash {
    /// Of a key that a caller chose.
    pub(super) fn of_caller(text: &str) -> Result<Self, CheckoutError> {
        let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if text.is_empty() || text.len() > KEY_LEN_MAX || !printable {
            return Err(CheckoutError::InvalidKey);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Of whoever is made the offer.
    pub(super) fn of_offer(offer: &str) -> Self {
        Self(Sha256::new_with_prefix(OFFER).chain_update(offer).finalize().into())
    }

    pub(super) const fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

/// What a key is used for, in one word or two: the level, and how often it is paid unless nobody had to ask for that. No level
/// holds a space.
pub(super) fn wish(plan: &Plan, price: &Price) -> String {
    match price.interval {
        Some(interval) if *price != plan.price => format!("{} {}", plan.level, interval.as_str()),
        _ => plan.level.as_str().to_owned(),
    }
}

/// The key for Stripe. Attempts of one offer follow each other: another one begins when the session of the one before is over.
pub(super) fn stripe_key(user: UserId, offer: &str, attempt: u32) -> String {
    // Every field but the offer has a fixed length, and the offer comes last: no two lists of fields give the same bytes.
    let digest = Sha256::new_with_prefix(DOMAIN).chain_update(user.uuid().as_bytes());
    let digest = digest.chain_update(attempt.to_be_bytes()).chain_update(offer);
    format!("tollgate-{}", hex::encode(digest.finalize()))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::plan::{self, Interval};

    #[test]
    fn keys_are_printable_ascii() {
        for good in ["a", " ", "~", "click 1", &"k".repeat(255)] {
            assert!(KeyHash::of_caller(good).is_ok(), "{good:?}");
        }
        for wrong in ["", "a\tb", "a\nb", "\u{e9}", "a\u{7f}", &"k".repeat(256)] {
            assert_eq!(KeyHash::of_caller(wrong), Err(CheckoutError::InvalidKey), "{wrong:?}");
        }
    }

    #[test]
    fn another_interval_is_another_wish_and_the_default_one_need_not_be_said() {
        let mut plan = plan::tests::catalogue().plans()[1].clone();
        let yearly = Price { interval: Some(Interval::Year), ..plan.price.clone() };
        plan.other_prices.push(yearly.clone());
        assert_eq!((wish(&plan, &plan.price).as_str(), wish(&plan, &yearly).as_str()), ("PRO", "PRO year"));
    }

    #[test]
    fn stripes_key_depends_on_every_part() {
        let (one, other) = (UserId::from(Uuid::from_u128(1)), UserId::from(Uuid::from_u128(2)));
        let first = stripe_key(one, "PRO", 1);
        assert_eq!(first, stripe_key(one, "PRO", 1));
        assert_eq!(first.len(), "tollgate-".len() + 64);
        let others = [stripe_key(other, "PRO", 1), stripe_key(one, "PRO year", 1), stripe_key(one, "PRO", 2)];
        let distinct: std::collections::HashSet<_> = others.iter().chain([&first]).collect();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn no_callers_key_stands_for_an_offer() {
        assert_ne!(KeyHash::of_offer("PRO"), KeyHash::of_offer("PRO year"));
        assert_eq!(KeyHash::of_caller("\0offer PRO"), Err(CheckoutError::InvalidKey));
    }
}
