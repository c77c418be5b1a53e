//! What was paid and given back: `/v1/invoices`, `/v1/invoice_payments`, `/v1/payment_intents`, `/v1/charges`, `/v1/refunds`,
//! `/v1/disputes`.

use serde_json::{Map, Value};

use super::{
    Call, expand,
    list::{Created, Page, is},
};
use crate::sandbox::{
    billing,
    happenings::happen,
    objects::{Charge, Dispute, Invoice, InvoicePayment, InvoiceStatus, Metadata, PaymentIntent, Refund},
    params::Params,
    payments,
    refusal::Refusal,
    state::State,
};

pub(super) fn invoices(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let (subscription, customer) = (params.text("subscription")?, params.text("customer")?);
    let status = params.word("status", &["draft", "open", "paid", "uncollectible", "void"])?;
    params.finish()?;
    let fits = |invoice: &Invoice| {
        created.fits(invoice.created)
            && is(&subscription, Some(&invoice.subscription))
            && is(&customer, Some(&invoice.customer))
            && status.is_none_or(|status| serde_json::json!(invoice.status) == status)
    };
    page.of(&state.invoices, "/v1/invoices", "invoice", fits, |invoice| invoice.shown(&state.base))
}

pub(super) fn invoice(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let fields = params.expand(&["customer", "subscription"])?;
    params.finish()?;
    Ok(expand(state, find_invoice(state, id)?.shown(&state.base), &fields))
}

fn find_invoice<'a>(state: &'a State, id: &str) -> Result<&'a Invoice, Refusal> {
    state.invoices.get(id).ok_or_else(|| Refusal::no_such("invoice", id, "invoice"))
}

pub(super) fn pay_invoice(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    params.expand(&[])?;
    params.finish()?;
    let invoice = find_invoice(state, id)?;
    if invoice.status != InvoiceStatus::Open {
        return Err(Refusal::invalid_request("Only an open invoice can be paid."));
    }
    let cause = call.cause(state.time_of(Some(&invoice.customer), call.now));
    billing::attempt(state, id, &cause);
    match state.invoices.get(id).filter(|invoice| invoice.status == InvoiceStatus::Paid) {
        Some(invoice) => Ok(invoice.shown(&state.base)),
        None => Err(Refusal::declined()),
    }
}

pub(super) fn invoice_payments(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let (invoice, status) = (params.text("invoice")?, params.word("status", &["canceled", "open", "paid"])?);
    let mut intent = None;
    if let Some(mut payment) = params.object("payment")? {
        payment.word("type", &["payment_intent"])?;
        intent = payment.text("payment_intent")?;
        payment.finish()?;
    }
    params.finish()?;
    let fits = |payment: &InvoicePayment| {
        is(&invoice, Some(&payment.invoice))
            && is(&intent, Some(&payment.payment_intent))
            && status.is_none_or(|status| status == if payment.paid_at.is_some() { "paid" } else { "open" })
    };
    page.of(&state.invoice_payments, "/v1/invoice_payments", "invoice_payment", fits, InvoicePayment::shown)
}

pub(super) fn invoice_payment(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    params.expand(&[])?;
    params.finish()?;
    let found = state.invoice_payments.get(id).map(InvoicePayment::shown);
    found.ok_or_else(|| Refusal::no_such("invoice_payment", id, "id"))
}

pub(super) fn intents(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let customer = params.text("customer")?;
    params.finish()?;
    let fits = |intent: &PaymentIntent| created.fits(intent.created) && is(&customer, intent.customer.as_deref());
    page.of(&state.intents, "/v1/payment_intents", "payment_intent", fits, PaymentIntent::shown)
}

pub(super) fn intent(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let fields = params.expand(&["customer", "latest_charge"])?;
    params.finish()?;
    let intent = state.intents.get(id).ok_or_else(|| Refusal::no_such("payment_intent", id, "intent"))?;
    Ok(expand(state, intent.shown(), &fields))
}

pub(super) fn charges(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let (customer, intent) = (params.text("customer")?, params.text("payment_intent")?);
    params.finish()?;
    let fits = |charge: &Charge| {
        created.fits(charge.created)
            && is(&customer, charge.customer.as_deref())
            && is(&intent, Some(&charge.payment_intent))
    };
    page.of(&state.charges, "/v1/charges", "charge", fits, Charge::shown)
}

pub(super) fn charge(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let fields = params.expand(&["customer", "payment_intent"])?;
    params.finish()?;
    let charge = state.charges.get(id).ok_or_else(|| Refusal::no_such("charge", id, "id"))?;
    Ok(expand(state, charge.shown(), &fields))
}

pub(super) fn refund(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let fields = params.expand(&["charge", "payment_intent"])?;
    let charge = match (params.text("charge")?, params.text("payment_intent")?) {
        (Some(id), _) => id,
        (None, Some(id)) => {
            let intent = state.intents.get(&id);
            let intent = intent.ok_or_else(|| Refusal::no_such("payment_intent", &id, "payment_intent"))?;
            let charge = intent.latest_charge.clone().filter(|_| intent.succeeded);
            charge.ok_or_else(|| Refusal::invalid_request("This PaymentIntent does not have a successful charge."))?
        }
        (None, None) => return Err(Refusal::missing("charge")),
    };
    let found = state.charges.get(&charge).ok_or_else(|| Refusal::no_such("charge", &charge, "charge"))?;
    let (left, customer) = (found.refundable(), found.customer.clone());
    let amount = params.integer("amount")?.unwrap_or(left);
    let reason = params.word("reason", &["duplicate", "fraudulent", "requested_by_customer"])?;
    let mut metadata = Metadata::new();
    params.update_metadata(&mut metadata)?;
    params.finish()?;
    if left == 0 {
        let message = format!("Charge {charge} has nothing left to refund.");
        return Err(Refusal::invalid("charge_already_refunded", "charge", message));
    }
    if !(1..=left).contains(&amount) {
        let message = format!("Invalid amount: must be from 1 to {left}, which is what is left of the charge");
        return Err(Refusal::invalid("parameter_invalid_integer", "amount", message));
    }
    if found.disputed && state.disputes.iter().any(|dispute| dispute.charge == charge && !dispute.is_inquiry()) {
        return Err(Refusal::invalid("charge_disputed", "charge", "A charge that is charged back cannot be refunded."));
    }
    let cause = call.cause(state.time_of(customer.as_deref(), call.now));
    let reason = reason.map(str::to_owned);
    let refund = payments::refund(state, &charge, amount, (reason, metadata), &cause);
    let refund = refund.ok_or_else(|| Refusal::internal("the charge changed under the lock"))?;
    Ok(expand(state, refund.shown(), &fields))
}

pub(super) fn refunds(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let (charge, intent) = (params.text("charge")?, params.text("payment_intent")?);
    params.finish()?;
    let fits = |refund: &Refund| {
        created.fits(refund.created) && is(&charge, Some(&refund.charge)) && is(&intent, Some(&refund.payment_intent))
    };
    page.of(&state.refunds, "/v1/refunds", "refund", fits, Refund::shown)
}

pub(super) fn retrieve_refund(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let fields = params.expand(&["charge", "payment_intent"])?;
    params.finish()?;
    let refund = state.refunds.get(id).ok_or_else(|| Refusal::no_such("refund", id, "id"))?;
    Ok(expand(state, refund.shown(), &fields))
}

pub(super) fn disputes(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let (charge, intent) = (params.text("charge")?, params.text("payment_intent")?);
    params.finish()?;
    let fits = |dispute: &Dispute| {
        created.fits(dispute.created)
            && is(&charge, Some(&dispute.charge))
            && is(&intent, Some(&dispute.payment_intent))
    };
    page.of(&state.disputes, "/v1/disputes", "dispute", fits, Dispute::shown)
}

pub(super) fn dispute(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let fields = params.expand(&["charge", "payment_intent"])?;
    params.finish()?;
    Ok(expand(state, find_dispute(state, id)?.shown(), &fields))
}

/// Evidence is submitted at once, if it is not said otherwise: as at Stripe.
pub(super) fn answer(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let mut dispute = open_dispute(state, id)?;
    let mut told = Map::new();
    if let Some(mut evidence) = params.object("evidence")? {
        for name in evidence.names() {
            if Dispute::takes_evidence(&name) {
                told.extend(evidence.text(&name)?.map(|text| (name, text.into())));
            }
        }
        evidence.finish()?;
    }
    params.update_metadata(&mut dispute.metadata)?;
    let submit = params.boolean("submit")?.unwrap_or(!told.is_empty());
    params.expand(&[])?;
    params.finish()?;
    let cause = call.cause(state.time_of(dispute.customer.as_deref(), call.now));
    if told.is_empty() && !submit {
        happen(state, "charge.dispute.updated", dispute, &cause);
    } else {
        payments::answer(state, dispute, told, submit, &cause);
    }
    Ok(find_dispute(state, id)?.shown())
}

pub(super) fn close(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    params.expand(&[])?;
    params.finish()?;
    let dispute = open_dispute(state, id)?;
    let cause = call.cause(state.time_of(dispute.customer.as_deref(), call.now));
    payments::close(state, dispute, false, &cause);
    Ok(find_dispute(state, id)?.shown())
}

fn find_dispute<'a>(state: &'a State, id: &str) -> Result<&'a Dispute, Refusal> {
    state.disputes.get(id).ok_or_else(|| Refusal::no_such("dispute", id, "dispute"))
}

fn open_dispute(state: &State, id: &str) -> Result<Dispute, Refusal> {
    let dispute = find_dispute(state, id)?;
    if dispute.is_closed() {
        return Err(Refusal::invalid_request("This dispute is already closed."));
    }
    Ok(dispute.clone())
}
