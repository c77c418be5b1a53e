//! Which users have a live actor, and how much is under way for each. Outlives the routers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use actix::Addr;
use dashmap::{DashMap, Entry};

use super::entitlement::EntitlementActor;
use crate::domain::id::UserId;

/// Above this part of the cap, idle actors are let go sooner.
const CROWDED: f64 = 0.75;
/// How soon, when crowded.
const IDLE_WHEN_CROWDED: Duration = Duration::from_secs(2);

/// See the [module](self).
pub(super) struct Registry {
    slots: DashMap<UserId, Slot>,
    live: AtomicUsize,
    started: Instant,
    live_max: usize,
    per_user_max: u32,
    idle: Duration,
}

struct Slot {
    addr: Addr<EntitlementActor>,
    load: Arc<Load>,
}

/// How much a slot is used.
#[derive(Default)]
struct Load {
    in_flight: AtomicU32,
    /// Seconds after the registry's start.
    last_used: AtomicU32,
}

/// What the registry knows of a user's actor.
pub(super) enum Lookup {
    /// It lives; the lease keeps it from being let go.
    Live(Lease),
    /// As much as may wait for one user is waiting.
    Busy,
    /// There is none, or it has died: a router must start one.
    Absent,
}

/// The right to send to an actor. While one is held the actor is not let go.
pub(super) struct Lease {
    pub(super) addr: Addr<EntitlementActor>,
    load: Arc<Load>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Registry {
    pub(super) fn new(live_max: usize, per_user_max: u32, idle: Duration) -> Self {
        Self { slots: DashMap::new(), live: AtomicUsize::new(0), started: Instant::now(), live_max, per_user_max, idle }
    }

    /// Live actors.
    pub(super) fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Finds a live actor. The count grows under the entry's lock, so that [`let_go_idle`](Self::let_go_idle) sees it.
    pub(super) fn lease(&self, user: UserId) -> Lookup {
        let Some(slot) = self.slots.get(&user) else { return Lookup::Absent };
        if !slot.addr.connected() {
            return Lookup::Absent;
        }
        if slot.load.in_flight.fetch_add(1, Ordering::AcqRel) >= self.per_user_max {
            slot.load.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Lookup::Busy;
        }
        slot.load.last_used.store(self.seconds(), Ordering::Relaxed);
        Lookup::Live(Lease { addr: slot.addr.clone(), load: Arc::clone(&slot.load) })
    }

    /// Makes sure that a live actor is there. `false` if as many live as may.
    pub(super) fn start(&self, user: UserId, start: impl FnOnce() -> Addr<EntitlementActor>) -> bool {
        match self.slots.entry(user) {
            Entry::Occupied(mut slot) => {
                if !slot.get().addr.connected() {
                    metrics::counter!("tollgate_actors_died_total").increment(1);
                    tracing::warn!(user.id = %user, "an actor had died: started afresh");
                    slot.insert(self.slot(start()));
                }
                true
            }
            Entry::Vacant(vacant) => {
                if self.live.load(Ordering::Relaxed) >= self.live_max {
                    return false;
                }
                self.live.fetch_add(1, Ordering::Relaxed);
                vacant.insert(self.slot(start()));
                true
            }
        }
    }

    /// Lets go of actors that nobody has asked for a while: dropping the only address ends an actor once its mailbox is empty,
    /// and without a lease it is. Gives how many.
    pub(super) fn let_go_idle(&self) -> usize {
        let crowded = CROWDED * to_f64(self.live_max);
        let idle = if to_f64(self.len()) > crowded { IDLE_WHEN_CROWDED.min(self.idle) } else { self.idle };
        let now = self.seconds();
        let idle = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX);
        let mut gone = 0;
        self.slots.retain(|_, slot| {
            let keep = slot.load.in_flight.load(Ordering::Acquire) > 0
                || now.saturating_sub(slot.load.last_used.load(Ordering::Relaxed)) < idle;
            gone += usize::from(!keep);
            keep
        });
        self.live.fetch_sub(gone, Ordering::Relaxed);
        gone
    }

    fn slot(&self, addr: Addr<EntitlementActor>) -> Slot {
        let load = Load::default();
        load.last_used.store(self.seconds(), Ordering::Relaxed);
        Slot { addr, load: Arc::new(load) }
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
