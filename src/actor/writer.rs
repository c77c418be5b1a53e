//! The LedgerWriter: group commit. While a lane commits one batch the next one gathers: no timer, so the lowest latency when idle
//! and the highest throughput under load.
//!
//! A plain task per lane, on the thread of the actors that use it, and not an actor: it has one message, and `recv_many` is exactly the queue
//! that group commit wants. All database work happens here, never in a request's future: a client that hangs up cancels
//! nothing.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError, RwLock, Weak},
};

use actix::Arbiter;
use futures::FutureExt;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    count_refusal,
    error::ApplyError,
    shards::{Pulse, has_ended, shard_of},
    unpublished::Unpublished,
};
use crate::{
    domain::{event::Outcome, id::UserId},
    fail_point::{self, Point},
    ledger::{Committed, Entry, Ledger, LedgerError, Ticket},
};

/// See the [module](self).
pub(super) struct LedgerWriter {
    lanes: Vec<RwLock<LaneHandle>>,
    ledger: Arc<dyn Ledger>,
    unpublished: Arc<Unpublished>,
    endings: Arc<Notify>,
    queue_max: usize,
    batch_max: usize,
}

/// The way to a lane's task.
struct LaneHandle {
    queue: mpsc::Sender<Ticket>,
    pulse: Weak<Pulse>,
}

impl LedgerWriter {
    pub(super) fn start(
        ledger: &Arc<dyn Ledger>,
        arbiters: &[Arbiter],
        lanes: usize,
        queue_max: usize,
        batch_max: usize,
        unpublished: Arc<Unpublished>,
        endings: Arc<Notify>,
    ) -> Self {
        let batch_max = batch_max.max(1);
        let lanes = arbiters.iter().cycle().take(lanes.max(1));
        let lane = |arbiter| RwLock::new(start_lane(arbiter, ledger, queue_max, batch_max, &endings));
        let lanes = lanes.map(lane).collect();
        Self { lanes, ledger: Arc::clone(ledger), unpublished, endings, queue_max, batch_max }
    }

    /// Starts afresh the lanes of the `thread`th of `threads` that have ended, or all of them: that thread is a new one.
    pub(super) fn revive(&self, thread: usize, threads: usize, arbiter: &Arbiter, all: bool) {
        for (index, lane) in self.lanes.iter().enumerate().skip(thread).step_by(threads.max(1)) {
            let mut lane = lane.write().unwrap_or_else(PoisonError::into_inner);
            if all || has_ended(&lane.pulse) {
                metrics::counter!("tollgate_ledger_lanes_died_total").increment(1);
                tracing::error!(lane = index, "a lane had ended: started afresh");
                *lane = start_lane(arbiter, &self.ledger, self.queue_max, self.batch_max, &self.endings);
            }
        }
    }

    /// Hands an entry to its lane. A full queue is an answer, not a wait.
    pub(super) fn submit(&self, entry: Entry) -> Result<oneshot::Receiver<Result<Committed, LedgerError>>, ApplyError> {
        let (answer, receiver) = oneshot::channel();
        let user = entry.user();
        let lane = self.lanes.get(self.lane_of(user, &entry)).ok_or(ApplyError::Unavailable)?;
        let lane = lane.read().unwrap_or_else(PoisonError::into_inner);
        let place = lane.queue.try_reserve().map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(()) => {
                count_refusal("lane");
                ApplyError::Busy
            }
            mpsc::error::TrySendError::Closed(()) => ApplyError::Unavailable,
        })?;
        let waiting = Waiting { answer: Some(answer), user, unpublished: Arc::clone(&self.unpublished) };
        place.send(Ticket { entry, reply: Box::new(move |result| waiting.tell(result)) });
        Ok(receiver)
    }

    /// One user's entries always take the same lane, where it can be on the user's own thread; so do reports about one object, so that they
    /// share a batch where they come together. Events without a user are spread by id.
    fn lane_of(&self, user: Option<UserId>, entry: &Entry) -> usize {
        match user {
            Some(user) => shard_of(user, self.lanes.len()),
            None => {
                let event = entry.event().map(|event| event.id.as_str());
                let object = match entry {
                    Entry::Report(report) => report.facts.first().map(|fact| fact.id.as_str()),
                    Entry::Change(_) | Entry::Note(_) => None,
                };
                let sum: usize = object.or(event).map_or(0, |id| id.bytes().map(usize::from).sum());
                sum % self.lanes.len().max(1)
            }
        }
    }
}

/// Who waits for an entry's result.
struct Waiting {
    answer: Option<oneshot::Sender<Result<Committed, LedgerError>>>,
    user: Option<UserId>,
    unpublished: Arc<Unpublished>,
}

impl Waiting {
    fn tell(mut self, result: Result<Committed, LedgerError>) {
        // Before anybody hears of the commit, and also if nobody listens any more.
        note_commit(&self.unpublished, self.user, &result);
        if let Some(answer) = self.answer.take() {
            let _nobody_listens = answer.send(result);
        }
    }
}

impl Drop for Waiting {
    /// Without a result: the lane panicked, or its thread ended. It may have been committed.
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            metrics::counter!("tollgate_ledger_replies_lost_total").increment(1);
            let result = Err(LedgerError::InDoubt);
            note_commit(&self.unpublished, self.user, &result);
            let _nobody_listens = answer.send(result);
        }
    }
}

fn start_lane(
    arbiter: &Arbiter,
    ledger: &Arc<dyn Ledger>,
    queue_max: usize,
    batch_max: usize,
    endings: &Arc<Notify>,
) -> LaneHandle {
    let (sender, queue) = mpsc::channel(queue_max);
    let (borne, pulse) = Pulse::new(endings);
    let work = drive(Arc::clone(ledger), queue, batch_max);
    arbiter.spawn(async move {
        let _borne = borne;
        work.await;
    });
    LaneHandle { queue: sender, pulse }
}

fn note_commit(unpublished: &Unpublished, user: Option<UserId>, result: &Result<Committed, LedgerError>) {
    let committed = match (user, result) {
        (_, Ok(committed)) if committed.outcome == Outcome::Applied => committed,
        // It may have happened, and the redelivery may be hours away: whatever the ledger says is shown.
        (Some(user), Err(LedgerError::InDoubt)) => return unpublished.committed(user, 0),
        // Whom a report concerns only the ledger knows.
        (None, Err(LedgerError::InDoubt)) => return unpublished.uncounted(),
        _ => return,
    };
    if let (Some(user), Some(entitlement)) = (user, &committed.entitlement) {
        unpublished.committed(user, entitlement.version);
    }
    for (user, entitlement) in &committed.others {
        unpublished.committed(*user, entitlement.version);
    }
}

async fn drive(ledger: Arc<dyn Ledger>, mut queue: mpsc::Receiver<Ticket>, batch_max: usize) {
    let mut lane = ledger.lane();
    let mut batch = Vec::with_capacity(batch_max);
    while queue.recv_many(&mut batch, batch_max).await > 0 {
        let batch = std::mem::replace(&mut batch, Vec::with_capacity(batch_max));
        let work = async {
            fail_point::pass(Point::LedgerBegin, || Entry::about(batch.iter().map(|ticket| &ticket.entry))).await;
            lane.commit(batch).await;
        };
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            // The batch's replies were dropped with it: their outcome is unknown, and said to be.
            metrics::counter!("tollgate_ledger_lane_panics_total").increment(1);
            lane = ledger.lane();
        }
    }
}
