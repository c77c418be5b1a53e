//! Time: what falls due when, and clocks that are told to go on.
//!
//! Each thing that falls due is one change of the state, with the clock that comes with it, and so one transaction of the file. An
//! advance is no more than a goal that is kept: whoever finds it goes on, after a crash as before.

use super::{
    DAY, HOUR, billing, checkout,
    events::now,
    happenings::Cause,
    objects::{Clock, Dispute, InvoiceStatus, Shift, Standing, Subscription},
    payments,
    state::{Pending, State},
};

/// How long the first payment of a subscription is waited for.
const INCOMPLETE_LASTS: i64 = 23 * HOUR;
/// How long before its end a trial's end is announced.
const ANNOUNCED_BEFORE: i64 = 3 * DAY;

/// What falls due. Of several at one moment the first in this order is done first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    SessionExpires,
    AnnounceTrialEnd,
    SubscriptionEnds,
    SubscriptionExpires,
    CollectAgain,
    Renew,
    FinalizeInvoice,
    RetryInvoice,
    HearOfRefund,
    LoseDispute,
}

/// When, what, and to which object.
type Entry = (i64, What, String);

impl State {
    /// The sandbox's time at this real one, in Unix seconds.
    pub(super) fn time(&self, real: i64) -> i64 {
        real.saturating_add(self.shifts.get(Shift::ID).map_or(0, |shift| shift.seconds))
    }

    /// The sandbox's time.
    pub(super) fn now(&self) -> i64 {
        self.time(now())
    }

    /// The sandbox's time, after all that is due by then has happened: whoever acts now acts later than that, and events say so.
    pub(super) fn caught_up(&mut self) -> i64 {
        let time = self.now();
        while !self.is_advancing()
            && let Some((at, what, id)) = next(self, None).filter(|(at, ..)| *at <= time)
        {
            act(self, what, &id, &Cause::at(at));
        }
        self.now()
    }

    /// The time of a customer: his own clock's, or `otherwise`.
    pub(super) fn time_of(&self, customer: Option<&str>, otherwise: i64) -> i64 {
        let clock = customer.and_then(|id| self.customers.get(id)).and_then(|customer| customer.test_clock.as_ref());
        clock.and_then(|id| self.clocks.get(id)).map_or(otherwise, |clock| clock.frozen_time)
    }

    /// Whether the sandbox's time is on its way to another one.
    pub(super) fn is_advancing(&self) -> bool {
        self.shifts.get(Shift::ID).is_some_and(|shift| shift.goal.is_some())
    }

    /// Whether an event is on its way that nobody holds back: waiting for its first attempt, or in the middle of any. What failed is not
    /// waited for, nor what is held so that newer events overtake it.
    fn is_delivering(&self) -> bool {
        let is_first = |pending: &&Pending| {
            pending.failed == 0 && self.endpoints.get(&pending.endpoint).is_some_and(|of| self.url(of).is_some())
        };
        let mut due = self.due.iter().filter_map(|(_, id)| self.pending.get(id));
        !self.switches.withhold
            && (self.under_way.values().any(|attempts| *attempts > 0) || due.any(|it| is_first(&it)))
    }

    /// Tells the sandbox's time where to go. It goes forwards only.
    pub(super) fn advance_to(&mut self, goal: i64) {
        let shift = self.shifts.get(Shift::ID).cloned().unwrap_or_default();
        let goal = goal.max(shift.goal.unwrap_or(goal));
        self.put(Shift { goal: Some(goal), ..shift });
    }
}

/// Does the next thing that is due, on any clock. `false`: nothing is, and no clock is on its way; or the sandbox's waits for deliveries.
pub(super) fn step(state: &mut State, real: i64) -> bool {
    step_shared(state, real) || step_own(state)
}

/// On the sandbox's own time, which passes by itself too.
fn step_shared(state: &mut State, real: i64) -> bool {
    let shift = state.shifts.get(Shift::ID).cloned().unwrap_or_default();
    let time = state.time(real);
    // Nobody's level may be over because time ran ahead of the event that renews it.
    let goal = shift.goal.filter(|_| !state.is_delivering());
    let limit = goal.map_or(time, |goal| goal.max(time));
    if let Some((at, what, id)) = next(state, None).filter(|(at, ..)| *at <= limit) {
        if at > time {
            state.put(Shift { seconds: at.saturating_sub(real), ..shift });
        }
        act(state, what, &id, &Cause::at(at));
        return true;
    }
    if goal.is_some() {
        state.put(Shift { seconds: limit.saturating_sub(real), goal: None, ..shift });
        return true;
    }
    false
}

/// On the clocks of some customers, which go only where they are told to.
fn step_own(state: &mut State) -> bool {
    let on_its_way = state.clocks.iter().find_map(|clock| Some((clock.clone(), clock.goal?)));
    let Some((clock, goal)) = on_its_way else { return false };
    match next(state, Some(&clock.id)).filter(|(at, ..)| *at <= goal) {
        Some((at, what, id)) => {
            let frozen_time = at.max(clock.frozen_time);
            state.put(Clock { frozen_time, ..clock });
            act(state, what, &id, &Cause::at(at));
        }
        None => state.put(Clock { frozen_time: goal, goal: None, ..clock }),
    }
    true
}

/// When the sandbox's time alone brings something, in its Unix seconds.
pub(super) fn next_due(state: &State) -> Option<i64> {
    next(state, None).map(|(at, ..)| at)
}

/// What falls due next on a clock; `None` is the sandbox's own.
fn next(state: &State, clock: Option<&str>) -> Option<Entry> {
    let of_clock = |test_clock: &Option<String>| test_clock.as_deref() == clock;
    let of_customer = |customer: &Option<String>| {
        let customer = customer.as_ref().and_then(|id| state.customers.get(id));
        customer.and_then(|customer| customer.test_clock.as_deref()) == clock
    };
    let sessions = state.open.first().filter(|_| clock.is_none());
    let sessions = sessions.map(|(at, id)| (*at, What::SessionExpires, id.clone()));
    let subscriptions = state.subscriptions.iter().filter(|subscription| of_clock(&subscription.test_clock));
    let invoices = state.invoices.iter().filter(|invoice| of_clock(&invoice.test_clock)).filter_map(|invoice| {
        let (at, what) = match invoice.status {
            InvoiceStatus::Draft => (invoice.finalizes_at?, What::FinalizeInvoice),
            InvoiceStatus::Open => (invoice.next_attempt?, What::RetryInvoice),
            _ => return None,
        };
        Some((at, what, invoice.id.clone()))
    });
    let refunds = state.refunds.iter().filter(|refund| of_customer(&refund.customer));
    let disputes = state.disputes.iter().filter(|dispute| !dispute.is_closed() && of_customer(&dispute.customer));
    sessions
        .into_iter()
        .chain(subscriptions.filter_map(of_subscription))
        .chain(invoices)
        .chain(refunds.filter_map(|refund| Some((refund.told_at?, What::HearOfRefund, refund.id.clone()))))
        .chain(disputes.map(|dispute: &Dispute| (dispute.due_by(), What::LoseDispute, dispute.id.clone())))
        .min()
}

fn of_subscription(subscription: &Subscription) -> Option<Entry> {
    let entry = |at, what| (at, what, subscription.id.clone());
    match subscription.status {
        Standing::Canceled | Standing::IncompleteExpired | Standing::Paused => return None,
        Standing::Incomplete => {
            return Some(entry(subscription.created.saturating_add(INCOMPLETE_LASTS), What::SubscriptionExpires));
        }
        Standing::Trialing | Standing::Active | Standing::PastDue | Standing::Unpaid => {}
    }
    let trial_end = subscription.trial_end.filter(|_| subscription.status == Standing::Trialing);
    let announced = trial_end.filter(|_| !subscription.trial_end_told);
    [
        // A trial of less than three days is announced when it begins.
        announced.map(|end| (end.saturating_sub(ANNOUNCED_BEFORE).max(subscription.created), What::AnnounceTrialEnd)),
        subscription.cancel_at.map(|at| (at, What::SubscriptionEnds)),
        subscription.pause.as_ref().and_then(|pause| pause.resumes_at).map(|at| (at, What::CollectAgain)),
        Some((subscription.period_end, What::Renew)),
    ]
    .into_iter()
    .flatten()
    .min()
    .map(|(at, what)| entry(at, what))
}

fn act(state: &mut State, what: What, id: &str, cause: &Cause) {
    match what {
        What::SessionExpires => checkout::expire_due(state, cause.now),
        What::AnnounceTrialEnd => billing::announce_trial_end(state, id, cause),
        What::SubscriptionEnds => billing::end(state, id, cause),
        What::SubscriptionExpires => billing::expire(state, id, cause),
        What::CollectAgain => billing::collect_again(state, id, cause),
        What::Renew => billing::renew(state, id, cause),
        What::FinalizeInvoice => billing::finalize(state, id, cause),
        What::RetryInvoice => billing::attempt(state, id, cause),
        What::HearOfRefund => payments::hear_of_refund(state, id, cause),
        What::LoseDispute => {
            if let Some(dispute) = state.disputes.get(id).cloned() {
                payments::close(state, dispute, false, cause);
            }
        }
    }
}
