//! The check of request parameters against Stripe's types, and the few rules that types cannot say.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Number, Value};

static FIXTURE: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../../fixtures/stripe/checkout_session_create.schema.json");
    serde_json::from_str(text).expect("the fixture is JSON")
});
static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&FIXTURE).expect("the fixture is a schema"));

/// A file of Stripe's data that stands beside the repository on some machines; the test that needs it is to be skipped
/// where this is `None`.
pub(crate) fn shared_file(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/stripe").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no ../shared/stripe/{name}");
    None
}

/// All that is wrong with the parameters of a new Checkout Session.
pub(super) fn violations(params: &Value) -> Vec<String> {
    let by_type = VALIDATOR.iter_errors(params).map(|error| {
        let place = error.instance_path().to_string();
        format!("{place}: {error}")
    });
    by_type.chain(rules(params)).collect()
}

/// Rules from the text of <https://docs.stripe.com/api/checkout/sessions/create>, where every parameter is optional by
/// type and its need depends on others.
fn rules(params: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let mut must = |holds: bool, rule: &str| {
        if !holds {
            broken.push(rule.to_owned());
        }
    };
    // An empty string unsets a parameter.
    let has = |value: &Value, name: &str| value.get(name).is_some_and(|value| value != "");
    let mode = params.get("mode").and_then(Value::as_str).unwrap_or_default();
    must(has(params, "mode"), "mode is required without other hints of it");
    must(has(params, "success_url"), "success_url is required for a hosted page");
    must(mode == "subscription" || !has(params, "subscription_data"), "subscription_data needs mode=subscription");
    must(mode == "payment" || !has(params, "payment_intent_data"), "payment_intent_data needs mode=payment");
    let items = params.get("line_items").and_then(Value::as_array);
    must(items.is_some_and(|items| !items.is_empty()), "line_items is required");
    for item in items.into_iter().flatten() {
        must(has(item, "quantity"), "quantity is required");
        must(has(item, "price") != has(item, "price_data"), "exactly one of price and price_data is required");
        let Some(data) = item.get("price_data") else {
            continue;
        };
        must(has(data, "product") != has(data, "product_data"), "exactly one of product and product_data is required");
        must(
            has(data, "unit_amount") != has(data, "unit_amount_decimal"),
            "exactly one of unit_amount and unit_amount_decimal is required",
        );
        let amount = data.get("unit_amount");
        must(amount.is_none_or(Value::is_u64), "unit_amount is a whole number, not negative");
        must(
            has(data, "recurring") == (mode == "subscription"),
            "recurring goes with mode=subscription and only with it",
        );
    }
    broken
}

/// Form values are text; this makes numbers and booleans of those that the schema says are.
pub(super) fn with_types(params: &Value) -> Value {
    typed(params, &FIXTURE["definitions"]["checkout_session_create"])
}

fn typed(value: &Value, schema: &Value) -> Value {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        return typed(value, definition(target));
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let fitting = choices.iter().map(|choice| typed(value, choice)).find(|candidate| candidate != value);
        return fitting.unwrap_or_else(|| value.clone());
    }
    match value {
        Value::Object(members) => Value::Object(typed_members(members, schema)),
        Value::Array(items) => {
            let schema = schema.get("items").unwrap_or(&Value::Null);
            Value::Array(items.iter().map(|item| typed(item, schema)).collect())
        }
        Value::String(text) => typed_text(text, schema).unwrap_or_else(|| value.clone()),
        other => other.clone(),
    }
}

fn typed_members(members: &Map<String, Value>, schema: &Value) -> Map<String, Value> {
    members
        .iter()
        .map(|(name, value)| {
            let schema = schema
                .get("properties")
                .and_then(|properties| properties.get(name))
                .or_else(|| schema.get("additionalProperties"))
                .unwrap_or(&Value::Null);
            (name.clone(), typed(value, schema))
        })
        .collect()
}

/// `None` where the text stays text. Where several types are allowed, text is always one of them.
fn typed_text(text: &str, schema: &Value) -> Option<Value> {
    match schema.get("type")?.as_str()? {
        "boolean" => text.parse().ok().map(Value::Bool),
        "number" | "integer" => {
            let whole = text.parse::<i64>().ok().map(Number::from);
            let number = whole.or_else(|| text.parse().ok().and_then(Number::from_f64));
            number.map(Value::Number)
        }
        _ => None,
    }
}

/// References are URIs: some names hold `<` and `>`, which arrive percent-encoded.
fn definition(target: &str) -> &'static Value {
    let name = target.strip_prefix("#/definitions/").expect("a reference into the fixture");
    let name = percent_encoding::percent_decode_str(name).decode_utf8().expect("a name");
    &FIXTURE["definitions"][name.as_ref()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "mode": "subscription",
            "success_url": "https://app.test/ok",
            "line_items": [{"price": "price_1", "quantity": "1"}],
            "allow_promotion_codes": "true",
            "metadata": {"userId": "17"},
            "subscription_data": {"trial_period_days": "7", "metadata": {"userId": "17"}},
        })
    }

    #[test]
    fn text_becomes_what_the_schema_says() {
        let typed = with_types(&good());
        assert_eq!(typed["line_items"][0]["quantity"], json!(1));
        assert_eq!(typed["allow_promotion_codes"], json!(true));
        assert_eq!(typed["subscription_data"]["trial_period_days"], json!(7));
        assert_eq!(typed["metadata"]["userId"], json!("17"));
        assert_eq!(violations(&typed), Vec::<String>::new());
    }

    #[test]
    fn what_stripe_would_refuse_is_a_violation() {
        for (place, value) in [
            ("/mode", json!("subscripton")),
            ("/line_items/0/quantity", json!("one")),
            ("/metadata", json!({"nested": {"a": "b"}})),
            ("/payment_intent_data", json!({"metadata": {"userId": "17"}})),
            ("/payment_method_types", json!(["card"])),
            ("/line_items/0/price_data", json!({"currency": "usd"})),
        ] {
            let mut params = good();
            let (parent, name) = place.rsplit_once('/').unwrap();
            params.pointer_mut(parent).unwrap()[name] = value;
            assert!(!violations(&with_types(&params)).is_empty(), "{place}");
        }
    }

    /// The stand-in is only as good as its fixture: it must be what the script cuts out of the official schema.
    #[test]
    fn the_fixture_is_what_the_script_makes_of_the_official_schema() {
        let Some(full) = shared_file("openapi/requests-2026-10-28.endive.schema.json") else {
            return;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/extract-stripe-schema");
        let output = match std::process::Command::new(script).arg(full).output() {
            Ok(output) => output,
            Err(error) => return eprintln!("skipped: the script cannot be run here ({error})"),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(made, *FIXTURE);
    }
}
