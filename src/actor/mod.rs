//! ROOM 4: order per user. The only room that knows actix.
//!
//! [`Entitlements`] is the handle: callers never see messages or mailboxes. Behind it a registry of live actors (one per active
//! user), routers that start them, and the writer that commits their changes in groups. Actors are an optimisation of order
//! and latency, not a lock: the ledger's locks and versions make two actors for one user harmless, in one process or in two.

mod done;
mod entitlement;
mod error;
mod message;
mod registry;
#[cfg(test)]
mod registry_tests;
mod router;
mod shards;
mod unpublished;
mod writer;

use std::{sync::Arc, time::Duration};

use actix::{Arbiter, MailboxError};
use futures::StreamExt;
use tokio::sync::Notify;

pub use self::error::ApplyError;
use self::{
    done::Done,
    entitlement::Tools,
    message::{Apply, Republish, Start},
    registry::{Lease, Lookup, Registry},
    shards::Shards,
    unpublished::Unpublished,
    writer::LedgerWriter,
};
use crate::{
    activity::Activity,
    cache::Cache,
    domain::{
        change::{Cause, Change, Owner, Unowned},
        event::{Outcome, ParkReason},
        id::{EventId, UserId},
        money::Report,
    },
    fail_point::{self, Point},
    ledger::{Entry, Ledger, Note, Verdict},
    watch::Hub,
    watchdog::Watchdog,
};

/// How much, how many, how long.
#[derive(Debug, Clone, Copy)]
pub struct ActorLimits {
    /// Threads that actors live on.
    pub arbiters: usize,
    /// An actor that nobody asked for this long is let go.
    pub idle: Duration,
    /// Actors at once.
    pub live_max: usize,
    /// Messages under way for one user.
    pub per_user_max: u32,
    /// For a caller, over everything.
    pub reply_timeout: Duration,
    /// For the ledger's answer.
    pub commit_timeout: Duration,
    /// For Redis, per request.
    pub cache_budget: Duration,
    /// Connections that write.
    pub lanes: usize,
    /// Entries waiting for one lane.
    pub queue_max: usize,
    /// Entries in one transaction.
    pub batch_max: usize,
}

/// The handle. Cheap to clone; may be used from any thread.
#[derive(Clone)]
pub struct Entitlements {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Arc<Registry>,
    tools: Arc<Tools>,
    shards: Arc<Shards>,
    limits: ActorLimits,
}

impl Entitlements {
    /// Starts writer, routers and their threads. To be called within an actix `System`.
    #[must_use]
    pub fn start(ledger: Arc<dyn Ledger>, cache: Cache, hub: Hub, activity: Activity, limits: ActorLimits) -> Self {
        let unpublished = Arc::new(Unpublished::default());
        let endings = Arc::new(Notify::new());
        let arbiters: Vec<Arbiter> = (0..limits.arbiters.max(1)).map(|_| Arbiter::new()).collect();
        // A user's lane is on the thread of the user's actor: between them nothing has to be woken.
        let writer = LedgerWriter::start(
            &ledger,
            &arbiters,
            limits.lanes,
            limits.queue_max,
            limits.batch_max,
            Arc::clone(&unpublished),
            Arc::clone(&endings),
        );
        let mailbox = usize::try_from(limits.per_user_max).unwrap_or(usize::MAX).saturating_add(1);
        let tools = Arc::new(Tools {
            ledger,
            writer,
            cache,
            activity,
            unpublished,
            hub,
            done: Done::default(),
            cache_budget: limits.cache_budget,
            commit_timeout: limits.commit_timeout,
            mailbox,
        });
        let registry = Arc::new(Registry::new(limits.live_max, limits.per_user_max, limits.idle));
        let shards = Shards::start(arbiters, &registry, &tools, endings, limits.idle);
        Self { inner: Arc::new(Inner { registry, tools, shards, limits }) }
    }

    /// Has its threads watched, and those that replace them. Once.
    pub fn watched_by(&self, watchdog: &Watchdog) {
        self.inner.shards.watched_by(watchdog);
    }

    /// Whether this process knows that an event has had its effect. `false` means nothing.
    #[must_use]
    pub fn has_done(&self, event: &EventId) -> bool {
        self.inner.tools.done.contains(event, &self.inner.tools.ledger.epoch())
    }

    /// Applies a change through its user's actor. When this returns `Ok`, the outcome is durable, and readers have been shown
    /// the new state, or will be.
    ///
    /// # Errors
    /// [`ApplyError`]: the change may be sent again, always.
    pub async fn apply(&self, change: Change) -> Result<Outcome, ApplyError> {
        let user = change.user;
        tokio::time::timeout(self.inner.limits.reply_timeout, async {
            fail_point::pass(Point::Mailbox, || entitlement::about(&change)).await;
            let Lease { addr, hold } = self.lease(user).await?;
            match addr.send(Apply { change: change.clone(), hold }).await {
                Ok(result) => result,
                // The actor died: of this message, or before it. Once more on a fresh one; the event id makes that safe.
                Err(MailboxError::Closed) => {
                    metrics::counter!("tollgate_actor_resends_total").increment(1);
                    let Lease { addr, hold } = self.lease(user).await?;
                    addr.send(Apply { change, hold }).await.unwrap_or(Err(ApplyError::InDoubt))
                }
                Err(MailboxError::Timeout) => Err(ApplyError::TimedOut),
            }
        })
        .await
        .unwrap_or(Err(ApplyError::TimedOut))
    }

    /// Applies a change whose event names no user: finds the owner, and applies it as the owner's. A delivery whose owner is
    /// only likely waits in the inbox for its next try. The ledger reads the owner again
    /// under the user's lock; where that is another one by then, it begins anew. Gives the user with the outcome.
    ///
    /// # Errors
    /// [`ApplyError`]: the change may be sent again, always.
    pub async fn apply_unowned(&self, unowned: Unowned) -> Result<(Option<UserId>, Outcome), ApplyError> {
        const TRIES: u32 = 3;
        let Unowned { subject, cause, effect } = unowned;
        for _ in 0..TRIES {
            let owner = self.inner.tools.ledger.owner(&subject).await?;
            // A subscription's first events come beside its checkout's, which may name somebody else: that one has the first word.
            let is_claimable = matches!((owner, &cause), (Owner::Likely(_), Cause::Delivery(_)));
            let reason = match owner {
                Owner::User(user) | Owner::Likely(user) if !is_claimable => {
                    let found_by = Some(subject.clone());
                    let change = Change { user, found_by, cause: cause.clone(), effect: effect.clone() };
                    match self.apply(change).await {
                        Err(ApplyError::OwnerChanged) => continue,
                        result => return result.map(|outcome| (Some(user), outcome)),
                    }
                }
                Owner::Nobody | Owner::User(_) | Owner::Likely(_) => ParkReason::UnknownOwner,
                Owner::Several => ParkReason::SeveralOwners,
            };
            return match cause {
                Cause::Delivery(event) => {
                    let note = Note { event, verdict: Verdict::Parked(reason), user: None };
                    self.record(note).await.map(|outcome| (None, outcome))
                }
                // It is parked already. Recorded once more it would be due at once, and so for ever.
                Cause::Retry(_) | Cause::Fetched | Cause::Operator(_) | Cause::Time => {
                    Ok((None, Outcome::Parked(reason)))
                }
            };
        }
        Err(ApplyError::OwnerChanged)
    }

    /// Applies what an event said of money: it names no user, so no actor puts it in order, and whoever depends on it is found by the ledger.
    /// When this returns `Ok`, the outcome is durable, and readers have been shown every state that it changed, or will be.
    ///
    /// # Errors
    /// [`ApplyError`]: the report may be sent again, always.
    pub async fn report(&self, report: Report) -> Result<Outcome, ApplyError> {
        const TRIES: u32 = 3;
        for _ in 1..TRIES {
            match self.inner.tools.report(report.clone()).await {
                // Somebody has come to depend on it meanwhile.
                Err(ApplyError::OwnerChanged) => {}
                result => return result,
            }
        }
        self.inner.tools.report(report).await
    }

    /// Records an event that changes nothing. No actor: there is nothing to put in order.
    ///
    /// # Errors
    /// [`ApplyError`]: the event may be sent again, always.
    pub async fn record(&self, note: Note) -> Result<Outcome, ApplyError> {
        self.inner.tools.commit(Entry::Note(note)).await.map(|committed| committed.outcome)
    }

    /// Tries again to show readers what they have not been shown: users whose cache write has waited for at least `age`, through
    /// their actors. Gives how many were tried.
    pub async fn republish_due(&self, age: Duration, limit: usize) -> usize {
        const AT_ONCE: usize = 32;
        let due = self.inner.tools.unpublished.due(age, limit);
        let count = due.len();
        futures::stream::iter(due)
            .for_each_concurrent(AT_ONCE, async |user| {
                // A failure leaves the user in the set: the next round tries again.
                if let Ok(Lease { addr, hold }) = self.lease(user).await {
                    let tried = addr.send(Republish { hold });
                    let _tried = tokio::time::timeout(self.inner.limits.reply_timeout, tried).await;
                }
            })
            .await;
        count
    }

    /// How many users' newest state readers have not been shown.
    #[must_use]
    pub fn unpublished(&self) -> usize {
        self.inner.tools.unpublished.len()
    }

    /// For how long the oldest state has waited that readers have not been shown.
    #[must_use]
    pub fn behind(&self) -> Duration {
        self.inner.tools.unpublished.behind()
    }

    /// How long ago the unpublished set began to overflow, if it did: everything changed since must be republished.
    #[must_use]
    pub fn take_overflow(&self) -> Option<Duration> {
        self.inner.tools.unpublished.take_overflow()
    }

    /// Live actors.
    #[must_use]
    pub fn live(&self) -> usize {
        self.inner.registry.len()
    }

    /// Ends routers, actors and lanes. To be called when no request is under way any more.
    pub fn stop(&self) {
        self.inner.shards.stop();
    }

    async fn lease(&self, user: UserId) -> Result<Lease, ApplyError> {
        const TRIES: u32 = 2;
        let mut error = ApplyError::Busy;
        for _ in 0..TRIES {
            let found = match self.inner.registry.lease(user) {
                Lookup::Absent => self.start_actor(user).await?,
                other => other,
            };
            error = match found {
                Lookup::Live(lease) => return Ok(lease),
                Lookup::Busy => {
                    count_refusal("user");
                    return Err(ApplyError::Busy);
                }
                // Among those that live some may have nothing to do.
                Lookup::Crowded => {
                    self.inner.registry.make_room();
                    ApplyError::Busy
                }
                Lookup::Absent => ApplyError::Unavailable,
            };
        }
        count_refusal(if error == ApplyError::Busy { "crowd" } else { "router" });
        Err(error)
    }

    /// Has the user's router start an actor. `Absent` if the router died of it, or is too slow.
    async fn start_actor(&self, user: UserId) -> Result<Lookup, ApplyError> {
        let router = self.inner.shards.router(user)?;
        let answer = tokio::time::timeout(self.inner.limits.reply_timeout, router.send(Start(user))).await;
        if let Ok(Ok(found)) = answer {
            return Ok(found);
        }
        metrics::counter!("tollgate_router_failures_total").increment(1);
        if let Ok(Err(MailboxError::Closed)) = answer {
            self.inner.shards.bury(user, &router);
        }
        Ok(Lookup::Absent)
    }
}

/// What was refused at once, for lack of room.
fn count_refusal(reason: &'static str) {
    metrics::counter!("tollgate_actor_refusals_total", "reason" => reason).increment(1);
}
