//! A customer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Metadata, Method, new_id};

/// Somebody who pays. Deleted ones are kept, as Stripe does: their id is still known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Customer {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) deleted: bool,
    pub(in crate::sandbox) email: Option<String>,
    pub(in crate::sandbox) name: Option<String>,
    pub(in crate::sandbox) description: Option<String>,
    pub(in crate::sandbox) phone: Option<String>,
    pub(in crate::sandbox) metadata: Metadata,
    /// Begins the numbers of this customer's invoices.
    pub(in crate::sandbox) invoice_prefix: String,
    /// The number of the next invoice, less one.
    #[serde(default)]
    pub(in crate::sandbox) invoices: i64,
    /// Below 0 a credit, which pays for the next invoice.
    #[serde(default)]
    pub(in crate::sandbox) balance: i64,
    /// The card that pays.
    #[serde(default)]
    pub(in crate::sandbox) method: Option<Method>,
    /// The clock it lives by, if that is not the sandbox's.
    #[serde(default)]
    pub(in crate::sandbox) test_clock: Option<String>,
}

impl Customer {
    /// A customer of whom nothing is known yet.
    pub(in crate::sandbox) fn new(created: i64) -> Self {
        Self {
            id: new_id("cus_", 14),
            created,
            deleted: false,
            email: None,
            name: None,
            description: None,
            phone: None,
            metadata: Metadata::new(),
            invoice_prefix: new_id("", 8).to_ascii_uppercase(),
            invoices: 0,
            balance: 0,
            method: None,
            test_clock: None,
        }
    }

    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        json!({
            "id": self.id,
            "object": "customer",
            "address": null,
            "balance": self.balance,
            "created": self.created,
            "currency": null,
            "customer_account": null,
            "default_source": null,
            "delinquent": false,
            "description": self.description,
            "discount": null,
            "email": self.email,
            "invoice_prefix": self.invoice_prefix,
            "invoice_settings": {
                "custom_fields": null,
                "default_payment_method": self.method.as_ref().map(|method| &method.id),
                "footer": null,
                "rendering_options": null,
            },
            "livemode": false,
            "metadata": self.metadata,
            "name": self.name,
            "next_invoice_sequence": self.invoices + 1,
            "phone": self.phone,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": self.test_clock,
        })
    }
}
