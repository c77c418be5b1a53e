//! `/v1/customers`.

use serde_json::{Map, Value};

use super::{
    Call,
    list::{Created, Page},
};
use crate::sandbox::{
    events::{emit, send},
    objects::{Customer, Event, user_of},
    params::Params,
    refusal::Refusal,
    state::State,
};

pub(super) fn create(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let mut customer = Customer::new(call.now);
    take(&mut customer, params)?;
    Ok(keep(state, call, customer, "customer.created"))
}

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let email = params.text("email")?;
    params.finish()?;
    let fits = |customer: &Customer| {
        !customer.deleted && created.fits(customer.created) && (email.is_none() || customer.email == email)
    };
    page.of(&state.customers, "/v1/customers", "customer", fits, Customer::shown)
}

pub(super) fn retrieve(state: &State, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    state.customers.get(id).map(Customer::shown).ok_or_else(|| Refusal::no_such("customer", id, "id"))
}

pub(super) fn update(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let mut customer = living(state, id)?;
    let before = customer.shown();
    take(&mut customer, params)?;
    let shown = customer.shown();
    let previous = replaced(&before, &shown);
    if !previous.is_empty() {
        let event = Event::new("customer.updated", call.now, shown.clone(), call.origin());
        let user = user_of(&customer.metadata).map(|user| user.to_string());
        send(state, Event { previous: Some(previous), user, ..event });
        state.put(customer);
    }
    Ok(shown)
}

pub(super) fn delete(state: &mut State, call: &Call<'_>, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    let mut customer = living(state, id)?;
    // The event shows the customer as it was.
    let user = user_of(&customer.metadata);
    emit(state, "customer.deleted", customer.shown(), user, call.origin(), call.now);
    customer.deleted = true;
    let shown = customer.shown();
    state.put(customer);
    Ok(shown)
}

/// A customer that is not deleted.
pub(super) fn living(state: &State, id: &str) -> Result<Customer, Refusal> {
    let customer = state.customers.get(id).filter(|customer| !customer.deleted);
    customer.cloned().ok_or_else(|| Refusal::no_such("customer", id, "customer"))
}

fn take(customer: &mut Customer, params: &mut Params) -> Result<(), Refusal> {
    params.update("email", &mut customer.email)?;
    params.update("name", &mut customer.name)?;
    params.update("description", &mut customer.description)?;
    params.update("phone", &mut customer.phone)?;
    params.update_metadata(&mut customer.metadata)?;
    params.expand(&[])?;
    params.finish()
}

fn keep(state: &mut State, call: &Call<'_>, customer: Customer, kind: &str) -> Value {
    let shown = customer.shown();
    emit(state, kind, shown.clone(), user_of(&customer.metadata), call.origin(), call.now);
    state.put(customer);
    shown
}

/// The values that are no longer so.
fn replaced(before: &Value, after: &Value) -> Map<String, Value> {
    let fields = before.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| after.get(name.as_str()) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
