//! What subscriptions' own events mean, in both shapes: Stripe's samples, and variations of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{
    super::tests::{at, signed, word},
    *,
};
use crate::domain::{
    grant::GrantStatus,
    plan::{Catalogue, Charge, Interval, tests::catalogue},
};

pub(in crate::intake::interpret) const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
pub(in crate::intake::interpret) const SUBSCRIPTION: &str = "sub_1STc6rB7WZ01zgkWNy0Cn5nw";
pub(in crate::intake::interpret) const PRICE: &str = "price_1STafmB7WZ01zgkW6dKueIc5";
/// The first period of the samples' story, and the one after it.
const PERIODS: [i64; 3] = [1_794_700_830, 1_797_292_830, 1_799_884_830];
const TRIAL_END: i64 = 1_795_305_630;
const GRACE: i64 = 3 * 86_400;

macro_rules! samples {
    ($($name:literal),+ $(,)?) => {
        &[$(
            ($name, "acacia", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stripe/events/customer.subscription.", $name, ".acacia.json"))),
            ($name, "endive", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stripe/events/customer.subscription.", $name, ".endive.json"))),
        )+]
    };
}

pub(in crate::intake::interpret) const SAMPLES: &[(&str, &str, &str)] = samples![
    "created",
    "created.incomplete",
    "deleted",
    "paused",
    "resumed",
    "trial_will_end",
    "updated.cancel_at_period_end",
    "updated.past_due",
    "updated.renewed",
];

pub(in crate::intake::interpret) fn sample(name: &str, version: &str) -> Value {
    let found = SAMPLES.iter().find(|(known, shape, _)| (*known, *shape) == (name, version)).unwrap();
    serde_json::from_str(found.2).unwrap()
}

/// The catalogue with PRO sold at this price.
fn selling(price: Charge) -> Catalogue {
    let mut plans = catalogue().plans().to_vec();
    let pro = plans.iter_mut().find(|plan| plan.level.as_str() == "PRO").unwrap();
    pro.price.charge = price;
    Catalogue::new(plans).unwrap()
}

pub(in crate::intake::interpret) fn by_id() -> Catalogue {
    selling(Charge::Id(PRICE.into()))
}

fn read_with(catalogue: Catalogue, event: &Value) -> Meaning {
    Interpreter::new(catalogue, Some(false)).read(&signed(&serde_json::to_vec(event).unwrap())).unwrap()
}

fn read(event: &Value) -> Meaning {
    read_with(by_id(), event)
}

pub(in crate::intake::interpret) fn set(event: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match event.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        object => drop(object.as_object_mut().unwrap().insert(name.to_owned(), value)),
    }
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut event = sample("created", "endive");
    changes.iter().for_each(|(pointer, value)| set(&mut event, pointer, value.clone()));
    event
}

fn grant(meaning: Meaning) -> Grant {
    match meaning {
        Meaning::Change(Change { effect: Effect::Purchase(grant), .. })
        | Meaning::Unowned(Unowned { effect: Effect::Purchase(grant), .. }) => grant,
        other => panic!("no grant: {other:?}"),
    }
}

#[test]
fn how_many_is_said_by_the_item_that_gives_the_level() {
    let quantity = |value: Value| grant(read(&with(&[("/data/object/items/data/0/quantity", value)]))).quantity();
    assert_eq!([quantity(json!(5)), quantity(json!(null)), quantity(json!(-5))], [5, 1, 1]);
    let mut event = sample("created", "acacia");
    set(&mut event, "/data/object/quantity", json!(7));
    assert_eq!(grant(read(&event)).quantity(), 1, "the subscription's own field is an older one, and of one item only");
}

#[test]
fn what_each_event_gives_in_both_shapes() {
    let [start, end, next] = PERIODS;
    for (name, level, status, until) in [
        ("created", "PRO", GrantStatus::Active, end + GRACE),
        ("created.incomplete", "PRO", GrantStatus::Pending, end),
        ("deleted", "PRO", GrantStatus::Revoked, end),
        ("paused", "PRO", GrantStatus::Suspended, end),
        ("resumed", "PRO", GrantStatus::Active, end + GRACE),
        ("trial_will_end", "PRO", GrantStatus::Active, TRIAL_END + GRACE),
        ("updated.cancel_at_period_end", "PRO", GrantStatus::Active, end),
        ("updated.past_due", "PRO", GrantStatus::Active, end + GRACE),
        ("updated.renewed", "PRO", GrantStatus::Active, next + GRACE),
    ] {
        for version in ["acacia", "endive"] {
            let event = sample(name, version);
            let meaning = read(&event);
            let record = meaning.event().unwrap();
            assert_eq!(record.object_id.as_deref(), Some(SUBSCRIPTION), "{name} {version}");
            let created = record.created;
            let Meaning::Change(Change { user, found_by: None, .. }) = &meaning else { panic!("{name}: {meaning:?}") };
            assert_eq!(user.to_string(), USER);
            let grant = grant(meaning);
            assert_eq!((grant.level.as_str(), grant.status), (level, status), "{name} {version}");
            assert_eq!((grant.period_end, grant.reported_at), (at(until), created), "{name} {version}");
            assert_eq!(grant.source.to_string(), format!("subscription:{SUBSCRIPTION}"));
            assert_eq!(grant.customer.as_ref().unwrap().as_str(), "cus_TQx1o8vcGmoR32");
            assert_eq!((grant.event.as_ref(), grant.session.as_ref()), (None, None));
            assert_eq!(grant.began_at(), at(start), "{name} {version}");
        }
    }
}

#[test]
fn every_type_carries_the_same_snapshot() {
    for kind in [
        "created",
        "updated",
        "deleted",
        "paused",
        "resumed",
        "pending_update_applied",
        "pending_update_expired",
        "trial_will_end",
    ] {
        let event = with(&[("/type", json!(format!("customer.subscription.{kind}")))]);
        assert_eq!(word(&read(&event)), "active", "{kind}");
    }
    let event = with(&[("/type", json!("customer.subscription.collapsed"))]);
    assert_eq!(word(&read(&event)), "unhandled_type");
}

#[test]
fn every_status() {
    for (status, expected) in [
        ("trialing", "active"),
        ("active", "active"),
        ("past_due", "active"),
        ("unpaid", "suspended"),
        ("paused", "suspended"),
        ("incomplete", "pending"),
        ("incomplete_expired", "revoked"),
        ("canceled", "revoked"),
        ("resting", "unknown_status"),
        ("", "unknown_status"),
    ] {
        let known = with(&[("/data/object/status", json!(status))]);
        assert_eq!(word(&read(&known)), expected, "{status}");
        // What only takes away needs no price, and no items.
        for change in
            [("/data/object/items/data/0/price/id", json!("price_other")), ("/data/object/items", json!(null))]
        {
            let unpriced = with(&[("/data/object/status", json!(status)), change]);
            let expected = if expected == "active" { "unknown_price" } else { expected };
            let meaning = read(&unpriced);
            assert_eq!(word(&meaning), expected, "{status}");
            if let Meaning::Change(_) = meaning {
                assert!(grant(meaning).level.is_free());
            }
        }
    }
}

#[test]
fn a_payment_that_is_collected_later_takes_nothing() {
    let paused = with(&[("/data/object/pause_collection", json!({"behavior": "keep_as_draft", "resumes_at": null}))]);
    assert_eq!(grant(read(&paused)).status, GrantStatus::Active);
}

#[test]
fn the_level_is_that_of_the_price() {
    let inline = |amount, currency: &str| selling(Charge::Inline { amount, currency: currency.into() });
    let named = |level: Value| with(&[("/data/object/metadata/entitlementLevel", level)]);
    assert_eq!(word(&read(&named(json!("TEAM")))), "active", "a price of the catalogue needs no name");
    assert_eq!(grant(read(&named(json!("TEAM")))).level.as_str(), "PRO");
    for (catalogue, level, expected) in [
        (inline(1500, "usd"), json!("PRO"), "active"),
        (inline(1500, "usd"), json!("TEAM"), "unknown_price"),
        (inline(1500, "usd"), json!(null), "unknown_price"),
        (inline(1500, "eur"), json!("PRO"), "unknown_price"),
        (inline(1501, "usd"), json!("PRO"), "unknown_price"),
    ] {
        assert_eq!(word(&read_with(catalogue, &named(level.clone()))), expected, "{level}");
    }
    for (field, value) in [("interval", json!("year")), ("interval_count", json!(3))] {
        let pointer = format!("/data/object/items/data/0/price/recurring/{field}");
        let event = with(&[(pointer.as_str(), value)]);
        assert_eq!(word(&read_with(inline(1500, "usd"), &event)), "unknown_price", "{field}");
    }
    let mut plans = by_id().plans().to_vec();
    plans.iter_mut().for_each(|plan| {
        if plan.level.as_str() == "PRO" {
            plan.price.interval = Some(Interval::Year);
        }
    });
    let yearly = Catalogue::new(plans).unwrap();
    assert_eq!(word(&read_with(yearly, &with(&[]))), "active", "the price's id says enough");
}

#[test]
fn the_period_is_that_of_the_item_that_gives_the_level() {
    let mut other = with(&[]).pointer("/data/object/items/data/0").unwrap().clone();
    set(&mut other, "/id", json!("si_other"));
    set(&mut other, "/price/id", json!("price_other"));
    set(&mut other, "/current_period_end", json!(PERIODS[2]));
    let mut event = with(&[]);
    let items = event.pointer_mut("/data/object/items/data").unwrap().as_array_mut().unwrap();
    items.insert(0, other);
    let grant = grant(read(&event));
    assert_eq!((grant.level.as_str(), grant.period_end), ("PRO", at(PERIODS[1] + GRACE)));
}

#[test]
fn a_subscription_that_had_ended_went_on_since_its_items_could_not_be_read() {
    for items in [json!([]), json!({"data": [1]}), json!({"data": [{"price": "price_1"}]}), json!("soon")] {
        for (status, expected) in [("canceled", "revoked"), ("unpaid", "suspended"), ("active", "incomplete_object")] {
            let event = with(&[("/data/object/status", json!(status)), ("/data/object/items", items.clone())]);
            assert_eq!(word(&read(&event)), expected, "{items}");
        }
    }
}

#[test]
fn an_end_that_is_no_time_was_taken_for_no_end() {
    for field in ["cancel_at", "trial_end", "items/data/0/current_period_end"] {
        for seconds in [-1, i64::MAX] {
            let event = with(&[(format!("/data/object/{field}").as_str(), json!(seconds))]);
            assert_eq!(word(&read(&event)), "incomplete_object", "{field} {seconds}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_parked() {
    for (changes, expected) in [
        (vec![("/data/object/id", json!("in_1"))], "incomplete_object"),
        (vec![("/data/object/id", json!(null))], "incomplete_object"),
        (vec![("/data/object/status", json!(7))], "incomplete_object"),
        (vec![("/data/object/status", json!(null))], "unknown_status"),
        (vec![("/data/object/items", json!([]))], "incomplete_object"),
        (vec![("/data/object/items/data", json!([1]))], "incomplete_object"),
        (vec![("/data/object/items/data/0/current_period_end", json!(null))], "incomplete_object"),
        (vec![("/data/object/items/data/0/current_period_end", json!("soon"))], "incomplete_object"),
        (
            vec![
                ("/data/object/status", json!("past_due")),
                ("/data/object/items/data/0/current_period_start", json!(null)),
            ],
            "incomplete_object",
        ),
        (vec![("/data/object/cancel_at", json!("soon"))], "incomplete_object"),
        (vec![("/data/object", json!(SUBSCRIPTION))], "incomplete_object"),
        (vec![("/data/object/metadata/userId", json!("robin"))], "invalid_user"),
        (vec![("/data/object/metadata", json!([USER]))], "incomplete_object"),
    ] {
        assert_eq!(word(&read(&with(&changes))), expected, "{changes:?}");
    }
}

#[test]
fn whose_it_is_is_sought_where_it_names_nobody() {
    for change in [("/data/object/metadata", json!({})), ("/data/object/metadata/userId", json!(""))] {
        let Meaning::Unowned(unowned) = read(&with(&[change])) else { panic!("named") };
        assert_eq!(unowned.subject.subscription.as_str(), SUBSCRIPTION);
        assert_eq!(unowned.subject.customer.unwrap().as_str(), "cus_TQx1o8vcGmoR32");
        assert_eq!(unowned.cause.event().unwrap().kind, "customer.subscription.created");
    }
    let expanded = with(&[
        ("/data/object/metadata", json!(null)),
        ("/data/object/customer", json!({"id": "cus_1", "object": "customer"})),
    ]);
    let Meaning::Unowned(unowned) = read(&expanded) else { panic!("named") };
    assert_eq!(unowned.subject.customer.unwrap().as_str(), "cus_1");
}

#[test]
fn of_one_second_the_one_that_names_the_others_state_is_later() {
    for version in ["acacia", "endive"] {
        let renewed = sample("updated.renewed", version);
        let mut before = sample("created", version);
        set(&mut before, "/created", renewed["created"].clone());
        set(&mut before, "/data/object/latest_invoice", json!("in_1STb0000B7WZ01zgkWold"));
        let (before, renewed) = (grant(read(&before)), grant(read(&renewed)));
        assert_eq!(renewed.period_end - before.period_end, TimeDelta::seconds(PERIODS[2] - PERIODS[1]));
        for (mut first, second) in [(before.clone(), renewed.clone()), (renewed.clone(), before.clone())] {
            first.join(&second);
            assert_eq!(first.period_end, renewed.period_end, "{version}");
            assert!(!first.snapshots.is_tied(), "{version}");
        }
    }
}
