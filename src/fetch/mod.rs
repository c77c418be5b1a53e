//! What events left open is asked of Stripe, beside requests and never in a webhook's way: which of two states of one second is the last,
//! how much a refunded payment was, which subscription it paid, and whether one that is about to lapse was renewed.
//!
//! The ledger keeps the questions (`ledger::Fetch`) and gives each to one replica at a time. What Stripe answers is read as its events are,
//! and goes their way; a newer event has the last word.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{FutureExt, future::join_all};
use stripe_gateway::{Fetched, GatewayError, StripeGateway};
use tokio::time::MissedTickBehavior;

use crate::{
    actor::{ApplyError, Entitlements},
    domain::{
        event::{Outcome, Verdict},
        id::{PaymentIntentId, SubscriptionId},
        money::Report,
    },
    fail_point::{self, Point},
    intake::{Interpreter, interpret::fetched},
    ledger::{Fetch, FetchEnd, FetchReason, Ledger},
};

/// How often the ledger is asked whether anything is due.
const EVERY: Duration = Duration::from_secs(1);
/// How often subscriptions are looked for that are about to lapse, in turns of `EVERY`.
const LAPSING_EVERY: u32 = 5;
/// In one turn, however many are due: what is about to lapse must be looked for, too.
const ROUNDS_AT_ONCE: u32 = 16;
const LAPSING_AT_ONCE: u32 = 500;
/// Questions at once. All of them together take no longer than one, so that none outlives its lease.
const AT_ONCE: u32 = 8;
/// Longer than all calls for one question may take.
const LEASE: Duration = Duration::from_secs(120);
/// So many failures in a row, with the pauses between them, are three days: then it is given up. Counted, since a question may have waited
/// for longer before it was asked for the first time: without a key, or while nothing ran.
const TRIES_MAX: u32 = 100;
/// Tries at most of a question whose answer panics.
const PANICS_MAX: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// An answer is the last word of the newest event's second only if that second was over when Stripe looked, which is up to a second before the
/// answer is dated.
const SECOND_IS_OVER: TimeDelta = TimeDelta::seconds(2);
/// Between questions about one subscription that is lapsing: as far as its end is away, but within these.
const LAPSING_PAUSE: (TimeDelta, TimeDelta) = (TimeDelta::minutes(1), TimeDelta::hours(12));

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Stripe(#[from] GatewayError),
    #[error("Stripe's answer means nothing certain: {0:?}")]
    Unclear(Verdict),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("a fault on our side")]
    Panicked,
    #[error("nothing of the kind can be asked about it")]
    Unaskable,
    #[error("the second of the newest event is not over")]
    TooSoon,
}

impl From<Verdict> for FetchError {
    fn from(verdict: Verdict) -> Self {
        Self::Unclear(verdict)
    }
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    gateway: StripeGateway,
    ledger: Arc<dyn Ledger>,
    entitlements: Entitlements,
    interpreter: Interpreter,
}

impl Fetcher {
    /// Takes what it works with. It asks at the pace of what nobody waits for.
    #[must_use]
    pub fn new(
        gateway: &StripeGateway,
        ledger: Arc<dyn Ledger>,
        entitlements: Entitlements,
        interpreter: Interpreter,
    ) -> Self {
        Self { gateway: gateway.in_background(), ledger, entitlements, interpreter }
    }

    /// Asks what is due, for ever.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for turn in (0..LAPSING_EVERY).cycle() {
            ticks.tick().await;
            if turn == 0
                && let Err(error) = self.ledger.find_lapsing(LAPSING_AT_ONCE).await
            {
                tracing::debug!(%error, "lapsing subscriptions are looked for later");
            }
            for _ in 0..ROUNDS_AT_ONCE {
                if !self.round().await {
                    break;
                }
            }
        }
    }

    /// Asks some of what is due. Whether there may be more, and Stripe answers.
    async fn round(&self) -> bool {
        let due = match self.ledger.fetches_due(AT_ONCE, LEASE).await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(%error, "what is to be asked of Stripe was not read");
                return false;
            }
        };
        let is_full = due.len() >= usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
        let answered = join_all(due.iter().map(|fetch| self.settle(fetch))).await;
        is_full && answered.into_iter().all(|answered| answered)
    }

    /// Asks one question and notes what became of it. Whether it was answered.
    async fn settle(&self, fetch: &Fetch) -> bool {
        let (object, reason) = (&fetch.object, fetch.reason.as_str());
        fail_point::pass(Point::FetchAsk, || object.to_string()).await;
        let ask = AssertUnwindSafe(self.ask(fetch)).catch_unwind();
        let result = ask.await.unwrap_or(Err(FetchError::Panicked));
        fail_point::pass(Point::FetchApplied, || object.to_string()).await;
        let end = match &result {
            Ok(outcome) => {
                tracing::info!(%object, reason, ?outcome, "Stripe was asked");
                FetchEnd::Answered(pause_of_lapsing(fetch))
            }
            Err(error) if is_given_up(fetch, error) => {
                tracing::error!(%object, reason, attempts = fetch.attempts, %error, "a question to Stripe is given up");
                FetchEnd::GivenUp
            }
            Err(error) => {
                tracing::warn!(%object, reason, attempts = fetch.attempts, %error, "a question to Stripe is asked again later");
                FetchEnd::Failed(pause_after(fetch.attempts))
            }
        };
        let outcome = match end {
            FetchEnd::Answered(_) => "answered",
            FetchEnd::Failed(_) => "failed",
            FetchEnd::GivenUp => "given_up",
        };
        metrics::counter!("tollgate_fetches_total", "reason" => reason, "outcome" => outcome).increment(1);
        if let Err(error) = self.ledger.end_fetch(fetch, end).await {
            tracing::debug!(%error, %object, "the question is asked again when its lease is over");
        }
        result.is_ok()
    }

    /// `None` if the answer says nothing that concerns anybody.
    async fn ask(&self, fetch: &Fetch) -> Result<Option<Outcome>, FetchError> {
        let id = fetch.object.as_str();
        fail_point::pass(Point::Meaning, || id.to_owned()).await;
        let payment = || PaymentIntentId::parse(id).map_err(|_| FetchError::Unaskable);
        let report = match fetch.reason {
            FetchReason::Tied | FetchReason::Lapsing => {
                let id = SubscriptionId::parse(id).map_err(|_| FetchError::Unaskable)?;
                return self.ask_subscription(&id, fetch.known_at).await;
            }
            FetchReason::Unmeasured => {
                let answer = self.gateway.retrieve_payment_intent(id).await?;
                Some(fetched::read_payment(&payment()?, &answer.json, given_at(&answer)?)?)
            }
            FetchReason::Unattached => self.ask_invoices(&payment()?).await?,
        };
        match report {
            Some(report) => applied(self.entitlements.report(report).await?),
            None => Ok(None),
        }
    }

    async fn ask_subscription(
        &self,
        id: &SubscriptionId,
        known_at: Option<DateTime<Utc>>,
    ) -> Result<Option<Outcome>, FetchError> {
        // Nobody has it any more.
        let Some(known_at) = known_at else { return Ok(None) };
        let answer = self.gateway.retrieve_subscription(id.as_str()).await?;
        fail_point::pass(Point::FetchAnswered, || id.to_string()).await;
        let given_at = given_at(&answer)?;
        if given_at < known_at + SECOND_IS_OVER {
            return Err(FetchError::TooSoon);
        }
        let unowned = self.interpreter.read_subscription(id, &answer.json, known_at, given_at)?;
        applied(self.entitlements.apply_unowned(unowned).await?.1)
    }

    /// Which period a payment paid; `None` if it paid for no subscription.
    async fn ask_invoices(&self, payment: &PaymentIntentId) -> Result<Option<Report>, FetchError> {
        let paid = self.gateway.invoice_payments_of(payment.as_str()).await?;
        let Some(id) = fetched::read_invoice_paid_by(&paid.json)? else { return Ok(None) };
        let invoice = self.gateway.retrieve_invoice(id.as_str()).await?;
        let Some(subscription) = fetched::read_subscription_of(&invoice.json)? else { return Ok(None) };
        let newest = self.gateway.paid_invoices_of(subscription.as_str()).await?;
        Ok(Some(fetched::read_invoices(payment, &id, &invoice.json, &newest.json)?))
    }
}

/// What the ledger would have parked, had it been an event, is no answer.
const fn applied(outcome: Outcome) -> Result<Option<Outcome>, FetchError> {
    match outcome {
        Outcome::Parked(reason) => Err(FetchError::Unclear(Verdict::Parked(reason))),
        outcome => Ok(Some(outcome)),
    }
}

fn given_at(answer: &Fetched) -> Result<DateTime<Utc>, GatewayError> {
    DateTime::from_timestamp(answer.at, 0).ok_or(GatewayError::Unreadable)
}

fn is_given_up(fetch: &Fetch, error: &FetchError) -> bool {
    is_hopeless(error, fetch.attempts) || fetch.attempts >= TRIES_MAX
}

/// Stripe keeps what ended: what it does not know is another account's, and asking again does not help. It takes nothing, for a wrong
/// key would take from everybody; what is not renewed ends by itself. Nor does it help to be read again by what panics.
fn is_hopeless(error: &FetchError, attempts: u32) -> bool {
    match error {
        FetchError::Unaskable => true,
        FetchError::Panicked | FetchError::Apply(ApplyError::Panicked) => attempts >= PANICS_MAX,
        FetchError::Stripe(error) => error.is_missing(),
        FetchError::Unclear(_) | FetchError::Apply(_) | FetchError::TooSoon => false,
    }
}

/// Of which the upper half is left to chance, so that what failed together does not come back together.
fn pause_after(attempts: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(12)).min(LONGEST_PAUSE);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// Next at its end, and after it ever more rarely.
fn pause_of_lapsing(fetch: &Fetch) -> Duration {
    let (shortest, longest) = LAPSING_PAUSE;
    let away = fetch.ends_at.map_or(shortest, |end| (end - fetch.asked_at).abs());
    away.clamp(shortest, longest).to_std().unwrap_or(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
