//! An invoice: what a subscription costs for a period, and how far its payment is. Its payments are objects of their own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Customer, Metadata, Price, Subscription, new_id, with_nulls};
use crate::sandbox::pay_page::money;

const ALWAYS_NULL: &[&str] = &[
    "account_tax_ids",
    "application",
    "custom_fields",
    "customer_account",
    "customer_address",
    "customer_phone",
    "customer_shipping",
    "default_payment_method",
    "default_source",
    "description",
    "due_date",
    "footer",
    "from_invoice",
    "last_finalization_error",
    "latest_revision",
    "on_behalf_of",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "webhooks_delivered_at",
];

const ALWAYS_ZERO: &[&str] =
    &["amount_overpaid", "amount_shipping", "post_payment_credit_notes_amount", "pre_payment_credit_notes_amount"];
const ALWAYS_EMPTY: &[&str] = &[
    "customer_tax_ids",
    "default_tax_rates",
    "discounts",
    "total_discount_amounts",
    "total_pretax_credit_amounts",
    "total_taxes",
];
/// All the same where there is neither tax nor discount.
const TOTALS: &[&str] = &["subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"];

fn of_every_invoice() -> Map<String, Value> {
    let fields = [
        ("account_country", json!("US")),
        ("account_name", json!("Sandbox")),
        (
            "automatic_tax",
            json!({
                "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null,
            }),
        ),
        ("collection_method", json!("charge_automatically")),
        ("customer_tax_exempt", json!("none")),
        ("livemode", json!(false)),
        (
            "payment_settings",
            json!({
                "default_mandate": null, "payment_method_options": null, "payment_method_types": null,
            }),
        ),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

/// How far an invoice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum InvoiceStatus {
    Draft,
    Open,
    Paid,
    Void,
    Uncollectible,
}

/// One thing on an invoice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct InvoiceLine {
    pub(in crate::sandbox) id: String,
    /// In the currency's minor unit; below 0 it is a credit.
    pub(in crate::sandbox) amount: i64,
    pub(in crate::sandbox) description: String,
    pub(in crate::sandbox) quantity: i64,
    pub(in crate::sandbox) price: Price,
    /// `None`: it is bought once.
    pub(in crate::sandbox) item: Option<String>,
    pub(in crate::sandbox) proration: bool,
    pub(in crate::sandbox) start: i64,
    pub(in crate::sandbox) end: i64,
}

/// An invoice. Times are Unix seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Invoice {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) customer: String,
    pub(in crate::sandbox) email: Option<String>,
    pub(in crate::sandbox) name: Option<String>,
    pub(in crate::sandbox) subscription: String,
    /// The subscription's, as it was.
    pub(in crate::sandbox) metadata: Metadata,
    pub(in crate::sandbox) number: Option<String>,
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) lines: Vec<InvoiceLine>,
    /// `subscription_create`, `subscription_cycle`, `subscription_update`.
    pub(in crate::sandbox) reason: String,
    pub(in crate::sandbox) status: InvoiceStatus,
    pub(in crate::sandbox) period_start: i64,
    pub(in crate::sandbox) period_end: i64,
    /// The customer's balance when it was finalised: what of a credit pays for it.
    pub(in crate::sandbox) starting_balance: i64,
    pub(in crate::sandbox) attempts: usize,
    pub(in crate::sandbox) next_attempt: Option<i64>,
    pub(in crate::sandbox) finalizes_at: Option<i64>,
    pub(in crate::sandbox) finalized_at: Option<i64>,
    pub(in crate::sandbox) paid_at: Option<i64>,
    pub(in crate::sandbox) ended_at: Option<i64>,
    pub(in crate::sandbox) payment_intent: Option<String>,
    pub(in crate::sandbox) test_clock: Option<String>,
}

/// What joins an invoice with the payment that pays it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct InvoicePayment {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) invoice: String,
    pub(in crate::sandbox) payment_intent: String,
    pub(in crate::sandbox) amount: i64,
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) paid_at: Option<i64>,
}

impl InvoiceLine {
    pub(in crate::sandbox) fn new(price: &Price, quantity: i64, item: Option<&String>, start: i64, end: i64) -> Self {
        let each = money(price.unit_amount, &price.currency);
        let per = price.recurring.as_ref().map(|recurring| format!(" (at {each} / {})", recurring.interval));
        Self {
            id: new_id("il_1", 24),
            amount: price.unit_amount.saturating_mul(quantity),
            description: format!("{quantity} × {}{}", price.name, per.unwrap_or_default()),
            quantity,
            price: price.clone(),
            item: item.cloned(),
            proration: false,
            start,
            end,
        }
    }

    /// The share of it from `now` on, as a credit or a debit.
    pub(in crate::sandbox) fn prorated(self, now: i64, is_credit: bool) -> Self {
        let whole = self.end.saturating_sub(self.start).max(1);
        let left = self.end.saturating_sub(now).clamp(0, whole);
        let share = i128::from(self.amount) * i128::from(left) / i128::from(whole);
        let share = i64::try_from(share).unwrap_or(self.amount);
        let (amount, what) = if is_credit { (-share, "Unused") } else { (share, "Remaining") };
        let description = format!("{what} time on {}", self.price.name);
        Self { amount, description, proration: true, start: now, ..self }
    }

    fn shown(&self, of: &Invoice) -> Value {
        let parent = match &self.item {
            Some(item) => json!({
                "invoice_item_details": null,
                "subscription_item_details": {
                    "invoice_item": null,
                    "proration": self.proration,
                    "proration_details": { "credited_items": null },
                    "subscription": of.subscription,
                    "subscription_item": item,
                },
                "type": "subscription_item_details",
            }),
            None => json!({
                "invoice_item_details": {
                    "invoice_item": format!("ii_{}", self.id),
                    "proration": false,
                    "proration_details": { "credited_items": null },
                    "subscription": of.subscription,
                },
                "subscription_item_details": null,
                "type": "invoice_item_details",
            }),
        };
        json!({
            "id": self.id,
            "object": "line_item",
            "amount": self.amount,
            "currency": of.currency,
            "description": self.description,
            "discount_amounts": [],
            "discountable": !self.proration,
            "discounts": [],
            "invoice": of.id,
            "livemode": false,
            "metadata": of.metadata,
            "parent": parent,
            "period": { "start": self.start, "end": self.end },
            "pretax_credit_amounts": [],
            "pricing": {
                "price_details": { "price": self.price.id, "product": self.price.product },
                "type": "price_details",
                "unit_amount_decimal": self.price.unit_amount.to_string(),
            },
            "quantity": self.quantity,
            "quantity_decimal": self.quantity.to_string(),
            "subscription": of.subscription,
            "subtotal": self.amount,
            "taxes": [],
        })
    }
}

impl Invoice {
    /// A draft.
    pub(in crate::sandbox) fn new(
        subscription: &Subscription,
        customer: Option<&Customer>,
        reason: &str,
        lines: Vec<InvoiceLine>,
        created: i64,
    ) -> Self {
        Self {
            id: new_id("in_1", 24),
            created,
            customer: subscription.customer.clone(),
            email: customer.and_then(|customer| customer.email.clone()),
            name: customer.and_then(|customer| customer.name.clone()),
            subscription: subscription.id.clone(),
            metadata: subscription.metadata.clone(),
            number: None,
            currency: subscription.currency().to_owned(),
            lines,
            reason: reason.to_owned(),
            status: InvoiceStatus::Draft,
            period_start: created,
            period_end: created,
            starting_balance: 0,
            attempts: 0,
            next_attempt: None,
            finalizes_at: None,
            finalized_at: None,
            paid_at: None,
            ended_at: None,
            payment_intent: None,
            test_clock: subscription.test_clock.clone(),
        }
    }

    pub(in crate::sandbox) fn total(&self) -> i64 {
        self.lines.iter().fold(0, |sum, line| sum.saturating_add(line.amount))
    }

    /// What is to be paid: less what the customer has as a credit.
    pub(in crate::sandbox) fn amount_due(&self) -> i64 {
        self.total().saturating_add(self.starting_balance).max(0)
    }

    /// What of a credit is left.
    pub(in crate::sandbox) fn ending_balance(&self) -> i64 {
        self.total().saturating_add(self.starting_balance).min(0)
    }

    /// As the API shows it; `base` is where the sandbox answers.
    pub(in crate::sandbox) fn shown(&self, base: &str) -> Value {
        let (total, due) = (self.total(), self.amount_due());
        let paid = if self.status == InvoiceStatus::Paid { due } else { 0 };
        let lines: Vec<Value> = self.lines.iter().map(|line| line.shown(self)).collect();
        let ended = |status| self.ended_at.filter(|_| self.status == status);
        let mut shown = json!({
            "id": self.id,
            "object": "invoice",
            "amount_due": due,
            "amount_paid": paid,
            "amount_remaining": due - paid,
            "attempt_count": self.attempts,
            "attempted": self.attempts > 0,
            "auto_advance": self.finalizes_at.is_some() || self.next_attempt.is_some(),
            "automatically_finalizes_at": self.finalizes_at,
            "billing_reason": self.reason,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "customer_email": self.email,
            "customer_name": self.name,
            "effective_at": self.finalized_at,
            "ending_balance": self.finalized_at.map(|_| self.ending_balance()),
            "hosted_invoice_url": self.finalized_at.map(|_| format!("{base}/v1/invoices/{}", self.id)),
            "invoice_pdf": null,
            "issuer": { "type": "self" },
            "lines": {
                "object": "list",
                "data": lines,
                "has_more": false,
                "total_count": lines.len(),
                "url": format!("/v1/invoices/{}/lines", self.id),
            },
            "metadata": {},
            "next_payment_attempt": self.next_attempt,
            "number": self.number,
            "parent": {
                "quote_details": null,
                "subscription_details": { "metadata": self.metadata, "subscription": self.subscription },
                "type": "subscription_details",
            },
            "period_end": self.period_end,
            "period_start": self.period_start,
            "starting_balance": self.starting_balance,
            "status": self.status,
            "status_transitions": {
                "finalized_at": self.finalized_at,
                "marked_uncollectible_at": ended(InvoiceStatus::Uncollectible),
                "paid_at": self.paid_at,
                "voided_at": ended(InvoiceStatus::Void),
            },
            "test_clock": self.test_clock,
        });
        if let Some(fields) = shown.as_object_mut() {
            fields.extend(TOTALS.iter().map(|name| ((*name).to_owned(), total.into())));
            fields.extend(ALWAYS_ZERO.iter().map(|name| ((*name).to_owned(), 0.into())));
            fields.extend(ALWAYS_EMPTY.iter().map(|name| ((*name).to_owned(), json!([]))));
            fields.extend(of_every_invoice());
        }
        with_nulls(shown, ALWAYS_NULL)
    }
}

impl InvoicePayment {
    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "object": "invoice_payment",
            "amount_paid": self.paid_at.map(|_| self.amount),
            "amount_requested": self.amount,
            "created": self.created,
            "currency": self.currency,
            "invoice": self.invoice,
            "is_default": true,
            "livemode": false,
            "payment": { "payment_intent": self.payment_intent, "type": "payment_intent" },
            "status": if self.paid_at.is_some() { "paid" } else { "open" },
            "status_transitions": { "canceled_at": null, "paid_at": self.paid_at },
        })
    }
}
