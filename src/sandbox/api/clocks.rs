//! `/v1/test_helpers/test_clocks`: time that goes where it is told to, for the customers that were made with it.

use serde_json::{Value, json};

use super::{Call, list::Page};
use crate::sandbox::{events, objects::Clock, params::Params, refusal::Refusal, state::State};

const NOUN: &str = "test_helpers.test_clock";

pub(super) fn create(state: &mut State, params: &mut Params) -> Result<Value, Refusal> {
    let frozen_time = frozen_time(params)?;
    let mut clock = Clock::new(events::now(), frozen_time);
    clock.name = params.text("name")?;
    params.expand(&[])?;
    params.finish()?;
    let shown = clock.shown();
    state.put(clock);
    Ok(shown)
}

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    params.finish()?;
    page.of(&state.clocks, "/v1/test_helpers/test_clocks", NOUN, |_| true, Clock::shown)
}

pub(super) fn retrieve(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    params.expand(&[])?;
    params.finish()?;
    find(state, id).map(Clock::shown)
}

/// It is only told where to go: what falls due on the way is done after the answer.
pub(super) fn advance(state: &mut State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let goal = frozen_time(params)?;
    params.expand(&[])?;
    params.finish()?;
    let clock = find(state, id)?.clone();
    if clock.goal.is_some() {
        return Err(Refusal::invalid_request("The test clock is advancing: wait until its status is ready."));
    }
    if goal <= clock.frozen_time {
        let message = "Invalid frozen_time: a test clock goes forwards only";
        return Err(Refusal::invalid("parameter_invalid_integer", "frozen_time", message));
    }
    let clock = Clock { goal: Some(goal), ..clock };
    let shown = clock.shown();
    state.put(clock);
    Ok(shown)
}

/// Its customers go with it, without a word: nothing of theirs was ever real.
pub(super) fn delete(state: &mut State, call: &Call<'_>, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    find(state, id)?;
    let of_clock = |clock: &Option<String>| clock.as_deref() == Some(id);
    let customers = state.customers.iter().filter(|customer| !customer.deleted && of_clock(&customer.test_clock));
    let customers: Vec<String> = customers.map(|customer| customer.id.clone()).collect();
    for customer in customers {
        super::customers::delete(state, call, &customer, params)?;
    }
    state.remove::<Clock>(id);
    Ok(json!({ "id": id, "object": NOUN, "deleted": true }))
}

pub(super) fn find<'a>(state: &'a State, id: &str) -> Result<&'a Clock, Refusal> {
    state.clocks.get(id).ok_or_else(|| Refusal::no_such(NOUN, id, "test_clock"))
}

fn frozen_time(params: &mut Params) -> Result<i64, Refusal> {
    params.integer("frozen_time")?.filter(|at| *at > 0).ok_or_else(|| Refusal::missing("frozen_time"))
}
