//! An event: something happened to an object, which is shown as it was then.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{API_VERSION, new_id};
use crate::domain::id::UserId;

/// What made something happen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::sandbox) struct Origin {
    /// `req_…`; `None` if it was no request to the API: a buyer, or time.
    pub(in crate::sandbox) request: Option<String>,
    pub(in crate::sandbox) idempotency_key: Option<String>,
}

/// An event, with how far its delivery is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Event {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) kind: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    /// The object as it was.
    pub(in crate::sandbox) object: Value,
    /// Values that an update has replaced.
    pub(in crate::sandbox) previous: Option<Map<String, Value>>,
    pub(in crate::sandbox) origin: Origin,
    /// Whom it concerns.
    pub(in crate::sandbox) user: Option<String>,
    /// Endpoints that took it.
    pub(in crate::sandbox) endpoints: usize,
    /// Deliveries that have not been answered 2xx, those given up among them.
    pub(in crate::sandbox) undelivered: usize,
}

impl Event {
    /// Something happened now.
    pub(in crate::sandbox) fn new(kind: &str, created: i64, object: Value, origin: Origin) -> Self {
        Self {
            id: new_id("evt_1", 24),
            kind: kind.to_owned(),
            created,
            object,
            previous: None,
            origin,
            user: None,
            endpoints: 0,
            undelivered: 0,
        }
    }

    /// Whom it concerns, if that is known.
    pub(in crate::sandbox) fn user(&self) -> Option<UserId> {
        UserId::parse(self.user.as_ref()?).ok()
    }

    /// What is delivered: the same bytes each time.
    pub(in crate::sandbox) fn body(&self) -> Vec<u8> {
        self.with_pending(self.endpoints).to_string().into_bytes()
    }

    /// As the API shows it, with what is undelivered now.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        self.with_pending(self.undelivered)
    }

    fn with_pending(&self, pending: usize) -> Value {
        let mut data = json!({ "object": self.object });
        if let (Some(previous), Some(data)) = (&self.previous, data.as_object_mut()) {
            data.insert("previous_attributes".to_owned(), Value::Object(previous.clone()));
        }
        json!({
            "id": self.id,
            "object": "event",
            "api_version": API_VERSION,
            "created": self.created,
            "data": data,
            "livemode": false,
            "pending_webhooks": pending,
            "request": { "id": self.origin.request, "idempotency_key": self.origin.idempotency_key },
            "type": self.kind,
        })
    }
}
