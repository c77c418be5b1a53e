//! The threads that actors live on, each with its router and its lanes, and what begins them again when they end.
//!
//! Thread, router and lane each bear a [`Pulse`], which is dropped with them, whatever ended them. So an end is noticed at once,
//! also where no message comes: other threads' users use these lanes too, and idle actors are let go by nobody else.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{Addr, Arbiter, System};
use futures::FutureExt;
use tokio::sync::Notify;

use super::{
    entitlement::Tools,
    error::ApplyError,
    registry::Registry,
    router::{EventRouter, start_router},
};
use crate::{domain::id::UserId, watchdog::Watchdog};

/// Idle actors are looked for this often at least; more often if they are to be let go sooner.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What ends as soon as it is begun is not begun again more often than this.
const PAUSE: Duration = Duration::from_millis(100);

/// What a watchdog calls each of them.
const THREAD: &str = "actors";

/// Dropped with what bears it.
pub(super) struct Pulse(Arc<Notify>);

impl Pulse {
    /// A pulse to be borne, and what tells whether it still is.
    pub(super) fn new(endings: &Arc<Notify>) -> (Arc<Self>, Weak<Self>) {
        let pulse = Arc::new(Self(Arc::clone(endings)));
        let seen = Arc::downgrade(&pulse);
        (pulse, seen)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Whether the bearer of a pulse has ended.
pub(super) fn has_ended(pulse: &Weak<Pulse>) -> bool {
    pulse.strong_count() == 0
}

/// See the [module](self).
pub(super) struct Shards {
    shards: Vec<RwLock<Shard>>,
    registry: Arc<Registry>,
    tools: Arc<Tools>,
    watchdog: OnceLock<Watchdog>,
    /// Nothing that has ended is begun again any more.
    stopped: AtomicBool,
    endings: Arc<Notify>,
}

/// A thread with its router.
struct Shard {
    arbiter: Arbiter,
    router: Addr<EventRouter>,
    /// The router's.
    pulse: Weak<Pulse>,
}

impl Shards {
    /// Starts a router on each thread, and the supervision on this one. To be called within an actix `System`.
    pub(super) fn start(
        arbiters: Vec<Arbiter>,
        registry: &Arc<Registry>,
        tools: &Arc<Tools>,
        endings: Arc<Notify>,
        idle: Duration,
    ) -> Arc<Self> {
        let shard = |arbiter| {
            watch(&arbiter, &endings);
            let (pulse, seen) = Pulse::new(&endings);
            let router = start_router(&arbiter, registry, tools, pulse);
            RwLock::new(Shard { arbiter, router, pulse: seen })
        };
        let shards = Arc::new(Self {
            shards: arbiters.into_iter().map(shard).collect(),
            registry: Arc::clone(registry),
            tools: Arc::clone(tools),
            watchdog: OnceLock::new(),
            stopped: AtomicBool::new(false),
            endings: Arc::clone(&endings),
        });
        let look_every = idle.clamp(Duration::from_millis(1), LOOK_EVERY);
        tokio::spawn(supervise(Arc::downgrade(&shards), endings, look_every));
        shards
    }

    /// Has the threads watched, and those that replace them. Once.
    pub(super) fn watched_by(&self, watchdog: &Watchdog) {
        let watchdog = self.watchdog.get_or_init(|| watchdog.clone());
        for shard in &self.shards {
            shard.read().unwrap_or_else(PoisonError::into_inner).arbiter.spawn(watchdog.watch(THREAD));
        }
    }

    /// The user's router. One that has ended is begun again.
    pub(super) fn router(&self, user: UserId) -> Result<Addr<EventRouter>, ApplyError> {
        let index = shard_of(user, self.shards.len());
        let shard = self.shards.get(index).ok_or(ApplyError::Unavailable)?;
        {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            if !has_ended(&shard.pulse) {
                return Ok(shard.router.clone());
            }
        }
        self.revive(index, shard)
    }

    /// A router that has dropped what it was asked is dying, though its pulse may beat until it has.
    pub(super) fn bury(&self, user: UserId, router: &Addr<EventRouter>) {
        let Some(shard) = self.shards.get(shard_of(user, self.shards.len())) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.router == *router {
            shard.pulse = Weak::new();
        }
    }

    /// Ends threads, routers, actors and lanes.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.read().unwrap_or_else(PoisonError::into_inner).arbiter.stop();
        }
        self.endings.notify_one();
    }

    /// Begins again what has ended of a thread, its router and its lanes.
    fn revive(&self, index: usize, shard: &RwLock<Shard>) -> Result<Addr<EventRouter>, ApplyError> {
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        // Told under the lock: whatever is begun after the stop would never end.
        if self.stopped.load(Ordering::Acquire) {
            return Err(ApplyError::Unavailable);
        }
        let has_lost_its_thread = !shard.arbiter.alive();
        if has_lost_its_thread {
            let arbiter = fresh_thread().ok_or(ApplyError::Unavailable)?;
            watch(&arbiter, &self.endings);
            if let Some(watchdog) = self.watchdog.get() {
                arbiter.spawn(watchdog.watch(THREAD));
            }
            metrics::counter!("tollgate_actor_threads_died_total").increment(1);
            tracing::error!(shard = index, "a thread of actors had ended: a fresh one was started");
            shard.arbiter = arbiter;
        }
        self.tools.writer.revive(index, self.shards.len(), &shard.arbiter, has_lost_its_thread);
        if has_lost_its_thread || has_ended(&shard.pulse) {
            metrics::counter!("tollgate_routers_died_total").increment(1);
            tracing::error!(shard = index, "a router had died: started afresh");
            let (pulse, seen) = Pulse::new(&self.endings);
            shard.router = start_router(&shard.arbiter, &self.registry, &self.tools, pulse);
            shard.pulse = seen;
        }
        Ok(shard.router.clone())
    }

    fn look_after(&self) {
        for (index, shard) in self.shards.iter().enumerate() {
            // Refused: no thread can be had now, which was logged. The next look tries again.
            let _router = self.revive(index, shard);
        }
    }
}

/// Which of `shards` threads a user belongs to.
pub(super) fn shard_of(user: UserId, shards: usize) -> usize {
    let shards = u64::try_from(shards.max(1)).unwrap_or(1);
    // Folded, so that ids made by any scheme spread evenly.
    let (high, low) = user.uuid().as_u64_pair();
    usize::try_from((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) % shards).unwrap_or(0)
}

/// Has a thread's end noticed.
fn watch(arbiter: &Arbiter, endings: &Arc<Notify>) {
    let (pulse, _) = Pulse::new(endings);
    arbiter.spawn(async move {
        let _borne = pulse;
        std::future::pending::<()>().await;
    });
}

/// A thread for actors, if one can be had. Who asks may be on a thread of any kind, and actix panics outside its system.
fn fresh_thread() -> Option<Arbiter> {
    System::try_current()?;
    Arbiter::try_new().inspect_err(|error| tracing::error!(%error, "no thread for actors can be had")).ok()
}

/// Until the last handle is gone, or all is stopped: begins again what has ended, and lets idle actors go.
async fn supervise(shards: Weak<Shards>, endings: Arc<Notify>, look_every: Duration) {
    while AssertUnwindSafe(look_again_and_again(&shards, &endings, look_every)).catch_unwind().await.is_err() {
        metrics::counter!("tollgate_supervision_panics_total").increment(1);
        tracing::error!("the supervision of the actors panicked: begun again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look_again_and_again(shards: &Weak<Shards>, endings: &Notify, look_every: Duration) {
    loop {
        let something_ended = tokio::time::timeout(look_every, endings.notified()).await.is_ok();
        {
            let Some(shards) = shards.upgrade() else { return };
            if shards.stopped.load(Ordering::Acquire) {
                return;
            }
            shards.registry.let_go_idle();
            let live = u32::try_from(shards.registry.len()).unwrap_or(u32::MAX);
            metrics::gauge!("tollgate_actors_live").set(f64::from(live));
            shards.look_after();
        }
        if something_ended {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
