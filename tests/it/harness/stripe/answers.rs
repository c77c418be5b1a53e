//! What the stand-in answers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// A response, kept for replays as it was first given.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) location: Option<String>,
    pub(super) replayed: bool,
}

impl Answer {
    pub(super) fn of(status: u16, body: String) -> Self {
        Self { status, body, location: None, replayed: false }
    }
}

pub(super) fn redirect(location: String) -> Answer {
    Answer { location: Some(location), ..Answer::of(307, String::new()) }
}

pub(super) fn invalid_request(status: u16, message: &str) -> Answer {
    error(status, "invalid_request_error", message)
}

/// The key was used before with other parameters.
pub(super) fn idempotency_error() -> Answer {
    error(400, "idempotency_error", "this key was used with other parameters")
}

/// What a parameter or the path names is not there (any more).
pub(super) fn missing(status: u16, param: &str) -> Answer {
    let error = json!({"type": "invalid_request_error", "code": "resource_missing", "param": param});
    Answer::of(status, json!({"error": error}).to_string())
}

/// A page for a customer.
pub(super) fn portal(params: &Value) -> Answer {
    let id = format!("bps_{}", uuid::Uuid::new_v4().simple());
    let page = json!({
        "id": id,
        "object": "billing_portal.session",
        "customer": params["customer"],
        "return_url": params["return_url"],
        "livemode": false,
        "url": format!("https://billing.stripe.com/p/session/{id}"),
    });
    Answer::of(200, page.to_string())
}

fn error(status: u16, kind: &str, message: &str) -> Answer {
    let body = json!({"error": {"type": kind, "message": message}});
    Answer::of(status, body.to_string())
}

/// Fields that a new hosted session has, but empty.
const NULL_AT_FIRST: &[&str] = &[
    "after_expiration",
    "allowed_payment_method_types",
    "billing_address_collection",
    "client_secret",
    "collected_information",
    "consent",
    "consent_collection",
    "currency_conversion",
    "customer",
    "customer_account",
    "customer_details",
    "customer_email",
    "integration_identifier",
    "invoice",
    "invoice_creation",
    "locale",
    "origin_context",
    "payment_intent",
    "payment_link",
    "payment_method_configuration_details",
    "permissions",
    "recovered_from",
    "saved_payment_method_options",
    "setup_intent",
    "shipping_address_collection",
    "shipping_cost",
    "submit_type",
    "subscription",
    "wallet_options",
];

/// A Checkout Session just opened with these (valid) parameters, complete enough for Stripe's own object schema.
pub(super) fn session(params: &Value) -> Value {
    let id = format!("cs_test_{}", uuid::Uuid::new_v4().simple());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let item = &params["line_items"][0];
    let subscription = params["mode"] == "subscription";
    // The amount behind a price id is Stripe's to know; any will do.
    let total = item["price_data"]["unit_amount"].as_i64().unwrap_or(2900) * item["quantity"].as_i64().unwrap_or(1);
    let currency = item["price_data"]["currency"].as_str().unwrap_or("usd");
    let mut session = json!({
        "id": id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": true},
        "allow_promotion_codes": params.get("allow_promotion_codes"),
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": false, "liability": null, "provider": null, "status": null},
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": now,
        "currency": currency,
        "custom_fields": [],
        "custom_text": {
            "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null,
        },
        "customer_creation": if subscription { "always" } else { "if_required" },
        "discounts": [],
        "expires_at": now + 24 * 60 * 60,
        "livemode": false,
        "managed_payments": {"enabled": false},
        "metadata": params.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "mode": params["mode"],
        "payment_method_collection": if subscription || total == 0 { "always" } else { "if_required" },
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": if total == 0 { "no_payment_required" } else { "unpaid" },
        "phone_number_collection": {"enabled": false},
        "shipping_options": [],
        "status": "open",
        "success_url": params["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": format!("https://checkout.stripe.com/c/pay/{id}"),
    });
    for name in NULL_AT_FIRST {
        session[*name] = Value::Null;
    }
    session
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::schema::shared_file;
    use super::session;

    #[test]
    fn a_session_fits_stripes_own_schema() {
        let Some(path) = shared_file("openapi/objects-2026-10-28.endive.schema.json") else {
            return;
        };
        let mut schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        schema["allOf"] = json!([{"$ref": "#/definitions/checkout_session"}]);
        let validator = jsonschema::validator_for(&schema).unwrap();
        for mode in ["payment", "subscription"] {
            let params = json!({
                "mode": mode,
                "success_url": "https://app.test/ok",
                "line_items": [{"price": "price_1", "quantity": 1}],
            });
            let body = session(&params);
            let errors: Vec<String> =
                validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert_eq!(errors, Vec::<String>::new());
        }
    }
}
