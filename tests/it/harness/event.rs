//! Stripe events for tests, as the API version 2026-10-28.endive shapes them.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use uuid::Uuid;

use super::server::unix_now;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A `checkout.session.*` event with everything filled in for a paid one-off purchase of PRO; change what the test is about.
#[derive(Debug, Clone)]
pub(crate) struct SessionEvent {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) created: i64,
    pub(crate) livemode: bool,
    pub(crate) session: String,
    pub(crate) user: Uuid,
    pub(crate) level: String,
    pub(crate) mode: &'static str,
    pub(crate) payment_status: &'static str,
    pub(crate) subscription: Option<String>,
    pub(crate) client_reference_id: Option<String>,
    pub(crate) metadata: Option<Value>,
}

impl SessionEvent {
    /// A paid one-off purchase of PRO, with ids of its own.
    pub(crate) fn paid(user: Uuid) -> Self {
        let unique = format!("{}{:x}", Uuid::new_v4().simple(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            id: format!("evt_{unique}"),
            kind: "checkout.session.completed",
            created: unix_now(),
            livemode: false,
            session: format!("cs_test_{unique}"),
            user,
            level: "PRO".into(),
            mode: "payment",
            payment_status: "paid",
            subscription: None,
            client_reference_id: Some(user.to_string()),
            metadata: None,
        }
    }

    /// A paid subscription to PRO.
    pub(crate) fn subscribed(user: Uuid) -> Self {
        let event = Self::paid(user);
        Self { mode: "subscription", subscription: Some(event.id.replace("evt_", "sub_")), ..event }
    }

    /// Another Event object about the same session.
    pub(crate) fn sibling(&self) -> Self {
        Self { id: Self::paid(self.user).id, ..self.clone() }
    }

    /// The event as JSON.
    pub(crate) fn json(&self) -> Value {
        let metadata = self
            .metadata
            .clone()
            .unwrap_or_else(|| json!({ "userId": self.user.to_string(), "entitlementLevel": self.level }));
        json!({
            "id": self.id, "object": "event", "type": self.kind, "created": self.created, "livemode": self.livemode,
            "api_version": "2026-10-28.endive", "pending_webhooks": 1,
            "request": { "id": null, "idempotency_key": null },
            "data": { "object": {
                "id": self.session, "object": "checkout.session", "created": self.created - 30,
                "mode": self.mode, "payment_status": self.payment_status, "status": "complete",
                "client_reference_id": self.client_reference_id, "metadata": metadata, "livemode": self.livemode,
                "amount_total": 2900, "currency": "usd",
                "customer": "cus_Test", "subscription": self.subscription,
                "payment_intent": (self.mode == "payment").then(|| self.session.replace("cs_test_", "pi_")),
            } },
        })
    }
}
