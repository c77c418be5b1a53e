//! A grant: one reason why a user may have a level until some time, and how two reports of the same grant are joined.

use std::{cmp::Ordering, fmt, sync::Arc};

use chrono::{DateTime, Utc};

use super::{
    id::{CustomerId, EventId, PaymentIntentId, SessionId},
    level::Level,
};

/// Where a grant comes from. With [`Source::id`] it is the business key: one row per purchase, however many events tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// A one-off purchase; the id is the Checkout Session's.
    Checkout,
    /// A subscription; the id is the subscription's own.
    Subscription,
    /// A row that was there before Tollgate; the id is the row's.
    Legacy,
}

impl SourceKind {
    /// The word in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checkout => "checkout",
            Self::Subscription => "subscription",
            Self::Legacy => "legacy",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Checkout, Self::Subscription, Self::Legacy].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The business key of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// What kind of purchase.
    pub kind: SourceKind,
    /// Its id at Stripe.
    pub id: Arc<str>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.id)
    }
}

/// What is known of a purchase. The order is that of certainty: of two reports the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GrantStatus {
    /// Bought with a delayed payment method, not paid yet.
    Pending,
    /// The delayed payment failed. Weaker than `Active`: a report that money arrived is never undone by one that it did not;
    /// taking money back is what refunds and disputes are for.
    Revoked,
    /// Paid.
    Active,
}

impl GrantStatus {
    /// The word in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Revoked => "revoked",
            Self::Active => "active",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Revoked, Self::Active].into_iter().find(|status| status.as_str() == word)
    }
}

/// One reason why a user may have a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The business key.
    pub source: Source,
    /// What is granted.
    pub level: Level,
    /// What is known of the purchase.
    pub status: GrantStatus,
    /// When access ends if the purchase is paid, by Stripe's times, never by our clock: a retry gives the same answer.
    pub period_end: DateTime<Utc>,
    /// Stripe's time of the event this report was taken from.
    pub reported_at: DateTime<Utc>,
    /// The event this report was taken from; none for rows older than Tollgate.
    pub event: Option<EventId>,
    /// The session it was bought in.
    pub session: Option<SessionId>,
    /// The payment, where there was one.
    pub payment_intent: Option<PaymentIntentId>,
    /// The customer, where Stripe made one.
    pub customer: Option<CustomerId>,
}

impl Grant {
    /// Whether the level may be used at `now`.
    #[must_use]
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.status == GrantStatus::Active && now < self.period_end && !self.level.is_free()
    }

    /// Joins another report of the same purchase: the more certain status holds, of equal ones the earlier report (the first
    /// event that shows the session paid gives the time access counts from), then the smaller event id.
    ///
    /// Choosing the greatest of a total order is associative, commutative and idempotent: reports may arrive in any order, any
    /// number of times. Returns whether anything changed.
    pub fn join(&mut self, other: &Self) -> bool {
        debug_assert_eq!(self.source, other.source, "only reports of one purchase can be joined");
        if other.certainty(self) == Ordering::Greater {
            *self = other.clone();
            return true;
        }
        false
    }

    fn certainty(&self, other: &Self) -> Ordering {
        self.status
            .cmp(&other.status)
            .then(other.reported_at.cmp(&self.reported_at))
            .then_with(|| other.event.cmp(&self.event))
    }
}
