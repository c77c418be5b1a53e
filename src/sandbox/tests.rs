//! What time does to the state, with times handed in.

use serde_json::{Value, json};

use super::{
    checkout::expire_due,
    events::emit,
    objects::{Endpoint, Origin, Status},
    state::{Answer, State},
};
use crate::activity::Activity;

const NOW: i64 = 1_790_000_000;
const DAY: i64 = 24 * 60 * 60;

fn state() -> State {
    State::read(None, Vec::new(), Activity::unwatched(), "http://127.0.0.1:4242".to_owned()).unwrap()
}

fn call<'a>(path: &'a str, key: Option<&'a str>) -> super::api::Call<'a> {
    super::api::Call { method: "POST", path, request_id: "req_1", idempotency_key: key, now: NOW }
}

/// A plain session, and its id.
fn open_session(state: &mut State) -> String {
    let params = json!({
        "mode": "payment",
        "success_url": "https://app.test/ok",
        "line_items": [{ "quantity": "1", "price_data": {
            "currency": "usd", "unit_amount": "2900", "product_data": { "name": "PRO" },
        }}],
    });
    let reply = super::api::answer(state, &call("/v1/checkout/sessions", None), params);
    let Ok(reply) = reply else { panic!("a session is opened") };
    reply.body["id"].as_str().unwrap().to_owned()
}

fn kinds(state: &State) -> Vec<&str> {
    state.events.iter().map(|event| event.kind.as_str()).collect()
}

#[test]
fn a_session_expires_on_its_last_second_and_once() {
    let mut state = state();
    let id = open_session(&mut state);
    expire_due(&mut state, NOW + DAY - 1);
    assert_eq!(kinds(&state), Vec::<&str>::new());
    expire_due(&mut state, NOW + DAY);
    expire_due(&mut state, NOW + DAY);
    assert_eq!(kinds(&state), ["checkout.session.expired"]);
    assert_eq!(state.sessions.get(&id).unwrap().status, Status::Expired);
}

#[test]
fn a_session_that_is_over_is_not_paid_although_the_timer_is_late() {
    use super::checkout::{Payment, complete};

    let mut state = state();
    let id = open_session(&mut state);
    assert!(!complete(
        &mut state,
        &id,
        Payment::Now(super::pay_page::Card::Pays),
        super::objects::Payer::default(),
        NOW + DAY
    ));
    assert_eq!(kinds(&state), ["checkout.session.expired"]);
}

#[test]
fn an_idempotency_key_is_free_again_after_a_day() {
    let mut state = state();
    state.put(Answer { key: "k".into(), path: String::new(), params: Value::Null, body: Value::Null, at: NOW });
    state.forget_old(NOW + DAY);
    assert!(state.answers.get("k").is_some());
    state.forget_old(NOW + DAY + 1);
    assert!(state.answers.get("k").is_none());
}

#[test]
fn the_oldest_delivered_events_are_forgotten_and_those_that_wait_are_not() {
    let mut state = state();
    let happen = |state: &mut State| emit(state, "customer.created", json!({}), None, Origin::default(), NOW);
    state.put(Endpoint::own(NOW));
    happen(&mut state);
    let endpoint = state.endpoints.iter().next().unwrap().id.clone();
    state.remove::<Endpoint>(&endpoint);
    for _ in 0..10_001 {
        happen(&mut state);
    }
    let oldest: Vec<String> = state.events.iter().take(2).map(|event| event.id.clone()).collect();
    state.forget_old(NOW);
    assert!(state.events.get(&oldest[0]).is_some(), "it is still to be delivered");
    assert!(state.events.get(&oldest[1]).is_none());
    assert_eq!(state.events.len(), 10_001);
}
