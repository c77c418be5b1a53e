//! A Checkout Session: what is bought, and how far the purchase is.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Metadata, Price, new_id};

/// Fields of Stripe's that say nothing in the sandbox.
const ALWAYS_NULL: &[&str] = &[
    "after_expiration",
    "allowed_payment_method_types",
    "client_secret",
    "collected_information",
    "consent",
    "consent_collection",
    "currency_conversion",
    "customer_account",
    "integration_identifier",
    "invoice_creation",
    "origin_context",
    "payment_link",
    "payment_method_configuration_details",
    "permissions",
    "recovered_from",
    "saved_payment_method_options",
    "setup_intent",
    "shipping_address_collection",
    "shipping_cost",
    "wallet_options",
];

/// How a session is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum Mode {
    Payment,
    Subscription,
}

/// Whether it can still be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum Status {
    Open,
    Complete,
    Expired,
}

/// Whether the money is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum PaymentStatus {
    Paid,
    Unpaid,
    NoPaymentRequired,
}

/// What became of a payment that takes days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum Delayed {
    Waiting,
    Arrived,
    Failed,
}

/// How often a price is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Recurring {
    /// `day`, `week`, `month`, `year`.
    pub(in crate::sandbox) interval: String,
    pub(in crate::sandbox) interval_count: i64,
}

/// One thing that is bought, at a price made for this session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Line {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) price: String,
    pub(in crate::sandbox) product: String,
    pub(in crate::sandbox) name: String,
    /// In the currency's minor unit.
    pub(in crate::sandbox) unit_amount: i64,
    pub(in crate::sandbox) quantity: i64,
    pub(in crate::sandbox) recurring: Option<Recurring>,
    /// Least and most that a buyer could choose at Stripe; the sandbox's page sells `quantity`.
    #[serde(default)]
    pub(in crate::sandbox) adjustable: Option<(i64, i64)>,
}

/// Who paid, as the pay page was told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::sandbox) struct Payer {
    pub(in crate::sandbox) email: Option<String>,
    pub(in crate::sandbox) name: Option<String>,
}

/// A purchase on a page of the sandbox's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Session {
    pub(in crate::sandbox) id: String,
    /// Unix seconds, as is `expires_at`.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) expires_at: i64,
    pub(in crate::sandbox) mode: Mode,
    pub(in crate::sandbox) status: Status,
    pub(in crate::sandbox) payment_status: PaymentStatus,
    pub(in crate::sandbox) delayed: Option<Delayed>,
    /// Three lower-case letters.
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) lines: Vec<Line>,
    pub(in crate::sandbox) metadata: Metadata,
    /// For the subscription or the payment that comes of it.
    pub(in crate::sandbox) child_metadata: Metadata,
    pub(in crate::sandbox) client_reference_id: Option<String>,
    pub(in crate::sandbox) customer: Option<String>,
    pub(in crate::sandbox) customer_email: Option<String>,
    /// Whether a customer is made in payment mode too.
    pub(in crate::sandbox) always_customer: bool,
    /// Days before the subscription is first paid.
    #[serde(default)]
    pub(in crate::sandbox) trial_days: Option<i64>,
    pub(in crate::sandbox) payer: Option<Payer>,
    /// As it was given: `{CHECKOUT_SESSION_ID}` is replaced when somebody is sent there.
    pub(in crate::sandbox) success_url: String,
    pub(in crate::sandbox) cancel_url: Option<String>,
    /// `locale`, `submit_type` and their like: shown as given, without effect.
    pub(in crate::sandbox) inert: Map<String, Value>,
    pub(in crate::sandbox) payment_intent: Option<String>,
    pub(in crate::sandbox) subscription: Option<String>,
    pub(in crate::sandbox) invoice: Option<String>,
}

impl Session {
    pub(in crate::sandbox) fn new_id() -> String {
        new_id("cs_test_a1", 56)
    }

    /// What is paid now, in the currency's minor unit: nothing before a trial.
    pub(in crate::sandbox) fn amount(&self) -> i64 {
        if self.trial_days.is_some() { 0 } else { self.price() }
    }

    /// What is paid each time.
    pub(in crate::sandbox) fn price(&self) -> i64 {
        self.lines.iter().map(Line::amount).sum()
    }

    /// Where a buyer goes who has paid.
    pub(in crate::sandbox) fn success_url(&self) -> String {
        self.success_url.replace("{CHECKOUT_SESSION_ID}", &self.id)
    }

    /// As the API shows it; `base` is where the sandbox answers.
    pub(in crate::sandbox) fn shown(&self, base: &str) -> Value {
        let amount = self.amount();
        let subscribes = self.mode == Mode::Subscription;
        let asks_always = subscribes || amount == 0;
        let mut shown = json!({
            "id": self.id,
            "object": "checkout.session",
            "adaptive_pricing": { "enabled": false },
            "allow_promotion_codes": null,
            "amount_subtotal": amount,
            "amount_total": amount,
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
            "billing_address_collection": null,
            "cancel_url": self.cancel_url,
            "client_reference_id": self.client_reference_id,
            "created": self.created,
            "currency": self.currency,
            "custom_fields": [],
            "custom_text": {
                "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null,
            },
            "customer": self.customer,
            "customer_creation": if subscribes || self.always_customer { "always" } else { "if_required" },
            "customer_details": self.payer.as_ref().map(Payer::shown),
            "customer_email": self.customer_email,
            "discounts": [],
            "expires_at": self.expires_at,
            "invoice": self.invoice,
            "livemode": false,
            "locale": null,
            "managed_payments": { "enabled": false },
            "metadata": self.metadata,
            "mode": self.mode,
            "payment_intent": self.payment_intent,
            "payment_method_collection": if asks_always { "always" } else { "if_required" },
            "payment_method_options": { "card": { "request_three_d_secure": "automatic" } },
            "payment_method_types": ["card"],
            "payment_status": self.payment_status,
            "phone_number_collection": { "enabled": false },
            "shipping_options": [],
            "status": self.status,
            "submit_type": null,
            "subscription": self.subscription,
            "success_url": self.success_url,
            "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
            "ui_mode": "hosted_page",
            "url": (self.status == Status::Open).then(|| format!("{base}/c/pay/{}", self.id)),
        });
        if let Some(fields) = shown.as_object_mut() {
            fields.extend(ALWAYS_NULL.iter().map(|name| ((*name).to_owned(), Value::Null)));
            fields.extend(self.inert.clone());
        }
        shown
    }

    /// What is bought, as a list of Stripe's.
    pub(in crate::sandbox) fn shown_lines(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(|line| line.shown(self)).collect();
        let url = format!("/v1/checkout/sessions/{}/line_items", self.id);
        json!({ "object": "list", "data": lines, "has_more": false, "url": url })
    }
}

impl Line {
    fn amount(&self) -> i64 {
        self.unit_amount.saturating_mul(self.quantity)
    }

    /// The price it is bought at.
    pub(in crate::sandbox) fn priced(&self, session: &Session) -> Price {
        Price {
            id: self.price.clone(),
            product: self.product.clone(),
            name: self.name.clone(),
            currency: session.currency.clone(),
            unit_amount: self.unit_amount,
            recurring: self.recurring.clone(),
            created: session.created,
        }
    }

    fn shown(&self, session: &Session) -> Value {
        json!({
            "id": self.id,
            "object": "item",
            "adjustable_quantity": self.adjustable.map(|(minimum, maximum)| json!({
                "enabled": true,
                "minimum": minimum,
                "maximum": maximum,
            })),
            "amount_discount": 0,
            "amount_subtotal": self.amount(),
            "amount_tax": 0,
            "amount_total": self.amount(),
            "currency": session.currency,
            "description": self.name,
            "metadata": {},
            "price": self.priced(session).shown(),
            "quantity": self.quantity,
        })
    }
}

impl Payer {
    fn shown(&self) -> Value {
        json!({
            "address": null,
            "business_name": null,
            "email": self.email,
            "individual_name": null,
            "name": self.name,
            "phone": null,
            "tax_exempt": "none",
            "tax_ids": [],
        })
    }
}
