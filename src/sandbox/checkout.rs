//! What happens to sessions, each thing at once and at most once.

use super::{
    DAY,
    billing::{self, Wanted},
    events::emit,
    happenings::{Cause, tell},
    objects::{Customer, Delayed, Method, Mode, Origin, Payer, PaymentStatus, Session, Status, user_of},
    pay_page::Card,
    payments::{self, Due},
    state::State,
};
use crate::activity::Step;

/// How the buyer pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payment {
    /// The money is there.
    Now(Card),
    /// The money comes later, or not.
    Later,
}

/// The buyer has paid, or ordered. `false`: the session was not open, and nothing happened.
pub(super) fn complete(state: &mut State, id: &str, payment: Payment, payer: Payer, now: i64) -> bool {
    let Some(mut session) = open(state, id, now) else { return false };
    let payer = Payer { email: payer.email.or_else(|| known_email(state, &session)), ..payer };
    let free = session.amount() == 0;
    session.status = Status::Complete;
    session.payment_status = match payment {
        _ if free => PaymentStatus::NoPaymentRequired,
        Payment::Now(_) => PaymentStatus::Paid,
        Payment::Later => PaymentStatus::Unpaid,
    };
    session.delayed = (payment == Payment::Later && !free).then_some(Delayed::Waiting);
    if session.customer.is_none() && (session.mode == Mode::Subscription || session.always_customer) {
        session.customer = Some(new_customer(state, &session, &payer, now));
    }
    session.payer = Some(payer);
    let method = match payment {
        Payment::Now(card) => Some(Method::new(card)),
        Payment::Later => None,
    };
    let cause = Cause::at(state.time_of(session.customer.as_deref(), now));
    match session.mode {
        // Since API version 2025-03-31 there is no subscription before its first payment.
        Mode::Subscription if session.delayed.is_none() => subscribe(state, &mut session, method, &cause),
        Mode::Payment if !free => {
            let due = Due {
                amount: session.amount(),
                currency: session.currency.clone(),
                customer: session.customer.clone(),
                description: None,
                metadata: session.child_metadata.clone(),
            };
            let intent = payments::open(state, due, cause.now);
            session.payment_intent = Some(intent.clone());
            if session.delayed.is_none() {
                payments::charge(state, &intent, method.as_ref(), email(&session), &cause);
            }
        }
        Mode::Subscription | Mode::Payment => {}
    }
    let (user, paid) = (user_of(&session.metadata), session.payment_status != PaymentStatus::Unpaid);
    state.activity.tell(user, || Step::SessionCompleted { session: session.id.clone(), paid });
    finish(state, session, "checkout.session.completed", Origin::default(), now);
    true
}

/// The card was refused: the session stays open.
pub(super) fn decline(state: &State, id: &str) {
    let Some(session) = state.sessions.get(id) else { return };
    let user = user_of(&session.metadata);
    state.activity.tell(user, || Step::PaymentDeclined { session: session.id.clone() });
}

/// A delayed payment has arrived, or failed. `false`: none was waited for.
pub(super) fn settle(state: &mut State, id: &str, succeeded: bool, now: i64) -> bool {
    let waiting = |session: &&Session| session.delayed == Some(Delayed::Waiting);
    let Some(mut session) = state.sessions.get(id).filter(waiting).cloned() else { return false };
    let cause = Cause::at(state.time_of(session.customer.as_deref(), now));
    let intent = session.payment_intent.clone();
    let kind = if succeeded {
        session.delayed = Some(Delayed::Arrived);
        session.payment_status = PaymentStatus::Paid;
        match intent {
            Some(intent) => _ = payments::charge(state, &intent, None, email(&session), &cause),
            // What comes of a bank transfer is charged to a card from then on.
            None => subscribe(state, &mut session, Some(Method::new(Card::Pays)), &cause),
        }
        "checkout.session.async_payment_succeeded"
    } else {
        session.delayed = Some(Delayed::Failed);
        if let Some(intent) = intent.and_then(|id| state.intents.get(&id)).cloned() {
            tell(state, "payment_intent.payment_failed", &intent, &cause);
        }
        "checkout.session.async_payment_failed"
    };
    finish(state, session, kind, Origin::default(), now);
    true
}

/// The session can no longer be paid. `false`: it could not before.
pub(super) fn expire(state: &mut State, id: &str, origin: Origin, now: i64) -> bool {
    let open = |session: &&Session| session.status == Status::Open;
    let Some(mut session) = state.sessions.get(id).filter(open).cloned() else { return false };
    session.status = Status::Expired;
    finish(state, session, "checkout.session.expired", origin, now);
    true
}

/// Expires what is over.
pub(super) fn expire_due(state: &mut State, now: i64) {
    let over: Vec<String> =
        state.open.iter().take_while(|(at, _)| *at <= now).map(|(_, session)| session.clone()).collect();
    for id in over {
        expire(state, &id, Origin::default(), now);
    }
}

/// Where the buyer can be written to, as far as the shop has said.
pub(super) fn known_email(state: &State, session: &Session) -> Option<String> {
    let of_customer = || state.customers.get(session.customer.as_ref()?)?.email.clone();
    session.customer_email.clone().or_else(of_customer)
}

/// A session that may be paid now: one that is over is none, although the timer may be late.
fn open(state: &mut State, id: &str, now: i64) -> Option<Session> {
    expire_due(state, now);
    state.sessions.get(id).filter(|session| session.status == Status::Open).cloned()
}

fn email(session: &Session) -> Option<String> {
    session.payer.as_ref().and_then(|payer| payer.email.clone())
}

/// The subscription begins, with its customer's card.
fn subscribe(state: &mut State, session: &mut Session, method: Option<Method>, cause: &Cause) {
    let Some(customer) = session.customer.clone() else { return };
    if let (Some(found), Some(method)) = (state.customers.get(&customer).cloned(), &method) {
        // Only whom nothing has been charged to before: a card that is there stays his first.
        let method = found.method.clone().unwrap_or_else(|| method.clone());
        state.put(Customer { method: Some(method), ..found });
    }
    let lines = session.lines.iter().map(|line| (line.priced(session), line.quantity));
    let (items, once) = lines.partition(|(price, _)| price.recurring.is_some());
    let wanted = Wanted {
        customer,
        items,
        once,
        method,
        metadata: session.child_metadata.clone(),
        trial_end: session.trial_days.map(|days| cause.now.saturating_add(days.saturating_mul(DAY))),
        pauses_without_card: false,
    };
    let id = billing::subscribe(state, wanted, cause);
    session.invoice = state.subscriptions.get(&id).and_then(|subscription| subscription.latest_invoice.clone());
    session.subscription = Some(id);
}

fn new_customer(state: &mut State, session: &Session, payer: &Payer, now: i64) -> String {
    let customer = Customer { email: payer.email.clone(), name: payer.name.clone(), ..Customer::new(now) };
    let id = customer.id.clone();
    // Whose it is, for the activity: the session says it, a customer that Checkout makes has no metadata.
    emit(state, "customer.created", customer.shown(), user_of(&session.metadata), Origin::default(), now);
    state.put(customer);
    id
}

fn finish(state: &mut State, session: Session, kind: &str, origin: Origin, now: i64) {
    let shown = session.shown(&state.base);
    let user = user_of(&session.metadata);
    state.put_session(session);
    emit(state, kind, shown, user, origin, now);
}
