//! `/v1/events`: what happened, for those who missed it.

use serde_json::Value;

use super::list::{Created, Page};
use crate::sandbox::{objects::Event, params::Params, refusal::Refusal, state::State};

const TYPES_MAX: usize = 20;

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let delivered = params.boolean("delivery_success")?;
    let kind = params.text("type")?;
    let kinds = params.texts("types")?;
    params.finish()?;
    if kind.is_some() && kinds.is_some() {
        let message = "Only one of type and types can be given.";
        return Err(Refusal::invalid("parameters_exclusive", "types", message));
    }
    if kinds.as_ref().is_some_and(|kinds| kinds.len() > TYPES_MAX) {
        return Err(Refusal::invalid("parameter_invalid_array", "types", "Invalid types: up to 20 can be given"));
    }
    let fits = |event: &Event| {
        created.fits(event.created)
            && delivered.is_none_or(|delivered| delivered == (event.undelivered == 0))
            && kind.as_ref().is_none_or(|pattern| matches(pattern, &event.kind))
            && kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
    };
    page.of(&state.events, "/v1/events", "event", fits, Event::shown)
}

pub(super) fn retrieve(state: &State, id: &str, params: &Params) -> Result<Value, Refusal> {
    params.finish()?;
    state.events.get(id).map(Event::shown).ok_or_else(|| Refusal::no_such("event", id, "id"))
}

/// `*` stands for anything, once: `checkout.session.*`.
fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == kind,
        Some((begins, ends)) => kind.strip_prefix(begins).is_some_and(|rest| rest.ends_with(ends)),
    }
}
