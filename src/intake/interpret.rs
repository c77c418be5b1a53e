//! What an event means for a user. Decided by its bytes, the catalogue and the mode alone: no clock, nothing looked up, so that
//! the same bytes mean the same whenever they are read.

pub mod fetched;
mod money;
mod subscription;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    event::{Content, Event, PayloadError, Session, said},
    signature::VerifiedPayload,
};
use crate::domain::{
    change::{Cause, Change, Effect, Unowned},
    event::{EventRecord, IgnoreReason, Note, ParkReason, Verdict},
    grant::{Grant, GrantStatus, Source, SourceKind},
    id::{CustomerId, EventId, PaymentIntentId, SessionId, SubscriptionId, UserId},
    level::Level,
    live::LiveCatalogue,
    money::Report,
    plan::{Catalogue, Mode, Plan},
    subscription::Snapshots,
};

/// What is to be done about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It changes what a user may do. Its cause is always the event.
    Change(Change),
    /// It changes what somebody may do whom it does not name. Its cause is always the event.
    Unowned(Unowned),
    /// It says something of money, whomever that concerns. Its cause is always the event.
    Report(Report),
    /// It changes nothing and is recorded.
    Note(Note),
}

impl Meaning {
    /// The event; `None` only for a change that no [`Interpreter`] has made.
    #[must_use]
    pub const fn event(&self) -> Option<&EventRecord> {
        match self {
            Self::Change(change) => change.cause.event(),
            Self::Unowned(unowned) => unowned.cause.event(),
            Self::Report(report) => report.cause.event(),
            Self::Note(note) => Some(&note.event),
        }
    }
}

/// A delivered event of which only the envelope has been read.
pub struct Envelope<'a>(Event<'a>);

impl Envelope<'_> {
    /// The event, as far as it is known; its object's id and hash are not.
    #[must_use]
    pub const fn event(&self) -> &EventRecord {
        &self.0.record
    }

    /// The event as the ledger keeps it, without what it means; its object's id is not known.
    #[must_use]
    pub fn into_event(self) -> EventRecord {
        self.0.into_record()
    }
}

/// Reads events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interpreter {
    catalogue: LiveCatalogue,
    livemode: Option<bool>,
}

const INCOMPLETE: Verdict = parked(ParkReason::IncompleteObject);

/// The event types that are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Completed,
    PaymentSucceeded,
    PaymentFailed,
    Expired,
    /// Whatever happened to it: the event carries the whole subscription.
    Subscription,
    /// Whatever happened to it: the event carries the whole refund.
    Refund,
    /// The event carries the charge.
    Refunded,
    /// Whatever happened to it: the event carries the whole dispute.
    Dispute,
    InvoicePaid,
    /// What it tells of the invoice's ties is true also where it is not paid in full.
    InvoicePaymentSucceeded,
    InvoicePayment,
    CustomerDeleted,
}

impl Occasion {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "checkout.session.completed" => Some(Self::Completed),
            "checkout.session.async_payment_succeeded" => Some(Self::PaymentSucceeded),
            "checkout.session.async_payment_failed" => Some(Self::PaymentFailed),
            "checkout.session.expired" => Some(Self::Expired),
            "customer.subscription.created"
            | "customer.subscription.updated"
            | "customer.subscription.deleted"
            | "customer.subscription.paused"
            | "customer.subscription.resumed"
            | "customer.subscription.pending_update_applied"
            | "customer.subscription.pending_update_expired"
            | "customer.subscription.trial_will_end" => Some(Self::Subscription),
            "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => Some(Self::Refund),
            "charge.refunded" => Some(Self::Refunded),
            "charge.dispute.created"
            | "charge.dispute.updated"
            | "charge.dispute.closed"
            | "charge.dispute.funds_withdrawn"
            | "charge.dispute.funds_reinstated" => Some(Self::Dispute),
            "invoice.paid" => Some(Self::InvoicePaid),
            "invoice.payment_succeeded" => Some(Self::InvoicePaymentSucceeded),
            "invoice_payment.paid" => Some(Self::InvoicePayment),
            "customer.deleted" => Some(Self::CustomerDeleted),
            _ => None,
        }
    }

    /// Why an event of another type is only acknowledged.
    fn none_of(kind: &str) -> IgnoreReason {
        match kind {
            "invoice.payment_failed"
            | "invoice.payment_action_required"
            | "invoice.finalization_failed"
            | "invoice.marked_uncollectible"
            | "invoice.voided" => IgnoreReason::ToldElsewhere,
            _ => IgnoreReason::UnhandledType,
        }
    }
}

const fn ignored(reason: IgnoreReason) -> Verdict {
    Verdict::Ignored(reason)
}

const fn parked(reason: ParkReason) -> Verdict {
    Verdict::Parked(reason)
}

impl Interpreter {
    /// `livemode` is that of the Stripe key: events of the other mode are ignored. Without a key it is `None`, and the webhook's
    /// secret alone says which events are ours: each endpoint, live or test, has its own.
    #[must_use]
    pub fn new(catalogue: impl Into<LiveCatalogue>, livemode: Option<bool>) -> Self {
        Self { catalogue: catalogue.into(), livemode }
    }

    /// What a delivery means.
    ///
    /// # Errors
    /// [`PayloadError`] if the body is no event.
    pub fn read(&self, payload: &VerifiedPayload) -> Result<Meaning, PayloadError> {
        Ok(self.meaning(Self::open(payload)?))
    }

    /// Reads a delivery's envelope only: enough to tell whether it was delivered before.
    ///
    /// # Errors
    /// [`PayloadError`] if the body is no event.
    pub fn open(payload: &VerifiedPayload) -> Result<Envelope<'_>, PayloadError> {
        Event::parse(payload.bytes(), Some(payload.signed_at())).map(Envelope)
    }

    /// What an opened delivery means.
    #[must_use]
    pub fn meaning(&self, envelope: Envelope<'_>) -> Meaning {
        self.interpret(envelope.0, Cause::Delivery)
    }

    /// What a parked event means by now; the body comes from our own ledger.
    ///
    /// # Errors
    /// [`PayloadError`] if the body is no event.
    pub fn read_again(&self, body: &Bytes) -> Result<Meaning, PayloadError> {
        Event::parse(body, None).map(|event| self.interpret(event, Cause::Retry))
    }

    fn interpret(&self, event: Event<'_>, cause: impl FnOnce(EventRecord) -> Cause) -> Meaning {
        let relevance = self.relevance(&event);
        let record = event.into_record();
        let (occasion, object, previous) = match relevance {
            Ok(found) => found,
            Err(reason) => return Meaning::Note(Note { event: record, verdict: ignored(reason), user: None }),
        };
        match occasion {
            Occasion::Subscription => self.of_subscription(object, previous, record, cause),
            Occasion::Completed | Occasion::PaymentSucceeded | Occasion::PaymentFailed | Occasion::Expired => {
                self.of_session(occasion, object, record, cause)
            }
            _ => money::meaning(occasion, object, record, cause),
        }
    }

    fn of_session(
        &self,
        occasion: Occasion,
        object: &str,
        mut record: EventRecord,
        cause: impl FnOnce(EventRecord) -> Cause,
    ) -> Meaning {
        let Some(session) = Session::parse(object) else { return unreadable(record) };
        let user = session.user_id().and_then(|id| UserId::parse(id).ok());
        let id = said(session.id.as_ref()).and_then(|id| SessionId::parse(id).ok());
        record.object_id = id.as_ref().map(|id| id.as_str().to_owned());
        match self.session(occasion, &session, id, record.created, Some(&record.id)) {
            Ok((user, effect)) => Meaning::Change(Change { user, found_by: None, cause: cause(record), effect }),
            Err(verdict) => Meaning::Note(Note { event: record, verdict, user }),
        }
    }

    /// Whether an event can mean anything here, told by its envelope.
    fn relevance<'a>(&self, event: &Event<'a>) -> Result<(Occasion, &'a str, Option<&'a str>), IgnoreReason> {
        let Content::Snapshot(object, previous) = event.content else { return Err(IgnoreReason::ThinEvent) };
        if event.is_connected {
            return Err(IgnoreReason::ConnectedAccount);
        }
        if self.livemode.is_some_and(|livemode| event.record.livemode != livemode) {
            return Err(IgnoreReason::LivemodeMismatch);
        }
        let occasion = Occasion::of(&event.record.kind).ok_or_else(|| Occasion::none_of(&event.record.kind))?;
        Ok((occasion, object, previous))
    }

    /// Whose session it is and what happened to it, as was told at that time.
    fn session(
        &self,
        occasion: Occasion,
        session: &Session<'_>,
        id: Option<SessionId>,
        reported_at: DateTime<Utc>,
        event: Option<&EventId>,
    ) -> Result<(UserId, Effect), Verdict> {
        let mode = said(session.mode.as_ref());
        if mode == Some("setup") {
            return Err(ignored(IgnoreReason::SetupMode));
        }
        if occasion == Occasion::Expired {
            return expired(session, id);
        }
        let catalogue = self.catalogue.get();
        let (user, plan) = buyer_and_plan(session, &catalogue)?;
        let mode = match mode {
            Some("payment") => Mode::Payment,
            Some("subscription") => Mode::Subscription,
            _ => return Err(parked(ParkReason::UnknownStatus)),
        };
        let status = status(occasion, said(session.payment_status.as_ref()))?;
        let id = id.ok_or(INCOMPLETE)?;
        let payment_intent = match &session.payment_intent {
            None => None,
            // Refunds and disputes will be about this id: better wait than lose it.
            Some(reference) => Some(reference.id().and_then(|id| PaymentIntentId::parse(&id).ok()).ok_or(INCOMPLETE)?),
        };
        Ok((
            user,
            Effect::Purchase(Grant {
                source: source(mode, status, session, &id)?,
                level: plan.level.clone(),
                status,
                period_end: plan.period_end(mode, session.terms(), reported_at),
                reported_at,
                event: event.cloned(),
                session: Some(id),
                payment_intent,
                // Only for people to look at; old accounts have customers with ids of their own making.
                customer: session.customer.as_ref().and_then(|reference| CustomerId::parse(&reference.id()?).ok()),
                hold: None,
                snapshots: Snapshots::default(),
            }),
        ))
    }
}

/// Who bought what: by metadata, which only a holder of the secret key can write. A `client_reference_id` proves nothing
/// (a payment link lets anybody choose it), but it must not contradict.
fn buyer_and_plan<'a>(session: &Session<'_>, catalogue: &'a Catalogue) -> Result<(UserId, &'a Plan), Verdict> {
    let (Some(user), Some(level)) = (session.user_id(), session.entitlement_level()) else {
        return Err(parked(ParkReason::MissingMetadata));
    };
    let user = UserId::parse(user).map_err(|_| parked(ParkReason::InvalidUser))?;
    if said(session.client_reference_id.as_ref()).is_some_and(|other| UserId::parse(other) != Ok(user)) {
        return Err(parked(ParkReason::UserMismatch));
    }
    let plan = Level::parse(level).ok().and_then(|level| catalogue.plan(&level));
    Ok((user, plan.ok_or(parked(ParkReason::UnknownLevel))?))
}

/// Not what its type says.
fn unreadable(event: EventRecord) -> Meaning {
    Meaning::Note(Note { event, verdict: INCOMPLETE, user: None })
}

/// A session that ended unpaid gives and takes nothing: where it names no user or has no id, there is nobody to tell and nothing
/// to wait for, so it is ignored, never parked.
fn expired(session: &Session<'_>, id: Option<SessionId>) -> Result<(UserId, Effect), Verdict> {
    let user = session.user_id().and_then(|user| UserId::parse(user).ok());
    user.zip(id).map(|(user, id)| (user, Effect::SessionExpired(id))).ok_or(ignored(IgnoreReason::Unattributed))
}

/// What is known of the purchase. `paid` and `no_payment_required` (a free trial, a full discount) are both paid.
///
/// A success that still says `unpaid` contradicts itself and waits. A failure is told by its type alone: whatever the status
/// says, no money came.
fn status(occasion: Occasion, payment_status: Option<&str>) -> Result<GrantStatus, Verdict> {
    match (occasion, payment_status) {
        (Occasion::PaymentFailed, _) => Ok(GrantStatus::Revoked),
        (_, Some("paid" | "no_payment_required")) => Ok(GrantStatus::Active),
        (Occasion::Completed, Some("unpaid")) => Ok(GrantStatus::Pending),
        _ => Err(parked(ParkReason::UnknownStatus)),
    }
}

/// The business key. A subscription's is its own id, which all its later events share.
///
/// Since API version 2025-03-31 the subscription of a delayed payment may be made only once the payment came: until then, and
/// for ever if it fails, there is no other key than the session's. What is kept under it is never live. A paid subscription session
/// without its subscription waits.
fn source(mode: Mode, status: GrantStatus, session: &Session<'_>, id: &SessionId) -> Result<Source, Verdict> {
    let of_session = || Source { kind: SourceKind::Checkout, id: id.as_str().into() };
    match (mode, &session.subscription) {
        (Mode::Payment, _) => Ok(of_session()),
        (Mode::Subscription, None) if status != GrantStatus::Active => Ok(of_session()),
        (Mode::Subscription, reference) => reference
            .as_ref()
            .and_then(|reference| SubscriptionId::parse(&reference.id()?).ok())
            .map(|subscription| Source { kind: SourceKind::Subscription, id: subscription.as_str().into() })
            .ok_or(INCOMPLETE),
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod permutation_tests;
#[cfg(test)]
mod tests;
