//! What Stripe answers when it is asked how something stands: read by the same code as the events that tell of it.

use chrono::{DateTime, Utc};

use super::{
    super::event::money::{Invoice, InvoicePayment, List, PaymentIntent},
    INCOMPLETE, IgnoreReason, Interpreter, Occasion, Session, SessionId, ignored, money, parked, said,
    subscription::Seen,
};
use crate::domain::{
    change::{Cause, Change, Unowned},
    event::{ParkReason, Verdict},
    id::{InvoiceId, PaymentIntentId, SubscriptionId},
    money::Report,
};

/// An answer as text.
fn text(json: &[u8]) -> Result<&str, Verdict> {
    std::str::from_utf8(json).map_err(|_| INCOMPLETE)
}

impl Interpreter {
    /// What the session means that Stripe gave at `fetched_at`, by Stripe's clock; `None` while it is open, when it means nothing yet.
    ///
    /// That clock is never behind the event of the same change: where both say that it was paid, the event's earlier time holds,
    /// whichever of them came first.
    ///
    /// # Errors
    /// What would have become of the event.
    pub fn read_session(
        &self,
        id: &SessionId,
        json: &[u8],
        fetched_at: DateTime<Utc>,
    ) -> Result<Option<Change>, Verdict> {
        let session = Session::parse(text(json)?).ok_or(INCOMPLETE)?;
        if said(session.id.as_ref()) != Some(id.as_str()) {
            return Err(INCOMPLETE);
        }
        if self.livemode.is_some_and(|livemode| session.livemode.unwrap_or_default() != livemode) {
            return Err(ignored(IgnoreReason::LivemodeMismatch));
        }
        let occasion = match said(session.status.as_ref()) {
            Some("open") => return Ok(None),
            Some("complete") => Occasion::Completed,
            Some("expired") => Occasion::Expired,
            _ => return Err(parked(ParkReason::UnknownStatus)),
        };
        let (user, effect) = self.session(occasion, &session, Some(id.clone()), fetched_at, None)?;
        Ok(Some(Change { user, found_by: None, cause: Cause::Fetched, effect }))
    }

    /// What the subscription means that Stripe gave at `fetched_at`, by Stripe's clock. It counts as of the newest event that was known
    /// before Stripe was asked: any newer one replaces it.
    ///
    /// # Errors
    /// What would have become of an event.
    pub fn read_subscription(
        &self,
        id: &SubscriptionId,
        json: &[u8],
        as_of: DateTime<Utc>,
        fetched_at: DateTime<Utc>,
    ) -> Result<Unowned, Verdict> {
        self.fetched_subscription(text(json)?, id, Seen { as_of, fetched_at: Some(fetched_at) })
    }
}

/// How much of a payment was captured and refunded, by the payment with its charge that Stripe gave at `fetched_at`, by Stripe's clock,
/// which is never behind the events of before.
///
/// # Errors
/// What would have become of an event.
pub fn read_payment(id: &PaymentIntentId, json: &[u8], fetched_at: DateTime<Utc>) -> Result<Report, Verdict> {
    let payment = PaymentIntent::parse(text(json)?).ok_or(INCOMPLETE)?;
    let mut facts = money::refunded(payment.charge().ok_or(INCOMPLETE)?, fetched_at)?;
    facts.retain(|fact| fact.id == id.object());
    if facts.is_empty() { Err(INCOMPLETE) } else { Ok(Report { cause: Cause::Fetched, facts }) }
}

/// The invoice that a payment paid, by the list of them; `None` if it paid none.
///
/// # Errors
/// The answer cannot be read.
pub fn read_invoice_paid_by(json: &[u8]) -> Result<Option<InvoiceId>, Verdict> {
    let list = List::parse(text(json)?).ok_or(INCOMPLETE)?;
    let Some(newest) = list.texts().next() else { return Ok(None) };
    let paid = InvoicePayment::parse(newest).ok_or(INCOMPLETE)?;
    money::invoice_id(paid.invoice.as_ref().ok_or(INCOMPLETE)?).map(Some)
}

/// The subscription that an invoice is for; `None` if it is for none.
///
/// # Errors
/// The answer cannot be read.
pub fn read_subscription_of(json: &[u8]) -> Result<Option<SubscriptionId>, Verdict> {
    let invoice = Invoice::parse(text(json)?).ok_or(INCOMPLETE)?;
    invoice.subscription().map(money::subscription_id).transpose()
}

/// What ties a payment to the subscription whose period it paid: its invoice, and the newest ones that were paid, since a payment of an
/// earlier period takes nothing away.
///
/// # Errors
/// What would have become of the events.
pub fn read_invoices(
    payment: &PaymentIntentId,
    id: &InvoiceId,
    invoice: &[u8],
    newest: &[u8],
) -> Result<Report, Verdict> {
    let newest = List::parse(text(newest)?).ok_or(INCOMPLETE)?;
    let mut facts = vec![money::tie(payment.object(), id.object())];
    for text in std::iter::once(text(invoice)?).chain(newest.texts()) {
        let invoice = Invoice::parse(text).ok_or(INCOMPLETE)?;
        let is_paid = said(invoice.status.as_ref()) == Some("paid");
        facts.extend(money::invoice(&invoice, is_paid)?);
    }
    Ok(Report { cause: Cause::Fetched, facts })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{
        change::Effect,
        grant::{GrantStatus, SourceKind},
        plan,
    };

    const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn id() -> SessionId {
        SessionId::parse("cs_test_1").unwrap()
    }

    fn read(changes: &Value) -> Result<Option<Change>, Verdict> {
        let mut session = json!({
            "id": "cs_test_1", "object": "checkout.session", "mode": "payment", "status": "complete",
            "payment_status": "paid", "livemode": false, "client_reference_id": USER, "payment_intent": "pi_1",
            "customer": "cus_1", "subscription": null, "metadata": { "userId": USER, "entitlementLevel": "TRIAL" },
        });
        for (name, value) in changes.as_object().unwrap() {
            session[name] = value.clone();
        }
        Interpreter::new(plan::tests::catalogue(), Some(false)).read_session(
            &id(),
            session.to_string().as_bytes(),
            at(),
        )
    }

    #[test]
    fn a_paid_session_means_what_its_event_would_have_meant() {
        let change = read(&json!({})).unwrap().unwrap();
        let Effect::Purchase(grant) = change.effect else { panic!("a purchase") };
        assert_eq!((change.user.to_string().as_str(), change.cause), (USER, Cause::Fetched));
        assert_eq!((grant.status, grant.reported_at, grant.event), (GrantStatus::Active, at(), None));
        assert_eq!(grant.source.to_string(), "checkout:cs_test_1");
        let subscribed = json!({ "mode": "subscription", "subscription": "sub_1", "payment_intent": null });
        let Effect::Purchase(grant) = read(&subscribed).unwrap().unwrap().effect else { panic!("a purchase") };
        assert_eq!((grant.source.kind, &*grant.source.id), (SourceKind::Subscription, "sub_1"));
    }

    #[test]
    fn what_is_not_paid_gives_nothing() {
        let Effect::Purchase(grant) = read(&json!({ "payment_status": "unpaid" })).unwrap().unwrap().effect else {
            panic!("a purchase")
        };
        assert_eq!(grant.status, GrantStatus::Pending);
        assert_eq!(read(&json!({ "status": "open", "payment_status": "no_payment_required" })), Ok(None));
        let expired = read(&json!({ "status": "expired", "payment_status": "unpaid" })).unwrap().unwrap();
        assert_eq!(expired.effect, Effect::SessionExpired(id()));
    }

    #[test]
    fn what_is_not_certain_means_nothing() {
        for (changes, verdict) in [
            (json!({ "livemode": true }), ignored(IgnoreReason::LivemodeMismatch)),
            (json!({ "status": "halted" }), parked(ParkReason::UnknownStatus)),
            (json!({ "status": null }), parked(ParkReason::UnknownStatus)),
            (json!({ "metadata": {} }), parked(ParkReason::MissingMetadata)),
            (json!({ "client_reference_id": "somebody" }), parked(ParkReason::UserMismatch)),
            (json!({ "id": "cs_test_2" }), parked(ParkReason::IncompleteObject)),
        ] {
            assert_eq!(read(&changes), Err(verdict), "{changes}");
        }
        let interpreter = Interpreter::new(plan::tests::catalogue(), None);
        for body in [&b"not json"[..], b"[]", b"\xff"] {
            assert_eq!(interpreter.read_session(&id(), body, at()), Err(parked(ParkReason::IncompleteObject)));
        }
    }
}
