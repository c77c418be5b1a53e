//! What a seller or a customer changes about a subscription: prices, its end, its trial, its collection.

use super::{
    billing,
    happenings::{Cause, happen, tell},
    objects::{InvoiceLine, Item, Price, Standing, Subscription},
    state::State,
};

/// Who pays for the rest of a period when the price changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proration {
    /// The difference is on the next invoice.
    NextInvoice,
    /// The difference is invoiced at once.
    AtOnce,
    /// Nobody: the new price counts from the next period on.
    None,
}

/// When a subscription is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// When what is paid is over.
    Period,
    /// At a moment, in Unix seconds.
    At(i64),
    /// Never.
    Never,
}

/// Fixes when a subscription ends, or that it does not.
pub(super) fn set_end(subscription: &mut Subscription, end: End, now: i64) {
    subscription.cancel_at_period_end = end == End::Period;
    subscription.cancel_at = match end {
        End::Period => Some(subscription.period_end),
        End::At(at) => Some(at),
        End::Never => None,
    };
    subscription.canceled_at = subscription.cancel_at.map(|_| now);
    subscription.cancel_reason = subscription.cancel_at.map(|_| "cancellation_requested".to_owned());
}

/// An item as it is to be.
#[derive(Debug, Clone)]
pub(super) struct NewItem {
    /// Which one is changed; `None` adds one.
    pub(super) id: Option<String>,
    pub(super) price: Price,
    pub(super) quantity: i64,
}

/// Keeps a changed subscription, and invoices what comes of other prices. `trial_ends`: now, and the first period begins.
pub(super) fn apply(
    state: &mut State,
    mut subscription: Subscription,
    items: Vec<NewItem>,
    proration: Proration,
    trial_ends: bool,
    cause: &Cause,
) {
    let (has_items, has_trial) = (!items.is_empty(), subscription.status == Standing::Trialing);
    let recurring_before = subscription.recurring();
    let credits = change_items(&mut subscription, items, cause.now);
    let begins_anew = (has_trial && trial_ends) || (!has_trial && subscription.recurring() != recurring_before);
    if has_trial && trial_ends {
        subscription.status = Standing::Active;
        subscription.trial_end = Some(cause.now);
    }
    if begins_anew {
        subscription.anchor = cause.now;
        subscription.period_start = cause.now;
        subscription.period_end = subscription.end_of_period(cause.now);
        if subscription.cancel_at_period_end {
            subscription.cancel_at = Some(subscription.period_end);
        }
        // What is left of the period before is given back, unless it cost nothing.
        let credits = if has_trial || proration == Proration::None { Vec::new() } else { credits };
        let lines = credits.into_iter().chain(subscription.lines()).collect();
        return billing::invoice_now(state, subscription, lines, "subscription_update", cause);
    }
    if has_trial || !has_items {
        return happen(state, "customer.subscription.updated", subscription, cause);
    }
    let debits = subscription.lines().into_iter().map(|line| line.prorated(cause.now, false));
    let lines: Vec<InvoiceLine> = credits.into_iter().chain(debits).collect();
    match proration {
        Proration::AtOnce => billing::invoice_now(state, subscription, lines, "subscription_update", cause),
        Proration::NextInvoice => {
            subscription.prorations.extend(lines);
            happen(state, "customer.subscription.updated", subscription, cause);
        }
        Proration::None => happen(state, "customer.subscription.updated", subscription, cause),
    }
}

/// Puts the new prices in place. Gives what is left of the old ones, as credits.
fn change_items(subscription: &mut Subscription, items: Vec<NewItem>, now: i64) -> Vec<InvoiceLine> {
    let credits = subscription.lines().into_iter().map(|line| line.prorated(now, true)).collect();
    for NewItem { id, price, quantity } in items {
        match subscription.items.iter_mut().find(|item| Some(&item.id) == id.as_ref()) {
            Some(item) => (item.price, item.quantity) = (price, quantity),
            None => subscription.items.push(Item::new(price, quantity, now)),
        }
    }
    credits
}

/// A paused subscription goes on, with a new period.
pub(super) fn resume(state: &mut State, mut subscription: Subscription, cause: &Cause) {
    subscription.status = Standing::Active;
    subscription.anchor = cause.now;
    subscription.period_start = cause.now;
    subscription.period_end = subscription.end_of_period(cause.now);
    let lines = subscription.lines();
    let id = subscription.id.clone();
    billing::invoice_now(state, subscription, lines, "subscription_update", cause);
    if let Some(subscription) = state.subscriptions.get(&id).cloned() {
        tell(state, "customer.subscription.resumed", &subscription, cause);
    }
}

/// Prices that a subscription could change to: those that somebody was offered, each once.
pub(super) fn prices(state: &State) -> Vec<Price> {
    let mut prices: Vec<Price> = Vec::new();
    for price in all_prices(state) {
        if !prices.iter().any(|known| is_same(known, &price)) {
            prices.push(price);
        }
    }
    prices
}

/// Whatever sessions were opened with and subscriptions have that is paid again and again.
pub(super) fn all_prices(state: &State) -> impl Iterator<Item = Price> {
    let of_sessions = state.sessions.iter().flat_map(|session| session.lines.iter().map(|line| line.priced(session)));
    let of_subscriptions = state.subscriptions.iter().flat_map(|subscription| &subscription.items);
    let all = of_sessions.chain(of_subscriptions.map(|item| item.price.clone()));
    all.filter(|price| price.recurring.is_some())
}

/// Whether two prices differ by no more than their ids: each session makes its own.
pub(super) fn is_same(one: &Price, other: &Price) -> bool {
    one.name == other.name
        && one.currency == other.currency
        && one.unit_amount == other.unit_amount
        && one.recurring == other.recurring
}
