//! What events about money mean. They name no user, and nothing is looked up here: each says something of a payment, an invoice or a
//! customer, and the ledger knows who depends on it.

use chrono::{DateTime, Utc};

use super::{
    super::event::{
        Reference, Text,
        money::{Charge, Customer, Dispute, Invoice, InvoicePayment, Refund},
        said,
    },
    INCOMPLETE, Meaning, Occasion, ignored, parked,
};
use crate::domain::{
    change::Cause,
    event::{EventRecord, IgnoreReason, Note, ParkReason, Verdict},
    id::{CustomerId, InvoiceId, ObjectId, PaymentIntentId, SubscriptionId},
    money::{self, DisputeStatus, Fact, Facts, Object, RefundStatus, Report},
};

/// It concerns nobody that could have bought anything here: an old charge, an invoice of its own.
const UNATTRIBUTED: Verdict = ignored(IgnoreReason::Unattributed);
const UNKNOWN_STATUS: Verdict = parked(ParkReason::UnknownStatus);

/// Reads the text of `data.object`.
pub(super) fn meaning(
    occasion: Occasion,
    text: &str,
    mut record: EventRecord,
    cause: impl FnOnce(EventRecord) -> Cause,
) -> Meaning {
    let (id, facts) = match occasion {
        Occasion::Refund => read(Refund::parse(text), |it| &it.id, |it| refund(it, &record)),
        Occasion::Refunded => read(Charge::parse(text), |it| &it.id, |it| refunded(it, record.created)),
        Occasion::Dispute => read(Dispute::parse(text), |it| &it.id, |it| dispute(it, &record)),
        Occasion::InvoicePaid => read(Invoice::parse(text), |it| &it.id, |it| invoice(it, true)),
        Occasion::InvoicePaymentSucceeded => read(Invoice::parse(text), |it| &it.id, |it| invoice(it, false)),
        Occasion::InvoicePayment => read(InvoicePayment::parse(text), |it| &it.id, invoice_payment),
        _ => read(Customer::parse(text), |it| &it.id, customer_deleted),
    };
    record.object_id = id.map(|id| id.as_str().to_owned());
    match facts {
        Ok(facts) => Meaning::Report(Report { cause: cause(record), facts }),
        Err(verdict) => Meaning::Note(Note { event: record, verdict, user: None }),
    }
}

/// Its id and what it says; an object that cannot be read waits.
fn read<'a, T: 'a>(
    object: Option<T>,
    id: impl FnOnce(&T) -> &Option<Text<'a>>,
    facts: impl FnOnce(&T) -> Result<Vec<Fact>, Verdict>,
) -> (Option<ObjectId>, Result<Vec<Fact>, Verdict>) {
    object.map_or((None, Err(INCOMPLETE)), |object| (any_id(id(&object).as_ref()), facts(&object)))
}

fn any_id(text: Option<&Text<'_>>) -> Option<ObjectId> {
    said(text).and_then(|id| ObjectId::parse(id).ok())
}

/// The payment that something is about; none before there were PaymentIntents.
fn payment(reference: Option<&Reference<'_>>) -> Result<ObjectId, Verdict> {
    let id = reference.ok_or(UNATTRIBUTED)?.id().ok_or(INCOMPLETE)?;
    Ok(PaymentIntentId::parse(&id).map_err(|_| INCOMPLETE)?.object())
}

pub(super) fn invoice_id(reference: &Reference<'_>) -> Result<InvoiceId, Verdict> {
    InvoiceId::parse(&reference.id().ok_or(INCOMPLETE)?).map_err(|_| INCOMPLETE)
}

pub(super) fn subscription_id(reference: &Reference<'_>) -> Result<SubscriptionId, Verdict> {
    SubscriptionId::parse(&reference.id().ok_or(INCOMPLETE)?).map_err(|_| INCOMPLETE)
}

fn amount(amount: Option<i64>) -> Result<i64, Verdict> {
    amount.filter(|amount| *amount >= 0).ok_or(INCOMPLETE)
}

fn fact(id: ObjectId, facts: Facts) -> Fact {
    Fact { id, says: Object { facts, ..Object::default() } }
}

pub(super) fn tie(id: ObjectId, parent: ObjectId) -> Fact {
    Fact { id, says: Object { parent: Some(parent), ..Object::default() } }
}

fn refund(refund: &Refund<'_>, record: &EventRecord) -> Result<Vec<Fact>, Verdict> {
    let payment = payment(refund.payment_intent.as_ref())?;
    let id = any_id(refund.id.as_ref()).ok_or(INCOMPLETE)?;
    let known = money::Refund {
        reported_at: record.created,
        status: said(refund.status.as_ref()).and_then(RefundStatus::from_word).ok_or(UNKNOWN_STATUS)?,
        amount: amount(refund.amount)?,
        made_at: refund.made_at().ok_or(INCOMPLETE)?,
    };
    Ok(vec![fact(payment, Facts { refunds: [(id, known)].into(), ..Facts::default() })])
}

pub(super) fn refunded(charge: &Charge<'_>, reported_at: DateTime<Utc>) -> Result<Vec<Fact>, Verdict> {
    let payment = payment(charge.payment_intent.as_ref())?;
    let known = money::Charge {
        reported_at,
        refunded: amount(charge.amount_refunded)?,
        captured: amount(charge.amount_captured)?,
    };
    let parent = charge.invoice.as_ref().map(|invoice| Ok(invoice_id(invoice)?.object())).transpose()?;
    let facts = Facts { charge: Some(known), ..Facts::default() };
    Ok(vec![Fact { id: payment, says: Object { parent, facts, ..Object::default() } }])
}

fn dispute(dispute: &Dispute<'_>, record: &EventRecord) -> Result<Vec<Fact>, Verdict> {
    let payment = payment(dispute.payment_intent.as_ref())?;
    let id = any_id(dispute.id.as_ref()).ok_or(INCOMPLETE)?;
    let status = said(dispute.status.as_ref()).and_then(DisputeStatus::from_word).ok_or(UNKNOWN_STATUS)?;
    let known = money::Dispute { reported_at: record.created, status };
    Ok(vec![fact(payment, Facts { disputes: [(id, known)].into(), ..Facts::default() })])
}

pub(super) fn invoice(invoice: &Invoice<'_>, is_paid: bool) -> Result<Vec<Fact>, Verdict> {
    let subscription = subscription_id(invoice.subscription().ok_or(UNATTRIBUTED)?)?.object();
    let id = said(invoice.id.as_ref()).and_then(|id| InvoiceId::parse(id).ok()).ok_or(INCOMPLETE)?.object();
    let period_end = invoice.period_end().filter(|_| is_paid);
    let says = Object { parent: Some(subscription), period_end, ..Object::default() };
    let mut facts = vec![Fact { id: id.clone(), says }];
    if invoice.payment_intent.is_some() {
        facts.push(tie(payment(invoice.payment_intent.as_ref())?, id));
    }
    Ok(facts)
}

fn invoice_payment(paid: &InvoicePayment<'_>) -> Result<Vec<Fact>, Verdict> {
    let payment = payment(paid.payment_intent())?;
    Ok(vec![tie(payment, invoice_id(paid.invoice.as_ref().ok_or(INCOMPLETE)?)?.object())])
}

/// Old accounts have customers with ids of their own making, which no grant is kept with.
fn customer_deleted(customer: &Customer<'_>) -> Result<Vec<Fact>, Verdict> {
    let id = said(customer.id.as_ref()).ok_or(INCOMPLETE)?;
    let id = CustomerId::parse(id).map_err(|_| UNATTRIBUTED)?.object();
    Ok(vec![fact(id, Facts { deleted: true, ..Facts::default() })])
}

#[cfg(test)]
mod tests;
