//! What the ledger keeps of a Stripe event, and what can become of one.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::id::{EventId, UserId};

/// A verified Stripe event, as the inbox records it. Its *meaning* is an [`Effect`](super::change::Effect).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// `evt_…`
    pub id: EventId,
    /// For example `checkout.session.completed`.
    pub kind: String,
    /// The id of `data.object`; some objects have none (`invoice.upcoming`).
    pub object_id: Option<String>,
    /// Stripe's time of the event, in whole seconds.
    pub created: DateTime<Utc>,
    /// Whether real money moved.
    pub livemode: bool,
    /// The version that shaped the payload.
    pub api_version: Option<String>,
    /// SHA-256 of `data.object`'s bytes: tells the same event from another one under the same id.
    pub object_hash: [u8; 32],
    /// The raw body. Stored only for parked events.
    pub payload: Bytes,
}

/// Why an event waits for something instead of being applied. Durable; tried again when the cause may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParkReason {
    /// `metadata.userId` or `metadata.entitlementLevel` is missing: a `client_reference_id` alone proves nothing, since a
    /// payment link lets anybody choose it.
    MissingMetadata,
    /// `metadata.userId` is no UUID.
    InvalidUser,
    /// `client_reference_id` names somebody else than `metadata.userId`.
    UserMismatch,
    /// The application's `users` table has no such user (yet).
    UnknownUser,
    /// The catalogue has no such level.
    UnknownLevel,
    /// A `mode`, `payment_status` or `status` that did not exist when this was written.
    UnknownStatus,
    /// A subscription checkout without a subscription, a subscription without its period, or a malformed id.
    IncompleteObject,
    /// Another user already holds the grant of this session or subscription.
    ForeignSource,
    /// No plan of the catalogue sells what is subscribed to.
    UnknownPrice,
    /// Names no user, and nothing of its subscription or customer is known (yet).
    UnknownOwner,
    /// Names no user, and several users are the same customer.
    SeveralOwners,
    /// Every try of it ended in a panic or with the process. Never tried again but by a person's will.
    Poison,
}

impl ParkReason {
    /// All of them, for reading the ledger and for tests.
    pub const ALL: [Self; 12] = [
        Self::MissingMetadata,
        Self::InvalidUser,
        Self::UserMismatch,
        Self::UnknownUser,
        Self::UnknownLevel,
        Self::UnknownStatus,
        Self::IncompleteObject,
        Self::ForeignSource,
        Self::UnknownPrice,
        Self::UnknownOwner,
        Self::SeveralOwners,
        Self::Poison,
    ];

    /// The word kept in the ledger and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingMetadata => "missing_metadata",
            Self::InvalidUser => "invalid_user",
            Self::UserMismatch => "user_mismatch",
            Self::UnknownUser => "unknown_user",
            Self::UnknownLevel => "unknown_level",
            Self::UnknownStatus => "unknown_status",
            Self::IncompleteObject => "incomplete_object",
            Self::ForeignSource => "foreign_source",
            Self::UnknownPrice => "unknown_price",
            Self::UnknownOwner => "unknown_owner",
            Self::SeveralOwners => "several_owners",
            Self::Poison => "poison",
        }
    }

    /// For operators: what is wrong and what would mend it.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::MissingMetadata => {
                "parked: metadata.userId and metadata.entitlementLevel must both be set on the session"
            }
            Self::InvalidUser => "parked: metadata.userId is not a UUID",
            Self::UserMismatch => "parked: client_reference_id and metadata.userId name different users",
            Self::UnknownUser => "parked: the user does not exist yet; it is applied when the user appears",
            Self::UnknownLevel => "parked: metadata.entitlementLevel is not in the catalogue",
            Self::UnknownStatus => "parked: a mode or status is not one that this version knows",
            Self::IncompleteObject => "parked: an id that the object must have is missing or malformed",
            Self::ForeignSource => "parked: the session or subscription already belongs to another user",
            Self::UnknownPrice => "parked: no plan of the catalogue has the subscription's price",
            Self::UnknownOwner => {
                "parked: metadata.userId is missing, and nobody is known to have this subscription or customer"
            }
            Self::SeveralOwners => "parked: metadata.userId is missing, and several users are this customer",
            Self::Poison => {
                "parked: every try of it failed by a fault of ours; it is tried again only when a person asks for it"
            }
        }
    }
}

impl fmt::Display for ParkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an event is only acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IgnoreReason {
    /// Its type has no effect on entitlements here.
    UnhandledType,
    /// A live event at a test service, or the reverse.
    LivemodeMismatch,
    /// It belongs to a connected account.
    ConnectedAccount,
    /// A `setup` session moves no money.
    SetupMode,
    /// A thin event: supported in a later version.
    ThinEvent,
    /// A session that ended unpaid and names no user, money without a payment, an invoice without a subscription: nobody was given anything
    /// for it, so there is nothing to wait for.
    Unattributed,
    /// What follows from it is told by the subscription's own events.
    ToldElsewhere,
}

impl IgnoreReason {
    /// The word kept in the ledger and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnhandledType => "unhandled_type",
            Self::LivemodeMismatch => "livemode_mismatch",
            Self::ConnectedAccount => "connected_account",
            Self::SetupMode => "setup_mode",
            Self::ThinEvent => "thin_event",
            Self::Unattributed => "unattributed",
            Self::ToldElsewhere => "told_elsewhere",
        }
    }

    /// For people who read the webhook's answer.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::UnhandledType => "event type is not handled",
            Self::LivemodeMismatch => "livemode does not match the configured Stripe key",
            Self::ConnectedAccount => "event of a connected account",
            Self::SetupMode => "setup sessions grant nothing",
            Self::ThinEvent => "thin events are not supported yet",
            Self::Unattributed => "it is about nothing that anybody has",
            Self::ToldElsewhere => "what follows from it is told by the subscription's own events",
        }
    }
}

impl fmt::Display for IgnoreReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is kept of an event that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Id and type only.
    Ignored(IgnoreReason),
    /// With its payload, to be tried again.
    Parked(ParkReason),
}

/// An event that changes nothing, to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The event.
    pub event: EventRecord,
    /// Why it changes nothing.
    pub verdict: Verdict,
    /// The user it names, if it does.
    pub user: Option<UserId>,
}

/// What became of an event; durable by the time anybody sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its effect is in the ledger.
    Applied,
    /// A better-informed event about the same object was there before.
    Superseded,
    /// Acknowledged only.
    Ignored(IgnoreReason),
    /// Kept, waiting.
    Parked(ParkReason),
    /// The inbox had this id already, and it has had its effect.
    Duplicate,
    /// The inbox had this id already, and it still waits, or is still ignored: it must not be marked as done.
    DuplicateWaiting,
}

impl Outcome {
    /// What a further delivery of the same event comes to.
    #[must_use]
    pub const fn again(self) -> Self {
        match self {
            Self::Applied | Self::Superseded | Self::Duplicate => Self::Duplicate,
            Self::Ignored(_) | Self::Parked(_) | Self::DuplicateWaiting => Self::DuplicateWaiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_park_reason_has_its_own_word() {
        let words: std::collections::HashSet<_> = ParkReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), ParkReason::ALL.len());
    }
}
