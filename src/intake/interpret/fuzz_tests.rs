//! Our payloads of both API versions, broken in every way: what is believed of them says no more than their fields do, as a reading of the
//! whole JSON sees them that shares no code with the service.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod damage_tests;

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use self::damage_tests::{any_damage, any_event, pointers, write};
use super::{
    Interpreter, Meaning, PayloadError,
    subscription::tests::{PRICE, by_id, sample, set},
    tests::signed,
};
use crate::{
    domain::{
        change::{Cause, Change, Effect, Unowned},
        event::EventRecord,
        grant::{Grant, GrantStatus},
        money::Report,
        plan::{Catalogue, Charge, Mode},
    },
    intake::fuzz_cases,
};

const DAY: i64 = 86_400;
const GRACE: i64 = 3 * DAY;

/// With PRO at a price id, or at the amount of our payloads.
fn catalogue(by_amount: bool) -> Catalogue {
    let mut plans = by_id().plans().to_vec();
    if by_amount {
        let charge = Charge::Inline { amount: 1500, currency: "usd".into() };
        plans
            .iter_mut()
            .filter(|plan| plan.mode == Mode::Subscription)
            .for_each(|plan| plan.price.charge = charge.clone());
    }
    Catalogue::new(plans).unwrap()
}

fn interpreter(by_amount: bool) -> &'static Interpreter {
    static INTERPRETERS: LazyLock<[Interpreter; 2]> =
        LazyLock::new(|| [false, true].map(|by_amount| Interpreter::new(catalogue(by_amount), Some(false))));
    &INTERPRETERS[usize::from(by_amount)]
}

/// Without a signature, which costs more than everything else.
fn read(body: &[u8], by_amount: bool) -> Result<Meaning, PayloadError> {
    interpreter(by_amount).read_again(&Bytes::copy_from_slice(body))
}

/// Without what tells bytes apart that mean the same, and without the cause.
fn essence(meaning: Meaning) -> Meaning {
    let blank = |event: EventRecord| EventRecord { payload: Bytes::new(), object_hash: [0; 32], ..event };
    let cause = |cause: Cause| match cause {
        Cause::Delivery(event) | Cause::Retry(event) => Cause::Delivery(blank(event)),
        of_no_event => of_no_event,
    };
    match meaning {
        Meaning::Change(change) => Meaning::Change(Change { cause: cause(change.cause), ..change }),
        Meaning::Unowned(unowned) => Meaning::Unowned(Unowned { cause: cause(unowned.cause), ..unowned }),
        Meaning::Report(report) => Meaning::Report(Report { cause: cause(report.cause), ..report }),
        Meaning::Note(mut note) => {
            note.event = blank(note.event);
            Meaning::Note(note)
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The id, expanded or not.
fn reference<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_else(|| object[field]["id"].as_str().unwrap_or_default())
}

/// Fails where more is granted than the event says.
fn check(event: &Value, user: Option<String>, grant: &Grant, by_amount: bool) {
    let object = &event["data"]["object"];
    let is_known = ["FREE", "TRIAL", "PRO", "TEAM"].contains(&grant.level.as_str());
    assert!(is_known && event["account"].is_null() && event["livemode"] != true, "{event}");
    match user {
        Some(user) => assert_eq!(text(object, "/metadata/userId").to_lowercase(), user),
        None => assert_eq!(text(object, "/metadata/userId"), ""),
    }
    if text(event, "/type").starts_with("checkout.session.") {
        check_session(event, object, grant);
    } else {
        check_subscription(object, grant, by_amount);
    }
}

fn check_session(event: &Value, object: &Value, grant: &Grant) {
    let created = event["created"].as_i64().unwrap();
    let named = text(object, "/client_reference_id");
    assert!(named.is_empty() || named.eq_ignore_ascii_case(text(object, "/metadata/userId")));
    assert_eq!(grant.level.as_str(), text(object, "/metadata/entitlementLevel"));
    assert_eq!(
        (grant.reported_at.timestamp(), grant.session.as_ref().unwrap().as_str()),
        (created, text(object, "/id"))
    );
    let longest = match text(object, "/mode") {
        "payment" if grant.level.as_str() == "TRIAL" => 7 * DAY,
        "payment" => 365 * DAY,
        _ => 31 * DAY + GRACE,
    };
    let is_within = grant.period_end.timestamp().checked_sub(created).is_some_and(|lasts| lasts <= longest);
    let is_agreed = ["trialDays", "interval"].iter().any(|term| !object["metadata"][*term].is_null());
    assert!(is_within || is_agreed, "{event}");
    if grant.status == GrantStatus::Active {
        assert!(["paid", "no_payment_required"].contains(&text(object, "/payment_status")));
        assert!(!text(event, "/type").ends_with("failed"));
        let key =
            if text(object, "/mode") == "payment" { text(object, "/id") } else { reference(object, "subscription") };
        assert_eq!(&*grant.source.id, key);
    }
}

fn check_subscription(object: &Value, grant: &Grant, by_amount: bool) {
    assert_eq!(&*grant.source.id, text(object, "/id"));
    if grant.status != GrantStatus::Active {
        return;
    }
    let status = text(object, "/status");
    assert!(["active", "trialing", "past_due"].contains(&status));
    assert_eq!(grant.level.as_str(), "PRO");
    let is_sold = |item: &&Value| {
        let price = &item["price"];
        if by_amount {
            price["unit_amount"] == 1500
                && text(price, "/currency").eq_ignore_ascii_case("usd")
                && text(price, "/recurring/interval") == "month"
                && price["recurring"]["interval_count"].as_i64().unwrap_or(1) == 1
                && text(object, "/metadata/entitlementLevel") == "PRO"
        } else {
            text(price, "/id") == PRICE
        }
    };
    let items = object["items"]["data"].as_array().unwrap();
    let latest = items.iter().filter(is_sold).map(|item| latest_end(object, item, status)).max();
    let end = grant.period_end.timestamp();
    assert!(end <= latest.unwrap(), "{end} is after {latest:?}: {object}");
    assert!(object["cancel_at"].is_null() || object["cancel_at"].as_i64().is_some_and(|cancel| end <= cancel));
}

fn latest_end(object: &Value, item: &Value, status: &str) -> i64 {
    let moved = |name: &str| item[name].as_i64().or_else(|| object[name].as_i64());
    let trial_end = object["trial_end"].as_i64().filter(|_| status == "trialing");
    let period_end = trial_end.or_else(|| moved("current_period_end")).unwrap();
    match status {
        _ if object["cancel_at_period_end"] == true && object["cancel_at"].is_null() => period_end,
        "past_due" => period_end.min(moved("current_period_start").unwrap().saturating_add(GRACE)),
        _ => period_end.saturating_add(GRACE),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

    #[test]
    fn nothing_is_granted_that_the_event_does_not_say(
        event in any_event(),
        damage in any_damage(),
        by_amount in any::<bool>(),
    ) {
        let body = damage.apply(event);
        let first = read(&body, by_amount);
        prop_assert_eq!(&first, &read(&body, by_amount), "read twice");
        let delivered = interpreter(by_amount).read(&signed(&body));
        let Ok(meaning) = first else {
            // A thin event may owe its time to the signature.
            prop_assert!(delivered.is_err() || body.windows(4).any(|word| word == b"\"v2."));
            return Ok(());
        };
        prop_assert_eq!(essence(meaning.clone()), essence(delivered.unwrap()), "tried again");
        let record = meaning.event().unwrap();
        let texts = [Some(&record.kind), record.object_id.as_ref(), record.api_version.as_ref()];
        prop_assert!(texts.into_iter().flatten().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())));
        let (user, effect) = match meaning {
            Meaning::Change(change) => (Some(change.user.to_string()), change.effect),
            Meaning::Unowned(unowned) => (None, unowned.effect),
            Meaning::Report(_) | Meaning::Note(_) => return Ok(()),
        };
        // What the other reader cannot hold (half characters, what is nested too deep) is in no field that grants.
        if let (Effect::Purchase(grant), Ok(event)) = (effect, serde_json::from_slice::<Value>(&body)) {
            check(&event, user, &grant, by_amount);
            let kept = serde_json::to_string(&grant.snapshots).unwrap();
            prop_assert!(!kept.contains('\0'), "PostgreSQL refuses it");
        }
    }

    #[test]
    fn what_is_below_the_object_never_makes_it_no_event(event in any_event(), damage in any_damage()) {
        let body = damage.of_the_object().apply(event);
        prop_assert!(read(&body, false).is_ok(), "{}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn unknown_fields_and_the_order_of_fields_mean_nothing(
        event in any_event(),
        damage in any_damage(),
        extras in prop::collection::vec((any::<prop::sample::Index>(), damage_tests::any_value()), 1..5),
    ) {
        let Ok(event) = serde_json::from_slice::<Value>(&damage.of_fields().apply(event)) else { return Ok(()) };
        let mut longer = event.clone();
        for (number, (place, value)) in extras.into_iter().enumerate() {
            let objects: Vec<String> =
                pointers(&longer).into_iter().filter(|place| longer.pointer(place).unwrap().is_object()).collect();
            if objects.is_empty() {
                break;
            }
            let object = longer.pointer_mut(place.get(&objects).as_str()).unwrap().as_object_mut().unwrap();
            object.insert(format!("unheard_of_{number}"), value);
        }
        let (plain, longer) = (read(&write(&event, false), false), read(&write(&longer, true), false));
        prop_assert_eq!(plain.is_ok(), longer.is_ok());
        if let (Ok(plain), Ok(longer)) = (plain, longer) {
            prop_assert_eq!(essence(plain), essence(longer));
        }
    }

    #[test]
    fn what_only_takes_away_needs_no_items(
        damage in any_damage(),
        shape in prop::sample::select(vec!["acacia", "endive"]),
        status in prop::sample::select(vec!["canceled", "incomplete_expired", "unpaid", "paused"]),
        items in damage_tests::any_value(),
    ) {
        let mut event = sample("deleted", shape);
        let damaged: Value = serde_json::from_slice(&damage.of_fields().apply(event.clone())).unwrap();
        let items = damaged.pointer("/data/object/items").unwrap_or(&items).clone();
        for (field, value) in [("status", json!(status)), ("items", items)] {
            set(&mut event, &format!("/data/object/{field}"), value);
        }
        let meaning = read(&write(&event, false), false).unwrap();
        let Meaning::Change(Change { effect: Effect::Purchase(grant), .. }) = meaning else { panic!("{meaning:?}") };
        prop_assert!(grant.status != GrantStatus::Active);
    }
}
