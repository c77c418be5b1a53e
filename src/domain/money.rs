//! Money that was taken back: what is known of Stripe's objects that are no grants (payments, invoices, customers), and what follows from
//! it for a grant.
//!
//! Everything here only grows: of two reports about one refund or dispute the later one holds, whichever came first. So facts may arrive
//! in any order, any number of times, also before the purchase that they are about.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    change::Cause,
    grant::{Grant, SourceKind},
    id::ObjectId,
    known_word,
};

/// Stripe's word for how a refund stands. Of two reports of one second the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// On its way, once the customer has said where to.
    RequiresAction,
    /// Paid back.
    Succeeded,
    /// Called off: the money stays.
    Canceled,
    /// It could not be paid back: the money stays.
    Failed,
}

impl RefundStatus {
    /// Reads Stripe's word; `None` for one that did not exist when this was written.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        known_word(word)
    }

    /// Whether the money goes back, or has gone.
    #[must_use]
    pub const fn takes(self) -> bool {
        matches!(self, Self::Pending | Self::RequiresAction | Self::Succeeded)
    }
}

/// A refund at the moment of one event. The order is that of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refund {
    /// Stripe's time of the event.
    pub reported_at: DateTime<Utc>,
    /// How it stood.
    pub status: RefundStatus,
    /// How much, in the currency's smallest unit.
    pub amount: i64,
    /// When it was made.
    pub made_at: DateTime<Utc>,
}

/// Stripe's word for how a dispute stands. Of two reports of one second the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisputeStatus {
    /// An inquiry: no money has moved.
    WarningNeedsResponse,
    /// The same, answered.
    WarningUnderReview,
    /// A chargeback: the money is gone until it is decided.
    NeedsResponse,
    /// The same, answered.
    UnderReview,
    /// Averted before it was one.
    Prevented,
    /// An inquiry that came to nothing; the bank may still make a chargeback of it.
    WarningClosed,
    /// The money came back. For ever.
    Won,
    /// The money is gone. For ever.
    Lost,
}

impl DisputeStatus {
    /// Reads Stripe's word; `None` for one that did not exist when this was written.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        known_word(word)
    }

    const fn is_terminal(self) -> bool {
        matches!(self, Self::Won | Self::Lost)
    }

    const fn hold(self) -> Option<Hold> {
        match self {
            Self::NeedsResponse | Self::UnderReview => Some(Hold::Suspended),
            Self::Lost => Some(Hold::Revoked),
            Self::WarningNeedsResponse
            | Self::WarningUnderReview
            | Self::Prevented
            | Self::WarningClosed
            | Self::Won => None,
        }
    }
}

/// A dispute at the moment of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    /// Stripe's time of the event.
    pub reported_at: DateTime<Utc>,
    /// How it stood.
    pub status: DisputeStatus,
}

impl Dispute {
    /// What is decided stays decided; else the newer report holds.
    const fn precedence(&self) -> (bool, DateTime<Utc>, DisputeStatus) {
        (self.status.is_terminal(), self.reported_at, self.status)
    }
}

/// A charge at the moment of one event. The order is that of news. Amounts are in the currency's smallest unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Charge {
    /// Stripe's time of the event.
    pub reported_at: DateTime<Utc>,
    /// How much had been paid back by then.
    pub refunded: i64,
    /// How much had been paid.
    pub captured: i64,
}

/// What keeps a grant from being used. The order is that of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hold {
    /// Its payment is disputed.
    Suspended,
    /// Its payment was taken back, or its customer was deleted.
    Revoked,
}

/// What events said of one object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// Refunds of a payment, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refunds: BTreeMap<ObjectId, Refund>,
    /// Disputes of a payment, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disputes: BTreeMap<ObjectId, Dispute>,
    /// A payment's charge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charge: Option<Charge>,
    /// Whether a customer was deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl Facts {
    /// The heaviest hold that follows.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        let disputed = self.disputes.values().filter_map(|dispute| dispute.status.hold()).max();
        disputed.max((self.is_refunded() || self.deleted).then_some(Hold::Revoked))
    }

    /// Whether all that was paid went back. Without the charge nobody knows how much was paid.
    fn is_refunded(&self) -> bool {
        self.charge.is_some_and(|charge| charge.captured > 0 && self.refunded(&charge) >= charge.captured)
    }

    /// How much went back: what the charge says, less what failed since it said so; or what the refunds come to, if that is more.
    fn refunded(&self, charge: &Charge) -> i64 {
        let sum = |counts: &dyn Fn(&Refund) -> bool| {
            self.refunds.values().filter(|refund| counts(refund)).fold(0_i64, |sum, one| sum.saturating_add(one.amount))
        };
        let at = charge.reported_at;
        let failed_since = sum(&|refund| !refund.status.takes() && refund.made_at <= at && at <= refund.reported_at);
        charge.refunded.saturating_sub(failed_since).max(sum(&|refund| refund.status.takes()))
    }

    /// Whether refunds are known of a payment of which nobody knows how much it was.
    #[must_use]
    pub fn is_unmeasured(&self) -> bool {
        self.charge.is_none() && self.refunds.values().any(|refund| refund.status.takes())
    }

    /// Whether any money of a payment went back, or is disputed.
    fn takes(&self) -> bool {
        self.refunds.values().any(|refund| refund.status.takes())
            || self.disputes.values().any(|dispute| dispute.status.hold().is_some())
            || self.charge.is_some_and(|charge| charge.refunded > 0)
    }

    fn join(&mut self, other: &Self) {
        for (id, refund) in &other.refunds {
            self.refunds.entry(id.clone()).and_modify(|known| *known = *refund.max(known)).or_insert(*refund);
        }
        for (id, dispute) in &other.disputes {
            let known = self.disputes.entry(id.clone()).or_insert(*dispute);
            if known.precedence() < dispute.precedence() {
                *known = *dispute;
            }
        }
        self.charge = self.charge.max(other.charge);
        self.deleted |= other.deleted;
    }
}

/// What is known of one object: a payment, an invoice or a customer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object {
    /// The invoice that a payment paid, or the subscription of an invoice.
    pub parent: Option<ObjectId>,
    /// The end of the newest period that an invoice has paid.
    pub period_end: Option<DateTime<Utc>>,
    /// What events said of it.
    pub facts: Facts,
}

impl Object {
    /// Joins what another event said. A parent is learnt once: Stripe never moves a payment or an invoice.
    ///
    /// Returns whether anything is new.
    pub fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        self.parent = self.parent.take().or_else(|| other.parent.clone());
        self.period_end = self.period_end.max(other.period_end);
        self.facts.join(&other.facts);
        *self != before
    }
}

/// What one event says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The object.
    pub id: ObjectId,
    /// What the event says of it.
    pub says: Object,
}

/// What one event says that names no user: it is about whoever turns out to depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The event.
    pub cause: Cause,
    /// What it says.
    pub facts: Vec<Fact>,
}

impl Report {
    /// All objects that it names, each once.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&ObjectId> {
        self.facts.iter().flat_map(|fact| std::iter::once(&fact.id).chain(&fact.says.parent)).collect()
    }
}

/// A payment, its invoice, and the invoice's subscription.
const CHAIN_MAX: usize = 3;

/// Objects that depend on each other, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    known: HashMap<ObjectId, Object>,
    children: HashMap<ObjectId, BTreeSet<ObjectId>>,
    learnt: BTreeSet<ObjectId>,
}

impl Objects {
    /// Takes what was known before.
    pub fn recall(&mut self, id: ObjectId, object: Object) {
        if let Some(parent) = &object.parent {
            self.children.entry(parent.clone()).or_default().insert(id.clone());
        }
        self.known.insert(id, object);
    }

    /// Joins a fact with what is known. Returns whether anything of it is new.
    pub fn learn(&mut self, fact: &Fact) -> bool {
        let known = self.known.entry(fact.id.clone()).or_default();
        if !known.join(&fact.says) {
            return false;
        }
        if let Some(parent) = &known.parent {
            self.children.entry(parent.clone()).or_default().insert(fact.id.clone());
        }
        self.learnt.insert(fact.id.clone());
        true
    }

    /// The object, if anything is known of it.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&Object> {
        self.known.get(id)
    }

    /// Whether money went back, or is disputed, of a payment of which nobody knows whether it paid a subscription, or which period.
    #[must_use]
    pub fn is_unattached(&self, payment: &ObjectId) -> bool {
        let Some(object) = self.known.get(payment).filter(|object| object.facts.takes()) else { return false };
        let invoice = object.parent.as_ref().and_then(|invoice| self.known.get(invoice));
        invoice.is_none_or(|invoice| invoice.parent.is_none() || invoice.period_end.is_none())
    }

    /// Whether a grant depends on one of a report's objects, as far as is known how they are tied.
    #[must_use]
    pub fn are_tied(&self, report: &Report, grant: &Grant) -> bool {
        report.names().into_iter().any(|name| {
            let parent = |id: &ObjectId| self.known.get(id).and_then(|object| object.parent.clone());
            std::iter::successors(Some(name.clone()), parent).take(CHAIN_MAX).any(|id| grant.depends_on(&id))
        })
    }

    /// What was learnt, in the order of ids.
    pub fn learnt(&self) -> impl Iterator<Item = (&ObjectId, &Object)> {
        self.learnt.iter().filter_map(|id| self.known.get_key_value(id))
    }

    /// What keeps a grant from being used: of a one-off purchase its payment; of a subscription what paid its newest period, so that a
    /// refund of an earlier one takes nothing; of both that their customer was deleted.
    #[must_use]
    pub fn hold(&self, grant: &Grant) -> Option<Hold> {
        let of = |id: &ObjectId| self.known.get(id).and_then(|object| object.facts.hold());
        let customer = grant.customer.as_ref().and_then(|customer| of(&customer.object()));
        let payment = match grant.source.kind {
            SourceKind::Subscription => self.payments_of_newest_period(&grant.source.id).filter_map(of).max(),
            SourceKind::Checkout | SourceKind::Legacy => {
                grant.payment_intent.as_ref().and_then(|payment| of(&payment.object()))
            }
            // No money has come, so none can go back.
            SourceKind::Manual => None,
        };
        customer.max(payment)
    }

    fn payments_of_newest_period(&self, subscription: &str) -> impl Iterator<Item = &ObjectId> {
        let invoices = || {
            let ids = ObjectId::parse(subscription).ok().and_then(|id| self.children.get(&id)).into_iter().flatten();
            ids.filter_map(|id| Some((id, self.known.get(id)?.period_end?)))
        };
        let newest = invoices().map(|(_, end)| end).max();
        invoices()
            .filter(move |(_, end)| Some(*end) == newest)
            .filter_map(|(invoice, _)| self.children.get(invoice))
            .flatten()
    }
}

#[cfg(test)]
mod tests;
