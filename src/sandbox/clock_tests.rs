//! A year by the clock, and a crash after each thing that fell due.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    clocks,
    disk::{Row, Write},
    state::State,
};
use crate::activity::Activity;

const NOW: i64 = 1_790_000_000;
const DAY: i64 = 24 * 60 * 60;

/// A state, and what a file would hold of it.
struct World {
    state: State,
    file: BTreeMap<(String, String), Row>,
}

impl World {
    fn new() -> Self {
        let state = read(Vec::new());
        Self { state, file: BTreeMap::new() }
    }

    fn call(&mut self, method: &'static str, path: &str, params: Value) -> Value {
        let call = super::api::Call { method, path, request_id: "req_1", idempotency_key: None, now: NOW };
        let Ok(reply) = super::api::answer(&mut self.state, &call, params) else { panic!("{method} {path}") };
        self.keep();
        reply.body
    }

    fn post(&mut self, path: &str, params: Value) -> Value {
        self.call("POST", path, params)
    }

    /// A customer with a clock of his own that stands at `NOW`, and his card.
    fn customer(&mut self, card: &str) -> (String, String) {
        let clock = self.post("/v1/test_helpers/test_clocks", json!({ "frozen_time": NOW.to_string() }));
        let customer = json!({ "test_clock": clock["id"], "payment_method": card });
        let customer = self.post("/v1/customers", customer);
        (text(&clock["id"]), text(&customer["id"]))
    }

    fn subscribe(&mut self, customer: &str, more: Value) -> String {
        let mut params = json!({ "customer": customer, "items": [{ "price_data": {
            "currency": "usd", "product": "prod_pro", "unit_amount": "2900", "recurring": { "interval": "month" },
        }}]});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text(&self.post("/v1/subscriptions", params)["id"])
    }

    /// Tells a clock to go on; nothing has happened then.
    fn send_on(&mut self, clock: &str, to: i64) {
        let path = format!("/v1/test_helpers/test_clocks/{clock}/advance");
        assert_eq!(self.post(&path, json!({ "frozen_time": to.to_string() }))["status"], "advancing");
    }

    fn step(&mut self) -> bool {
        let has_more = clocks::step(&mut self.state, NOW);
        self.keep();
        has_more
    }

    fn advance(&mut self, clock: &str, to: i64) {
        self.send_on(clock, to);
        while self.step() {}
        let path = format!("/v1/test_helpers/test_clocks/{clock}");
        let clock = self.call("GET", &path, json!({}));
        assert_eq!((&clock["status"], &clock["frozen_time"]), (&json!("ready"), &json!(to)));
    }

    fn keep(&mut self) {
        for write in self.state.take_unwritten() {
            match write {
                Write::Keep(row) => _ = self.file.insert((row.kind.clone(), row.id.clone()), row),
                Write::Forget { kind, id } => _ = self.file.remove(&(kind.to_owned(), id)),
            }
        }
    }

    /// What a process finds that is started after this one was killed.
    fn crash(self) -> Self {
        let mut rows: Vec<Row> = self.file.values().cloned().collect();
        rows.sort_by_key(|row| row.seq);
        Self { state: read(rows), file: self.file }
    }

    /// Types and times of all events.
    fn happened(&self) -> Vec<(i64, String)> {
        self.state.events.iter().map(|event| (event.created, event.kind.clone())).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.state.events.iter().filter(|event| event.kind == kind).count()
    }

    /// How the subscription stood, as it was told.
    fn standings(&self) -> Vec<&str> {
        let of_subscription = |event: &&super::objects::Event| event.kind.starts_with("customer.subscription.");
        let mut standings: Vec<&str> = self
            .state
            .events
            .iter()
            .filter(of_subscription)
            .map(|event| event.object["status"].as_str().unwrap())
            .collect();
        standings.dedup();
        standings
    }
}

fn read(rows: Vec<Row>) -> State {
    State::read(None, rows, Activity::unwatched(), "http://127.0.0.1:4242".to_owned()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A trial, a year, a card that fails in the middle and is mended, a scheduled end.
/// Gives the number of steps too.
fn a_year(crash_after: Option<usize>) -> (World, usize) {
    let mut world = World::new();
    let (clock, customer) = world.customer("pm_card_visa");
    let subscription = world.subscribe(&customer, json!({ "trial_period_days": "14" }));
    let mut steps = 0;
    let mut go = |mut world: World, to: i64| {
        world.send_on(&clock, to);
        while world.step() {
            steps += 1;
            if Some(steps) == crash_after {
                world = world.crash();
            }
        }
        world
    };
    world = go(world, NOW + 100 * DAY);
    world.post(&format!("/v1/customers/{customer}"), json!({ "payment_method": "pm_card_chargeCustomerFail" }));
    world = go(world, NOW + 110 * DAY);
    world.post(&format!("/v1/customers/{customer}"), json!({ "payment_method": "pm_card_visa" }));
    world = go(world, NOW + 340 * DAY);
    world.post(&format!("/v1/subscriptions/{subscription}"), json!({ "cancel_at_period_end": "true" }));
    world = go(world, NOW + 400 * DAY);
    (world, steps)
}

#[test]
fn a_year_is_lived_in_order() {
    let (world, _) = a_year(None);
    assert_eq!(world.standings(), ["trialing", "active", "past_due", "active", "canceled"]);
    for (kind, count) in [
        ("customer.subscription.created", 1),
        ("customer.subscription.trial_will_end", 1),
        ("customer.subscription.deleted", 1),
        ("invoice.created", 12),
        ("invoice.paid", 12),
        ("charge.succeeded", 11),
    ] {
        assert_eq!(world.count(kind), count, "{kind}: {:#?}", world.happened());
    }
    assert!(world.count("invoice.payment_failed") >= 1);
    let happened = world.happened();
    assert!(happened.is_sorted_by_key(|(created, _)| *created), "{happened:#?}");
    assert_eq!(happened.last().unwrap().1, "customer.subscription.deleted");
    let period_moved = happened.iter().position(|(_, kind)| kind == "customer.subscription.updated").unwrap();
    let charged = happened.iter().position(|(_, kind)| kind == "charge.succeeded").unwrap();
    assert!(period_moved < charged, "the period moves on before it is paid");
}

#[test]
fn a_crash_after_anything_that_fell_due_loses_nothing_and_repeats_nothing() {
    let (whole, steps) = a_year(None);
    for crash_after in 1..=steps {
        let (world, _) = a_year(Some(crash_after));
        assert_eq!(world.happened(), whole.happened(), "after step {crash_after} of {steps}");
    }
}

#[test]
fn what_is_never_paid_ends_as_the_setting_says() {
    use super::AfterRetries::{Cancel, PastDue, Unpaid};

    for (after_retries, standings) in [
        (Cancel, vec!["trialing", "active", "past_due", "canceled"]),
        (Unpaid, vec!["trialing", "active", "past_due", "unpaid"]),
        (PastDue, vec!["trialing", "active", "past_due"]),
    ] {
        let mut world = World::new();
        world.state.after_retries = after_retries;
        let (clock, customer) = world.customer("pm_card_chargeCustomerFail");
        world.subscribe(&customer, json!({ "trial_period_days": "7" }));
        world.advance(&clock, NOW + 7 * DAY + 16 * DAY);
        assert_eq!(world.standings(), standings);
        let failed: Vec<i64> =
            world.happened().iter().filter(|(_, kind)| kind == "charge.failed").map(|it| it.0).collect();
        let first = NOW + 7 * DAY + 60 * 60;
        assert_eq!(failed, [first, first + 3 * DAY, first + 8 * DAY, first + 15 * DAY]);
    }
}

#[test]
fn a_first_payment_that_never_comes_expires_in_23_hours() {
    let mut world = World::new();
    let (clock, customer) = world.customer("pm_card_chargeCustomerFail");
    world.subscribe(&customer, json!({}));
    world.advance(&clock, NOW + 23 * 60 * 60 - 1);
    assert_eq!(world.standings(), ["incomplete"]);
    world.advance(&clock, NOW + 23 * 60 * 60);
    assert_eq!(world.standings(), ["incomplete", "incomplete_expired"]);
    assert_eq!(world.count("invoice.voided"), 1);
}

#[test]
fn a_trial_without_a_card_pauses_if_it_is_to() {
    let mut world = World::new();
    let clock = text(&world.post("/v1/test_helpers/test_clocks", json!({ "frozen_time": NOW.to_string() }))["id"]);
    let customer = text(&world.post("/v1/customers", json!({ "test_clock": clock }))["id"]);
    let pauses = json!({ "end_behavior": { "missing_payment_method": "pause" } });
    let subscription = world.subscribe(&customer, json!({ "trial_period_days": "7", "trial_settings": pauses }));
    world.advance(&clock, NOW + 30 * DAY);
    assert_eq!(world.standings(), ["trialing", "paused"]);
    assert_eq!(world.count("customer.subscription.paused"), 1);
    world.post(&format!("/v1/customers/{customer}"), json!({ "payment_method": "pm_card_visa" }));
    world.post(&format!("/v1/subscriptions/{subscription}/resume"), json!({}));
    assert_eq!(world.standings(), ["trialing", "paused", "active"]);
    assert_eq!(world.count("customer.subscription.resumed"), 1);
    assert_eq!(world.count("charge.succeeded"), 1);
}

#[test]
fn the_sandboxs_own_time_goes_on_for_whoever_has_no_clock() {
    let mut world = World::new();
    let (_, with_clock) = world.customer("pm_card_visa");
    world.subscribe(&with_clock, json!({}));
    let customer = text(&world.post("/v1/customers", json!({ "payment_method": "pm_card_visa" }))["id"]);
    world.subscribe(&customer, json!({}));
    world.state.advance_to(NOW + 32 * DAY);
    while world.step() {}
    assert_eq!(world.state.time(NOW), NOW + 32 * DAY);
    assert_eq!(world.count("invoice.paid"), 3, "two first ones and one renewal");
    assert!(!world.step(), "nothing is left to do");
    let world = world.crash();
    assert_eq!(world.state.time(NOW), NOW + 32 * DAY, "the time is kept");
}
