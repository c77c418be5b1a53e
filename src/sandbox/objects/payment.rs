//! A payment and its attempts: PaymentIntent and Charge, with the card that pays.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Metadata, new_id, with_nulls};
use crate::sandbox::pay_page::Card;

const INTENT_NULL: &[&str] = &[
    "allowed_payment_method_types",
    "application",
    "application_fee_amount",
    "canceled_at",
    "cancellation_reason",
    "client_secret",
    "customer_account",
    "excluded_payment_method_types",
    "managed_payments",
    "next_action",
    "on_behalf_of",
    "payment_method_configuration_details",
    "payment_record",
    "processing",
    "receipt_email",
    "review",
    "setup_future_usage",
    "shipping",
    "source",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_group",
];

const CHARGE_NULL: &[&str] = &[
    "application",
    "application_fee",
    "application_fee_amount",
    "calculated_statement_descriptor",
    "failure_balance_transaction",
    "on_behalf_of",
    "receipt_email",
    "receipt_number",
    "receipt_url",
    "review",
    "shipping",
    "source",
    "source_transfer",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
];

const DECLINED: &str = "Your card was declined.";

/// A card as a way to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Method {
    /// `pm_…`
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) card: Card,
}

impl Method {
    pub(in crate::sandbox) fn new(card: Card) -> Self {
        Self { id: new_id("pm_1", 24), card }
    }
}

/// A payment, with its metadata, whatever it takes until it succeeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct PaymentIntent {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    /// In the currency's minor unit.
    pub(in crate::sandbox) amount: i64,
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) customer: Option<String>,
    pub(in crate::sandbox) description: Option<String>,
    /// `None` until a card has been tried, and where money came by bank.
    pub(in crate::sandbox) method: Option<Method>,
    pub(in crate::sandbox) metadata: Metadata,
    pub(in crate::sandbox) succeeded: bool,
    pub(in crate::sandbox) latest_charge: Option<String>,
}

/// One attempt at a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Charge {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) amount: i64,
    pub(in crate::sandbox) amount_refunded: i64,
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) customer: Option<String>,
    pub(in crate::sandbox) description: Option<String>,
    pub(in crate::sandbox) email: Option<String>,
    pub(in crate::sandbox) payment_intent: String,
    pub(in crate::sandbox) method: Option<Method>,
    /// The payment's, as it was.
    pub(in crate::sandbox) metadata: Metadata,
    pub(in crate::sandbox) succeeded: bool,
    pub(in crate::sandbox) disputed: bool,
}

impl PaymentIntent {
    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        let failed = !self.succeeded && self.latest_charge.is_some();
        let shown = json!({
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": 0,
            "amount_received": if self.succeeded { self.amount } else { 0 },
            "automatic_payment_methods": null,
            "capture_method": "automatic",
            "confirmation_method": "automatic",
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "description": self.description,
            "last_payment_error": failed.then(|| json!({
                "charge": self.latest_charge,
                "code": "card_declined",
                "decline_code": "generic_decline",
                "doc_url": "https://docs.stripe.com/error-codes#card_declined",
                "message": DECLINED,
                "type": "card_error",
            })),
            "latest_charge": self.latest_charge,
            "livemode": false,
            "metadata": self.metadata,
            "payment_method": if failed { None } else { self.method.as_ref().map(|method| &method.id) },
            "payment_method_options": { "card": {
                "installments": null, "mandate_options": null, "network": null, "request_three_d_secure": "automatic",
            } },
            "payment_method_types": ["card"],
            "status": if self.succeeded { "succeeded" } else { "requires_payment_method" },
        });
        with_nulls(shown, INTENT_NULL)
    }
}

impl Charge {
    /// What may still be given back.
    pub(in crate::sandbox) fn refundable(&self) -> i64 {
        if self.succeeded { self.amount.saturating_sub(self.amount_refunded) } else { 0 }
    }

    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        let failed = !self.succeeded;
        let shown = json!({
            "id": self.id,
            "object": "charge",
            "amount": self.amount,
            "amount_captured": if failed { 0 } else { self.amount },
            "amount_refunded": self.amount_refunded,
            "balance_transaction": self.succeeded.then(|| self.id.replacen("ch_", "txn_", 1)),
            "billing_details": {
                "address": {
                    "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null,
                },
                "email": self.email,
                "name": null,
                "phone": null,
                "tax_id": null,
            },
            "captured": self.succeeded,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "description": self.description,
            "disputed": self.disputed,
            "failure_code": failed.then_some("card_declined"),
            "failure_message": failed.then_some(DECLINED),
            "fraud_details": {},
            "livemode": false,
            "metadata": self.metadata,
            "outcome": {
                "advice_code": failed.then_some("try_again_later"),
                "network_advice_code": null,
                "network_decline_code": null,
                "network_status": if failed { "declined_by_network" } else { "approved_by_network" },
                "reason": failed.then_some("generic_decline"),
                "risk_level": "normal",
                "risk_score": 12,
                "seller_message": if failed { "The bank did not say why." } else { "Payment complete." },
                "type": if failed { "issuer_declined" } else { "authorized" },
            },
            "paid": self.succeeded,
            "payment_intent": self.payment_intent,
            "payment_method": self.method.as_ref().map(|method| &method.id),
            "payment_method_details": self.method.as_ref().map_or_else(by_bank, |method| by_card(method.card, self.amount)),
            "refunded": self.succeeded && self.amount > 0 && self.amount_refunded >= self.amount,
            "status": if failed { "failed" } else { "succeeded" },
        });
        with_nulls(shown, CHARGE_NULL)
    }
}

fn by_bank() -> Value {
    json!({ "customer_balance": {}, "type": "customer_balance" })
}

fn by_card(card: Card, amount: i64) -> Value {
    json!({
        "card": {
            "amount_authorized": amount,
            "authorization_code": null,
            "brand": "visa",
            "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
            "country": "US",
            "electronic_commerce_indicator": null,
            "exp_month": 12,
            "exp_year": 2050,
            "extended_authorization": { "status": "disabled" },
            "fingerprint": format!("sandbox{}", card.last4()),
            "funding": "credit",
            "incremental_authorization": { "status": "unavailable" },
            "installments": null,
            "last4": card.last4(),
            "mandate": null,
            "multicapture": { "status": "unavailable" },
            "network": "visa",
            "network_token": { "used": false },
            "network_transaction_id": null,
            "overcapture": { "maximum_amount_capturable": amount, "status": "unavailable" },
            "regulated_status": "unregulated",
            "three_d_secure": null,
            "transaction_link_id": null,
            "wallet": null,
        },
        "type": "card",
    })
}
