//! Identifiers as types: parsed once at the door, so that nothing inside ever meets an id of the wrong kind.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};
use uuid::Uuid;

/// Why a text is no identifier of the kind that was expected. Holds no part of the text: it may be hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct InvalidId {
    /// What would have been right, for people: `a UUID such as …`.
    pub expected: &'static str,
}

/// A user of the application whose entitlements we keep: Supabase's `auth.users.id`, a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(Uuid);

impl UserId {
    /// Reads the canonical 36-character form with hyphens; upper case is accepted, `Display` gives lower case.
    ///
    /// # Errors
    /// [`InvalidId`] for every other form a UUID may be written in, so that one user has one key in the cache.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { expected: "a UUID such as 7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71" };
        if text.len() != 36 {
            return Err(invalid);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| invalid)
    }

    /// The UUID itself.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for UserId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Longest Stripe identifier we take, in bytes. Stripe asks to allow for 255 characters
/// (<https://docs.stripe.com/upgrades#what-changes-does-stripe-consider-to-be-backward-compatible>).
const STRIPE_ID_LEN_MAX: usize = 255;

fn is_stripe_id(text: &str, prefix: &str) -> bool {
    text.len() <= STRIPE_ID_LEN_MAX
        && text
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

macro_rules! stripe_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads the prefix and then letters, digits and `_`, 255 bytes at most: safe in keys and log lines.
            ///
            /// # Errors
            /// [`InvalidId`] for anything else.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if is_stripe_id(text, $prefix) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { expected: concat!("an id such as ", $prefix, "1AbC") })
                }
            }

            /// The id as Stripe writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same id, as that of any object.
            #[must_use]
            pub fn object(&self) -> ObjectId {
                ObjectId(Arc::clone(&self.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

stripe_id! {
    /// A Stripe event, `evt_…`: the key against the same delivery arriving twice.
    EventId, "evt_"
}
stripe_id! {
    /// A Checkout Session, `cs_…`: the business key of a one-off purchase.
    SessionId, "cs_"
}
stripe_id! {
    /// A subscription, `sub_…`: the business key of a recurring purchase.
    SubscriptionId, "sub_"
}
stripe_id! {
    /// A PaymentIntent, `pi_…`: what refunds and disputes are about.
    PaymentIntentId, "pi_"
}
stripe_id! {
    /// A Stripe customer, `cus_…`.
    CustomerId, "cus_"
}
stripe_id! {
    /// An invoice, `in_…`: what ties payments to a subscription.
    InvoiceId, "in_"
}
stripe_id! {
    /// Any of Stripe's objects, whatever its prefix: refunds and disputes have had several.
    ObjectId, ""
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_have_one_written_form() {
        let id = UserId::parse("7F6A3E2C-5D1B-4C8E-9A60-2F1D0C9B8A71").unwrap();
        assert_eq!(id.to_string(), "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71");
        for wrong in [
            "",
            "7f6a3e2c5d1b4c8e9a602f1d0c9b8a71",
            "{7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71}",
            "urn:uuid:7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71",
            "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a7g",
            " 7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71",
        ] {
            assert!(UserId::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stripe_ids_are_safe_in_keys_and_logs() {
        assert!(EventId::parse("evt_1ST408649ff95a1b564786de").is_ok());
        let long = format!("evt_{}", "a".repeat(252));
        for wrong in ["", "evt_", "cs_1", "evt_1:*", "evt_1\0", "evt_1 ", "evt_\u{e9}", "evt_1\n", long.as_str()] {
            assert!(EventId::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
