//! A subscription: what is paid again and again, and until when it is paid.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{InvoiceLine, Metadata, Method, Price, Recurring, new_id, with_nulls};

const ALWAYS_NULL: &[&str] = &[
    "application",
    "application_fee_percent",
    "billing_cycle_anchor_config",
    "billing_thresholds",
    "customer_account",
    "days_until_due",
    "default_source",
    "description",
    "next_pending_invoice_item_invoice",
    "on_behalf_of",
    "pending_invoice_item_interval",
    "pending_setup_intent",
    "pending_update",
    "schedule",
    "transfer_data",
];

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum Standing {
    Trialing,
    Active,
    Incomplete,
    IncompleteExpired,
    PastDue,
    Unpaid,
    Paused,
    Canceled,
}

/// One thing that is subscribed to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Item {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) price: Price,
    pub(in crate::sandbox) quantity: i64,
}

/// Invoices are made, but nobody is charged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Pause {
    /// `keep_as_draft`, `mark_uncollectible`, `void`.
    pub(in crate::sandbox) behavior: String,
    pub(in crate::sandbox) resumes_at: Option<i64>,
}

/// A subscription. Times are Unix seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Subscription {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) customer: String,
    pub(in crate::sandbox) status: Standing,
    pub(in crate::sandbox) items: Vec<Item>,
    /// Periods are counted from here.
    pub(in crate::sandbox) anchor: i64,
    pub(in crate::sandbox) period_start: i64,
    pub(in crate::sandbox) period_end: i64,
    pub(in crate::sandbox) trial_start: Option<i64>,
    pub(in crate::sandbox) trial_end: Option<i64>,
    /// Whether it has been told that the trial ends soon.
    pub(in crate::sandbox) trial_end_told: bool,
    /// Whether a trial that ends without a card pauses it.
    pub(in crate::sandbox) pauses_without_card: bool,
    pub(in crate::sandbox) cancel_at: Option<i64>,
    pub(in crate::sandbox) cancel_at_period_end: bool,
    pub(in crate::sandbox) canceled_at: Option<i64>,
    pub(in crate::sandbox) ended_at: Option<i64>,
    /// `cancellation_requested`, `payment_failed`.
    pub(in crate::sandbox) cancel_reason: Option<String>,
    pub(in crate::sandbox) pause: Option<Pause>,
    pub(in crate::sandbox) latest_invoice: Option<String>,
    pub(in crate::sandbox) method: Option<Method>,
    pub(in crate::sandbox) metadata: Metadata,
    /// What changes of price have left for the next invoice.
    pub(in crate::sandbox) prorations: Vec<InvoiceLine>,
    pub(in crate::sandbox) test_clock: Option<String>,
}

impl Item {
    pub(in crate::sandbox) fn new(price: Price, quantity: i64, created: i64) -> Self {
        Self { id: new_id("si_", 14), created, price, quantity }
    }

    fn shown(&self, of: &Subscription) -> Value {
        json!({
            "id": self.id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": self.created,
            "current_period_end": of.period_end,
            "current_period_start": of.period_start,
            "current_trial": null,
            "discounts": [],
            "metadata": {},
            "plan": self.price.shown_as_plan(),
            "price": self.price.shown(),
            "quantity": self.quantity,
            "subscription": of.id,
            "tax_rates": [],
        })
    }

    /// What it costs for a period.
    pub(in crate::sandbox) fn line(&self, start: i64, end: i64) -> InvoiceLine {
        InvoiceLine::new(&self.price, self.quantity, Some(&self.id), start, end)
    }
}

impl Subscription {
    /// Whether it can come to life, or back to it.
    pub(in crate::sandbox) fn is_over(&self) -> bool {
        matches!(self.status, Standing::Canceled | Standing::IncompleteExpired)
    }

    pub(in crate::sandbox) fn currency(&self) -> &str {
        self.items.first().map_or("usd", |item| &item.price.currency)
    }

    /// The end of the period that begins at `start`.
    pub(in crate::sandbox) fn end_of_period(&self, start: i64) -> i64 {
        self.recurring().end(self.anchor, start)
    }

    /// How often it is paid.
    pub(in crate::sandbox) fn recurring(&self) -> Recurring {
        self.items.iter().find_map(|item| item.price.recurring.clone()).unwrap_or_default()
    }

    /// What a whole period costs, line by line.
    pub(in crate::sandbox) fn lines(&self) -> Vec<InvoiceLine> {
        self.items.iter().map(|item| item.line(self.period_start, self.period_end)).collect()
    }

    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        let items: Vec<Value> = self.items.iter().map(|item| item.shown(self)).collect();
        let without_card = if self.pauses_without_card { "pause" } else { "create_invoice" };
        let shown = json!({
            "id": self.id,
            "object": "subscription",
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": self.anchor,
            "billing_mode": {
                "type": "flexible",
                "flexible": { "proration_discounts": "included" },
                "updated_at": self.created,
            },
            "billing_schedules": [],
            "cancel_at": self.cancel_at,
            "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at,
            "cancellation_details": {
                "comment": null, "feedback": null, "feedback_option": null, "reason": self.cancel_reason,
            },
            "collection_method": "charge_automatically",
            "created": self.created,
            "currency": self.currency(),
            "customer": self.customer,
            "default_payment_method": self.method.as_ref().map(|method| &method.id),
            "default_tax_rates": [],
            "discounts": [],
            "ended_at": self.ended_at,
            "invoice_settings": {
                "account_tax_ids": null,
                "custom_fields": null,
                "description": null,
                "footer": null,
                "issuer": { "type": "self" },
            },
            "items": {
                "object": "list",
                "data": items,
                "has_more": false,
                "total_count": items.len(),
                "url": format!("/v1/subscription_items?subscription={}", self.id),
            },
            "latest_invoice": self.latest_invoice,
            "livemode": false,
            "managed_payments": { "enabled": false },
            "metadata": self.metadata,
            "pause_collection": self.pause,
            "payment_settings": {
                "payment_method_options": null,
                "payment_method_types": null,
                "save_default_payment_method": "off",
            },
            "start_date": self.created,
            "status": self.status,
            "test_clock": self.test_clock,
            "trial_end": self.trial_end,
            "trial_settings": {
                "end_behavior": { "billing_cycle_anchor": null, "missing_payment_method": without_card },
            },
            "trial_start": self.trial_start,
        });
        with_nulls(shown, ALWAYS_NULL)
    }
}
