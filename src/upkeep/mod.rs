//! What runs beside requests: cache writes that wait, other replicas' left-overs, levels whose time is over, parked events.
//!
//! Each loop is short, safe to run twice and on every replica at once; where that would only be waste, the replica with the
//! smallest id does it.

mod heartbeat;
mod pulse;
mod redrive;
mod sweep;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

pub use self::pulse::Pulse;
use self::redrive::Redriver;
use crate::{
    actor::Entitlements,
    cache::{BreakerState, Cache},
    fetch::Fetcher,
    intake::signature::Tolerance,
    ledger::{Instance, Ledger, LedgerError},
    trial::Trials,
};

/// How often what is done.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Heartbeat, canary, other replicas.
    pub beat: Duration,
    /// A replica silent for this long is dead.
    pub dead_after: Duration,
    /// Levels whose time is over, parked events.
    pub sweep: Duration,
    /// Cache writes that wait.
    pub retry: Duration,
    /// Probes of a Redis that does not answer.
    pub probe: Duration,
    /// How many events are parked.
    pub count: Duration,
    /// Comparison of the cache with what changed lately.
    pub compare: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(5),
            dead_after: Duration::from_secs(20),
            sweep: Duration::from_millis(500),
            retry: Duration::from_millis(250),
            probe: Duration::from_millis(200),
            count: Duration::from_secs(30),
            compare: Duration::from_secs(30),
        }
    }
}

/// What upkeep works with.
#[derive(Clone)]
pub struct Upkeep {
    instance: Uuid,
    ledger: Arc<dyn Ledger>,
    cache: Cache,
    entitlements: Entitlements,
    trials: Trials,
    redriver: Redriver,
    pulse: Pulse,
    fetcher: Option<Fetcher>,
    /// Of a webhook's signature, where the ledger has a clock of its own.
    tolerance: Option<Tolerance>,
    rhythm: Rhythm,
}

/// The running loops. Dropping it ends them at once; [`stop`](Self::stop) ends them in order.
pub struct RunningUpkeep {
    stopping: watch::Sender<bool>,
    loops: JoinSet<()>,
    upkeep: Upkeep,
}

impl Upkeep {
    /// Takes what it works with. `instance` names this replica.
    #[must_use]
    pub fn new(
        instance: Uuid,
        ledger: Arc<dyn Ledger>,
        cache: Cache,
        entitlements: Entitlements,
        trials: Trials,
        rhythm: Rhythm,
    ) -> Self {
        let redriver = Redriver::new(Arc::clone(&ledger), cache.clone());
        let pulse = Pulse::new(rhythm.dead_after);
        Self { instance, ledger, cache, entitlements, trials, redriver, pulse, fetcher: None, tolerance: None, rhythm }
    }

    /// Has this machine's clock compared with the ledger's, if that has one of its own: then `tolerance` is how far a webhook's
    /// signature may be from this machine's.
    #[must_use]
    pub fn comparing_clocks(self, tolerance: Option<Tolerance>) -> Self {
        Self { tolerance, ..self }
    }

    /// Has Stripe asked what events left open. Without, it waits.
    #[must_use]
    pub fn asking(self, fetcher: Option<Fetcher>) -> Self {
        if fetcher.is_none() {
            tracing::info!("without a Stripe key nothing is asked of Stripe: what events left open waits");
        }
        Self { fetcher, ..self }
    }

    /// Tells for as long as this runs whether the ledger takes writes.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Makes this replica known before it takes its first event: of one that nobody has heard of, nobody would show what it left.
    pub async fn announce(&self) {
        if let Err(error) = self.beat().await {
            tracing::warn!(%error, "this replica could not make itself known: it will with its heartbeat");
        }
    }

    /// Starts the loops on the current runtime.
    #[must_use]
    pub fn start(self) -> RunningUpkeep {
        let (stopping, stop) = watch::channel(false);
        let mut loops = JoinSet::new();
        loops.spawn(until_stopped(stop.clone(), self.clone(), heartbeat::run));
        loops.spawn(until_stopped(stop.clone(), self.clone(), heartbeat::compare));
        loops.spawn(until_stopped(stop.clone(), self.clone(), redrive::retry_unpublished));
        loops.spawn(until_stopped(stop.clone(), self.clone(), redrive::probe));
        loops.spawn(until_stopped(stop.clone(), self.clone(), sweep::lapsed));
        loops.spawn(until_stopped(stop.clone(), self.clone(), sweep::parked));
        loops.spawn(until_stopped(stop.clone(), self.clone(), sweep::count_parked));
        loops.spawn(until_stopped(stop.clone(), self.clone(), sweep::count_fetches));
        if let Some(fetcher) = &self.fetcher {
            let fetcher = fetcher.clone();
            loops.spawn(until_stopped(stop, self.clone(), move |_| fetcher.clone().run()));
        }
        RunningUpkeep { stopping, loops, upkeep: self }
    }

    /// Tells the other replicas that this one is alive, and since when readers may lack something of it.
    async fn beat(&self) -> Result<Vec<Instance>, LedgerError> {
        let behind = self.entitlements.behind().max(self.redriver.behind());
        self.ledger.beat(self.instance, behind).await.inspect(|_| self.pulse.beat())
    }
}

impl RunningUpkeep {
    /// Ends the loops, and tells the other replicas whether this one leaves anything behind.
    pub async fn stop(mut self) {
        let _nobody_listens = self.stopping.send(true);
        while self.loops.join_next().await.is_some() {}
        let Upkeep { entitlements, ledger, cache, redriver, instance, .. } = self.upkeep;
        if cache.breaker().state() == BreakerState::Closed {
            entitlements.republish_due(Duration::ZERO, usize::MAX).await;
        }
        if entitlements.unpublished() == 0 && entitlements.behind().is_zero() && redriver.behind().is_zero() {
            if let Err(error) = ledger.forget_instance(instance).await {
                tracing::debug!(%error, "the other replicas will find out by themselves that this one has stopped");
            }
        } else {
            tracing::warn!(
                waiting = entitlements.unpublished(),
                "stopping with cache writes waiting: another replica does them"
            );
        }
    }
}

/// Runs a loop until told to stop. One that panics is begun again: the others, and requests, would go on without it, and nobody
/// would notice that levels no longer end.
async fn until_stopped<F: Future<Output = ()>>(
    mut stop: watch::Receiver<bool>,
    upkeep: Upkeep,
    work: impl Fn(Upkeep) -> F,
) {
    let again_and_again = async {
        while AssertUnwindSafe(async { work(upkeep.clone()).await }).catch_unwind().await.is_err() {
            metrics::counter!("tollgate_upkeep_panics_total").increment(1);
            tracing::error!("a loop of the upkeep panicked: begun again");
            tokio::time::sleep(upkeep.rhythm.beat).await;
        }
    };
    tokio::select! {
        () = again_and_again => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
