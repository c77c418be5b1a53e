//! Idempotency keys: the caller's, and the one Stripe gets.
//!
//! Stripe's keys are one namespace for the whole account, so a caller's key never goes there as it is: what goes is a
//! digest over the user, the wish, the caller's key and the attempt. One user's key cannot meet another's.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::CheckoutError;
use crate::domain::{
    id::UserId,
    plan::{Plan, Price},
};

/// Longest key of a caller, in bytes; also Stripe's limit.
const KEY_LEN_MAX: usize = 255;

/// Tells these digests from any other use of SHA-256.
const DOMAIN: &[u8] = b"tollgate checkout session v1";

/// A key that a caller chose, kept as its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallerKey([u8; 32]);

impl CallerKey {
    pub(super) fn parse(text: &str) -> Result<Self, CheckoutError> {
        let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if text.is_empty() || text.len() > KEY_LEN_MAX || !printable {
            return Err(CheckoutError::InvalidKey);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    pub(super) const fn hash(&self) -> [u8; 32] {
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

/// The key for Stripe; without one of the caller's it is new every time.
pub(super) fn stripe_key(user: UserId, wish: &str, caller_key: Option<&CallerKey>, attempt: u32) -> String {
    // Every field but the wish has a fixed length, and the wish comes last: no two lists of fields give the same bytes.
    let mut digest = Sha256::new_with_prefix(DOMAIN).chain_update(user.uuid().as_bytes());
    match caller_key {
        Some(CallerKey(hash)) => digest.update([&[1_u8], hash.as_slice()].concat()),
        None => digest.update([&[0_u8], Uuid::new_v4().as_bytes().as_slice()].concat()),
    }
    let digest = digest.chain_update(attempt.to_be_bytes()).chain_update(wish);
    format!("tollgate-{}", hex::encode(digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::{self, Interval};

    #[test]
    fn keys_are_printable_ascii() {
        for good in ["a", " ", "~", "click 1", &"k".repeat(255)] {
            assert!(CallerKey::parse(good).is_ok(), "{good:?}");
        }
        for wrong in ["", "a\tb", "a\nb", "\u{e9}", "a\u{7f}", &"k".repeat(256)] {
            assert_eq!(CallerKey::parse(wrong), Err(CheckoutError::InvalidKey), "{wrong:?}");
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
        let (key, other_key) = (CallerKey::parse("k").unwrap(), CallerKey::parse("K").unwrap());
        let first = stripe_key(one, "PRO", Some(&key), 1);
        assert_eq!(first, stripe_key(one, "PRO", Some(&key), 1));
        assert_eq!(first.len(), "tollgate-".len() + 64);
        let others = [
            stripe_key(other, "PRO", Some(&key), 1),
            stripe_key(one, "TEAM", Some(&key), 1),
            stripe_key(one, "PRO", Some(&other_key), 1),
            stripe_key(one, "PRO", Some(&key), 2),
            stripe_key(one, "PRO", None, 1),
            stripe_key(one, "PRO", None, 1),
        ];
        let distinct: std::collections::HashSet<_> = others.iter().chain([&first]).collect();
        assert_eq!(distinct.len(), 7);
    }
}
