//! What events mean: our own (`tests/fixtures/stripe/events`), variations of them, and Stripe's samples where they are at hand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::{path::Path, time::Instant};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::{
    domain::plan::tests::catalogue,
    intake::signature::{Tolerance, WebhookSecrets, sign, verify},
};

pub(super) const USER: &str = "3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5a";
const SIGNED_AT: i64 = 1_790_300_000;

macro_rules! fixtures {
    ($($name:literal),+ $(,)?) => {
        &[$((
            $name,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stripe/events/", $name, ".json")).as_slice(),
        )),+]
    };
}

pub(super) const FIXTURES: &[(&str, &[u8])] = fixtures![
    "checkout.session.completed.payment.acacia",
    "checkout.session.completed.payment.endive",
    "checkout.session.completed.subscription.acacia",
    "checkout.session.completed.subscription.endive",
    "checkout.session.completed.unpaid.acacia",
    "checkout.session.completed.unpaid.endive",
    "checkout.session.async_payment_succeeded.acacia",
    "checkout.session.async_payment_succeeded.endive",
    "checkout.session.async_payment_failed.acacia",
    "checkout.session.async_payment_failed.endive",
    "checkout.session.expired.acacia",
    "checkout.session.expired.endive",
    "product.updated.acacia",
    "product.updated.endive",
    "thin",
];

fn fixture(name: &str) -> &'static [u8] {
    FIXTURES.iter().find(|(found, _)| *found == name).unwrap().1
}

fn interpreter() -> Interpreter {
    Interpreter::new(catalogue(), Some(false))
}

/// As it comes from Stripe: there is no other way to a [`VerifiedPayload`].
pub(super) fn signed(body: &[u8]) -> VerifiedPayload {
    let secret = SecretString::from("whsec_of_these_tests");
    let header = sign(&secret, SIGNED_AT, body);
    let secrets = WebhookSecrets::new(&[secret]).unwrap();
    verify(&secrets, header.as_bytes(), Bytes::copy_from_slice(body), SIGNED_AT, Tolerance::STRIPE).unwrap()
}

pub(super) fn read(body: &[u8]) -> Result<Meaning, PayloadError> {
    interpreter().read(&signed(body))
}

/// The endive event of a paid subscription with some of its fields set; a pointer says where.
pub(super) fn with(changes: &[(&str, Value)]) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(fixture("checkout.session.completed.subscription.endive")).unwrap();
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        event.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value.clone());
    }
    serde_json::to_vec(&event).unwrap()
}

pub(super) fn without(pointer: &str) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(&with(&[])).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    serde_json::to_vec(&event).unwrap()
}

/// One word for what an event means.
pub(super) fn word(meaning: &Meaning) -> &'static str {
    match meaning {
        Meaning::Change(Change { effect: Effect::Purchase(grant), .. }) => grant.status.as_str(),
        Meaning::Change(Change { effect: Effect::SessionExpired(_), .. }) => "session_expired",
        Meaning::Change(Change { effect: Effect::Lapse { .. }, .. }) => "lapse",
        Meaning::Change(Change { effect: Effect::GiveByHand(_) | Effect::TakeByHand(_), .. }) => "by_hand",
        Meaning::Unowned(_) => "unowned",
        Meaning::Report(_) => "report",
        Meaning::Note(Note { verdict: Verdict::Ignored(reason), .. }) => reason.as_str(),
        Meaning::Note(Note { verdict: Verdict::Parked(reason), .. }) => reason.as_str(),
    }
}

pub(super) fn word_of(body: &[u8]) -> &'static str {
    word(&read(body).unwrap())
}

pub(super) fn grant(meaning: Meaning) -> (UserId, Grant) {
    let Meaning::Change(Change { user, effect: Effect::Purchase(grant), .. }) = meaning else {
        panic!("no purchase: {meaning:?}")
    };
    (user, grant)
}

pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

#[test]
fn own_events_mean_what_their_names_say() {
    for (name, body) in FIXTURES {
        let kind = name.rsplit_once('.').map_or(*name, |(kind, _)| kind);
        let expected = match kind {
            "checkout.session.completed.unpaid" => "pending",
            "checkout.session.async_payment_failed" => "revoked",
            "checkout.session.expired" => "session_expired",
            "product.updated" => "unhandled_type",
            "thin" => "thin_event",
            _ => "active",
        };
        assert_eq!(word_of(body), expected, "{name}");
    }
}

#[test]
fn a_subscription_checkout_in_full() {
    let body = fixture("checkout.session.completed.subscription.endive");
    let meaning = read(body).unwrap();
    let record = meaning.event().unwrap().clone();
    assert_eq!(record.kind, "checkout.session.completed");
    assert_eq!(record.object_id.as_deref(), Some("cs_test_b1ESub8dKq2ZrWvYpLmNt5XhGfEs"));
    assert_eq!((record.created, record.livemode), (at(1_790_000_162), false));
    assert_eq!(record.api_version.as_deref(), Some("2026-10-28.endive"));
    assert_eq!(record.payload, body);

    let (user, grant) = grant(meaning);
    assert_eq!(user.to_string(), USER);
    assert_eq!(grant.source.to_string(), "subscription:sub_1FxESubQm7Ty");
    assert_eq!((grant.level.as_str(), grant.status), ("PRO", GrantStatus::Active));
    // A month and three days of grace, by Stripe's time.
    assert_eq!(grant.period_end, at(1_790_000_162 + 30 * 86_400 + 3 * 86_400));
    assert_eq!((grant.reported_at, grant.event.as_ref()), (record.created, Some(&record.id)));
    assert_eq!(grant.session.unwrap().as_str(), "cs_test_b1ESub8dKq2ZrWvYpLmNt5XhGfEs");
    assert_eq!((grant.payment_intent, grant.customer.unwrap().as_str()), (None, "cus_FxERobin01"));
}

#[test]
fn a_one_off_checkout_is_keyed_by_its_session() {
    for version in ["acacia", "endive"] {
        let body = fixture(&format!("checkout.session.completed.payment.{version}"));
        let meaning = read(body).unwrap();
        let created = meaning.event().unwrap().created;
        let (_, grant) = grant(meaning);
        assert_eq!(grant.source.kind, SourceKind::Checkout);
        assert_eq!(&*grant.source.id, grant.session.as_ref().unwrap().as_str());
        assert_eq!((grant.period_end - created, grant.customer), (TimeDelta::days(365), None));
        assert!(grant.payment_intent.is_some());
    }
}

#[test]
fn a_delayed_payment_is_one_purchase() {
    let grants = ["completed.unpaid", "async_payment_succeeded", "async_payment_failed"]
        .map(|name| grant(read(fixture(&format!("checkout.session.{name}.endive"))).unwrap()).1);
    assert!(grants.iter().all(|grant| grant.source == grants[0].source));
    assert!(grants[0].status < grants[2].status && grants[2].status < grants[1].status);
}

#[test]
fn every_type_status_and_mode() {
    let table = [
        ("completed", "paid", ["active", "active", "setup_mode"]),
        ("completed", "no_payment_required", ["active", "active", "setup_mode"]),
        ("completed", "unpaid", ["pending", "pending", "setup_mode"]),
        ("async_payment_succeeded", "paid", ["active", "active", "setup_mode"]),
        ("async_payment_succeeded", "no_payment_required", ["active", "active", "setup_mode"]),
        ("async_payment_succeeded", "unpaid", ["unknown_status", "unknown_status", "setup_mode"]),
        ("async_payment_failed", "paid", ["revoked", "revoked", "setup_mode"]),
        ("async_payment_failed", "no_payment_required", ["revoked", "revoked", "setup_mode"]),
        ("async_payment_failed", "unpaid", ["revoked", "revoked", "setup_mode"]),
        ("expired", "paid", ["session_expired", "session_expired", "setup_mode"]),
        ("expired", "no_payment_required", ["session_expired", "session_expired", "setup_mode"]),
        ("expired", "unpaid", ["session_expired", "session_expired", "setup_mode"]),
    ];
    for (kind, status, expected) in table {
        for (mode, expected) in ["payment", "subscription", "setup"].into_iter().zip(expected) {
            let body = with(&[
                ("/type", json!(format!("checkout.session.{kind}"))),
                ("/data/object/payment_status", json!(status)),
                ("/data/object/mode", json!(mode)),
            ]);
            let meaning = read(&body).unwrap();
            assert_eq!(word(&meaning), expected, "{kind} {status} {mode}");
            if let Meaning::Change(Change { effect: Effect::Purchase(grant), .. }) = meaning {
                assert_eq!(grant.source.kind == SourceKind::Subscription, mode == "subscription");
            }
        }
    }
}

#[test]
fn what_is_not_certain_is_parked() {
    let metadata =
        |user: Value, level: Value| vec![("/data/object/metadata", json!({"userId": user, "entitlementLevel": level}))];
    let user = || json!(USER);
    for (changes, expected) in [
        (vec![("/data/object/metadata", json!(null))], "missing_metadata"),
        (vec![("/data/object/metadata", json!({}))], "missing_metadata"),
        (vec![("/data/object/metadata", json!({"userid": USER, "entitlementlevel": "PRO"}))], "missing_metadata"),
        (metadata(json!(""), json!("PRO")), "missing_metadata"),
        (metadata(user(), json!(null)), "missing_metadata"),
        (metadata(json!(7), json!("PRO")), "incomplete_object"),
        (metadata(json!("robin"), json!("PRO")), "invalid_user"),
        (metadata(json!(USER.replace('-', "")), json!("PRO")), "invalid_user"),
        (vec![("/data/object/client_reference_id", json!("3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5b"))], "user_mismatch"),
        (vec![("/data/object/client_reference_id", json!("cart-17"))], "user_mismatch"),
        (metadata(user(), json!("GOLD")), "unknown_level"),
        (metadata(user(), json!("FREE")), "unknown_level"),
        (metadata(user(), json!("pro")), "unknown_level"),
        (metadata(user(), json!("PRO\0")), "unknown_level"),
        (vec![("/data/object/mode", json!("auction"))], "unknown_status"),
        (vec![("/data/object/mode", json!(null))], "unknown_status"),
        (vec![("/data/object/payment_status", json!("in_kind"))], "unknown_status"),
        (vec![("/data/object/payment_status", json!(null))], "unknown_status"),
        (vec![("/data/object/subscription", json!(null))], "incomplete_object"),
        (vec![("/data/object/subscription", json!("in_1"))], "incomplete_object"),
        (vec![("/data/object/subscription", json!({"object": "subscription"}))], "incomplete_object"),
        (vec![("/data/object/subscription", json!(["sub_1"]))], "incomplete_object"),
        (vec![("/data/object/payment_intent", json!("pi_\u{0}"))], "incomplete_object"),
        (vec![("/data/object/id", json!("sub_1"))], "incomplete_object"),
        (vec![("/data/object/id", json!(format!("cs_{}", "a".repeat(300))))], "incomplete_object"),
        (vec![("/data/object/mode", json!(1))], "incomplete_object"),
        (vec![("/data/object/metadata", json!([USER, "PRO"]))], "incomplete_object"),
        (vec![("/data/object", json!([]))], "incomplete_object"),
        (vec![("/data/object", json!("cs_test_1"))], "incomplete_object"),
    ] {
        let body = with(&changes);
        let meaning = read(&body).unwrap();
        assert_eq!(word(&meaning), expected, "{changes:?}");
        let Meaning::Note(Note { event, verdict: Verdict::Parked(_), user: named }) = meaning else {
            panic!("{changes:?}")
        };
        assert_eq!(event.payload, body);
        let names_user = !matches!(expected, "missing_metadata" | "invalid_user" | "incomplete_object");
        assert!(!names_user || named.unwrap().to_string() == USER, "{changes:?}");
    }
}

#[test]
fn what_need_not_be_there() {
    for changes in [
        vec![("/data/object/client_reference_id", json!(null))],
        vec![("/data/object/client_reference_id", json!(""))],
        vec![("/data/object/client_reference_id", json!(USER.to_uppercase()))],
        vec![("/data/object/metadata/userId", json!(USER.to_uppercase()))],
        vec![("/data/object/metadata/cart", json!("17"))],
        vec![("/data/object/customer", json!("robin@example.com"))],
        vec![("/data/object/status", json!("half_complete")), ("/data/object/ui_mode", json!({"new": [1, 2]}))],
        vec![("/api_version", json!("2031-01-01.zinnia")), ("/new_field", json!({"object": "event"}))],
        vec![("/api_version", json!(null)), ("/account", json!(null)), ("/request", json!(null))],
    ] {
        let (user, grant) = grant(read(&with(&changes)).unwrap());
        assert_eq!((user.to_string().as_str(), grant.status), (USER, GrantStatus::Active), "{changes:?}");
    }
    for pointer in
        ["/data/object/client_reference_id", "/data/object/customer", "/api_version", "/livemode", "/request"]
    {
        assert_eq!(word_of(&without(pointer)), "active", "{pointer}");
    }
}

#[test]
fn expanded_objects_are_as_good_as_their_ids() {
    let plain = with(&[("/data/object/payment_intent", json!("pi_1Fx"))]);
    let expanded = with(&[
        (
            "/data/object/payment_intent",
            json!({"object": "payment_intent", "amount": 2900, "id": "pi_1Fx", "metadata": {"id": 1}}),
        ),
        ("/data/object/subscription", json!({"id": "sub_1FxESubQm7Ty", "items": {"data": [{"id": "si_1"}]}})),
        ("/data/object/customer", json!({"id": "cus_FxERobin01", "deleted": true})),
    ]);
    assert_eq!(grant(read(&plain).unwrap()), grant(read(&expanded).unwrap()));
}

#[test]
fn a_subscription_that_is_not_there_yet() {
    for (kind, status, expected) in [
        ("completed", "unpaid", "pending"),
        ("async_payment_failed", "unpaid", "revoked"),
        ("async_payment_succeeded", "paid", "incomplete_object"),
        ("completed", "no_payment_required", "incomplete_object"),
    ] {
        let meaning = read(&with(&[
            ("/type", json!(format!("checkout.session.{kind}"))),
            ("/data/object/payment_status", json!(status)),
            ("/data/object/subscription", json!(null)),
        ]));
        let meaning = meaning.unwrap();
        assert_eq!(word(&meaning), expected, "{kind} {status}");
        if let Meaning::Change(_) = meaning {
            let (_, grant) = grant(meaning);
            assert_eq!(grant.source.to_string(), "checkout:cs_test_b1ESub8dKq2ZrWvYpLmNt5XhGfEs");
            assert!(!grant.is_live(grant.reported_at));
        }
    }
}

#[test]
fn an_expired_session_of_nobody_is_ignored() {
    let kind = ("/type", json!("checkout.session.expired"));
    for change in [
        ("/data/object/metadata", json!(null)),
        ("/data/object/metadata/userId", json!("robin")),
        ("/data/object/id", json!("?")),
    ] {
        assert_eq!(word_of(&with(&[kind.clone(), change.clone()])), "unattributed", "{change:?}");
    }
    assert_eq!(word_of(&with(&[kind, ("/data/object/metadata/entitlementLevel", json!(null))])), "session_expired");
}

#[test]
fn what_is_not_ours_is_ignored_in_this_order() {
    let account = ("/account", json!("acct_1Fx"));
    let live = ("/livemode", json!(true));
    let kind = ("/type", json!("customer.created"));
    let thin = ("/object", json!("v2.core.event"));
    let all = [thin, account, live, kind];
    for (from, expected) in
        ["thin_event", "connected_account", "livemode_mismatch", "unhandled_type"].iter().enumerate()
    {
        let meaning = read(&with(&all[from..])).unwrap();
        assert_eq!(word(&meaning), *expected);
        assert!(matches!(meaning, Meaning::Note(Note { verdict: Verdict::Ignored(_), .. })));
    }
    let of_live = Interpreter::new(catalogue(), Some(true));
    let test_event = of_live.read(&signed(&without("/livemode"))).unwrap();
    assert_eq!(word(&test_event), "livemode_mismatch", "absent is not live");
    let live_event = of_live.read(&signed(&with(&[("/livemode", json!(true))]))).unwrap();
    assert_eq!(word(&live_event), "active");
}

#[test]
fn thin_events_have_a_time() {
    let created = |value: Value| {
        let body = with(&[("/object", json!("v2.core.event")), ("/created", value)]);
        read(&body).unwrap().event().unwrap().created
    };
    assert_eq!(read(fixture("thin")).unwrap().event().unwrap().created, at(1_790_000_000));
    for no_time in [json!(null), json!("yesterday"), json!(1), json!("0001-01-01T00:00:00Z")] {
        assert_eq!(created(no_time), at(SIGNED_AT));
    }
}

#[test]
fn tried_again_it_means_the_same_but_for_the_cause() {
    for (name, body) in FIXTURES {
        let (first, again) = (read(body).unwrap(), interpreter().read_again(&Bytes::from_static(body)).unwrap());
        match (first, again) {
            (Meaning::Change(first), Meaning::Change(again)) => {
                assert_eq!((&first.user, &first.effect), (&again.user, &again.effect), "{name}");
                let (Cause::Delivery(delivered), Cause::Retry(retried)) = (first.cause, again.cause) else {
                    panic!("{name}")
                };
                assert_eq!(delivered, retried, "{name}");
            }
            (first, again) => assert_eq!(first, again, "{name}"),
        }
    }
}

#[test]
fn the_hash_is_over_the_objects_bytes() {
    let hash = |body: &[u8]| read(body).unwrap().event().unwrap().object_hash;
    let same = hash(&with(&[]));
    assert_eq!(same, hash(&with(&[("/pending_webhooks", json!(0)), ("/id", json!("evt_other"))])));
    assert_ne!(same, hash(&with(&[("/data/object/amount_total", json!(2901))])));
    let object = r#"{ "id" : "prod_1" }"#;
    let body = format!(
        r#"{{"id":"evt_1","object":"event","type":"product.created","created":1,"data":{{"object":{object}}}}}"#
    );
    assert_eq!(hash(body.as_bytes()), <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(object)));
}

/// The samples tell one story; each case of a session by its file's name.
#[test]
fn samples_made_from_stripes_own_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/stripe/events");
    let Ok(files) = std::fs::read_dir(&folder) else {
        println!("skipped: Stripe's samples are not at {}", folder.display());
        return;
    };
    let mut sessions = 0;
    for path in files.map(|file| file.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "MANIFEST.json" || !name.ends_with(".json") {
            continue;
        }
        let body = std::fs::read(&path).unwrap();
        let expected = match name.trim_end_matches(".json").trim_end_matches(".acacia").trim_end_matches(".endive") {
            "checkout.session.completed.payment_unpaid" => "pending",
            "checkout.session.async_payment_failed" => "revoked",
            "checkout.session.expired" => "session_expired",
            "checkout.session.completed.no_metadata" | "checkout.session.completed.client_reference_only" => {
                "missing_metadata"
            }
            name if name.starts_with("checkout.session.") => "active",
            "customer.subscription.created.incomplete" => "pending",
            "customer.subscription.paused" => "suspended",
            "customer.subscription.deleted" => "revoked",
            // Their price is in no plan of these tests'.
            name if name.starts_with("customer.subscription.") => "unknown_price",
            name if name.starts_with("thin.") => "thin_event",
            name if ["refund.", "charge.", "invoice.paid.", "customer.deleted"]
                .iter()
                .any(|of| name.starts_with(of)) =>
            {
                "report"
            }
            name if name.starts_with("invoice.") => "told_elsewhere",
            _ => "unhandled_type",
        };
        let meaning = read(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(word(&meaning), expected, "{name}");
        sessions += usize::from(name.starts_with("checkout.session."));
        if let Meaning::Change(change) = meaning {
            assert_eq!(change.user.to_string(), "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71", "{name}");
        }
    }
    assert_eq!(sessions, 20);
}

/// Not a benchmark: catches a parser that has become a hundred times slower.
#[test]
fn reading_is_quick() {
    let (interpreter, payload) = (interpreter(), signed(fixture("checkout.session.completed.subscription.endive")));
    let start = Instant::now();
    for _ in 0..1_000 {
        interpreter.read(&payload).unwrap();
    }
    let each = start.elapsed() / 1_000;
    println!("{} bytes in {each:?}", payload.bytes().len());
    assert!(each.as_micros() < 2_000, "{each:?}");
}
