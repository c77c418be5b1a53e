//! A session of the customer portal: a page where a customer looks after his own subscriptions.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::new_id;

/// A way to the portal, for one customer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Portal {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) customer: String,
    pub(in crate::sandbox) return_url: Option<String>,
}

impl Portal {
    pub(in crate::sandbox) fn new(created: i64, customer: String, return_url: Option<String>) -> Self {
        Self { id: new_id("bps_1", 32), created, customer, return_url }
    }

    /// As the API shows it; `base` is where the sandbox answers.
    pub(in crate::sandbox) fn shown(&self, base: &str) -> Value {
        json!({
            "id": self.id,
            "object": "billing_portal.session",
            "configuration": "bpc_sandbox",
            "created": self.created,
            "customer": self.customer,
            "customer_account": null,
            "flow": null,
            "livemode": false,
            "locale": null,
            "on_behalf_of": null,
            "return_url": self.return_url,
            "url": self.url(base),
        })
    }

    /// Where its page is.
    pub(in crate::sandbox) fn url(&self, base: &str) -> String {
        format!("{base}/p/session/{}", self.id)
    }
}
