//! Money comes and goes: charges, refunds, disputes. A card's number says what becomes of them.

use serde_json::{Map, Value};

use super::{
    HOUR,
    happenings::{Cause, happen, tell},
    objects::{Charge, Dispute, DisputeStatus, Metadata, Method, PaymentIntent, Refund, new_id},
    pay_page::Card,
    state::State,
};

/// What wins a dispute, as at Stripe's test mode; anything else loses it.
const WINNING: &str = "winning_evidence";

/// What somebody is to pay.
#[derive(Debug, Clone)]
pub(super) struct Due {
    /// In the currency's minor unit.
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) customer: Option<String>,
    pub(super) description: Option<String>,
    pub(super) metadata: Metadata,
}

/// A payment that nobody has tried yet.
pub(super) fn open(state: &mut State, due: Due, now: i64) -> String {
    let Due { amount, currency, customer, description, metadata } = due;
    let id = new_id("pi_3", 24);
    let created = PaymentIntent {
        id: id.clone(),
        created: now,
        amount,
        currency,
        customer,
        description,
        method: None,
        metadata,
        succeeded: false,
        latest_charge: None,
    };
    state.put(created);
    id
}

/// Whether a charge to this would succeed: no card at all is money that came by bank.
pub(super) fn pays(method: Option<&Method>) -> bool {
    method.is_none_or(|method| method.card != Card::FailsLater)
}

/// Tries a payment. `false`: it failed, or had succeeded before.
pub(super) fn charge(
    state: &mut State,
    intent: &str,
    method: Option<&Method>,
    email: Option<String>,
    cause: &Cause,
) -> bool {
    let Some(mut intent) = state.intents.get(intent).filter(|intent| !intent.succeeded).cloned() else { return false };
    let charge = Charge {
        id: new_id("ch_3", 24),
        created: cause.now,
        amount: intent.amount,
        amount_refunded: 0,
        currency: intent.currency.clone(),
        customer: intent.customer.clone(),
        description: intent.description.clone(),
        email,
        payment_intent: intent.id.clone(),
        method: method.cloned(),
        metadata: intent.metadata.clone(),
        succeeded: pays(method),
        disputed: false,
    };
    intent.method = method.cloned();
    intent.latest_charge = Some(charge.id.clone());
    intent.succeeded = charge.succeeded;
    let (id, succeeded) = (charge.id.clone(), charge.succeeded);
    let (of_charge, of_intent) = if succeeded {
        ("charge.succeeded", "payment_intent.succeeded")
    } else {
        ("charge.failed", "payment_intent.payment_failed")
    };
    happen(state, of_charge, charge, cause);
    happen(state, of_intent, intent, cause);
    match method.map(|method| method.card) {
        Some(Card::Disputed) => dispute(state, &id, false, cause),
        Some(Card::Inquired) => dispute(state, &id, true, cause),
        _ => {}
    }
    succeeded
}

/// Gives back so much of a charge, which must have it.
pub(super) fn refund(
    state: &mut State,
    charge: &str,
    amount: i64,
    (reason, metadata): (Option<String>, Metadata),
    cause: &Cause,
) -> Option<Refund> {
    let mut charge = state.charges.get(charge).filter(|charge| charge.refundable() >= amount).cloned()?;
    let refund = Refund {
        id: new_id("re_3", 24),
        created: cause.now,
        amount,
        currency: charge.currency.clone(),
        charge: charge.id.clone(),
        payment_intent: charge.payment_intent.clone(),
        customer: charge.customer.clone(),
        method: charge.method.clone(),
        reason,
        metadata,
        told_at: Some(cause.now.saturating_add(HOUR)),
        failed: false,
    };
    charge.amount_refunded = charge.amount_refunded.saturating_add(amount);
    happen(state, "refund.created", refund.clone(), cause);
    happen(state, "charge.refunded", charge, cause);
    Some(refund)
}

/// The payer's bank says what became of a refund.
pub(super) fn hear_of_refund(state: &mut State, id: &str, cause: &Cause) {
    let Some(mut refund) = state.refunds.get(id).filter(|refund| refund.told_at.is_some()).cloned() else { return };
    refund.told_at = None;
    refund.failed = refund.method.as_ref().is_some_and(|method| method.card == Card::RefundFails);
    if !refund.failed {
        return happen(state, "refund.updated", refund, cause);
    }
    happen(state, "refund.updated", refund.clone(), cause);
    tell(state, "refund.failed", &refund, cause);
    if let Some(mut charge) = state.charges.get(&refund.charge).cloned() {
        charge.amount_refunded = charge.amount_refunded.saturating_sub(refund.amount);
        happen(state, "charge.updated", charge, cause);
    }
}

/// The payer's bank takes the money back, or asks what it was for.
pub(super) fn dispute(state: &mut State, charge: &str, is_inquiry: bool, cause: &Cause) {
    let Some(mut charge) = state.charges.get(charge).filter(|charge| charge.succeeded).cloned() else { return };
    let dispute = Dispute::new(&charge, is_inquiry, cause.now);
    charge.disputed = true;
    state.put(charge);
    happen(state, "charge.dispute.created", dispute.clone(), cause);
    if !is_inquiry {
        tell(state, "charge.dispute.funds_withdrawn", &dispute, cause);
    }
}

/// The seller says something to a dispute. `submit`: and the bank decides.
pub(super) fn answer(state: &mut State, mut dispute: Dispute, told: Map<String, Value>, submit: bool, cause: &Cause) {
    dispute.evidence.extend(told);
    let is_winning = dispute.evidence.get("uncategorized_text").and_then(Value::as_str) == Some(WINNING);
    if submit {
        dispute.submissions = dispute.submissions.saturating_add(1);
        dispute.status =
            if dispute.is_inquiry() { DisputeStatus::WarningUnderReview } else { DisputeStatus::UnderReview };
    }
    happen(state, "charge.dispute.updated", dispute.clone(), cause);
    if submit {
        close(state, dispute, is_winning, cause);
    }
}

/// The bank decides: an inquiry comes to nothing either way.
pub(super) fn close(state: &mut State, mut dispute: Dispute, is_won: bool, cause: &Cause) {
    dispute.status = match (dispute.is_inquiry(), is_won) {
        (true, _) => DisputeStatus::WarningClosed,
        (false, true) => DisputeStatus::Won,
        (false, false) => DisputeStatus::Lost,
    };
    let is_given_back = dispute.status == DisputeStatus::Won;
    if is_given_back {
        dispute.book(dispute.amount, "Chargeback reversal", "dispute_reversal", cause.now);
    }
    happen(state, "charge.dispute.closed", dispute.clone(), cause);
    if is_given_back {
        tell(state, "charge.dispute.funds_reinstated", &dispute, cause);
    }
}
