//! How far the reports of a batch reach: the objects above those that they name, and the users who depend on any of them.
//!
//! It is read before the locks are taken, since it says which, and again behind them. Where it is another one by then, the report is not
//! written, and its caller sends it again. So of two transactions that complete a chain from a user to a payment, either both want the
//! lock of one object, or the later one sees what the earlier one has written (docs/adr/0015).

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Entry, LedgerError, halving::Failure};
use crate::domain::{
    change::{Change, Effect},
    grant::{Grant, SourceKind},
    id::{ObjectId, UserId},
    money::Report,
};

/// The report's place in the batch (from 1), and either an object or a user.
pub(super) type ReachRow = (i64, Option<String>, Option<Uuid>);

/// See the [module](self): that of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reach {
    /// What the report names, and what is above it.
    pub(super) objects: BTreeSet<String>,
    /// Who depends on it.
    pub(super) users: BTreeSet<Uuid>,
}

impl Reach {
    /// The user, if it is one alone.
    fn only_user(&self) -> Option<Uuid> {
        self.users.first().copied().filter(|_| self.users.len() == 1)
    }
}

/// Those of a batch's entries, in order; empty for what is no report.
pub(super) struct Reaches(Vec<Reach>);

impl Reaches {
    pub(super) fn of(entries: &[&Entry], rows: Vec<ReachRow>) -> Self {
        let mut reaches = vec![Reach::default(); entries.len()];
        for (place, object, user) in rows {
            let reach = usize::try_from(place - 1).ok().and_then(|index| reaches.get_mut(index));
            if let Some(reach) = reach {
                reach.objects.extend(object);
                reach.users.extend(user);
            }
        }
        Self(reaches)
    }

    /// That of the entry at this index.
    pub(super) fn get(&self, index: usize) -> Option<&Reach> {
        self.0.get(index)
    }

    /// Whom the inbox names beside an entry that names nobody.
    pub(super) fn only_user(&self, index: usize) -> Option<Uuid> {
        self.get(index).and_then(Reach::only_user)
    }

    pub(super) fn users(&self) -> impl Iterator<Item = UserId> {
        self.0.iter().flat_map(|reach| &reach.users).map(|user| UserId::from(*user))
    }

    /// Whether they are still what they were before the locks. The first that is not is the culprit.
    pub(super) fn check(&self, now: &Self, may_write: impl Fn(usize) -> bool) -> Result<(), Failure> {
        let mut pairs = self.0.iter().zip(&now.0).enumerate();
        match pairs.find(|(index, (before, now))| may_write(*index) && before != now) {
            Some((index, _)) => Err(Failure::Culprit(index, LedgerError::OwnerChanged)),
            None => Ok(()),
        }
    }
}

/// The report of an entry that is one.
pub(super) const fn report_of(entry: &Entry) -> Option<&Report> {
    match entry {
        Entry::Report(report) => Some(report),
        Entry::Change(_) | Entry::Note(_) => None,
    }
}

/// The purchase of an entry that is one.
pub(super) const fn purchase_of(entry: &Entry) -> Option<&Grant> {
    match entry {
        Entry::Change(Change { effect: Effect::Purchase(grant), .. }) => Some(grant),
        _ => None,
    }
}

/// The subscription that a grant is of.
pub(super) fn subscription_of(grant: &Grant) -> Option<&str> {
    Some(&*grant.source.id).filter(|_| grant.source.kind == SourceKind::Subscription)
}

/// Objects that entries name, each once: where reading what is known begins.
pub(super) fn named<'a>(entries: &[&'a Entry]) -> BTreeSet<&'a str> {
    let of_reports = entries.iter().filter_map(|entry| report_of(entry)).flat_map(Report::names).map(ObjectId::as_str);
    let of_purchases = entries.iter().filter_map(|entry| purchase_of(entry)).flat_map(objects_of);
    of_reports.chain(of_purchases).collect()
}

/// Objects that a grant depends on.
pub(super) fn objects_of(grant: &Grant) -> impl Iterator<Item = &str> {
    let payment = grant.payment_intent.as_ref().map(|id| id.as_str());
    let customer = grant.customer.as_ref().map(|id| id.as_str());
    subscription_of(grant).into_iter().chain(payment).chain(customer)
}
