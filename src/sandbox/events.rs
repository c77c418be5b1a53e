//! Events come to be, and with each the deliveries it takes.

use serde_json::Value;

use super::{
    objects::{Event, Origin, new_id},
    state::{Pending, Pile, State},
};
use crate::{activity::Step, domain::id::UserId};

/// Tells all endpoints that take it that something happened to an object, which is handed in as it is now.
pub(super) fn emit(state: &mut State, kind: &str, object: Value, user: Option<UserId>, origin: Origin, now: i64) {
    send(state, Event { user: user.map(|user| user.to_string()), ..Event::new(kind, now, object, origin) });
}

/// Keeps an event with its deliveries, as many to each endpoint as the switches say now.
pub(super) fn send(state: &mut State, mut event: Event) {
    let takers = state.endpoints.iter().filter(|endpoint| endpoint.takes(&event.kind));
    let takers: Vec<String> = takers.map(|endpoint| endpoint.id.clone()).collect();
    event.endpoints = takers.len();
    let copies = usize::from(state.switches.copies);
    event.undelivered = takers.len().saturating_mul(copies);
    if state.switches.withhold {
        let (event_id, kind) = (event.id.clone(), event.kind.clone());
        state.activity.tell(event.user(), || Step::EventWithheld { event: event_id, kind });
    }
    let now = now_ms();
    let ids: Vec<String> = takers
        .into_iter()
        .flat_map(|endpoint| std::iter::repeat_n(endpoint, copies))
        .map(|endpoint| {
            let pending = Pending { id: new_id("dlv_", 24), event: event.id.clone(), endpoint, failed: 0, due: now };
            let id = pending.id.clone();
            state.put(pending);
            id
        })
        .collect();
    if state.switches.reorder {
        let until = now.saturating_add(state.hold);
        state.pile.get_or_insert_with(|| Pile { events: Vec::new(), until }).events.push(ids);
    } else {
        state.due.extend(ids.into_iter().map(|id| (now, id)));
    }
    state.put(event);
}

/// Now, in Unix milliseconds.
pub(super) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Now, in Unix seconds.
pub(super) fn now() -> i64 {
    chrono::Utc::now().timestamp()
}
