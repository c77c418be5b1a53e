//! The EntitlementActor: one per active user. It guards the order of one user's writes: one at a time, each finished before the
//! next begins.
//!
//! It remembers nothing: what is known of events is in [`Done`], a copy of what the ledger said, and every state is read under
//! the ledger's lock. So there is nothing to reload in doubt. After a panic, or when an outcome is unknown, the actor stops and
//! its Supervisor starts it again with its mailbox kept. It holds no timer (a pending one would keep it alive for ever) and
//! loads nothing in `started` (one that stops there is a hot loop).

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, ActorFutureExt, AtomicResponse, Context, Handler, Supervised, WrapFuture};
use chrono::TimeDelta;
use futures::FutureExt;

use super::{
    done::Done,
    error::ApplyError,
    message::{Apply, Republish},
    unpublished::Unpublished,
    writer::LedgerWriter,
};
use crate::{
    activity::{Activity, Step},
    cache::{Budget, Cache, CacheError, Publication},
    clock,
    domain::{
        change::{Cause, Change},
        entitlement::Entitlement,
        event::Outcome,
        id::{EventId, UserId},
        money::Report,
    },
    fail_point::{self, Point},
    ledger::{Committed, Entry, Epoch, Ledger},
    watch::Hub,
};

/// A first delivery comes within seconds of the event. Only an older one may be a redelivery that another process knows of, and
/// is worth asking Redis about before the ledger is asked, which knows for sure.
const FIRST_DELIVERY_WITHIN: TimeDelta = TimeDelta::seconds(10);

/// What all user actors work with.
pub(super) struct Tools {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) writer: LedgerWriter,
    pub(super) cache: Cache,
    pub(super) activity: Activity,
    pub(super) unpublished: Arc<Unpublished>,
    /// Told of every state, shown or not: who watches asks the ledger if need be.
    pub(super) hub: Hub,
    pub(super) done: Done,
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
}

impl EntitlementActor {
    pub(super) const fn new(user: UserId, tools: Arc<Tools>) -> Self {
        Self { user, tools }
    }

    /// What a caller is told. In doubt, or after a panic, the actor begins again; what waits in its mailbox stays.
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
    async fn apply(&self, user: UserId, change: Change) -> Result<Outcome, ApplyError> {
        fail_point::pass(Point::ActorApply, || about(&change)).await;
        let epoch = self.ledger.epoch();
        let mut budget = Budget::new(self.cache_budget);
        if self.is_done(&change.cause, &epoch, &mut budget).await {
            return Ok(Outcome::Duplicate);
        }
        let event = change.cause.event().map(|event| (event.id.clone(), event.kind.clone()));
        let committed = self.commit(Entry::Change(change)).await?;
        fail_point::pass(Point::LedgerTold, || user.to_string()).await;
        if let Some((id, kind)) = &event
            && committed.outcome == Outcome::Applied
        {
            self.activity.tell(Some(user), || Step::EventApplied { event: id.to_string(), kind: kind.clone() });
        }
        let done = event.map(|(id, _)| id).filter(|_| has_had_its_effect(committed.outcome));
        if let Some(entitlement) = &committed.entitlement {
            self.show(user, entitlement, &epoch, done.as_ref(), &mut budget).await;
        }
        if let Some(event) = done {
            self.done.insert(event, &epoch);
        }
        Ok(committed.outcome)
    }

    /// Duplicate check, ledger, readers: the whole way of one report, which may change several users.
    pub(super) async fn report(&self, report: Report) -> Result<Outcome, ApplyError> {
        let epoch = self.ledger.epoch();
        let mut budget = Budget::new(self.cache_budget);
        if self.is_done(&report.cause, &epoch, &mut budget).await {
            return Ok(Outcome::Duplicate);
        }
        let event = report.cause.event().map(|event| (event.id.clone(), event.kind.clone()));
        let committed = self.commit(Entry::Report(report)).await?;
        let (id, kind) = event.unzip();
        let done = id.filter(|_| has_had_its_effect(committed.outcome));
        for (user, entitlement) in &committed.others {
            if let (Some(event), Some(kind)) = (&done, &kind) {
                self.activity.tell(Some(*user), || Step::EventApplied { event: event.to_string(), kind: kind.clone() });
            }
            self.show(*user, entitlement, &epoch, done.as_ref(), &mut budget).await;
        }
        if let Some(event) = done {
            self.done.insert(event, &epoch);
        }
        Ok(committed.outcome)
    }

    /// Whether this process or Redis knows that the event has had its effect. A retry from the inbox is no delivery: that it is waiting there
    /// is the reason why it comes.
    async fn is_done(&self, cause: &Cause, epoch: &Epoch, budget: &mut Budget) -> bool {
        let Cause::Delivery(event) = cause else { return false };
        // While this one waited in the mailbox, its twin may have been applied.
        if self.done.contains(&event.id, epoch) {
            return true;
        }
        if clock::now() - event.created <= FIRST_DELIVERY_WITHIN {
            return false;
        }
        fail_point::pass(Point::MarkAsk, || event.id.to_string()).await;
        let is_marked = self.cache.is_marked(&event.id, epoch.as_str(), budget).await.unwrap_or(false);
        fail_point::pass(Point::MarkAnswered, || event.id.to_string()).await;
        if is_marked {
            self.done.insert(event.id.clone(), epoch);
        }
        is_marked
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
        let published = match fail_point::try_pass(Point::CacheShow, || user.to_string()).await {
            Ok(()) => self.cache.publish(publication, clock::now(), budget).await,
            Err(failed) => Err(CacheError::Failed(failed.to_string())),
        };
        fail_point::pass(Point::CacheShown, || user.to_string()).await;
        self.hub.tell(user, epoch, entitlement.version);
        match published {
            Ok(_) => {
                self.unpublished.published(user, entitlement.version);
                let Entitlement { level, version, .. } = entitlement;
                self.activity.tell(Some(user), || Step::CacheWritten { level: level.to_string(), version: *version });
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

/// What a change is about, for whoever armed a fail point: its event, else its user.
pub(super) fn about(change: &Change) -> String {
    change.cause.event().map_or_else(|| change.user.to_string(), |event| event.id.to_string())
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

impl Supervised for EntitlementActor {}

impl Handler<Apply> for EntitlementActor {
    type Result = AtomicResponse<Self, Result<Outcome, ApplyError>>;

    fn handle(&mut self, Apply { change, hold }: Apply, _ctx: &mut Self::Context) -> Self::Result {
        let (user, tools) = (self.user, Arc::clone(&self.tools));
        let work = AssertUnwindSafe(async move {
            let _held = hold;
            tools.apply(user, change).await
        })
        .catch_unwind();
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|result, actor, ctx| actor.settle(result, ctx))))
    }
}

impl Handler<Republish> for EntitlementActor {
    type Result = AtomicResponse<Self, Result<(), ApplyError>>;

    fn handle(&mut self, Republish { hold }: Republish, _ctx: &mut Self::Context) -> Self::Result {
        let (user, tools) = (self.user, Arc::clone(&self.tools));
        // From the ledger, not from memory: another replica may have gone further.
        let work = AssertUnwindSafe(async move {
            let _held = hold;
            fail_point::pass(Point::Republish, || user.to_string()).await;
            // As old as the question: by the answer the ledger may be another one.
            let (waiting, epoch) = (tools.unpublished.newest(user), tools.ledger.epoch());
            let entitlement = tools.ledger.entitlement(user).await?;
            let mut budget = Budget::new(tools.cache_budget);
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
