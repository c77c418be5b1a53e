//! Whether an object is shaped as Stripe's own types say.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::harness::stripe::schema::shared_file;

static OBJECTS: LazyLock<Value> = LazyLock::new(|| fixture(include_str!("../../fixtures/stripe/objects.schema.json")));
static EVENTS: LazyLock<Value> = LazyLock::new(|| fixture(include_str!("../../fixtures/stripe/events.schema.json")));

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).expect("the fixture is JSON")
}

const OBJECT_ROOTS: &[&str] = &[
    "checkout_session",
    "customer",
    "LineItem",
    "subscription",
    "invoice",
    "charge",
    "refund",
    "dispute",
    "PaymentIntent",
    "InvoicePayment",
];

/// All validators by root: the extracts' and, where they are at hand, the whole schemas'. To make one takes long.
static VALIDATORS: LazyLock<Vec<(&str, Validator)>> = LazyLock::new(|| {
    let whole = shared_file("openapi/objects-2026-10-28.endive.schema.json")
        .map(|path| fixture(&std::fs::read_to_string(path).expect("a readable file")));
    let objects = [Some(&*OBJECTS), whole.as_ref()].into_iter().flatten();
    let of_objects = objects.flat_map(|schema| OBJECT_ROOTS.iter().map(move |root| (*root, validator(schema, root))));
    of_objects.chain(["event", "webhook_endpoint"].map(|root| (root, validator(&EVENTS, root)))).collect()
});

fn validator(schema: &Value, root: &str) -> Validator {
    let mut schema = schema.clone();
    schema["allOf"] = json!([{ "$ref": format!("#/definitions/{root}") }]);
    jsonschema::validator_for(&schema).expect("the fixture is a schema")
}

#[track_caller]
fn assert_valid(root: &str, object: &Value) {
    let validators: Vec<&Validator> =
        VALIDATORS.iter().filter(|(name, _)| *name == root).map(|(_, validator)| validator).collect();
    assert!(!validators.is_empty(), "no schema of {root}");
    let errors: Vec<String> = validators
        .iter()
        .flat_map(|validator| validator.iter_errors(object))
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert_eq!(errors, Vec::<String>::new(), "{root}: {object:#}");
}

/// An object of Stripe's against the extract and, where it is at hand, the whole schema. async-stripe
/// must read it too.
#[track_caller]
pub(super) fn assert_object(object: &Value) {
    let root = match object["object"].as_str() {
        Some("checkout.session") => "checkout_session",
        Some("customer") => "customer",
        Some("item") => "LineItem",
        Some("payment_intent") => "PaymentIntent",
        Some("invoice_payment") => "InvoicePayment",
        Some(same @ ("subscription" | "invoice" | "charge" | "refund" | "dispute")) => same,
        other => panic!("no schema of {other:?}"),
    };
    assert_valid(root, object);
    let text = object.to_string();
    let is_read = match root {
        "checkout_session" => reads::<stripe_shared::CheckoutSession>(&text),
        "customer" => reads::<stripe_shared::Customer>(&text),
        "subscription" => reads::<stripe_shared::Subscription>(&text),
        "invoice" => reads::<stripe_shared::Invoice>(&text),
        "charge" => reads::<stripe_shared::Charge>(&text),
        "refund" => reads::<stripe_shared::Refund>(&text),
        "dispute" => reads::<stripe_shared::Dispute>(&text),
        "PaymentIntent" => reads::<stripe_shared::PaymentIntent>(&text),
        "InvoicePayment" => reads::<stripe_shared::InvoicePayment>(&text),
        _ => reads::<stripe_shared::CheckoutSessionItem>(&text),
    };
    assert!(is_read, "async-stripe does not read {text}");
}

fn reads<T: miniserde::Deserialize>(text: &str) -> bool {
    miniserde::json::from_str::<T>(text).is_ok()
}

/// An event with what it is about.
#[track_caller]
pub(super) fn assert_event(event: &Value) {
    assert_valid("event", event);
    assert!(miniserde::json::from_str::<stripe_shared::Event>(&event.to_string()).is_ok(), "async-stripe reads it");
    assert_eq!(event["api_version"], "2026-09-30.endive", "the version that the gateway sends");
    assert_object(&event["data"]["object"]);
}

#[track_caller]
pub(super) fn assert_endpoint(endpoint: &Value) {
    assert_valid("webhook_endpoint", endpoint);
}

/// The data of a list, which must be one.
#[track_caller]
pub(super) fn data(list: &Value) -> &Vec<Value> {
    assert_eq!(list["object"], "list", "{list}");
    assert!(list["has_more"].is_boolean() && list["url"].as_str().unwrap().starts_with("/v1/"), "{list}");
    list["data"].as_array().unwrap()
}

#[test]
fn the_fixtures_are_what_the_script_makes_of_the_official_files() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/extract-stripe-schema");
    let cases: [(&str, &[&str], &[&str], &Value); 2] = [
        ("openapi/objects-2026-10-28.endive.schema.json", &["--required"], OBJECT_ROOTS, &OBJECTS),
        ("openapi/spec3-2023-08-16.extract.json", &[], &["event", "webhook_endpoint"], &EVENTS),
    ];
    for (file, options, roots, fixture) in cases {
        let Some(full) = shared_file(file) else { return };
        let output = match std::process::Command::new(script).args(options).arg(full).args(roots).output() {
            Ok(output) => output,
            Err(error) => return eprintln!("skipped: the script cannot be run here ({error})"),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(made, *fixture);
    }
}
