//! A subscriber's life at the press of a button: what the demo page asks for, of the user it shows.

use std::sync::Arc;

use super::{
    DAY, Sandbox, SandboxError, billing,
    changes::{self, End},
    clocks,
    disk::NotKept,
    events::now,
    happenings::{Cause, happen, owner, whose},
    objects::{Charge, Dispute, Invoice, Metadata, Method, Portal, Subscription},
    pay_page::Card,
    payments,
    state::{Shared, State},
};
use crate::domain::id::UserId;

/// Something that happens to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happening {
    /// Time goes on until the next renewal has been charged; without a subscription, for thirty days.
    MonthPasses,
    /// The card stops paying, and time goes on until the renewal has failed twice: by then a grace of three days is over.
    RenewalFails,
    /// The card pays again, and time goes on to the next attempt.
    CardMended,
    /// The newest payment is given back.
    Refund,
    /// The payer's bank takes the newest payment back.
    Dispute,
    /// The seller wins the dispute.
    DisputeWon,
    /// The seller loses it.
    DisputeLost,
    /// The subscription is to end when what is paid is over.
    CancelAtPeriodEnd,
}

impl Sandbox {
    /// The sandbox's time, in Unix seconds: ahead of the real one, if time has been told to go on.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.0.shared.look().now()
    }

    /// Lets something happen to what a user bought, and waits until all that comes of it is kept.
    ///
    /// # Errors
    /// There is nothing it could happen to, or the file cannot be written.
    pub async fn happen(&self, user: UserId, happening: Happening) -> Result<(), SandboxError> {
        let (done, receipt) = self.0.shared.change(|state| live(state, user, happening));
        let goal = done?;
        receipt.kept().await?;
        match goal {
            Some(goal) => self.advance_to(goal).await,
            None => Ok(()),
        }
    }

    /// Lets the sandbox's time go on, and waits until all that falls due on the way has happened and is kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn advance_to(&self, goal: i64) -> Result<(), SandboxError> {
        Ok(advance(&self.0.shared, goal).await?)
    }

    /// Opens the customer portal for a user; gives its address.
    ///
    /// # Errors
    /// The user has bought nothing as a customer, or the file cannot be written.
    pub async fn open_portal(&self, user: UserId, return_url: &str) -> Result<String, SandboxError> {
        let (portal, receipt) = self.0.shared.change(|state| {
            let customers = state.customers.iter().rev().filter(|customer| !customer.deleted);
            let customer = customers.map(|customer| &customer.id).find(|id| owner(state, id) == Some(user))?;
            let portal = Portal::new(state.now(), customer.clone(), Some(return_url.to_owned()));
            state.put(portal.clone());
            Some(portal.url(&state.base))
        });
        receipt.kept().await?;
        portal.ok_or(SandboxError::Impossible("There is no customer yet: buy a subscription first"))
    }
}

/// Does what falls due until `goal`, one thing at a time, as the courier does, too: neither does what the other has done. Before time goes
/// on, what was told is delivered, or has failed once.
pub(super) async fn advance(shared: &Arc<Shared>, goal: i64) -> Result<(), NotKept> {
    let ((), _kept_with_the_next) = shared.change(|state| state.advance_to(goal));
    loop {
        let answered = shared.answered.notified();
        let ((has_more, is_advancing), receipt) =
            shared.change(|state| (clocks::step(state, now()), state.is_advancing()));
        if has_more {
            tokio::task::yield_now().await;
            continue;
        }
        receipt.kept().await?;
        if !is_advancing {
            return Ok(());
        }
        answered.await;
    }
}

/// Does it at once. What time must bring is given as the moment to wait for.
fn live(state: &mut State, user: UserId, happening: Happening) -> Result<Option<i64>, SandboxError> {
    use SandboxError::Impossible;

    state.caught_up();
    let subscription = newest_subscription(state, user);
    let subscribed = || subscription.clone().ok_or(Impossible("There is no subscription: buy one first"));
    let cause = |customer: Option<&str>| Cause::at(state.time_of(customer, state.now()));
    match happening {
        Happening::MonthPasses => Ok(Some(subscription.map_or_else(|| state.now() + 30 * DAY, |it| renewed(&it)))),
        Happening::RenewalFails => {
            let subscription = subscribed()?;
            let cause = cause(Some(&subscription.customer));
            billing::use_card(state, &subscription.customer, &Method::new(Card::FailsLater), &cause);
            Ok(Some(renewed(&subscription).saturating_add(billing::FIRST_RETRY)))
        }
        Happening::CardMended => {
            let subscription = subscribed()?;
            let cause = cause(Some(&subscription.customer));
            billing::use_card(state, &subscription.customer, &Method::new(Card::Pays), &cause);
            let of_it = |invoice: &&Invoice| invoice.subscription == subscription.id;
            Ok(state.invoices.iter().filter(of_it).filter_map(|invoice| invoice.next_attempt).min())
        }
        Happening::CancelAtPeriodEnd => {
            let mut subscription = subscribed()?;
            let cause = cause(Some(&subscription.customer));
            changes::set_end(&mut subscription, End::Period, cause.now);
            happen(state, "customer.subscription.updated", subscription, &cause);
            Ok(None)
        }
        Happening::Refund => {
            let charge = newest_charge(state, user).ok_or(Impossible("There is no payment to give back"))?;
            let (cause, reason) = (cause(charge.customer.as_deref()), Some("requested_by_customer".to_owned()));
            payments::refund(state, &charge.id, charge.refundable(), (reason, Metadata::new()), &cause);
            Ok(None)
        }
        Happening::Dispute => {
            let charge = newest_charge(state, user).ok_or(Impossible("There is no payment to dispute"))?;
            let cause = cause(charge.customer.as_deref());
            payments::dispute(state, &charge.id, false, &cause);
            Ok(None)
        }
        Happening::DisputeWon | Happening::DisputeLost => {
            let dispute = newest_dispute(state, user).ok_or(Impossible("There is no open dispute"))?;
            let cause = cause(dispute.customer.as_deref());
            payments::close(state, dispute, happening == Happening::DisputeWon, &cause);
            Ok(None)
        }
    }
}

/// When what comes at the end of the period has come.
fn renewed(subscription: &Subscription) -> i64 {
    match subscription.cancel_at {
        Some(end) if end <= subscription.period_end => end,
        _ => subscription.period_end.saturating_add(billing::DRAFT_LASTS),
    }
}

fn newest_subscription(state: &State, user: UserId) -> Option<Subscription> {
    let mut living = state.subscriptions.iter().rev().filter(|subscription| !subscription.is_over());
    living.find(|subscription| owner(state, &subscription.customer) == Some(user)).cloned()
}

/// Of those that can be given back, or disputed.
fn newest_charge(state: &State, user: UserId) -> Option<Charge> {
    let mut open = state.charges.iter().rev().filter(|charge| charge.refundable() > 0 && !charge.disputed);
    open.find(|charge| whose(state, *charge) == Some(user)).cloned()
}

fn newest_dispute(state: &State, user: UserId) -> Option<Dispute> {
    let mut open = state.disputes.iter().rev().filter(|dispute| !dispute.is_closed());
    let disputed = |dispute: &Dispute| state.charges.get(&dispute.charge);
    open.find(|dispute| disputed(dispute).and_then(|charge| whose(state, charge)) == Some(user)).cloned()
}
