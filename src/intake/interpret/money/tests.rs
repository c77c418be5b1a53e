//! What events about money say, in both shapes: Stripe's samples, and variations of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::super::tests::{at, read, word};
use super::*;

const PAYMENT: &str = "pi_3STafuB7WZ01zgkW1SjxsAJo";
const SUBSCRIPTION: &str = "sub_1STc6rB7WZ01zgkWNy0Cn5nw";

macro_rules! samples {
    ($($name:literal),+ $(,)?) => {
        &[$(
            ($name, "acacia", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stripe/events/", $name, ".acacia.json"))),
            ($name, "endive", include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stripe/events/", $name, ".endive.json"))),
        )+]
    };
}

const SAMPLES: &[(&str, &str, &str)] = samples![
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.refunded.partial",
    "charge.refunded.full",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.closed.won",
    "charge.dispute.closed.lost",
    "invoice.paid.subscription_create",
    "invoice.paid.subscription_cycle",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "customer.deleted",
];
const SHAPES: [&str; 2] = ["acacia", "endive"];

fn sample(name: &str, shape: &str) -> Value {
    let found = SAMPLES.iter().find(|(known, version, _)| (*known, *version) == (name, shape)).unwrap();
    serde_json::from_str(found.2).unwrap()
}

/// The sample with some of its fields set; a pointer says where.
fn with(name: &str, shape: &str, changes: &[(&str, Value)]) -> Value {
    let mut event = sample(name, shape);
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value.clone());
    }
    event
}

fn meaning_of(event: &Value) -> Meaning {
    read(&serde_json::to_vec(event).unwrap()).unwrap()
}

fn facts(event: &Value) -> Vec<Fact> {
    match meaning_of(event) {
        Meaning::Report(report) => report.facts,
        other => panic!("no report: {other:?}"),
    }
}

/// What one fact says, in a few words.
fn words(fact: &Fact) -> String {
    let Object { parent, period_end, facts } = &fact.says;
    let mut words = vec![fact.id.to_string()];
    words.extend(parent.iter().map(|parent| format!("of {parent}")));
    words.extend(period_end.iter().map(|end| format!("until {}", end.timestamp())));
    words.extend(facts.refunds.iter().map(|(id, it)| format!("{id} {:?} {}", it.status, it.amount)));
    words.extend(facts.disputes.iter().map(|(id, it)| format!("{id} {:?}", it.status)));
    words.extend(facts.charge.iter().map(|it| format!("{} of {}", it.refunded, it.captured)));
    words.extend(facts.deleted.then(|| "deleted".to_owned()));
    words.join(" ")
}

fn said_by(event: &Value) -> Vec<String> {
    facts(event).iter().map(words).collect()
}

#[test]
fn what_each_sample_says_in_both_shapes() {
    let refund = "re_3STafuB7WZ01zgkW1qPvrRrP";
    let dispute = "dp_1STc71B7WZ01zgkWMevJiAUx";
    for shape in SHAPES {
        for (name, expected) in [
            ("refund.created", format!("{PAYMENT} {refund} Succeeded 1500")),
            ("refund.updated", format!("{PAYMENT} {refund} Succeeded 1500")),
            ("refund.failed", format!("{PAYMENT} {refund} Failed 1500")),
            ("charge.refunded.partial", format!("{PAYMENT} 500 of 1500")),
            ("charge.refunded.full", format!("{PAYMENT} 1500 of 1500")),
            ("charge.dispute.created", format!("{PAYMENT} {dispute} NeedsResponse")),
            ("charge.dispute.funds_withdrawn", format!("{PAYMENT} {dispute} NeedsResponse")),
            ("charge.dispute.closed.won", format!("{PAYMENT} {dispute} Won")),
            ("charge.dispute.closed.lost", format!("{PAYMENT} {dispute} Lost")),
            ("customer.deleted", "cus_TQx1o8vcGmoR32 deleted".to_owned()),
        ] {
            let event = sample(name, shape);
            assert_eq!(said_by(&event), [expected], "{name} {shape}");
            let Meaning::Report(report) = meaning_of(&event) else { unreachable!() };
            let record = report.cause.event().unwrap();
            assert_eq!(record.object_id.as_deref(), event.pointer("/data/object/id").unwrap().as_str(), "{name}");
            assert_eq!(record.kind, event["type"].as_str().unwrap());
        }
    }
}

#[test]
fn reports_are_of_the_events_second_and_refunds_of_their_own() {
    let event = with("refund.failed", "endive", &[("/data/object/created", json!(1_795_000_000))]);
    let [fact] = &facts(&event)[..] else { panic!("one fact") };
    let refund = fact.says.facts.refunds.values().next().unwrap();
    assert_eq!((refund.made_at, refund.reported_at), (at(1_795_000_000), at(event["created"].as_i64().unwrap())));
}

#[test]
fn every_type_of_a_family_carries_the_same_object() {
    for (name, types) in [
        ("refund.created", &["refund.created", "refund.updated", "refund.failed", "charge.refund.updated"][..]),
        (
            "charge.dispute.created",
            &[
                "charge.dispute.created",
                "charge.dispute.updated",
                "charge.dispute.closed",
                "charge.dispute.funds_withdrawn",
                "charge.dispute.funds_reinstated",
            ],
        ),
    ] {
        for shape in SHAPES {
            let expected = facts(&sample(name, shape));
            for kind in types {
                assert_eq!(facts(&with(name, shape, &[("/type", json!(kind))])), expected, "{kind}");
            }
        }
    }
}

#[test]
fn a_paid_invoice_ties_its_payment_and_its_period_to_the_subscription() {
    for (name, period_end) in
        [("invoice.paid.subscription_create", 1_797_292_830), ("invoice.paid.subscription_cycle", 1_799_884_830)]
    {
        for shape in SHAPES {
            let event = sample(name, shape);
            let invoice = event.pointer("/data/object/id").unwrap().as_str().unwrap();
            let mut expected = vec![format!("{invoice} of {SUBSCRIPTION} until {period_end}")];
            if shape == "acacia" {
                expected.push(format!("{PAYMENT} of {invoice}"));
            }
            assert_eq!(said_by(&event), expected, "{name} {shape}");

            let succeeded = with(name, shape, &[("/type", json!("invoice.payment_succeeded"))]);
            expected[0] = format!("{invoice} of {SUBSCRIPTION}");
            assert_eq!(said_by(&succeeded), expected, "it may be paid in part");
        }
    }
}

#[test]
fn prorations_pay_no_period() {
    let name = "invoice.paid.subscription_cycle";
    let end = |event: &Value| -> Option<DateTime<Utc>> { facts(event)[0].says.period_end };
    for (shape, pointer) in [
        ("acacia", "/data/object/lines/data/0/proration"),
        ("endive", "/data/object/lines/data/0/parent/subscription_item_details/proration"),
    ] {
        assert_eq!(end(&with(name, shape, &[(pointer, json!(true))])), None, "{shape}");
        let mut event = sample(name, shape);
        let lines = event.pointer_mut("/data/object/lines/data").unwrap().as_array_mut().unwrap();
        let mut later = lines[0].clone();
        later["period"]["end"] = json!(1_900_000_000);
        lines.insert(0, later);
        assert_eq!(end(&event), Some(at(1_900_000_000)), "the latest end counts");
        assert_eq!(end(&with_value(event, pointer, json!(true))), Some(at(1_799_884_830)), "but for a proration's");
    }
}

fn with_value(mut event: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value);
    event
}

#[test]
fn what_pays_an_invoice_is_tied_to_it() {
    let object = |payment: Value| {
        let mut event = sample("refund.created", "endive");
        event["type"] = json!("invoice_payment.paid");
        event["data"]["object"] = json!({
            "id": "inpay_1", "object": "invoice_payment", "invoice": "in_1", "status": "paid", "payment": payment,
        });
        event
    };
    let by_intent = object(json!({ "type": "payment_intent", "payment_intent": PAYMENT }));
    assert_eq!(said_by(&by_intent), [format!("{PAYMENT} of in_1")]);
    let expanded = object(json!({ "type": "payment_intent", "payment_intent": { "id": PAYMENT } }));
    assert_eq!(facts(&expanded), facts(&by_intent));
    let by_hand = object(json!({ "type": "payment_record", "payment_record": "pr_1" }));
    assert_eq!(word(&meaning_of(&by_hand)), "unattributed");
    let charge = with("charge.refunded.full", "acacia", &[("/data/object/invoice", json!("in_1"))]);
    assert_eq!(said_by(&charge), [format!("{PAYMENT} of in_1 1500 of 1500")]);
}

#[test]
fn what_cannot_concern_anybody_is_ignored_and_what_cannot_be_read_waits() {
    for shape in SHAPES {
        for (name, pointer, value, expected) in [
            ("refund.created", "/data/object/payment_intent", json!(null), "unattributed"),
            ("charge.refunded.full", "/data/object/payment_intent", json!(null), "unattributed"),
            ("charge.dispute.created", "/data/object/payment_intent", json!(null), "unattributed"),
            ("customer.deleted", "/data/object/id", json!("made_by_hand"), "unattributed"),
            ("refund.created", "/data/object/status", json!("of_tomorrow"), "unknown_status"),
            ("charge.dispute.created", "/data/object/status", json!("of_tomorrow"), "unknown_status"),
            ("refund.created", "/data/object/amount", json!(null), "incomplete_object"),
            ("refund.created", "/data/object/amount", json!(-1), "incomplete_object"),
            ("refund.created", "/data/object/amount", json!("1500"), "incomplete_object"),
            ("refund.created", "/data/object/id", json!("re_1:*"), "incomplete_object"),
            ("charge.refunded.full", "/data/object/amount_captured", json!(null), "incomplete_object"),
            ("charge.refunded.full", "/data/object/payment_intent", json!("ch_1"), "incomplete_object"),
            ("invoice.paid.subscription_cycle", "/data/object/id", json!(null), "incomplete_object"),
            ("customer.deleted", "/data/object/id", json!(null), "incomplete_object"),
        ] {
            let event = with(name, shape, &[(pointer, value.clone())]);
            assert_eq!(word(&meaning_of(&event)), expected, "{name} {shape} {pointer} {value}");
        }
        let alone = with(
            "invoice.paid.subscription_cycle",
            shape,
            &[("/data/object/subscription", json!(null)), ("/data/object/parent", json!(null))],
        );
        assert_eq!(word(&meaning_of(&alone)), "unattributed");
    }
}

#[test]
fn what_the_subscription_itself_tells_is_only_acknowledged() {
    for shape in SHAPES {
        for name in ["invoice.payment_failed", "invoice.payment_action_required"] {
            assert_eq!(word(&meaning_of(&sample(name, shape))), "told_elsewhere");
        }
        for kind in ["invoice.finalization_failed", "invoice.marked_uncollectible", "invoice.voided"] {
            let event = with("invoice.payment_failed", shape, &[("/type", json!(kind))]);
            assert_eq!(word(&meaning_of(&event)), "told_elsewhere", "{kind}");
        }
    }
}

#[test]
fn what_takes_and_gives_nothing_is_only_acknowledged() {
    for kind in [
        "radar.early_fraud_warning.created",
        "review.opened",
        "review.closed",
        "product.updated",
        "price.updated",
        "customer.updated",
        "subscription_schedule.updated",
        "invoice.created",
        "invoice.finalized",
        "invoice.upcoming",
        "charge.succeeded",
        "payment_intent.succeeded",
        "entitlements.active_entitlement_summary.updated",
        "test_helpers.test_clock.ready",
        "of.tomorrow",
    ] {
        let mut event = with("customer.deleted", "endive", &[("/type", json!(kind))]);
        event["data"]["object"].as_object_mut().unwrap().remove("id");
        assert_eq!(word(&meaning_of(&event)), "unhandled_type", "{kind}");
    }
}
