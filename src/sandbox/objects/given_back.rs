//! Money that goes back: a refund, which the seller wants, and a dispute, which the payer's bank does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Charge, Metadata, Method, new_id, with_nulls};
use crate::sandbox::DAY;

/// How long a bank waits for an answer.
const ANSWER_WITHIN: i64 = 7 * DAY;
/// What a seller may say; the sandbox's bank reads `uncategorized_text` alone.
const EVIDENCE: &[&str] = &[
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
];

/// A refund, of a whole charge or a part of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Refund {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) amount: i64,
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) charge: String,
    pub(in crate::sandbox) payment_intent: String,
    pub(in crate::sandbox) customer: Option<String>,
    pub(in crate::sandbox) method: Option<Method>,
    pub(in crate::sandbox) reason: Option<String>,
    pub(in crate::sandbox) metadata: Metadata,
    /// When the payer's bank says what became of it; `None` once it has.
    pub(in crate::sandbox) told_at: Option<i64>,
    pub(in crate::sandbox) failed: bool,
}

/// How a dispute stands: the words that begin with `Warning` are an inquiry's, before any money goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sandbox) enum DisputeStatus {
    WarningNeedsResponse,
    WarningUnderReview,
    WarningClosed,
    NeedsResponse,
    UnderReview,
    Won,
    Lost,
}

/// A payer's bank asks for the money back, or asks what it was for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct Dispute {
    pub(in crate::sandbox) id: String,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
    pub(in crate::sandbox) amount: i64,
    pub(in crate::sandbox) currency: String,
    pub(in crate::sandbox) charge: String,
    pub(in crate::sandbox) payment_intent: String,
    pub(in crate::sandbox) customer: Option<String>,
    pub(in crate::sandbox) status: DisputeStatus,
    pub(in crate::sandbox) evidence: Map<String, Value>,
    pub(in crate::sandbox) submissions: usize,
    pub(in crate::sandbox) metadata: Metadata,
    /// The money that was taken, and given back.
    pub(in crate::sandbox) balance_transactions: Vec<Value>,
}

impl Refund {
    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        let reference = if self.told_at.is_some() { "pending" } else { "available" };
        let mut shown = json!({
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": self.id.replacen("re_", "txn_", 1),
            "charge": self.charge,
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "customer_account": null,
            "destination_details": {
                "card": {
                    "reference_status": reference,
                    "reference_type": "acquirer_reference_number",
                    "type": "refund",
                },
                "type": "card",
            },
            "metadata": self.metadata,
            "payment_intent": self.payment_intent,
            "payment_method": self.method.as_ref().map(|method| &method.id),
            "reason": self.reason,
            "receipt_number": null,
            "source_transfer_reversal": null,
            "status": if self.failed { "failed" } else { "succeeded" },
            "transfer_reversal": null,
        });
        if let (true, Some(fields)) = (self.failed, shown.as_object_mut()) {
            fields.insert("failure_reason".to_owned(), "expired_or_canceled_card".into());
            fields.insert("failure_balance_transaction".to_owned(), self.id.replacen("re_", "txn_f", 1).into());
        }
        shown
    }
}

impl Dispute {
    /// One that the bank opens now: a chargeback, or only a question.
    pub(in crate::sandbox) fn new(charge: &Charge, is_inquiry: bool, created: i64) -> Self {
        let status = if is_inquiry { DisputeStatus::WarningNeedsResponse } else { DisputeStatus::NeedsResponse };
        let mut dispute = Self {
            id: new_id("dp_1", 24),
            created,
            amount: charge.amount,
            currency: charge.currency.clone(),
            charge: charge.id.clone(),
            payment_intent: charge.payment_intent.clone(),
            customer: charge.customer.clone(),
            status,
            evidence: Map::new(),
            submissions: 0,
            metadata: Metadata::new(),
            balance_transactions: Vec::new(),
        };
        if !is_inquiry {
            dispute.book(-dispute.amount, "Chargeback withdrawal", "dispute", created);
        }
        dispute
    }

    /// Money goes, below 0, or comes back.
    pub(in crate::sandbox) fn book(&mut self, amount: i64, what: &str, category: &str, now: i64) {
        self.balance_transactions.push(json!({
            "id": new_id("txn_1", 24),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": now,
            "balance_type": "payments",
            "created": now,
            "currency": self.currency,
            "description": format!("{what} for {}", self.charge),
            "exchange_rate": null,
            "fee": 0,
            "fee_details": [],
            "net": amount,
            "reporting_category": category,
            "source": self.id,
            "status": "available",
            "type": "adjustment",
        }));
    }

    pub(in crate::sandbox) fn is_inquiry(&self) -> bool {
        use DisputeStatus::{WarningClosed, WarningNeedsResponse, WarningUnderReview};
        matches!(self.status, WarningNeedsResponse | WarningUnderReview | WarningClosed)
    }

    pub(in crate::sandbox) fn is_closed(&self) -> bool {
        matches!(self.status, DisputeStatus::WarningClosed | DisputeStatus::Won | DisputeStatus::Lost)
    }

    /// When it is lost unless something is said.
    pub(in crate::sandbox) fn due_by(&self) -> i64 {
        self.created.saturating_add(ANSWER_WITHIN)
    }

    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        let mut evidence = with_nulls(Value::Object(self.evidence.clone()), EVIDENCE);
        if let Some(fields) = evidence.as_object_mut() {
            fields.insert("enhanced_evidence".to_owned(), json!({}));
        }
        json!({
            "id": self.id,
            "object": "dispute",
            "amount": self.amount,
            "balance_transactions": self.balance_transactions,
            "charge": self.charge,
            "created": self.created,
            "currency": self.currency,
            "enhanced_eligibility_types": [],
            "evidence": evidence,
            "evidence_details": {
                "due_by": self.due_by(),
                "enhanced_eligibility": {},
                "has_evidence": !self.evidence.is_empty(),
                "past_due": false,
                "submission_count": self.submissions,
                "submission_method": if self.submissions > 0 { "manual" } else { "not_submitted" },
            },
            "intended_submission_method": "manual",
            "is_charge_refundable": self.is_inquiry() && !self.is_closed(),
            "livemode": false,
            "metadata": self.metadata,
            "payment_intent": self.payment_intent,
            "payment_method_details": {
                "card": {
                    "brand": "visa",
                    "case_type": if self.is_inquiry() { "inquiry" } else { "chargeback" },
                    "network": "visa",
                    "network_reason_code": "10.4",
                },
                "type": "card",
            },
            "reason": "fraudulent",
            "status": self.status,
        })
    }

    /// What may be said, and is known by this name.
    pub(in crate::sandbox) fn takes_evidence(name: &str) -> bool {
        EVIDENCE.contains(&name)
    }
}
