//! `tollgate trigger`: an event as Stripe would deliver it, signed with the server's own secret.

mod event;
mod objects;

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use chrono::Utc;
use clap::ValueEnum;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::{Failure, admin, block_on, print, server};
use crate::{
    config::WebhookSecretConfig,
    domain::id::{EventId, SessionId, UserId},
    intake::signature,
};

/// Longer than a server may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Event types that change what a user may do, or may be about what did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(name = "checkout.session.completed")]
    Completed,
    #[value(name = "checkout.session.async_payment_succeeded")]
    PaymentSucceeded,
    #[value(name = "checkout.session.async_payment_failed")]
    PaymentFailed,
    #[value(name = "checkout.session.expired")]
    Expired,
    #[value(name = "customer.subscription.created")]
    SubscriptionCreated,
    #[value(name = "customer.subscription.updated")]
    SubscriptionUpdated,
    #[value(name = "customer.subscription.paused")]
    SubscriptionPaused,
    #[value(name = "customer.subscription.resumed")]
    SubscriptionResumed,
    #[value(name = "customer.subscription.deleted")]
    SubscriptionDeleted,
    #[value(name = "charge.refunded")]
    Refunded,
    #[value(name = "refund.created")]
    RefundCreated,
    #[value(name = "refund.failed")]
    RefundFailed,
    #[value(name = "charge.dispute.created")]
    DisputeCreated,
    #[value(name = "charge.dispute.closed")]
    DisputeClosed,
    #[value(name = "invoice.paid")]
    InvoicePaid,
    #[value(name = "invoice_payment.paid")]
    InvoicePaymentPaid,
    #[value(name = "customer.deleted")]
    CustomerDeleted,
}

impl Kind {
    /// As Stripe writes it.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What Stripe says of a session's payment with this type.
    const fn payment_status(self) -> &'static str {
        match self {
            Self::PaymentFailed | Self::Expired => "unpaid",
            _ => "paid",
        }
    }

    /// How the object stands that Stripe tells of with this type.
    const fn status(self) -> &'static str {
        match self {
            Self::SubscriptionCreated | Self::SubscriptionUpdated | Self::SubscriptionResumed => "active",
            Self::SubscriptionPaused => "paused",
            Self::SubscriptionDeleted => "canceled",
            Self::RefundFailed => "failed",
            Self::DisputeCreated => "needs_response",
            Self::DisputeClosed => "lost",
            Self::InvoicePaid | Self::InvoicePaymentPaid => "paid",
            _ => "succeeded",
        }
    }
}

/// How the session was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeWord {
    /// Once
    Payment,
    /// Again and again
    Subscription,
}

/// Arguments of `trigger`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event's type
    #[arg(value_name = "EVENT TYPE", value_enum)]
    kind: Kind,
    /// Whose purchase: a UUID
    #[arg(long, value_name = "UUID", value_parser = UserId::parse)]
    user: UserId,
    /// What was bought; may be a level that is not in the catalogue
    #[arg(long, default_value = "PRO")]
    level: String,
    /// The event's id, to deliver an event again; a new one where absent
    #[arg(long, value_name = "EVT", value_parser = EventId::parse)]
    event_id: Option<EventId>,
    /// The session's id, for several events about one purchase: its subscription, payment and invoice are named after it; a new one where absent
    #[arg(long, value_name = "CS", value_parser = SessionId::parse)]
    session: Option<SessionId>,
    /// Where the server answers
    #[arg(long, default_value = "http://127.0.0.1:3000", value_parser = server)]
    url: Url,
    /// How the session is paid
    #[arg(long, value_enum, default_value = "payment")]
    mode: ModeWord,
    /// What Stripe says of the payment; what fits the event's type where absent
    #[arg(long, value_name = "STATUS")]
    payment_status: Option<String>,
    /// How a subscription, refund or dispute stands, such as past_due or won; what fits the event's type where absent
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// What was paid, in cents; of a subscription, what its plan costs
    #[arg(long, value_name = "CENTS", default_value = "2900", value_parser = clap::value_parser!(i64).range(0..))]
    amount: i64,
    /// When Stripe made the event, in Unix seconds; now where absent
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=253_402_300_799))]
    created: Option<i64>,
    /// How often the same event is delivered, one after the other
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    times: u32,
    /// Print one JSON object per delivery
    #[arg(long)]
    json: bool,
}

/// One answer, for scripts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Delivery<'a> {
    delivery: u32,
    event_id: &'a EventId,
    status: u16,
    /// As JSON where it is JSON, else as text.
    body: Value,
}

pub(super) fn run(args: &Args, data: Option<&Path>) -> Result<(), Failure> {
    let WebhookSecretConfig { secret } = WebhookSecretConfig::from_env(data)?;
    Ok(block_on(deliver(args, &secret))?)
}

/// Delivers the event as often as asked, each time signed anew as Stripe does. An answer other than 2xx is a failure, told when
/// all have come; no answer at all ends it at once.
async fn deliver(args: &Args, secret: &SecretString) -> anyhow::Result<()> {
    let event_id = match &args.event_id {
        Some(id) => id.clone(),
        None => EventId::parse(&format!("evt_{}", Uuid::new_v4().simple()))?,
    };
    let session = match &args.session {
        Some(id) => id.clone(),
        None => SessionId::parse(&format!("cs_test_{}", Uuid::new_v4().simple()))?,
    };
    let body = serde_json::to_vec(&event::json(args, &event_id, &session, args.created.unwrap_or_else(now)))?;
    let target = format!("{}/api/webhooks/stripe", args.url.as_str().trim_end_matches('/'));
    let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build()?;

    let mut refused = 0_u32;
    for delivery in 1..=args.times {
        let answer = client
            .post(&target)
            .header("Content-Type", "application/json; charset=utf-8")
            .header("Stripe-Signature", signature::sign(secret, now(), &body))
            .body(body.clone())
            .send()
            .await
            .with_context(|| format!("delivery {delivery} of {}: no answer; is the server running?", args.times))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("delivery {delivery}: the answer broke off"))?;
        if args.json {
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let line = Delivery { delivery, event_id: &event_id, status: status.as_u16(), body };
            print(admin::json(&line, false)?)?;
        } else {
            // Whatever answers there, it may not command the terminal.
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            print(format_args!("{delivery}/{} {event_id} {} {text}", args.times, status.as_u16()))?;
        }
        refused = refused.saturating_add(u32::from(!status.is_success()));
    }
    if refused > 0 {
        bail!("{refused} of {} deliveries were not accepted", args.times);
    }
    Ok(())
}

fn now() -> i64 {
    Utc::now().timestamp()
}

#[cfg(test)]
mod tests;
