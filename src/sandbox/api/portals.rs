//! `/v1/billing_portal/sessions`: a customer's way to his own subscriptions.

use serde_json::Value;

use super::{Call, customers, sessions};
use crate::sandbox::{objects::Portal, params::Params, refusal::Refusal, state::State};

pub(super) fn create(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let customer = customers::living(state, &params.required("customer")?)?;
    let return_url = sessions::address(params, "return_url")?;
    params.text("locale")?;
    params.expand(&[])?;
    params.finish()?;
    let portal = Portal::new(call.now, customer.id, return_url);
    let shown = portal.shown(&state.base);
    state.put(portal);
    Ok(shown)
}
