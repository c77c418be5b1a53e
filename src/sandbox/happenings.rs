//! How things are told: an object is kept and an event says what happened to it, with the values that it had before.

use serde_json::{Map, Value};

use super::{
    events::send,
    objects::{
        Charge, Customer, Dispute, Event, Invoice, InvoicePayment, Metadata, Origin, PaymentIntent, Refund,
        Subscription, user_of,
    },
    state::{Held, State},
};
use crate::domain::id::UserId;

/// When something happens, and what made it.
#[derive(Debug, Clone, Default)]
pub(super) struct Cause {
    /// Unix seconds, on the clock of whom it happens to.
    pub(super) now: i64,
    pub(super) origin: Origin,
}

impl Cause {
    /// Time itself, or a buyer.
    pub(super) fn at(now: i64) -> Self {
        Self { now, origin: Origin::default() }
    }
}

/// What events are about.
pub(super) trait Told: Held {
    fn shown(&self, base: &str) -> Value;
    /// Texts that may say whom it concerns, and the customer who is asked else.
    fn whose(&self) -> (Option<&Metadata>, Option<&str>);
}

macro_rules! told {
    ($($object:ty, ($($base:ident)?), $metadata:expr, $customer:expr;)*) => {
        $(impl Told for $object {
            fn shown(&self, _base: &str) -> Value {
                Self::shown(self $(, told!(@ $base _base))?)
            }

            fn whose(&self) -> (Option<&Metadata>, Option<&str>) {
                let metadata: fn(&Self) -> Option<&Metadata> = $metadata;
                let customer: fn(&Self) -> Option<&str> = $customer;
                (metadata(self), customer(self))
            }
        })*
    };
    (@ base $base:ident) => { $base };
}

told! {
    Customer, (), |it| Some(&it.metadata), |it| Some(&it.id);
    Subscription, (), |it| Some(&it.metadata), |it| Some(&it.customer);
    Invoice, (base), |it| Some(&it.metadata), |it| Some(&it.customer);
    InvoicePayment, (), |_| None, |_| None;
    PaymentIntent, (), |it| Some(&it.metadata), |it| it.customer.as_deref();
    Charge, (), |it| Some(&it.metadata), |it| it.customer.as_deref();
    Refund, (), |it| Some(&it.metadata), |it| it.customer.as_deref();
    Dispute, (), |it| Some(&it.metadata), |it| it.customer.as_deref();
}

/// Keeps an object and tells what happened to it. An event about one that was known before says what it was before; where nothing is
/// different and the type of the event says no more than that, there is no event.
pub(super) fn happen<T: Told>(state: &mut State, kind: &str, object: T, cause: &Cause) {
    let shown = object.shown(&state.base);
    let before = T::all(state).get(object.id()).cloned().map(|before| before.shown(&state.base));
    let previous = before.map(|before| replaced(&before, &shown)).filter(|previous| !previous.is_empty());
    let user = whose(state, &object).map(|user| user.to_string());
    state.put(object);
    if previous.is_none() && kind.ends_with(".updated") {
        return;
    }
    let event = Event::new(kind, cause.now, shown, cause.origin.clone());
    // Stripe says it of updates, and of what is one in all but name.
    let previous = previous.filter(|_| SAYS_BEFORE.iter().any(|end| kind.ends_with(end)));
    send(state, Event { previous, user, ..event });
}

const SAYS_BEFORE: &[&str] = &[".updated", ".refunded", ".dispute.closed", "refund.failed"];

/// Tells something about an object that is as it was.
pub(super) fn tell<T: Told>(state: &mut State, kind: &str, object: &T, cause: &Cause) {
    let user = whose(state, object).map(|user| user.to_string());
    let shown = object.shown(&state.base);
    send(state, Event { user, ..Event::new(kind, cause.now, shown, cause.origin.clone()) });
}

/// Whom an object concerns: it says so, or its customer has something that does.
pub(super) fn whose<T: Told>(state: &State, object: &T) -> Option<UserId> {
    let (metadata, customer) = object.whose();
    metadata.and_then(user_of).or_else(|| owner(state, customer?))
}

/// The user of a customer, by what he bought.
pub(super) fn owner(state: &State, customer: &str) -> Option<UserId> {
    let mut sessions = state.sessions.iter().rev().filter(|session| session.customer.as_deref() == Some(customer));
    let subscriptions = state.subscriptions.iter().filter(|subscription| subscription.customer == customer);
    let of_customer = state.customers.get(customer).and_then(|customer| user_of(&customer.metadata));
    of_customer
        .or_else(|| subscriptions.rev().find_map(|subscription| user_of(&subscription.metadata)))
        .or_else(|| sessions.find_map(|session| user_of(&session.metadata)))
}

/// The values that are no longer so. Of a list only its data, as at Stripe.
pub(super) fn replaced(before: &Value, after: &Value) -> Map<String, Value> {
    let of_list = |value: &Value| match (value.get("object").and_then(Value::as_str), value.get("data")) {
        (Some("list"), Some(data)) => serde_json::json!({ "data": data }),
        _ => value.clone(),
    };
    let fields = before.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| after.get(name.as_str()) != Some(value))
        .map(|(name, value)| (name.clone(), of_list(value)))
        .collect()
}
