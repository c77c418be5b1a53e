//! Subscriptions live: they begin, are invoiced and paid, fail and end. What falls due when is in `clocks`.

use super::{
    DAY, HOUR,
    happenings::{Cause, happen, tell},
    objects::{
        Customer, Invoice, InvoiceLine, InvoicePayment, InvoiceStatus, Item, Metadata, Method, Price, Standing,
        Subscription, new_id,
    },
    payments::{self, Due},
    state::State,
};

/// Between a renewal's invoice and its payment, as at Stripe.
pub(super) const DRAFT_LASTS: i64 = HOUR;
/// How long after the first failed attempt the next one is.
pub(super) const FIRST_RETRY: i64 = 3 * DAY;
/// The same after each failed attempt.
const RETRIES: &[i64] = &[FIRST_RETRY, 5 * DAY, 7 * DAY];

/// What becomes of a subscription when the last attempt at a payment has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterRetries {
    /// It ends.
    #[default]
    Cancel,
    /// It goes on, and what is due is collected no more.
    Unpaid,
    /// It stays as it is.
    PastDue,
}

/// What somebody subscribes to.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) customer: String,
    pub(super) items: Vec<(Price, i64)>,
    /// What is bought once, with the first period.
    pub(super) once: Vec<(Price, i64)>,
    pub(super) method: Option<Method>,
    pub(super) metadata: Metadata,
    pub(super) trial_end: Option<i64>,
    pub(super) pauses_without_card: bool,
}

/// Begins a subscription with its first invoice, which is paid at once if it can be.
pub(super) fn subscribe(state: &mut State, wanted: Wanted, cause: &Cause) -> String {
    let now = cause.now;
    let anchor = wanted.trial_end.unwrap_or(now);
    let mut subscription = Subscription {
        id: new_id("sub_1", 24),
        created: now,
        test_clock: state.customers.get(&wanted.customer).and_then(|customer| customer.test_clock.clone()),
        customer: wanted.customer,
        // Since API version 2025-03-31 what Checkout begins is paid already.
        status: match wanted.trial_end {
            Some(_) => Standing::Trialing,
            None if has_card_that_pays(wanted.method.as_ref()) => Standing::Active,
            None => Standing::Incomplete,
        },
        items: wanted.items.into_iter().map(|(price, quantity)| Item::new(price, quantity, now)).collect(),
        anchor,
        period_start: now,
        period_end: anchor,
        trial_start: wanted.trial_end.map(|_| now),
        trial_end: wanted.trial_end,
        trial_end_told: false,
        pauses_without_card: wanted.pauses_without_card,
        cancel_at: None,
        cancel_at_period_end: false,
        canceled_at: None,
        ended_at: None,
        cancel_reason: None,
        pause: None,
        latest_invoice: None,
        method: wanted.method,
        metadata: wanted.metadata,
        prorations: Vec::new(),
    };
    if wanted.trial_end.is_none() {
        subscription.period_end = subscription.end_of_period(now);
    }
    let mut lines = subscription.lines();
    if wanted.trial_end.is_some() {
        lines.iter_mut().for_each(|line| line.amount = 0);
    }
    let once = wanted.once.iter().map(|(price, quantity)| InvoiceLine::new(price, *quantity, None, now, now));
    lines.extend(once);
    if lines.iter().all(|line| line.amount == 0) && subscription.status == Standing::Incomplete {
        subscription.status = Standing::Active;
    }
    let customer = state.customers.get(&subscription.customer);
    let invoice = Invoice::new(&subscription, customer, "subscription_create", lines, now);
    subscription.latest_invoice = Some(invoice.id.clone());
    let (id, invoice_id) = (subscription.id.clone(), invoice.id.clone());
    happen(state, "customer.subscription.created", subscription, cause);
    happen(state, "invoice.created", invoice, cause);
    finalize(state, &invoice_id, cause);
    id
}

/// A subscription is charged to a card: without one nothing is paid.
fn has_card_that_pays(method: Option<&Method>) -> bool {
    method.is_some() && payments::pays(method)
}

/// A period is over: the next one begins, with an invoice that is paid an hour later.
pub(super) fn renew(state: &mut State, id: &str, cause: &Cause) {
    let Some(mut subscription) = state.subscriptions.get(id).cloned() else { return };
    let was_trialing = subscription.status == Standing::Trialing;
    if was_trialing && subscription.method.is_none() && subscription.pauses_without_card {
        subscription.status = Standing::Paused;
        happen(state, "customer.subscription.updated", subscription.clone(), cause);
        return tell(state, "customer.subscription.paused", &subscription, cause);
    }
    if was_trialing {
        subscription.status = Standing::Active;
    }
    subscription.period_start = subscription.period_end;
    subscription.period_end = subscription.end_of_period(subscription.period_start);
    let mut lines = std::mem::take(&mut subscription.prorations);
    lines.extend(subscription.lines());
    let invoice = draft(state, &mut subscription, "subscription_cycle", lines, cause);
    match subscription.pause.as_ref().map(|pause| pause.behavior.clone()) {
        None if subscription.status != Standing::Unpaid => {
            let finalizes_at = Some(cause.now.saturating_add(DRAFT_LASTS));
            begin(state, subscription, Invoice { finalizes_at, ..invoice }, cause);
        }
        None => begin(state, subscription, invoice, cause),
        Some(behavior) => {
            let invoice_id = invoice.id.clone();
            begin(state, subscription, invoice, cause);
            match behavior.as_str() {
                "void" => end_invoice(state, &invoice_id, InvoiceStatus::Void, cause),
                "mark_uncollectible" => end_invoice(state, &invoice_id, InvoiceStatus::Uncollectible, cause),
                _ => {}
            }
        }
    }
}

/// A draft that the subscription knows as its latest.
fn draft(
    state: &State,
    subscription: &mut Subscription,
    reason: &str,
    lines: Vec<InvoiceLine>,
    cause: &Cause,
) -> Invoice {
    let customer = state.customers.get(&subscription.customer);
    let mut invoice = Invoice::new(subscription, customer, reason, lines, cause.now);
    if let Some(before) = subscription.latest_invoice.as_ref().and_then(|id| state.invoices.get(id)) {
        invoice.period_start = before.created;
    }
    subscription.latest_invoice = Some(invoice.id.clone());
    invoice
}

fn begin(state: &mut State, subscription: Subscription, invoice: Invoice, cause: &Cause) {
    happen(state, "customer.subscription.updated", subscription, cause);
    happen(state, "invoice.created", invoice, cause);
}

/// Changes a subscription and invoices at once what comes of it.
pub(super) fn invoice_now(
    state: &mut State,
    mut subscription: Subscription,
    lines: Vec<InvoiceLine>,
    reason: &str,
    cause: &Cause,
) {
    let invoice = draft(state, &mut subscription, reason, lines, cause);
    let id = invoice.id.clone();
    begin(state, subscription, invoice, cause);
    finalize(state, &id, cause);
}

/// A draft becomes final, and is paid if it can be.
pub(super) fn finalize(state: &mut State, id: &str, cause: &Cause) {
    let is_draft = |invoice: &&Invoice| invoice.status == InvoiceStatus::Draft;
    let Some(mut invoice) = state.invoices.get(id).filter(is_draft).cloned() else { return };
    if let Some(mut customer) = state.customers.get(&invoice.customer).cloned() {
        customer.invoices = customer.invoices.saturating_add(1);
        invoice.number = Some(format!("{}-{:04}", customer.invoice_prefix, customer.invoices));
        invoice.starting_balance = customer.balance;
        customer.balance = invoice.ending_balance();
        state.put(customer);
    }
    invoice.status = InvoiceStatus::Open;
    invoice.finalizes_at = None;
    invoice.finalized_at = Some(cause.now);
    let amount = invoice.amount_due();
    if amount == 0 {
        happen(state, "invoice.finalized", invoice.clone(), cause);
        return settle(state, invoice, cause);
    }
    let due = Due {
        amount,
        currency: invoice.currency.clone(),
        customer: Some(invoice.customer.clone()),
        description: Some("Subscription".to_owned()),
        metadata: Metadata::new(),
    };
    let intent = payments::open(state, due, cause.now);
    invoice.payment_intent = Some(intent.clone());
    state.put(InvoicePayment {
        id: new_id("inpay_1", 24),
        created: cause.now,
        invoice: invoice.id.clone(),
        payment_intent: intent,
        amount,
        currency: invoice.currency.clone(),
        paid_at: None,
    });
    happen(state, "invoice.finalized", invoice, cause);
    attempt(state, id, cause);
}

/// Charges what is due on an open invoice.
pub(super) fn attempt(state: &mut State, id: &str, cause: &Cause) {
    let is_open = |invoice: &&Invoice| invoice.status == InvoiceStatus::Open;
    let Some(mut invoice) = state.invoices.get(id).filter(is_open).cloned() else { return };
    let method = state.subscriptions.get(&invoice.subscription).and_then(|subscription| subscription.method.clone());
    invoice.attempts = invoice.attempts.saturating_add(1);
    invoice.next_attempt = None;
    let intent = invoice.payment_intent.clone().unwrap_or_default();
    let has_paid = method.is_some() && payments::charge(state, &intent, method.as_ref(), invoice.email.clone(), cause);
    if has_paid { settle(state, invoice, cause) } else { fail(state, invoice, cause) }
}

/// An invoice is paid.
fn settle(state: &mut State, mut invoice: Invoice, cause: &Cause) {
    invoice.status = InvoiceStatus::Paid;
    invoice.paid_at = Some(cause.now);
    let of_invoice = |payment: &&InvoicePayment| payment.invoice == invoice.id;
    let payment = state.invoice_payments.iter().rev().find(of_invoice).cloned();
    if let Some(mut payment) = payment {
        payment.paid_at = Some(cause.now);
        happen(state, "invoice_payment.paid", payment, cause);
    }
    happen(state, "invoice.paid", invoice.clone(), cause);
    tell(state, "invoice.payment_succeeded", &invoice, cause);
    let waits = |subscription: &&Subscription| {
        matches!(subscription.status, Standing::Incomplete | Standing::PastDue | Standing::Unpaid)
            && subscription.latest_invoice.as_ref() == Some(&invoice.id)
    };
    if let Some(mut subscription) = state.subscriptions.get(&invoice.subscription).filter(waits).cloned() {
        subscription.status = Standing::Active;
        happen(state, "customer.subscription.updated", subscription, cause);
    }
}

/// An attempt has failed: there is another one, or it was the last.
fn fail(state: &mut State, mut invoice: Invoice, cause: &Cause) {
    let Some(mut subscription) = state.subscriptions.get(&invoice.subscription).cloned() else { return };
    let is_first = subscription.status == Standing::Incomplete;
    let pause = invoice.attempts.checked_sub(1).and_then(|failed| RETRIES.get(failed)).filter(|_| !is_first);
    invoice.next_attempt = pause.map(|pause| cause.now.saturating_add(*pause));
    let is_last = invoice.next_attempt.is_none() && !is_first;
    let invoice_id = invoice.id.clone();
    if subscription.status == Standing::Active {
        subscription.status = Standing::PastDue;
        happen(state, "customer.subscription.updated", subscription.clone(), cause);
    }
    happen(state, "invoice.payment_failed", invoice, cause);
    if !is_last {
        return;
    }
    match state.after_retries {
        AfterRetries::Cancel => {
            cancel(state, subscription, "payment_failed", cause);
            end_invoice(state, &invoice_id, InvoiceStatus::Uncollectible, cause);
        }
        AfterRetries::Unpaid => {
            subscription.status = Standing::Unpaid;
            happen(state, "customer.subscription.updated", subscription, cause);
        }
        AfterRetries::PastDue => {}
    }
}

/// Nobody is to pay an invoice any more.
fn end_invoice(state: &mut State, id: &str, status: InvoiceStatus, cause: &Cause) {
    let Some(mut invoice) = state.invoices.get(id).cloned() else { return };
    invoice.status = status;
    (invoice.next_attempt, invoice.finalizes_at) = (None, None);
    invoice.ended_at = Some(cause.now);
    let kind = if status == InvoiceStatus::Void { "invoice.voided" } else { "invoice.marked_uncollectible" };
    happen(state, kind, invoice, cause);
}

/// A subscription ends now. What was due for it is collected no more.
pub(super) fn cancel(state: &mut State, mut subscription: Subscription, reason: &str, cause: &Cause) {
    subscription.status = Standing::Canceled;
    subscription.canceled_at.get_or_insert(cause.now);
    subscription.ended_at = Some(cause.now);
    subscription.cancel_reason = Some(reason.to_owned());
    stop_collecting(state, &subscription.id);
    happen(state, "customer.subscription.deleted", subscription, cause);
}

/// An end that was fixed before has come.
pub(super) fn end(state: &mut State, id: &str, cause: &Cause) {
    if let Some(subscription) = state.subscriptions.get(id).cloned() {
        cancel(state, subscription, "cancellation_requested", cause);
    }
}

fn stop_collecting(state: &mut State, subscription: &str) {
    let is_due = |invoice: &&Invoice| {
        invoice.subscription == subscription && (invoice.next_attempt.is_some() || invoice.finalizes_at.is_some())
    };
    let due: Vec<Invoice> = state.invoices.iter().filter(is_due).cloned().collect();
    for invoice in due {
        state.put(Invoice { next_attempt: None, finalizes_at: None, ..invoice });
    }
}

/// The first invoice was not paid in time.
pub(super) fn expire(state: &mut State, id: &str, cause: &Cause) {
    let Some(mut subscription) = state.subscriptions.get(id).cloned() else { return };
    subscription.status = Standing::IncompleteExpired;
    subscription.ended_at = Some(cause.now);
    if let Some(invoice) = subscription.latest_invoice.clone() {
        end_invoice(state, &invoice, InvoiceStatus::Void, cause);
    }
    happen(state, "customer.subscription.updated", subscription, cause);
}

/// The trial ends in three days.
pub(super) fn announce_trial_end(state: &mut State, id: &str, cause: &Cause) {
    if let Some(mut subscription) = state.subscriptions.get(id).cloned() {
        subscription.trial_end_told = true;
        happen(state, "customer.subscription.trial_will_end", subscription, cause);
    }
}

/// Invoices are collected again.
pub(super) fn collect_again(state: &mut State, id: &str, cause: &Cause) {
    if let Some(subscription) = state.subscriptions.get(id).cloned() {
        happen(state, "customer.subscription.updated", Subscription { pause: None, ..subscription }, cause);
    }
}

/// Another card pays from now on, for whatever the customer has. What is due is tried when its time comes.
pub(super) fn use_card(state: &mut State, customer: &str, method: &Method, cause: &Cause) {
    let Some(customer) = state.customers.get(customer).cloned() else { return };
    let method = Some(method.clone());
    let subscriptions = living_of(state, &customer.id);
    happen(state, "customer.updated", Customer { method: method.clone(), ..customer }, cause);
    for subscription in subscriptions {
        let subscription = Subscription { method: method.clone(), ..subscription };
        happen(state, "customer.subscription.updated", subscription, cause);
    }
}

/// A customer's subscriptions that are not over.
pub(super) fn living_of(state: &State, customer: &str) -> Vec<Subscription> {
    let is_meant = |subscription: &&Subscription| subscription.customer == customer && !subscription.is_over();
    state.subscriptions.iter().filter(is_meant).cloned().collect()
}
