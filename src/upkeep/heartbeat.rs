//! The heartbeat: this replica tells that it lives, looks after those that do not, and after Redis's memory.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use super::Upkeep;
use crate::{
    cache::{Budget, key},
    clock::{Clocks, Question},
    fail_point::{self, Point},
    ledger::{Epoch, Instance},
};

/// A commit may become visible this long after the time it carries.
const MARGIN: TimeDelta = TimeDelta::seconds(10);

/// How far back the comparison looks.
const COMPARED: TimeDelta = TimeDelta::seconds(90);

/// Users compared at most in one round, so that the comparison stays a backstop and does not become the load.
const COMPARED_MAX: usize = 20_000;

/// Beats until dropped. What is seen is looked after beside it: to show readers a day's changes may take longer than the others wait before
/// they take a silent replica for dead, and forget it.
pub(super) async fn run(upkeep: Upkeep) {
    let (seen, sights) = watch::channel(None);
    futures::future::join(beat(&upkeep, &seen), look(&upkeep, sights)).await;
}

async fn beat(upkeep: &Upkeep, seen: &watch::Sender<Option<Vec<Instance>>>) {
    let mut clocks = Clocks::default();
    let mut ticks = tokio::time::interval(upkeep.rhythm.beat);
    loop {
        ticks.tick().await;
        fail_point::pass(Point::Beat, String::new).await;
        let question = Question::begin();
        let instances = upkeep.beat().await.inspect_err(|error| tracing::debug!(%error, "no heartbeat")).ok();
        if let Some(instances) = &instances {
            fail_point::pass(Point::Beaten, String::new).await;
            compare_clocks(&mut clocks, upkeep, &question, instances);
        }
        seen.send_replace(instances);
        let waiting = u32::try_from(upkeep.entitlements.unpublished()).unwrap_or(u32::MAX);
        metrics::gauge!("tollgate_cache_writes_waiting").set(f64::from(waiting));
    }
}

/// Tells how far this machine's clock is from the ledger's, whose time the beat has brought along.
fn compare_clocks(known: &mut Clocks, upkeep: &Upkeep, question: &Question, instances: &[Instance]) {
    let Some((tolerance, beaten)) = upkeep.tolerance.zip(own_beat(upkeep, instances)) else { return };
    let skew = question.answered(beaten);
    let ahead = skew.ahead.as_seconds_f64();
    metrics::gauge!("tollgate_clock_skew_seconds").set(ahead);
    let clocks = skew.clocks(tolerance.duration());
    if std::mem::replace(known, clocks) == clocks {
        return;
    }
    match clocks {
        Clocks::Agree => tracing::info!(ahead, "this machine's clock and the database's agree again"),
        Clocks::Apart => tracing::warn!(ahead, "this machine's clock and the database's are apart"),
        Clocks::Hopeless => {
            tracing::error!(ahead, "this machine's clock and the database's are so far apart that webhooks are refused")
        }
    }
}

/// After each beat, or after the newest of those that came meanwhile.
async fn look(upkeep: &Upkeep, mut sights: watch::Receiver<Option<Vec<Instance>>>) {
    let mut state = Watch::default();
    while sights.changed().await.is_ok() {
        let instances = sights.borrow_and_update().clone();
        if let Some(instances) = instances {
            state.look_after(upkeep, &instances).await;
            state.check_epoch(upkeep);
        }
        state.check_canary(upkeep).await;
    }
}

/// Every replica's backstop against whatever was overlooked: the leader shows readers again what changed lately.
pub(super) async fn compare(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.compare);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Ok(instances) = upkeep.beat().await else { continue };
        let Ok(now) = upkeep.ledger.now().await else { continue };
        let leader = instances.iter().filter(|other| !is_dead(&upkeep, other, now)).map(|other| other.id).min();
        if leader == Some(upkeep.instance) {
            upkeep.redriver.compare(now - COMPARED, now - MARGIN, COMPARED_MAX).await;
        }
    }
}

/// What one replica knows of the others between beats.
#[derive(Default)]
struct Watch {
    /// When this replica first beat.
    began: Option<DateTime<Utc>>,
    /// Whether the first look, which covers everybody's left-overs, has been had.
    looked: bool,
    /// Dead replicas whose left-overs were done once; done again after the margin, then forgotten.
    done_once: HashMap<Uuid, DateTime<Utc>>,
    /// What this replica wrote into Redis last; 0 before the first time.
    canary: u64,
    epoch: Option<Epoch>,
    /// Redis has lost what was acknowledged, or none of it counts any more, and readers have not been shown everything again.
    memory_lost: bool,
}

impl Watch {
    async fn look_after(&mut self, upkeep: &Upkeep, instances: &[Instance]) {
        let Some(now) = own_beat(upkeep, instances) else { return };
        let others = || instances.iter().filter(|other| other.id != upkeep.instance);
        let began = *self.began.get_or_insert(now);
        // Who is still listed and has not been heard of since may have died a moment before, of an event.
        if others().all(|other| other.last_seen > began) {
            upkeep.trials.all_are_accounted_for();
        }
        if !self.looked {
            // Whoever ran before us may have died a moment ago, long before it counts as dead.
            let Some(oldest) = others().map(|other| other.shown_until.min(now)).min() else {
                self.looked = true;
                return;
            };
            self.looked = upkeep.redriver.since(oldest - MARGIN, usize::MAX, "start").await;
        }
        for dead in others().filter(|other| is_dead(upkeep, other, now)) {
            upkeep.trials.has_died(now);
            if !upkeep.redriver.since(dead.shown_until.min(now) - MARGIN, usize::MAX, "dead replica").await {
                continue;
            }
            let first = *self.done_once.entry(dead.id).or_insert(now);
            if now - first >= MARGIN {
                self.done_once.remove(&dead.id);
                if let Err(error) = upkeep.ledger.forget_instance(dead.id).await {
                    tracing::debug!(%error, "a dead replica is still listed");
                }
            }
        }
    }

    /// Under another epoch everything in Redis is void: readers are shown the new ledger's states.
    fn check_epoch(&mut self, upkeep: &Upkeep) {
        let epoch = upkeep.ledger.epoch();
        self.memory_lost |= self.epoch.as_ref().is_some_and(|before| *before != epoch);
        self.epoch = Some(epoch);
    }

    /// A canary that is not as we left it tells that Redis has lost what was acknowledged: restarted empty, or failed over.
    async fn check_canary(&mut self, upkeep: &Upkeep) {
        let mut budget = Budget::new(upkeep.rhythm.probe);
        let next = self.canary + 1;
        let Ok(found) = upkeep.cache.swap_canary(upkeep.instance, next, &mut budget).await else { return };
        let expected = (self.canary > 0).then_some(self.canary);
        self.canary = next;
        // A write that timed out may have got through: the next one is then the same again.
        if expected.is_some() && found != expected && found != Some(next) {
            metrics::counter!("tollgate_cache_memory_lost_total").increment(1);
            tracing::warn!("the cache has lost its memory: showing readers everything that changed within a day");
            self.memory_lost = true;
        }
        // Until it gets through: a later beat finds the canary in order again.
        if self.memory_lost
            && let Ok(now) = upkeep.ledger.now().await
        {
            self.memory_lost = !upkeep.redriver.since(now - key::META_TTL - MARGIN, usize::MAX, "lost memory").await;
        }
    }
}

/// When this replica beat last, by the ledger's clock.
fn own_beat(upkeep: &Upkeep, instances: &[Instance]) -> Option<DateTime<Utc>> {
    instances.iter().find(|other| other.id == upkeep.instance).map(|own| own.last_seen)
}

/// Whether it has been silent for too long, or spoke last before the clock was set back.
fn is_dead(upkeep: &Upkeep, other: &Instance, now: DateTime<Utc>) -> bool {
    let dead_after = TimeDelta::from_std(upkeep.rhythm.dead_after).unwrap_or(TimeDelta::seconds(20));
    (now - other.last_seen).abs() > dead_after
}
