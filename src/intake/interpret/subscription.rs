//! What a subscription's own events mean: each carries the whole subscription, so all of them are read alike.

use chrono::{DateTime, Utc};

use super::{
    super::event::{
        said,
        subscription::{Item, Subscription, compared},
    },
    INCOMPLETE, Interpreter, Meaning, parked, unreadable,
};
use crate::domain::{
    change::{Cause, Change, Effect, Subject, Unowned},
    event::{EventRecord, Note, ParkReason, Verdict},
    grant::Grant,
    id::{CustomerId, SubscriptionId, UserId},
    level::Level,
    plan::{Catalogue, Mode, Plan},
    subscription::{Attributes, Snapshot, SubscriptionStatus},
};

/// Whose a subscription is: the user it names, or by what the user is to be found.
enum Holder {
    Named(UserId),
    Sought(Subject),
}

/// As of when a subscription is shown.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Stripe's time of the event, or of the newest event known before Stripe was asked.
    pub(super) as_of: DateTime<Utc>,
    /// When Stripe gave it, if it was asked.
    pub(super) fetched_at: Option<DateTime<Utc>>,
}

impl Seen {
    const fn told(created: DateTime<Utc>) -> Self {
        Self { as_of: created, fetched_at: None }
    }
}

impl Interpreter {
    /// Reads the text of `data.object`, and that of `previous_attributes` where there is one.
    pub(super) fn of_subscription(
        &self,
        text: &str,
        previous: Option<&str>,
        mut record: EventRecord,
        cause: impl FnOnce(EventRecord) -> Cause,
    ) -> Meaning {
        let Some(subscription) = Subscription::parse(text) else { return unreadable(record) };
        let user = subscription.user_id().and_then(|id| UserId::parse(id).ok());
        let id = said(subscription.id.as_ref()).and_then(|id| SubscriptionId::parse(id).ok());
        record.object_id = id.as_ref().map(|id| id.as_str().to_owned());
        let compared = |item: Option<&Item<'_>>| compared(text, previous, item);
        match self.subscription(&subscription, id, compared, Seen::told(record.created)) {
            Ok((Holder::Named(user), grant)) => {
                let effect = Effect::Purchase(grant);
                Meaning::Change(Change { user, found_by: None, cause: cause(record), effect })
            }
            Ok((Holder::Sought(subject), grant)) => {
                Meaning::Unowned(Unowned { subject, cause: cause(record), effect: Effect::Purchase(grant) })
            }
            Err(verdict) => Meaning::Note(Note { event: record, verdict, user }),
        }
    }

    /// What Stripe says of a subscription that was asked about: as of the newest event that was known before.
    pub(super) fn fetched_subscription(
        &self,
        text: &str,
        asked: &SubscriptionId,
        seen: Seen,
    ) -> Result<Unowned, Verdict> {
        let subscription = Subscription::parse(text).ok_or(INCOMPLETE)?;
        let id = said(subscription.id.as_ref()).and_then(|id| SubscriptionId::parse(id).ok());
        let id = id.filter(|id| id == asked).ok_or(INCOMPLETE)?;
        // Its grant is known, and with it whose it is, whatever the metadata says by now.
        let subject = Subject { subscription: id.clone(), customer: None };
        let (_, grant) =
            self.subscription(&subscription, Some(id), |item: Option<&Item<'_>>| compared(text, None, item), seen)?;
        Ok(Unowned { subject, cause: Cause::Fetched, effect: Effect::Purchase(grant) })
    }

    /// What it gives, and whose it is.
    fn subscription(
        &self,
        subscription: &Subscription<'_>,
        id: Option<SubscriptionId>,
        compared: impl FnOnce(Option<&Item<'_>>) -> (Attributes, Attributes),
        seen: Seen,
    ) -> Result<(Holder, Grant), Verdict> {
        let id = id.ok_or(INCOMPLETE)?;
        let customer = subscription.customer.as_ref().and_then(|reference| CustomerId::parse(&reference.id()?).ok());
        let holder = match subscription.user_id() {
            Some(user) => Holder::Named(UserId::parse(user).map_err(|_| parked(ParkReason::InvalidUser))?),
            None => Holder::Sought(Subject { subscription: id.clone(), customer: customer.clone() }),
        };
        let status = said(subscription.status.as_ref())
            .and_then(SubscriptionStatus::from_word)
            .ok_or(parked(ParkReason::UnknownStatus))?;
        let items = match subscription.items() {
            None if status.gives() => return Err(INCOMPLETE),
            items => items.unwrap_or_default(),
        };
        let catalogue = self.catalogue.get();
        let sold = sold(&catalogue, &items, subscription.entitlement_level());
        // What only takes away needs no price.
        if status.gives() && sold.is_none() {
            return Err(parked(ParkReason::UnknownPrice));
        }
        let (plan, item) = sold.map_or((None, items.first()), |(plan, item)| (Some(plan), Some(item)));
        let grace = plan.map(|plan| plan.grace).unwrap_or_default();
        let ends_at = match subscription.terms(status, item).and_then(|terms| terms.ends_at(grace)) {
            Some(end) => end,
            None if status.gives() => return Err(INCOMPLETE),
            None => seen.as_of,
        };
        let (values, before) = compared(item);
        let snapshot = Snapshot {
            status,
            ends_at,
            level: plan.map(|plan| plan.level.clone()),
            created: seen.as_of,
            started_at: subscription.created().unwrap_or(seen.as_of),
            values,
            before,
            quantity: item.and_then(Item::quantity),
            fetched_at: seen.fetched_at,
        };
        Ok((holder, Grant::of_subscription(&id, customer, snapshot)))
    }
}

/// The best level among the items, with the plan and the item that give it.
fn sold<'a, 'b>(
    catalogue: &'a Catalogue,
    items: &'b [Item<'b>],
    named: Option<&str>,
) -> Option<(&'a Plan, &'b Item<'b>)> {
    let named = named.and_then(|level| Level::parse(level).ok());
    let plan = |item: &'b Item<'b>| Some((catalogue.plan_of_item(&item.price()?, named.as_ref())?, item));
    let recurring = items.iter().filter_map(plan).filter(|(plan, _)| plan.mode == Mode::Subscription);
    recurring.max_by_key(|(plan, _)| plan.rank)
}

#[cfg(test)]
pub(super) mod tests;
