//! A grant: one reason why a user may have a level until some time, and how two reports of the same grant are joined.

use std::{cmp::Ordering, fmt, sync::Arc};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    id::{CustomerId, EventId, ObjectId, PaymentIntentId, SessionId, SubscriptionId},
    level::Level,
    money::Hold,
    subscription::{Snapshot, Snapshots},
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
    /// A person gave it; the id is a UUID chosen by whoever asked, so that asking again is the same grant.
    Manual,
}

impl SourceKind {
    /// The word in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checkout => "checkout",
            Self::Subscription => "subscription",
            Self::Legacy => "legacy",
            Self::Manual => "manual",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Checkout, Self::Subscription, Self::Legacy, Self::Manual].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The business key of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// What kind of purchase, if it is one.
    pub kind: SourceKind,
    /// Its id at Stripe.
    pub id: Arc<str>,
}

impl Source {
    /// The reverse of `Display`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(':')?;
        Some(Self { kind: SourceKind::from_word(kind)?, id: id.into() })
    }
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
    /// A subscription that gives nothing for the time being. No session ever says so.
    Suspended,
    /// The delayed payment failed. Weaker than `Active`: a report that money arrived is never undone by one that it did not;
    /// taking money back is what refunds and disputes are for. Or the subscription has ended.
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
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Active => "active",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Suspended, Self::Revoked, Self::Active].into_iter().find(|status| status.as_str() == word)
    }
}

/// One reason why a user may have a level. Where there are snapshots of a subscription, they alone decide level, status and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The business key.
    pub source: Source,
    /// What is granted.
    pub level: Level,
    /// What reports said of the purchase.
    pub status: GrantStatus,
    /// What keeps it from being used although it was paid. Worked out of the facts about its money, never reported.
    pub hold: Option<Hold>,
    /// When access ends if the purchase is paid, by Stripe's times, never by our clock: a retry gives the same answer.
    pub period_end: DateTime<Utc>,
    /// Stripe's time of the event this report was taken from.
    pub reported_at: DateTime<Utc>,
    /// The checkout's event this report was taken from; none for rows older than Tollgate, and where no checkout was seen. Where a
    /// subscription is known, it is the first by id of those seen since, which nothing rests on.
    pub event: Option<EventId>,
    /// The session it was bought in.
    pub session: Option<SessionId>,
    /// The payment, where there was one.
    pub payment_intent: Option<PaymentIntentId>,
    /// The customer, where Stripe made one.
    pub customer: Option<CustomerId>,
    /// What the events of a subscription said.
    pub snapshots: Snapshots,
}

impl Grant {
    /// What an event of a subscription's own says.
    #[must_use]
    pub fn of_subscription(id: &SubscriptionId, customer: Option<CustomerId>, snapshot: Snapshot) -> Self {
        let mut grant = Self {
            source: Source { kind: SourceKind::Subscription, id: id.as_str().into() },
            level: Level::free(),
            status: GrantStatus::Pending,
            hold: None,
            period_end: snapshot.ends_at,
            reported_at: snapshot.created,
            event: None,
            session: None,
            payment_intent: None,
            customer,
            snapshots: snapshot.into(),
        };
        grant.settle();
        grant
    }

    /// Takes level, status and times from the snapshot that holds, if there is one.
    pub fn settle(&mut self) {
        if let Some(latest) = self.snapshots.latest() {
            let (level, status) = (latest.level.clone().unwrap_or_else(Level::free), latest.grant_status());
            let (period_end, reported_at) = (latest.ends_at, latest.created);
            (self.level, self.status) = (level, status);
            (self.period_end, self.reported_at) = (period_end, reported_at);
        }
    }

    /// What a person gives, from now on.
    #[must_use]
    pub fn by_hand(id: Uuid, level: Level, until: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        Self {
            source: Source { kind: SourceKind::Manual, id: id.to_string().into() },
            level,
            status: GrantStatus::Active,
            period_end: until,
            reported_at: now,
            event: None,
            session: None,
            payment_intent: None,
            customer: None,
            snapshots: Snapshots::default(),
            hold: None,
        }
    }

    /// Whether a person gave it.
    #[must_use]
    pub fn is_by_hand(&self) -> bool {
        self.source.kind == SourceKind::Manual
    }

    /// How many were bought. Only a subscription's own events say so; what its checkout, or a one-off purchase, sold of a plan with
    /// quantities is not in their events.
    #[must_use]
    pub fn quantity(&self) -> u32 {
        self.snapshots.latest().map_or(1, Snapshot::quantity)
    }

    /// How it stands by reports and money together: what readers of the ledger's table are shown.
    #[must_use]
    pub const fn standing(&self) -> GrantStatus {
        match (self.status, self.hold) {
            (GrantStatus::Active, Some(Hold::Suspended)) => GrantStatus::Suspended,
            (GrantStatus::Active, Some(Hold::Revoked)) => GrantStatus::Revoked,
            (status, _) => status,
        }
    }

    /// Takes the hold that follows from money; one that was not paid has none. Returns whether it is another one than before.
    pub fn weigh(&mut self, hold: Option<Hold>) -> bool {
        let hold = hold.filter(|_| self.status == GrantStatus::Active);
        std::mem::replace(&mut self.hold, hold) != hold
    }

    /// Whether the object is its subscription, its payment or its customer.
    #[must_use]
    pub fn depends_on(&self, object: &ObjectId) -> bool {
        let id = object.as_str();
        (self.source.kind == SourceKind::Subscription && &*self.source.id == id)
            || self.payment_intent.as_ref().is_some_and(|payment| payment.as_str() == id)
            || self.customer.as_ref().is_some_and(|customer| customer.as_str() == id)
    }

    /// Whether it was paid for, whatever became of it since. What a person gave was not: it uses up no trial.
    #[must_use]
    pub fn was_paid(&self) -> bool {
        !self.is_by_hand()
            && self.snapshots.latest().map_or(self.status == GrantStatus::Active, |latest| latest.status.was_paid())
    }

    /// Since when it counts, by Stripe's times: a subscription from its beginning, however new its last snapshot.
    #[must_use]
    pub fn began_at(&self) -> DateTime<Utc> {
        self.snapshots.latest().map_or(self.reported_at, |latest| latest.started_at)
    }

    /// Whether the level may be used at `now`.
    #[must_use]
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.standing() == GrantStatus::Active && now < self.period_end && !self.level.is_free()
    }

    /// Joins another report of the same purchase: the more certain status holds, of equal ones the earlier report (the first
    /// event that shows the session paid gives the time access counts from), then one that an event made, then the smaller event id.
    ///
    /// What a subscription's own events say replaces what its checkout said, whichever came first; of the checkout remain the links.
    ///
    /// Choosing the greatest of a total order is associative, commutative and idempotent: reports may arrive in any order, any
    /// number of times. Returns whether anything changed.
    pub fn join(&mut self, other: &Self) -> bool {
        debug_assert_eq!(self.source, other.source, "only reports of one purchase can be joined");
        if !self.snapshots.is_empty() || !other.snapshots.is_empty() {
            return self.join_snapshots(other);
        }
        if other.certainty(self) == Ordering::Greater {
            *self = other.clone();
            return true;
        }
        false
    }

    fn join_snapshots(&mut self, other: &Self) -> bool {
        let before = self.clone();
        self.snapshots.join(&other.snapshots);
        self.settle();
        self.event = [self.event.take(), other.event.clone()].into_iter().flatten().min();
        self.session = self.session.take().max(other.session.clone());
        self.payment_intent = self.payment_intent.take().max(other.payment_intent.clone());
        self.customer = self.customer.take().max(other.customer.clone());
        *self != before
    }

    fn certainty(&self, other: &Self) -> Ordering {
        self.status
            .cmp(&other.status)
            .then(other.reported_at.cmp(&self.reported_at))
            .then_with(|| self.event.is_some().cmp(&other.event.is_some()))
            .then_with(|| other.event.cmp(&self.event))
    }
}
