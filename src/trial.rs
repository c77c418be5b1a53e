//! ROOM 6: events on trial. One that panics, or ends the process, whenever it is tried is tried three times at most, and then parked as
//! poison; the others go on ([ADR 0021](../docs/adr/0021-poison.md)).
//!
//! A try that panics is counted afterwards. One that ends the process can only be counted before: so that a fresh event costs nothing, this
//! is done for *suspects* alone: events from before a process died, and those that were seen to panic. Their count is taken back when they
//! end in order.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use tracing::Instrument;

use crate::{
    actor::{ApplyError, Entitlements},
    clock,
    domain::{
        event::{EventRecord, Note, Outcome, ParkReason, Verdict},
        id::{EventId, UserId},
    },
    fail_point::{self, Point},
    intake::{Envelope, Interpreter, Meaning, signature::VerifiedPayload},
    ledger::{Ledger, TryEnd},
    recent::Recent,
};

/// Tries of an event that may fail by a fault of ours.
const TRIES_MAX: u32 = 3;
/// Suspects that are tried at once: they share the ledger's connections with reads.
const SUSPECTS_AT_ONCE: u32 = 16;
/// How long a suspect waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// How long it waits for another process' try of it, and how often it looks.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How soon it is tried again to take back a count that does not hold, if the ledger did not answer.
const TAKE_BACK_EVERY: Duration = Duration::from_secs(5);
/// Stripe sends no event that is older, not even when it is asked to.
const OLDEST: TimeDelta = TimeDelta::days(31);
/// Events remembered that were seen to panic.
const PANICKED_MAX: usize = 1024;

/// What came of a delivery: whose event it is, as far as that is known, and what became of it.
pub type Delivered = (Option<UserId>, Outcome);

/// At whose will a parked event is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Will {
    /// That of the sweep: never what is poison.
    Sweep,
    /// A person's: whatever it is. If it panics then, it is poison.
    Person,
}

/// What came of trying a parked event again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It went the way of a delivery.
    Tried(Option<UserId>, Outcome),
    /// It changes nothing by now: it is parked as before.
    Waits(Verdict),
    /// Its payload cannot be read: it is parked as before.
    Unreadable,
    /// It failed by a fault of ours, as often as it may: it is parked as poison.
    Poison,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct Trials {
    ledger: Arc<dyn Ledger>,
    entitlements: Entitlements,
    interpreter: Interpreter,
    suspects: Arc<Suspects>,
}

struct Suspects {
    /// When this process began, until it is known whether one died before: in microseconds since 1970.
    began: AtomicI64,
    /// By when a process was last known to have died.
    died: AtomicI64,
    panicked: RwLock<Recent<EventId, ()>>,
    /// All of them for a suspect's last try: if the process dies of it, it is known of what.
    places: Semaphore,
}

/// What a suspect was told whose turn has come.
enum Begun<'a> {
    /// It may be tried: so many tries have been counted, this one included.
    Try(SemaphorePermit<'a>, u32),
    /// It has had its effect meanwhile.
    Done,
}

impl Trials {
    /// Takes what it works with. The process has begun with this call.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, entitlements: Entitlements, interpreter: Interpreter) -> Self {
        let suspects = Suspects {
            began: AtomicI64::new(clock::now().timestamp_micros()),
            died: AtomicI64::new(i64::MIN),
            panicked: RwLock::new(Recent::new(PANICKED_MAX)),
            places: Semaphore::new(usize::try_from(SUSPECTS_AT_ONCE).unwrap_or(usize::MAX)),
        };
        Self { ledger, entitlements, interpreter, suspects: Arc::new(suspects) }
    }

    /// A process has died by this moment: of an event that was made before it, perhaps.
    pub fn has_died(&self, by: DateTime<Utc>) {
        self.suspects.died.fetch_max(by.timestamp_micros(), Ordering::Relaxed);
    }

    /// Whoever ran before this process began lives, has stopped in order, or was told of as dead.
    pub fn all_are_accounted_for(&self) {
        if self.suspects.began.swap(i64::MIN, Ordering::Relaxed) != i64::MIN {
            tracing::debug!("no process has died of an event from before this one began, but those that are told of");
        }
    }

    /// Tries an event that was delivered, and is opened. When this returns `Ok`, what became of it is durable.
    ///
    /// # Errors
    /// [`ApplyError`]: it may be delivered again, always.
    pub async fn deliver(&self, payload: &VerifiedPayload, envelope: Envelope<'_>) -> Result<Delivered, ApplyError> {
        let id = envelope.event().id.clone();
        if self.suspects.may_kill(envelope.event()) {
            let (trials, payload) = (self.clone(), payload.clone());
            return kept(async move { trials.deliver_suspect(&payload, &id).await }).await;
        }
        match guarded(self.take(envelope)).await {
            Err(ApplyError::Panicked) => {
                let tries = self.ledger.count_panic(&id).await?;
                self.suspects.has_panicked(id.clone());
                tell_panic(&id, tries);
                if tries < TRIES_MAX { Err(ApplyError::Panicked) } else { self.park(payload).await }
            }
            result => result,
        }
    }

    async fn deliver_suspect(&self, payload: &VerifiedPayload, event: &EventId) -> Result<Delivered, ApplyError> {
        let Begun::Try(_place, tries) = self.begin(event).await? else { return Ok((None, Outcome::Duplicate)) };
        if tries > TRIES_MAX {
            return self.park(payload).await;
        }
        let result = guarded(async { self.take(open(payload)?).await }).await;
        self.end(event, tries, &result).await;
        match result {
            Err(ApplyError::Panicked) if tries == TRIES_MAX => self.park(payload).await,
            result => result,
        }
    }

    /// Tries a parked event again.
    ///
    /// # Errors
    /// [`ApplyError`]: it is as parked as before, or has been applied.
    pub async fn retry(&self, event: &EventId, payload: &Bytes, will: Will) -> Result<Retried, ApplyError> {
        let (trials, event, payload) = (self.clone(), event.clone(), payload.clone());
        kept(async move { trials.retry_suspect(&event, &payload, will).await }).await
    }

    /// Not in a webhook's way, so that each is counted before, whatever its age.
    async fn retry_suspect(&self, event: &EventId, payload: &Bytes, will: Will) -> Result<Retried, ApplyError> {
        let Begun::Try(_place, tries) = self.begin(event).await? else {
            return Ok(Retried::Tried(None, Outcome::Duplicate));
        };
        if tries > TRIES_MAX && will == Will::Sweep {
            return self.poison(event).await;
        }
        let result = guarded(self.read_again(event, payload)).await;
        self.end(event, tries, &result).await;
        match result {
            Err(ApplyError::Panicked) if tries >= TRIES_MAX || will == Will::Person => self.poison(event).await,
            Ok(Retried::Waits(Verdict::Parked(reason))) if will == Will::Person => {
                // What was poison is none any more: the sweep looks after it.
                self.ledger.park_for(event, reason).await?;
                result
            }
            result => result,
        }
    }

    /// Reads a delivery and does what it means.
    async fn take(&self, envelope: Envelope<'_>) -> Result<Delivered, ApplyError> {
        fail_point::pass(Point::Meaning, || envelope.event().id.to_string()).await;
        let meaning = self.interpreter.meaning(envelope);
        fail_point::pass(Point::Understood, || meaning.event().map(|event| event.id.to_string()).unwrap_or_default())
            .await;
        self.apply(meaning).await
    }

    async fn read_again(&self, event: &EventId, payload: &Bytes) -> Result<Retried, ApplyError> {
        fail_point::pass(Point::Meaning, || event.to_string()).await;
        match self.interpreter.read_again(payload) {
            // It is in the inbox already: recorded once more, it would be due at once.
            Ok(Meaning::Note(note)) => Ok(Retried::Waits(note.verdict)),
            Ok(meaning) => self.apply(meaning).await.map(|(user, outcome)| Retried::Tried(user, outcome)),
            Err(_) => Ok(Retried::Unreadable),
        }
    }

    async fn apply(&self, meaning: Meaning) -> Result<Delivered, ApplyError> {
        let (user, outcome) = match meaning {
            Meaning::Change(change) => (Some(change.user), self.entitlements.apply(change).await?),
            Meaning::Unowned(unowned) => self.entitlements.apply_unowned(unowned).await?,
            Meaning::Report(report) => (None, self.entitlements.report(report).await?),
            Meaning::Note(note) => (note.user, self.entitlements.record(note).await?),
        };
        Ok((user, outcome))
    }

    /// Counts a try before it is made, and waits for its turn: the last one is made with no other suspect beside it.
    async fn begin(&self, event: &EventId) -> Result<Begun<'_>, ApplyError> {
        let deadline = Instant::now() + TURN_WITHIN;
        let mut refused: Option<Instant> = None;
        loop {
            let places = if refused.is_some() { SUSPECTS_AT_ONCE } else { 1 };
            let turn = tokio::time::timeout_at(deadline, self.suspects.places.acquire_many(places)).await;
            let Ok(Ok(place)) = turn else { return Err(ApplyError::Busy) };
            // While this copy waited, its twin may have been applied.
            if self.entitlements.has_done(event) {
                return Ok(Begun::Done);
            }
            if let Some(tries) = self.ledger.begin_try(event, refused.is_some()).await? {
                return Ok(Begun::Try(place, tries));
            }
            drop(place);
            match refused {
                None => refused = Some(Instant::now()),
                // Another process may be at it, or have died of it.
                Some(since) if since.elapsed() < ELSEWHERE_WITHIN => tokio::time::sleep(LOOK_AGAIN).await,
                Some(_) => return Err(ApplyError::Busy),
            }
        }
    }

    /// Takes a count back that does not hold.
    async fn end<T>(&self, event: &EventId, tries: u32, result: &Result<T, ApplyError>) {
        let end = match result {
            Ok(_) => TryEnd::InOrder,
            Err(ApplyError::Panicked) => {
                self.suspects.has_panicked(event.clone());
                tell_panic(event, tries);
                TryEnd::Panicked
            }
            Err(_) => TryEnd::NotMade,
        };
        if self.ledger.end_try(event, end).await.is_err() {
            let (ledger, event) = (Arc::clone(&self.ledger), event.clone());
            tokio::spawn(async move {
                while let Err(error) = ledger.end_try(&event, end).await {
                    tracing::debug!(event.id = %event, %error, "a try is still counted that ended in order");
                    tokio::time::sleep(TAKE_BACK_EVERY).await;
                }
            });
        }
    }

    /// Records a delivery as poison, without another try.
    async fn park(&self, payload: &VerifiedPayload) -> Result<Delivered, ApplyError> {
        let event = open(payload)?.into_event();
        let id = event.id.clone();
        let note = Note { event, verdict: Verdict::Parked(ParkReason::Poison), user: None };
        let outcome = self.entitlements.record(note).await?;
        if outcome == Outcome::Parked(ParkReason::Poison) {
            tell_poison(&id);
        }
        Ok((None, outcome))
    }

    /// Leaves a parked event to people.
    async fn poison(&self, event: &EventId) -> Result<Retried, ApplyError> {
        self.ledger.park_for(event, ParkReason::Poison).await?;
        tell_poison(event);
        Ok(Retried::Poison)
    }
}

impl Suspects {
    fn may_kill(&self, event: &EventRecord) -> bool {
        let horizon = self.began.load(Ordering::Relaxed).max(self.died.load(Ordering::Relaxed));
        let (created, oldest) = (event.created.timestamp_micros(), OLDEST.num_microseconds().unwrap_or(i64::MAX));
        (horizon.saturating_sub(oldest)..horizon).contains(&created)
            || self.panicked.read().unwrap_or_else(PoisonError::into_inner).get(&event.id).is_some()
    }

    fn has_panicked(&self, event: EventId) {
        self.panicked.write().unwrap_or_else(PoisonError::into_inner).insert(event, ());
    }
}

/// Opens a delivery once more: the door has done it before.
fn open(payload: &VerifiedPayload) -> Result<Envelope<'_>, ApplyError> {
    Interpreter::open(payload).map_err(|_| ApplyError::Refused)
}

/// Does work in a task of its own: a count is taken back also if nobody waits for the answer any more.
async fn kept<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApplyError>> + Send + 'static,
) -> Result<T, ApplyError> {
    tokio::spawn(work.in_current_span()).await.unwrap_or(Err(ApplyError::Panicked))
}

/// A panic anywhere on the way ends this try, and nothing else.
async fn guarded<T>(work: impl Future<Output = Result<T, ApplyError>>) -> Result<T, ApplyError> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(ApplyError::Panicked))
}

fn tell_panic(event: &EventId, tries: u32) {
    metrics::counter!("tollgate_event_panics_total").increment(1);
    tracing::error!(event.id = %event, tries, "an event panicked");
}

fn tell_poison(event: &EventId) {
    metrics::counter!("tollgate_events_poisoned_total").increment(1);
    tracing::error!(event.id = %event, "an event is poison: it is tried again only when a person asks for it");
}
