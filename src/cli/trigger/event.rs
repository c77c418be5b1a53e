//! The event itself, in the shape of API version 2026-10-28.endive: what Stripe sends for a plain session, with invented ids.
//!
//! Ids of what belongs to a session are made from the session's, and the customer's from the user's: several events about one
//! session tell one story.

use serde_json::{Value, json};

use super::{
    Args, Kind, ModeWord,
    objects::{self, Story},
};
use crate::domain::id::{EventId, SessionId};

/// How long a session is open: Stripe's default.
const OPEN_SECONDS: i64 = 86_400;

pub(super) fn json(args: &Args, id: &EventId, session: &SessionId, created: i64) -> Value {
    json!({
        "id": id.as_str(),
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": created,
        "data": { "object": object(args, session, created) },
        "livemode": false,
        "pending_webhooks": 1,
        "request": { "id": null, "idempotency_key": null },
        "type": args.kind.name(),
    })
}

fn object(args: &Args, session: &SessionId, created: i64) -> Value {
    let story = Story::new(args, session, created);
    match args.kind {
        Kind::Completed | Kind::PaymentSucceeded | Kind::PaymentFailed | Kind::Expired => {
            self::session(args, session, created)
        }
        Kind::SubscriptionCreated
        | Kind::SubscriptionUpdated
        | Kind::SubscriptionPaused
        | Kind::SubscriptionResumed
        | Kind::SubscriptionDeleted => story.subscription(),
        Kind::Refunded => story.charge(),
        Kind::RefundCreated | Kind::RefundFailed => story.refund(),
        Kind::DisputeCreated | Kind::DisputeClosed => story.dispute(),
        Kind::InvoicePaid => story.invoice(),
        Kind::InvoicePaymentPaid => story.invoice_payment(),
        Kind::CustomerDeleted => story.customer(),
    }
}

fn session(args: &Args, id: &SessionId, created: i64) -> Value {
    let expired = args.kind == Kind::Expired;
    let subscribes = args.mode == ModeWord::Subscription;
    let payment_status = args.payment_status.as_deref().unwrap_or_else(|| args.kind.payment_status());
    let unique = objects::unique(id);
    let of_session = |prefix: &str, there: bool| there.then(|| format!("{prefix}{unique}"));
    // A minute ago the buyer clicked; a session expires on its last second.
    let opened = created.saturating_sub(if expired { OPEN_SECONDS } else { 60 });
    json!({
        "id": id.as_str(),
        "object": "checkout.session",
        "adaptive_pricing": { "enabled": false },
        "allow_promotion_codes": false,
        "amount_subtotal": args.amount,
        "amount_total": args.amount,
        "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
        "cancel_url": "https://app.example.com/cancelled",
        "client_reference_id": args.user,
        "collected_information": null,
        "created": opened,
        "currency": "usd",
        "customer": (!expired).then(|| objects::customer(args.user)),
        "customer_account": null,
        "customer_details": if expired { Value::Null } else { customer() },
        "customer_email": null,
        "expires_at": opened.saturating_add(OPEN_SECONDS),
        "invoice": of_session("in_", subscribes && !expired),
        "livemode": false,
        "metadata": { "userId": args.user, "entitlementLevel": args.level },
        "mode": if subscribes { "subscription" } else { "payment" },
        "payment_intent": of_session("pi_", !subscribes && !expired && payment_status != "no_payment_required"),
        "payment_link": null,
        "payment_status": payment_status,
        "setup_intent": null,
        "status": if expired { "expired" } else { "complete" },
        "subscription": of_session("sub_", subscribes && !expired),
        "success_url": "https://app.example.com/paid?session={CHECKOUT_SESSION_ID}",
        "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
        "ui_mode": "hosted_page",
        "url": null,
    })
}

fn customer() -> Value {
    let address = json!({
        "city": "Gent", "country": "BE", "line1": null, "line2": null, "postal_code": "9000", "state": null,
    });
    json!({
        "address": address, "business_name": null, "email": "buyer@example.com", "individual_name": null,
        "name": "Robin Peeters", "phone": null, "tax_exempt": "none", "tax_ids": [],
    })
}
