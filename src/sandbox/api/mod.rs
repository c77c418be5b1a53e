//! Stripe's API, as far as the sandbox has it: which request is which function. Every function first takes all its
//! parameters, refuses what is left over, and only then changes the state.

mod clocks;
mod customers;
mod endpoints;
mod events;
mod list;
mod money;
mod portals;
mod sessions;
mod subscriptions;

use serde_json::Value;

use super::{
    events::now,
    happenings::Cause,
    objects::{Customer, Origin},
    params::Params,
    refusal::Refusal,
    state::{Answer, State},
};

/// A request, beside its parameters.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// `req_…`.
    pub(super) request_id: &'a str,
    pub(super) idempotency_key: Option<&'a str>,
    /// The sandbox's time, in Unix seconds.
    pub(super) now: i64,
}

impl Call<'_> {
    fn origin(&self) -> Origin {
        Origin {
            request: Some(self.request_id.to_owned()),
            idempotency_key: self.idempotency_key.map(ToOwned::to_owned),
        }
    }

    /// What this request makes happen, at a customer's time.
    fn cause(&self, now: i64) -> Cause {
        Cause { now, origin: self.origin() }
    }
}

/// What is answered, and whether it was answered before.
pub(super) struct Reply {
    pub(super) body: Value,
    pub(super) replayed: bool,
}

/// Does a request under its idempotency key: the same request again is answered as it was. Refusals are not remembered, as at
/// Stripe where a request was never begun.
pub(super) fn answer(state: &mut State, call: &Call<'_>, params: Value) -> Result<Reply, Refusal> {
    let Some(key) = call.idempotency_key.filter(|_| call.method == "POST") else {
        return Ok(Reply { body: dispatch(state, call, params)?, replayed: false });
    };
    // Keys live in real time, wherever the clocks are.
    let real = now();
    state.forget_old(real);
    if let Some(answer) = state.answers.get(key) {
        return if answer.path == call.path && answer.params == params {
            Ok(Reply { body: answer.body.clone(), replayed: true })
        } else {
            Err(Refusal::other_parameters())
        };
    }
    let body = dispatch(state, call, params.clone())?;
    let path = call.path.to_owned();
    state.put(Answer { key: key.to_owned(), path, params, body: body.clone(), at: real });
    Ok(Reply { body, replayed: false })
}

fn dispatch(state: &mut State, call: &Call<'_>, params: Value) -> Result<Value, Refusal> {
    let Value::Object(params) = params else {
        return Err(Refusal::invalid_request("Parameters must have names."));
    };
    let mut params = Params::new(params);
    let segments: Vec<&str> = call.path.split('/').skip(1).collect();
    let params = &mut params;
    match (call.method, segments.as_slice()) {
        ("POST", ["v1", "checkout", "sessions"]) => sessions::create(state, call, params),
        ("GET", ["v1", "checkout", "sessions"]) => sessions::list(state, params),
        ("GET", ["v1", "checkout", "sessions", id]) => sessions::retrieve(state, id, params),
        ("GET", ["v1", "checkout", "sessions", id, "line_items"]) => sessions::line_items(state, id, params),
        ("POST", ["v1", "checkout", "sessions", id, "expire"]) => sessions::expire(state, call, id, params),
        ("POST", ["v1", "customers"]) => customers::create(state, call, params),
        ("GET", ["v1", "customers"]) => customers::list(state, params),
        ("GET", ["v1", "customers", id]) => customers::retrieve(state, id, params),
        ("POST", ["v1", "customers", id]) => customers::update(state, call, id, params),
        ("DELETE", ["v1", "customers", id]) => customers::delete(state, call, id, params),
        ("POST", ["v1", "subscriptions"]) => subscriptions::create(state, call, params),
        ("GET", ["v1", "subscriptions"]) => subscriptions::list(state, params),
        ("GET", ["v1", "subscriptions", id]) => subscriptions::retrieve(state, id, params),
        ("POST", ["v1", "subscriptions", id]) => subscriptions::update(state, call, id, params),
        ("DELETE", ["v1", "subscriptions", id]) => subscriptions::cancel(state, call, id, params),
        ("POST", ["v1", "subscriptions", id, "resume"]) => subscriptions::resume(state, call, id, params),
        ("GET", ["v1", "invoices"]) => money::invoices(state, params),
        ("GET", ["v1", "invoices", id]) => money::invoice(state, id, params),
        ("POST", ["v1", "invoices", id, "pay"]) => money::pay_invoice(state, call, id, params),
        ("GET", ["v1", "invoice_payments"]) => money::invoice_payments(state, params),
        ("GET", ["v1", "invoice_payments", id]) => money::invoice_payment(state, id, params),
        ("GET", ["v1", "payment_intents"]) => money::intents(state, params),
        ("GET", ["v1", "payment_intents", id]) => money::intent(state, id, params),
        ("GET", ["v1", "charges"]) => money::charges(state, params),
        ("GET", ["v1", "charges", id]) => money::charge(state, id, params),
        ("POST", ["v1", "refunds"]) => money::refund(state, call, params),
        ("GET", ["v1", "refunds"]) => money::refunds(state, params),
        ("GET", ["v1", "refunds", id]) => money::retrieve_refund(state, id, params),
        ("GET", ["v1", "disputes"]) => money::disputes(state, params),
        ("GET", ["v1", "disputes", id]) => money::dispute(state, id, params),
        ("POST", ["v1", "disputes", id]) => money::answer(state, call, id, params),
        ("POST", ["v1", "disputes", id, "close"]) => money::close(state, call, id, params),
        ("POST", ["v1", "billing_portal", "sessions"]) => portals::create(state, call, params),
        ("POST", ["v1", "test_helpers", "test_clocks"]) => clocks::create(state, params),
        ("GET", ["v1", "test_helpers", "test_clocks"]) => clocks::list(state, params),
        ("GET", ["v1", "test_helpers", "test_clocks", id]) => clocks::retrieve(state, id, params),
        ("POST", ["v1", "test_helpers", "test_clocks", id, "advance"]) => clocks::advance(state, id, params),
        ("DELETE", ["v1", "test_helpers", "test_clocks", id]) => clocks::delete(state, call, id, params),
        ("GET", ["v1", "events"]) => events::list(state, params),
        ("GET", ["v1", "events", id]) => events::retrieve(state, id, params),
        ("POST", ["v1", "webhook_endpoints"]) => endpoints::create(state, call, params),
        ("GET", ["v1", "webhook_endpoints"]) => endpoints::list(state, params),
        ("GET", ["v1", "webhook_endpoints", id]) => endpoints::retrieve(state, id, params),
        ("POST", ["v1", "webhook_endpoints", id]) => endpoints::update(state, id, params),
        ("DELETE", ["v1", "webhook_endpoints", id]) => endpoints::delete(state, id, params),
        _ => Err(Refusal::unrecognised(call.method, call.path)),
    }
}

/// An object with some of its ids replaced by what they stand for.
fn expand(state: &State, mut shown: Value, fields: &[String]) -> Value {
    for field in fields {
        let whole = shown.get(field).and_then(Value::as_str).and_then(|id| whole(state, id));
        if let (Some(fields), Some(whole)) = (shown.as_object_mut(), whole) {
            fields.insert(field.clone(), whole);
        }
    }
    shown
}

fn whole(state: &State, id: &str) -> Option<Value> {
    let base = &state.base;
    match id.split_once('_')?.0 {
        "cus" => state.customers.get(id).map(Customer::shown),
        "sub" => state.subscriptions.get(id).map(|subscription| subscription.shown()),
        "in" => state.invoices.get(id).map(|invoice| invoice.shown(base)),
        "pi" => state.intents.get(id).map(|intent| intent.shown()),
        "ch" => state.charges.get(id).map(|charge| charge.shown()),
        _ => None,
    }
}
