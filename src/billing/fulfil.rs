//! The page a buyer comes back to does not wait for the webhook: where the ledger does not know how a session ended, Stripe is asked,
//! and its answer goes the way of an event.
//!
//! It grants nothing by itself. What the answer means is intake's to say, with the code that reads the event; it is applied by the user's
//! actor under the same business key, so that the event finds it done, whichever comes first. Stripe's failures are no failures here: the
//! webhook is still on its way.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::DateTime;
use futures::FutureExt;
use stripe_gateway::StripeGateway;
use tokio::time::Instant;

use super::{Billing, CheckoutError, SessionState, SessionView, standing::Look};
use crate::{
    actor::Entitlements,
    domain::id::{SessionId, UserId},
    fail_point::{self, Point},
    intake::Interpreter,
    recent::Recent,
};

/// A session is not asked about again for so long, however often its page is looked at. This process' own; each replica asks.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// A page is not kept waiting for longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Sessions of which is remembered that they were asked about; twice as many at most.
const REMEMBERED: usize = 4096;

/// Tells how sessions stand. Clones share everything.
#[derive(Clone)]
pub struct Fulfilment {
    billing: Billing,
    interpreter: Interpreter,
    entitlements: Entitlements,
    asked: Arc<Mutex<Recent<SessionId, Asked>>>,
}

#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    answer: Answer,
}

/// What Stripe said of a session that the ledger does not know the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// As the ledger has it: it is open, or Stripe knows nothing of it.
    AsKnown,
    /// Nothing (yet), or what cannot be applied (yet).
    Nothing,
}

impl Fulfilment {
    /// What is for these three together.
    #[must_use]
    pub fn new(billing: Billing, interpreter: Interpreter, entitlements: Entitlements) -> Self {
        Self { billing, interpreter, entitlements, asked: Arc::new(Mutex::new(Recent::new(REMEMBERED))) }
    }

    /// How a session of this user stands; one that was paid is granted by now, if Stripe can be asked. Those of others, and those that
    /// another program made, are not found. `may_ask` is called where Stripe would be asked, and what it says is this one's error.
    ///
    /// # Errors
    /// [`CheckoutError::NotFound`]; Stripe was asked too often on behalf of this user; or the ledger cannot be reached.
    pub async fn session(
        &self,
        user: UserId,
        id: &str,
        may_ask: impl FnOnce() -> Result<(), CheckoutError>,
    ) -> Result<SessionView, CheckoutError> {
        let id = SessionId::parse(id).map_err(|_| CheckoutError::NotFound)?;
        let Look { view, is_settled } = self.billing.look(user, &id).await?;
        let Some(gateway) = self.billing.0.gateway.as_ref().filter(|_| !is_settled) else { return Ok(view) };
        let may_ask = || may_ask().and_then(|()| self.billing.0.lookup_limit.check(user));
        if let Some(answer) = self.answered(&id, may_ask)? {
            return Ok(told(view, answer));
        }
        let ask = AssertUnwindSafe(self.ask(gateway, user, &id)).catch_unwind();
        let answer = ask.await.unwrap_or_else(|_| counted("failed", Answer::Nothing));
        self.remember(&id, answer);
        let Look { view, is_settled } = self.billing.look(user, &id).await?;
        Ok(if is_settled { view } else { told(view, answer) })
    }

    /// What was answered a moment ago. Otherwise it is for this caller to ask, if he may, and for others to wait for the next time.
    fn answered(
        &self,
        id: &SessionId,
        may_ask: impl FnOnce() -> Result<(), CheckoutError>,
    ) -> Result<Option<Answer>, CheckoutError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = asked.get(id).filter(|asked| asked.at.elapsed() < ASK_EVERY).map(|asked| asked.answer);
        if lately.is_none() {
            may_ask()?;
            asked.insert(id.clone(), Asked { at: Instant::now(), answer: Answer::Nothing });
        }
        Ok(lately)
    }

    fn remember(&self, id: &SessionId, answer: Answer) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(id.clone(), Asked { at: Instant::now(), answer });
    }

    async fn ask(&self, gateway: &StripeGateway, user: UserId, id: &SessionId) -> Answer {
        let gateway = gateway.in_background();
        let fetched = match tokio::time::timeout(ANSWER_WITHIN, gateway.retrieve_session(id.as_str())).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(error)) if error.is_missing() => return counted("missing", Answer::AsKnown),
            Ok(Err(error)) => {
                tracing::warn!(session.id = %id, %error, "a session could not be fetched");
                return counted("failed", Answer::Nothing);
            }
            Err(_) => return counted("failed", Answer::Nothing),
        };
        let Some(at) = DateTime::from_timestamp(fetched.at, 0) else { return counted("failed", Answer::Nothing) };
        fail_point::pass(Point::Meaning, || id.to_string()).await;
        match self.interpreter.read_session(id, &fetched.json, at) {
            Ok(None) => counted("open", Answer::AsKnown),
            Ok(Some(change)) if change.user == user => match self.entitlements.apply(change).await {
                Ok(outcome) => {
                    tracing::info!(session.id = %id, user.id = %user, ?outcome, "a fetched session was applied");
                    counted("applied", Answer::Nothing)
                }
                Err(error) => {
                    tracing::warn!(session.id = %id, user.id = %user, %error, "a fetched session was not applied");
                    counted("failed", Answer::Nothing)
                }
            },
            // The webhook says the same, and is parked, where operators see it.
            unclear => {
                tracing::warn!(session.id = %id, user.id = %user, ?unclear, "a fetched session means nothing");
                counted("unclear", Answer::Nothing)
            }
        }
    }
}

fn counted(outcome: &'static str, answer: Answer) -> Answer {
    metrics::counter!("tollgate_sessions_fetched_total", "outcome" => outcome).increment(1);
    answer
}

/// How a session stands of which the ledger does not know the end. Without Stripe's word nobody may be sent to pay (again).
fn told(view: SessionView, answer: Answer) -> SessionView {
    match answer {
        Answer::AsKnown => view,
        Answer::Nothing => SessionView { state: SessionState::Pending, ..view },
    }
}
