//! What operators look at, and what they set going: the inbox, what a user has, parked events to be tried again.
//!
//! A replay is no way of its own: it reads the kept payload again and sends what it means by now through the user's actor, as the
//! sweep of parked events does. The ledger lets one of them apply it, so that both may try at once. It does not count as
//! one of the sweep's tries, which would make the sweep come more rarely.

mod by_hand;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;

pub use self::by_hand::{Gift, Taking};
pub use crate::ledger::{
    FetchCount, HistoryEntry, InboxEvent, InboxFilter, InboxPlace, Instance, ParkedCount, Standing, StoredEvent,
};
use crate::{
    actor::{ApplyError, Entitlements},
    domain::{
        entitlement::Entitlement,
        event::{Outcome, ParkReason, Verdict},
        grant::Grant,
        id::{EventId, UserId},
    },
    ledger::{Ledger, LedgerError},
    trial::{Retried, Trials, Will},
};

/// Events that one call for many tries at most: it is answered within seconds also where each has to wait.
const REPLAYED_AT_ONCE: u32 = 64;
const IN_FLIGHT: usize = 16;
/// Events shown beside what a user has.
const EVENTS_OF_USER: u32 = 50;
/// How far back a summary counts: all of the inbox would be read for hours.
const COUNTED: TimeDelta = TimeDelta::days(1);

/// The reason of an event that is parked with a payload that cannot be read.
const UNREADABLE: &str = "unreadable_payload";

/// Why operators do not get what they asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// The inbox has no such event.
    #[error("no such event")]
    NoSuchEvent,
    /// Only parked events can be tried again.
    #[error("the event is not parked")]
    NotParked,
    /// The application has no such user.
    #[error("no such user")]
    NoSuchUser,
    /// The user has no such grant.
    #[error("no such grant")]
    NoSuchGrant,
    /// What Stripe sold is not taken by hand.
    #[error("the grant was not given by hand")]
    NotByHand,
    /// The id is that of another grant.
    #[error("the grant's id is taken")]
    GrantIdTaken,
    /// What is to be given would have ended already.
    #[error("the end is in the past")]
    Over,
    /// The ledger did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The event could not be tried; it is as parked as before, or has been applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// What came of trying a parked event again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// It has had its effect.
    Applied,
    /// A better-informed event was there before.
    Superseded,
    /// It waits on, for the reason of this word.
    StillParked(String),
}

/// What came of trying many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// How many were looked at. What somebody else has dealt with meanwhile is counted here alone.
    pub tried: u64,
    /// How many have had their effect.
    pub applied: u64,
    /// How many were superseded.
    pub superseded: u64,
    /// How many wait on.
    pub parked: u64,
    /// How many could not be tried.
    pub failed: u64,
    /// Where the next call goes on; none when all have been tried.
    pub next: Option<InboxPlace>,
}

/// What a user has, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserReport {
    /// The state.
    pub entitlement: Entitlement,
    /// What it is folded from.
    pub grants: Vec<Grant>,
    /// The newest events.
    pub events: Vec<InboxEvent>,
}

/// How the service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// From when on events are counted.
    pub since: DateTime<Utc>,
    /// How the events stand that were received since.
    pub received: Vec<(Standing, u64)>,
    /// Everything that is parked.
    pub parked: Vec<ParkedCount>,
    /// What is to be asked of Stripe.
    pub fetches: Vec<FetchCount>,
    /// Users with a live actor, in this process.
    pub live_actors: usize,
    /// Users whose newest state this process has not shown to readers.
    pub unpublished: usize,
    /// All replicas.
    pub instances: Vec<Instance>,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Operators {
    ledger: Arc<dyn Ledger>,
    entitlements: Entitlements,
    trials: Trials,
}

impl Operators {
    /// Takes what it reads from, and what events are applied through.
    #[must_use]
    pub const fn new(ledger: Arc<dyn Ledger>, entitlements: Entitlements, trials: Trials) -> Self {
        Self { ledger, entitlements, trials }
    }

    /// Events, newest first: at most `limit`.
    ///
    /// # Errors
    /// [`OperatorError::Ledger`].
    pub async fn events(&self, filter: &InboxFilter, limit: u32) -> Result<Vec<InboxEvent>, OperatorError> {
        Ok(self.ledger.events(filter, limit).await?)
    }

    /// One event, with what is kept of it.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchEvent`] and [`OperatorError::Ledger`].
    pub async fn event(&self, id: &str) -> Result<StoredEvent, OperatorError> {
        self.ledger.event(id).await?.ok_or(OperatorError::NoSuchEvent)
    }

    /// Tries a parked event again, now.
    ///
    /// # Errors
    /// [`OperatorError`]; the call may be made again, always.
    pub async fn replay(&self, id: &str) -> Result<Tried, OperatorError> {
        let StoredEvent { event, payload } = self.event(id).await?;
        if event.standing != Standing::Parked {
            return Err(OperatorError::NotParked);
        }
        let (Some(payload), Ok(id)) = (payload, EventId::parse(id)) else {
            return Ok(Tried::StillParked(UNREADABLE.to_owned()));
        };
        let (user, outcome) = match self.trials.retry(&id, &payload, Will::Person).await? {
            Retried::Tried(user, outcome) => (user, outcome),
            Retried::Waits(Verdict::Parked(reason)) => return Ok(Tried::StillParked(reason.to_string())),
            Retried::Waits(Verdict::Ignored(reason)) => return Ok(Tried::StillParked(reason.to_string())),
            Retried::Unreadable => return Ok(Tried::StillParked(UNREADABLE.to_owned())),
            Retried::Poison => return Ok(Tried::StillParked(ParkReason::Poison.to_string())),
        };
        Ok(match outcome {
            Outcome::Applied => {
                metrics::counter!("tollgate_events_unparked_total").increment(1);
                tracing::info!(event.id = %id, user.id = user.map(tracing::field::display), "applied parked event");
                Tried::Applied
            }
            Outcome::Superseded => Tried::Superseded,
            Outcome::Parked(reason) => Tried::StillParked(reason.to_string()),
            // Somebody else was quicker.
            Outcome::Duplicate | Outcome::DuplicateWaiting | Outcome::Ignored(_) => {
                let InboxEvent { standing, reason, .. } = self.event(id.as_str()).await?.event;
                match standing {
                    Standing::Applied => Tried::Applied,
                    Standing::Superseded => Tried::Superseded,
                    Standing::Parked | Standing::Ignored => Tried::StillParked(reason.unwrap_or_default()),
                }
            }
        })
    }

    /// Tries parked events again, those of one reason or all of them, the newest first: some at each call, behind `after`.
    ///
    /// # Errors
    /// [`OperatorError::Ledger`] if they cannot be listed. What becomes of each is counted.
    pub async fn replay_many(
        &self,
        reason: Option<String>,
        after: Option<InboxPlace>,
    ) -> Result<Replayed, OperatorError> {
        let filter = InboxFilter { standing: Some(Standing::Parked), reason, after, ..InboxFilter::default() };
        let events = self.events(&filter, REPLAYED_AT_ONCE).await?;
        let next = events.get(usize::try_from(REPLAYED_AT_ONCE - 1).unwrap_or(usize::MAX)).map(InboxEvent::place);
        let replays = events.iter().map(async |event| (event, self.replay(&event.id).await));
        let replayed = Replayed { next, ..Replayed::default() };
        Ok(futures::stream::iter(replays)
            .buffer_unordered(IN_FLIGHT)
            .fold(replayed, async |mut replayed, (event, tried)| {
                replayed.tried += 1;
                match tried {
                    Ok(Tried::Applied) => replayed.applied += 1,
                    Ok(Tried::Superseded) => replayed.superseded += 1,
                    Ok(Tried::StillParked(_)) => replayed.parked += 1,
                    Err(OperatorError::NoSuchEvent | OperatorError::NotParked) => {}
                    Err(error) => {
                        tracing::warn!(event.id = event.id, %error, "a parked event could not be tried");
                        replayed.failed += 1;
                    }
                }
                replayed
            })
            .await)
    }

    /// What a user has, and why.
    ///
    /// # Errors
    /// [`OperatorError::Ledger`].
    pub async fn user(&self, user: UserId) -> Result<UserReport, OperatorError> {
        let filter = InboxFilter { user: Some(user), ..InboxFilter::default() };
        let (entitlement, grants, events) = tokio::try_join!(
            self.ledger.entitlement(user),
            self.ledger.grants(user),
            self.ledger.events(&filter, EVENTS_OF_USER),
        )?;
        Ok(UserReport { entitlement, grants, events })
    }

    /// How the service stands.
    ///
    /// # Errors
    /// [`OperatorError::Ledger`].
    pub async fn summary(&self) -> Result<Summary, OperatorError> {
        let since = self.ledger.now().await? - COUNTED;
        let (received, parked, fetches, instances) = tokio::try_join!(
            self.ledger.received_since(since),
            self.ledger.parked(),
            self.ledger.fetches(),
            self.ledger.instances()
        )?;
        Ok(Summary {
            since,
            received,
            parked,
            fetches,
            live_actors: self.entitlements.live(),
            unpublished: self.entitlements.unpublished(),
            instances,
        })
    }
}
