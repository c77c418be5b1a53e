//! Stripe's API, as far as the sandbox has it: which request is which function. Every function first takes all its
//! parameters, refuses what is left over, and only then changes the state.

mod customers;
mod endpoints;
mod events;
mod list;
mod sessions;

use serde_json::Value;

use super::{
    objects::Origin,
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
    /// Unix seconds.
    pub(super) now: i64,
}

impl Call<'_> {
    fn origin(&self) -> Origin {
        Origin {
            request: Some(self.request_id.to_owned()),
            idempotency_key: self.idempotency_key.map(ToOwned::to_owned),
        }
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
    state.forget_old(call.now);
    if let Some(answer) = state.answers.get(key) {
        return if answer.path == call.path && answer.params == params {
            Ok(Reply { body: answer.body.clone(), replayed: true })
        } else {
            Err(Refusal::other_parameters())
        };
    }
    let body = dispatch(state, call, params.clone())?;
    let path = call.path.to_owned();
    state.put(Answer { key: key.to_owned(), path, params, body: body.clone(), at: call.now });
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
