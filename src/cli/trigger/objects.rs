//! What a purchase leaves at Stripe besides its session: the subscription, the payment with its charge, refund and dispute, the invoice and
//! the customer. As much of each as anybody reads who follows it.

use chrono::{DateTime, Months};
use serde_json::{Value, json};

use super::Args;
use crate::domain::id::{SessionId, UserId};

/// What the ids of all that belongs to a session have in common.
pub(super) fn unique(session: &SessionId) -> &str {
    session.as_str().trim_start_matches("cs_").trim_start_matches("test_")
}

/// The customer that a user is.
pub(super) fn customer(user: UserId) -> String {
    format!("cus_{}", user.uuid().simple())
}

/// One purchase, told at a moment.
pub(super) struct Story<'a> {
    args: &'a Args,
    unique: &'a str,
    /// Unix seconds.
    at: i64,
}

impl<'a> Story<'a> {
    pub(super) fn new(args: &'a Args, session: &'a SessionId, at: i64) -> Self {
        Self { args, unique: unique(session), at }
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.unique)
    }

    fn status(&self) -> &str {
        self.args.status.as_deref().unwrap_or_else(|| self.args.kind.status())
    }

    /// When the period ends that begins now.
    fn period_end(&self) -> i64 {
        let next = |time: DateTime<_>| time.checked_add_months(Months::new(1));
        DateTime::from_timestamp(self.at, 0).and_then(next).map_or(self.at, |end| end.timestamp())
    }

    /// With a price as Checkout makes one for a session: the catalogue knows it by amount and interval.
    pub(super) fn subscription(&self) -> Value {
        let ended_at = (self.status() == "canceled").then_some(self.at);
        let price = json!({
            "id": self.id("price_"), "object": "price", "active": false, "currency": "usd", "livemode": false,
            "metadata": {}, "product": self.id("prod_"), "recurring": { "interval": "month", "interval_count": 1 },
            "type": "recurring", "unit_amount": self.args.amount,
        });
        let item = json!({
            "id": self.id("si_"), "object": "subscription_item", "created": self.at,
            "current_period_start": self.at, "current_period_end": self.period_end(), "metadata": {}, "price": price,
            "quantity": 1, "subscription": self.id("sub_"),
        });
        json!({
            "id": self.id("sub_"), "object": "subscription", "cancel_at": null, "cancel_at_period_end": false,
            "canceled_at": ended_at, "created": self.at, "currency": "usd", "customer": customer(self.args.user),
            "ended_at": ended_at, "items": { "object": "list", "data": [item], "has_more": false },
            "latest_invoice": self.id("in_"), "livemode": false,
            "metadata": { "userId": self.args.user, "entitlementLevel": self.args.level },
            "status": self.status(), "trial_end": null, "trial_start": null,
        })
    }

    /// Given back in full.
    pub(super) fn charge(&self) -> Value {
        json!({
            "id": self.id("ch_"), "object": "charge", "amount": self.args.amount, "amount_captured": self.args.amount,
            "amount_refunded": self.args.amount, "captured": true, "created": self.at, "currency": "usd",
            "customer": customer(self.args.user), "disputed": false, "livemode": false, "metadata": {}, "paid": true,
            "payment_intent": self.id("pi_"), "refunded": true, "status": "succeeded",
        })
    }

    pub(super) fn refund(&self) -> Value {
        json!({
            "id": self.id("re_"), "object": "refund", "amount": self.args.amount, "charge": self.id("ch_"),
            "created": self.at, "currency": "usd", "metadata": {}, "payment_intent": self.id("pi_"),
            "reason": "requested_by_customer", "status": self.status(),
        })
    }

    pub(super) fn dispute(&self) -> Value {
        json!({
            "id": self.id("du_"), "object": "dispute", "amount": self.args.amount, "charge": self.id("ch_"),
            "created": self.at, "currency": "usd", "livemode": false, "metadata": {},
            "payment_intent": self.id("pi_"), "reason": "fraudulent", "status": self.status(),
        })
    }

    /// Of the period that begins now.
    pub(super) fn invoice(&self) -> Value {
        let item = json!({ "subscription_item": self.id("si_"), "subscription": self.id("sub_"), "proration": false });
        let line = json!({
            "id": self.id("il_"), "object": "line_item", "amount": self.args.amount, "currency": "usd",
            "parent": { "type": "subscription_item_details", "subscription_item_details": item },
            "period": { "start": self.at, "end": self.period_end() }, "quantity": 1,
        });
        let subscription = json!({ "subscription": self.id("sub_"), "metadata": {} });
        json!({
            "id": self.id("in_"), "object": "invoice", "amount_due": self.args.amount, "amount_paid": self.args.amount,
            "billing_reason": "subscription_cycle", "created": self.at, "currency": "usd",
            "customer": customer(self.args.user), "lines": { "object": "list", "data": [line], "has_more": false },
            "livemode": false, "metadata": {},
            "parent": { "type": "subscription_details", "subscription_details": subscription },
            "status": self.status(),
        })
    }

    pub(super) fn invoice_payment(&self) -> Value {
        json!({
            "id": self.id("inpay_"), "object": "invoice_payment", "amount_paid": self.args.amount,
            "created": self.at, "currency": "usd", "invoice": self.id("in_"), "livemode": false,
            "payment": { "type": "payment_intent", "payment_intent": self.id("pi_") }, "status": self.status(),
        })
    }

    pub(super) fn customer(&self) -> Value {
        json!({
            "id": customer(self.args.user), "object": "customer", "created": self.at, "email": "buyer@example.com",
            "livemode": false, "metadata": {}, "name": "Robin Peeters",
        })
    }
}
