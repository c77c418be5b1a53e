//! What the ledger knows of a user's purchases says whether another one may be sold, and how a session stands.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Billing, CheckoutError, SessionState, SessionView};
use crate::{
    clock,
    domain::{
        grant::{Grant, GrantStatus, SourceKind},
        id::{SessionId, UserId},
        plan::Plan,
        subscription::SubscriptionStatus,
    },
    ledger::SessionRecord,
};

/// A payment that has been on its way for longer does not come any more, although nobody said so: bank debits take some two weeks, and no
/// voucher can be paid after sixty days.
const PENDING_MAX: TimeDelta = TimeDelta::days(60);

/// Why the plan must not be sold (again), if there is a reason.
pub(super) fn refusal(grants: &[Grant], plan: &Plan, now: DateTime<Utc>) -> Option<CheckoutError> {
    let of_level = || grants.iter().filter(|grant| grant.level == plan.level);
    if of_level().any(|grant| grant.was_paid() && (plan.once_per_user || is_running(grant, now))) {
        return Some(CheckoutError::AlreadyEntitled);
    }
    let is_pending = |grant: &Grant| grant.status == GrantStatus::Pending && now - grant.reported_at < PENDING_MAX;
    of_level().any(is_pending).then_some(CheckoutError::PaymentPending)
}

/// Whether it is a subscription that gives its level, or that Stripe will still try to be paid for.
fn is_running(grant: &Grant, now: DateTime<Utc>) -> bool {
    use SubscriptionStatus::{PastDue, Unpaid};
    let still_renews = || grant.snapshots.latest().is_some_and(|latest| matches!(latest.status, PastDue | Unpaid));
    grant.source.kind == SourceKind::Subscription && (grant.is_live(now) || still_renews())
}

/// A session, and whether the ledger knows how it ended: then Stripe need not be asked.
pub(super) struct Look {
    pub(super) view: SessionView,
    pub(super) is_settled: bool,
}

impl Billing {
    /// How a session of this user stands by the ledger. Those of others, and those that another program made, are not found.
    pub(super) async fn look(&self, user: UserId, id: &SessionId) -> Result<Look, CheckoutError> {
        let ledger = &self.0.ledger;
        let session = ledger.session(user, id).await?.ok_or(CheckoutError::NotFound)?;
        let grants = ledger.grants(user).await?;
        // After the grants: whoever waits for this version sees them.
        let version = ledger.versions(&[user]).await?.first().map_or(0, |(_, version)| *version);
        let bought = grants.iter().filter(|grant| grant.session.as_ref() == Some(id)).max_by_key(|grant| grant.status);
        let state = state(&session, bought, clock::now());
        let is_settled = bought.map_or(session.expired, |_| state != SessionState::Pending);
        let SessionRecord { id, level, expires_at, .. } = session;
        let granted = state == SessionState::Complete;
        Ok(Look { view: SessionView { id, level, state, granted, expires_at, version }, is_settled })
    }
}

/// `bought` is what is known of the purchase made in the session, if anything is. A subscription that has ended was bought all the same.
fn state(session: &SessionRecord, bought: Option<&Grant>, now: DateTime<Utc>) -> SessionState {
    match bought {
        Some(grant) if grant.was_paid() => SessionState::Complete,
        Some(grant) if grant.status == GrantStatus::Pending => SessionState::Pending,
        Some(_) => SessionState::Expired,
        None if session.expired || session.expires_at <= now => SessionState::Expired,
        None => SessionState::Open,
    }
}
