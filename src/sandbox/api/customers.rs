//! `/v1/customers`.

use serde_json::Value;

use super::{
    Call,
    list::{Created, Page},
};
use crate::sandbox::{
    billing,
    happenings::{happen, tell},
    objects::{Customer, Method},
    params::Params,
    pay_page::Card,
    refusal::Refusal,
    state::State,
};

pub(super) fn create(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let clock = params.text("test_clock")?.map(|id| super::clocks::find(state, &id).cloned()).transpose()?;
    let created = clock.as_ref().map_or(call.now, |clock| clock.frozen_time);
    let mut customer = Customer { test_clock: clock.map(|clock| clock.id), ..Customer::new(created) };
    customer.method = take(&mut customer, params)?;
    let shown = customer.shown();
    let cause = call.cause(created);
    happen(state, "customer.created", customer, &cause);
    Ok(shown)
}

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let (email, clock) = (params.text("email")?, params.text("test_clock")?);
    params.finish()?;
    let fits = |customer: &Customer| {
        !customer.deleted
            && created.fits(customer.created)
            && (email.is_none() || customer.email == email)
            && (clock.is_none() || customer.test_clock == clock)
    };
    page.of(&state.customers, "/v1/customers", "customer", fits, Customer::shown)
}

pub(super) fn retrieve(state: &State, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    state.customers.get(id).map(Customer::shown).ok_or_else(|| Refusal::no_such("customer", id, "id"))
}

pub(super) fn update(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let mut customer = living(state, id)?;
    let method = take(&mut customer, params)?;
    let cause = call.cause(state.time_of(Some(id), call.now));
    happen(state, "customer.updated", customer, &cause);
    if let Some(method) = method {
        billing::use_card(state, id, &method, &cause);
    }
    living(state, id).map(|customer| customer.shown())
}

pub(super) fn delete(state: &mut State, call: &Call<'_>, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    let customer = living(state, id)?;
    let cause = call.cause(state.time_of(Some(id), call.now));
    for subscription in billing::living_of(state, id) {
        billing::cancel(state, subscription, "cancellation_requested", &cause);
    }
    // The event shows the customer as it was.
    tell(state, "customer.deleted", &customer, &cause);
    let customer = Customer { deleted: true, ..customer };
    let shown = customer.shown();
    state.put(customer);
    Ok(shown)
}

/// A customer that is not deleted.
pub(super) fn living(state: &State, id: &str) -> Result<Customer, Refusal> {
    let customer = state.customers.get(id).filter(|customer| !customer.deleted);
    customer.cloned().ok_or_else(|| Refusal::no_such("customer", id, "customer"))
}

/// Gives the card that is to pay from now on, if one is told.
fn take(customer: &mut Customer, params: &mut Params) -> Result<Option<Method>, Refusal> {
    params.update("email", &mut customer.email)?;
    params.update("name", &mut customer.name)?;
    params.update("description", &mut customer.description)?;
    params.update("phone", &mut customer.phone)?;
    params.update_metadata(&mut customer.metadata)?;
    let attached = method(params, "payment_method")?;
    let mut default = None;
    if let Some(mut settings) = params.object("invoice_settings")? {
        default = method(&mut settings, "default_payment_method")?;
        settings.finish()?;
    }
    params.expand(&[])?;
    params.finish()?;
    Ok(default.or(attached))
}

/// A card by the name of one of Stripe's test payment methods.
fn method(params: &mut Params, key: &str) -> Result<Option<Method>, Refusal> {
    let Some(name) = params.text(key)? else { return Ok(None) };
    let found = Card::NAMED.iter().find(|(known, _)| *known == name).map(|(_, card)| Method::new(*card));
    found.map(Some).ok_or_else(|| {
        let names: Vec<&str> = Card::NAMED.iter().map(|(name, _)| *name).collect();
        let message = format!("No such PaymentMethod: '{name}'. The sandbox has {}", names.join(", "));
        Refusal::invalid("resource_missing", params.name(key), message)
    })
}
