//! The EntitlementActor: one per active user. It guards the order of one user's writes: one at a time, each finished before the
//! next begins.
//!
//! Its memory is a copy of what the ledger said last and may be lost at any moment: after a panic, or when an outcome is
//! unknown, the actor stops, its Supervisor starts it again with its mailbox kept, and `restarting` clears the memory. It
//! holds no timer (a pending one would keep it alive for ever) and loads nothing in `started` (one that stops there is a hot
//! loop).

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, ActorFutureExt, AtomicResponse, Context, Handler, Supervised, WrapFuture};
use chrono::Utc;
use futures::FutureExt;

use super::{
    error::ApplyError,
    message::{Apply, Republish},
    unpublished::Unpublished,
    writer::LedgerWriter,
};
use crate::{
    cache::{Budget, Publication, RedisCache},
    domain::{
        change::{Cause, Change},
        entitlement::Entitlement,
        event::Outcome,
        id::{EventId, UserId},
    },
    ledger::{Committed, Entry, Epoch, Ledger},
};

/// Events remembered as done, per user. Redeliveries come soon after the first delivery or long after; Redis and the ledger
/// know the rest.
const REMEMBERED_MAX: usize = 16;

/// What all user actors work with.
pub(super) struct Tools {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) writer: LedgerWriter,
    pub(super) cache: RedisCache,
    pub(super) unpublished: Arc<Unpublished>,
    /// Time for Redis, per request.
    pub(super) cache_budget: Duration,
    /// Time for the ledger to answer.
    pub(super) commit_timeout: Duration,
    pub(super) mailbox: usize,
}

/// See the [module](self).
pub(super) struct EntitlementActor {
    user: UserId,
    tools: Arc<Tools>,
    memory: Option<Box<Memory>>,
}

/// A copy of what the ledger said.
struct Memory {
    /// Another epoch voids everything else.
    epoch: Epoch,
    /// The newest state.
    entitlement: Option<Entitlement>,
    /// Events that are in the ledger with their effect.
    done: Vec<EventId>,
}

/// What a change came to.
struct Applied {
    outcome: Outcome,
    entitlement: Option<Entitlement>,
    /// The event to be remembered as done.
    done: Option<EventId>,
    epoch: Epoch,
}

impl EntitlementActor {
    pub(super) const fn new(user: UserId, tools: Arc<Tools>) -> Self {
        Self { user, tools, memory: None }
    }

    fn has_done(&self, event: &EventId, epoch: &Epoch) -> bool {
        self.memory.as_ref().is_some_and(|memory| memory.epoch == *epoch && memory.done.contains(event))
    }

    fn remember(&mut self, applied: Applied) {
        let Applied { entitlement, done, epoch, .. } = applied;
        let memory = match &mut self.memory {
            Some(memory) if memory.epoch == epoch => memory,
            memory => memory.insert(Box::new(Memory { epoch, entitlement: None, done: Vec::new() })),
        };
        if entitlement.is_some() {
            memory.entitlement = entitlement;
        }
        if let Some(event) = done
            && !memory.done.contains(&event)
        {
            if memory.done.len() >= REMEMBERED_MAX {
                memory.done.remove(0);
            }
            memory.done.push(event);
        }
    }

    /// After a failure: whether this actor still knows where it stands.
    fn settle<T>(
        &mut self,
        result: Result<Result<T, ApplyError>, Box<dyn std::any::Any + Send>>,
        ctx: &mut Context<Self>,
    ) -> Result<T, ApplyError> {
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error @ (ApplyError::InDoubt | ApplyError::TimedOut))) => {
                metrics::counter!("tollgate_actors_reloaded_total").increment(1);
                ctx.stop();
                Err(error)
            }
            Ok(Err(error)) => Err(error),
            Err(_panic) => {
                metrics::counter!("tollgate_actor_panics_total").increment(1);
                ctx.stop();
                Err(ApplyError::Panicked)
            }
        }
    }
}

impl Tools {
    /// Duplicate check, ledger, readers: the whole way of one change.
    async fn apply(&self, user: UserId, change: Change) -> Result<Applied, ApplyError> {
        let epoch = self.ledger.epoch();
        let mut budget = Budget::new(self.cache_budget);
        // A retry from the inbox is no delivery: that it is waiting there is the reason why it comes.
        let event = match &change.cause {
            Cause::Delivery(event) => Some(event.id.clone()),
            Cause::Retry(_) | Cause::Time => None,
        };
        if let Some(event) = &event
            && self.cache.is_marked(event, epoch.as_str(), &mut budget).await.unwrap_or(false)
        {
            return Ok(Applied { outcome: Outcome::Duplicate, entitlement: None, done: Some(event.clone()), epoch });
        }
        let event = change.cause.event().map(|event| event.id.clone());
        let committed = self.commit(Entry::Change(change)).await?;
        let done = event.filter(|_| has_had_its_effect(committed.outcome));
        if let Some(entitlement) = &committed.entitlement {
            self.show(user, entitlement, &epoch, done.as_ref(), &mut budget).await;
        }
        Ok(Applied { outcome: committed.outcome, entitlement: committed.entitlement, done, epoch })
    }

    pub(super) async fn commit(&self, entry: Entry) -> Result<Committed, ApplyError> {
        let answer = self.writer.submit(entry)?;
        match tokio::time::timeout(self.commit_timeout, answer).await {
            Ok(Ok(result)) => Ok(result?),
            // The lane died with it, or is still at it.
            Ok(Err(_)) | Err(_) => Err(ApplyError::InDoubt),
        }
    }

    /// Shows readers a state. A failure is not lost: the version stays in the unpublished set. Gives whether it was shown.
    async fn show(
        &self,
        user: UserId,
        entitlement: &Entitlement,
        epoch: &Epoch,
        mark: Option<&EventId>,
        budget: &mut Budget,
    ) -> bool {
        let publication = Publication { user, entitlement, epoch: epoch.as_str(), mark };
        match self.cache.publish(publication, Utc::now(), budget).await {
            Ok(_) => {
                self.unpublished.published(user, entitlement.version);
                true
            }
            Err(error) => {
                metrics::counter!("tollgate_cache_writes_deferred_total").increment(1);
                tracing::debug!(%error, user.id = %user, "a cache write waits");
                false
            }
        }
    }
}

/// Whether the event may be marked as done. What waits in the inbox must not be: a redelivery wakes it.
const fn has_had_its_effect(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Applied | Outcome::Superseded | Outcome::Duplicate => true,
        Outcome::Ignored(_) | Outcome::Parked(_) | Outcome::DuplicateWaiting => false,
    }
}

impl Actor for EntitlementActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.tools.mailbox);
    }
}

impl Supervised for EntitlementActor {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        self.memory = None;
    }
}

impl Handler<Apply> for EntitlementActor {
    type Result = AtomicResponse<Self, Result<Outcome, ApplyError>>;

    fn handle(&mut self, Apply(change): Apply, _ctx: &mut Self::Context) -> Self::Result {
        if let Cause::Delivery(event) = &change.cause
            && self.has_done(&event.id, &self.tools.ledger.epoch())
        {
            return AtomicResponse::new(Box::pin(async { Ok(Outcome::Duplicate) }.into_actor(self)));
        }
        let (user, tools) = (self.user, Arc::clone(&self.tools));
        let work = AssertUnwindSafe(async move { tools.apply(user, change).await }).catch_unwind();
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|result, actor, ctx| {
            let applied = actor.settle(result, ctx)?;
            let outcome = applied.outcome;
            actor.remember(applied);
            Ok(outcome)
        })))
    }
}

impl Handler<Republish> for EntitlementActor {
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, Republish: Republish, _ctx: &mut Self::Context) -> Self::Result {
        let (user, tools) = (self.user, Arc::clone(&self.tools));
        // From the ledger, not from memory: another replica may have gone further.
        let work = AssertUnwindSafe(async move {
            let waiting = tools.unpublished.newest(user);
            let entitlement = tools.ledger.entitlement(user).await?;
            let mut budget = Budget::new(tools.cache_budget);
            let epoch = tools.ledger.epoch();
            if tools.show(user, &entitlement, &epoch, None, &mut budget).await
                && let Some(version) = waiting
            {
                // What waited before the ledger was asked is in its answer, or is no more: the user was deleted, or the
                // database restored. Otherwise it would wait for a version that never comes.
                tools.unpublished.published(user, version);
            }
            Ok(())
        })
        .catch_unwind();
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|result, actor, ctx| actor.settle(result, ctx))))
    }
}
