//! A webhook endpoint: where events go.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{API_VERSION, Metadata, new_id};

/// An address that takes events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Endpoint {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    /// `None`: the service's own, whose address is known once the service answers, and whose secret is in the settings.
    pub(in crate::sandbox) target: Option<Target>,
    pub(in crate::sandbox) enabled: bool,
    /// Types of events, or `*`.
    pub(in crate::sandbox) enabled_events: Vec<String>,
    pub(in crate::sandbox) description: Option<String>,
    pub(in crate::sandbox) metadata: Metadata,
}

/// What a caller registered.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Target {
    pub(in crate::sandbox) url: String,
    pub(in crate::sandbox) secret: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that a caller registers; its secret is made here.
    pub(in crate::sandbox) fn registered(created: i64, url: String) -> Self {
        Self { target: Some(Target { url, secret: new_id("whsec_", 32) }), ..Self::own(created) }
    }

    /// The service's own.
    pub(in crate::sandbox) fn own(created: i64) -> Self {
        Self {
            id: new_id("we_1", 24),
            created,
            target: None,
            enabled: true,
            enabled_events: vec!["*".to_owned()],
            description: None,
            metadata: Metadata::new(),
        }
    }

    /// Whether events of this type go there.
    pub(in crate::sandbox) fn takes(&self, kind: &str) -> bool {
        self.enabled && self.enabled_events.iter().any(|enabled| enabled == "*" || enabled == kind)
    }

    /// As the API shows it, with the address it has now.
    pub(in crate::sandbox) fn shown(&self, url: &str) -> Value {
        json!({
            "id": self.id,
            "object": "webhook_endpoint",
            "api_version": API_VERSION,
            "application": null,
            "created": self.created,
            "description": self.description,
            "enabled_events": self.enabled_events,
            "livemode": false,
            "metadata": self.metadata,
            "status": if self.enabled { "enabled" } else { "disabled" },
            "url": url,
        })
    }
}
