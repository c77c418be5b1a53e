//! Which users have a live actor, and how much is under way for each. Outlives the routers.
//!
//! Of what leads to an actor it asks one thing only, so that its promises can be held against a model (`registry_tests.rs`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
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
/// Where none may be added, room is looked for this often at most: it takes a look at every actor.
const MAKE_ROOM_EVERY: Duration = Duration::from_millis(100);

/// What leads to an actor: as long as one is there, the actor lives, unless it has died.
pub(super) trait Address: Clone {
    /// Whether the actor lives.
    fn is_connected(&self) -> bool;
}

impl Address for Addr<EntitlementActor> {
    fn is_connected(&self) -> bool {
        self.connected()
    }
}

/// See the [module](self).
pub(super) struct Registry<A = Addr<EntitlementActor>> {
    slots: DashMap<UserId, Slot<A>>,
    live: AtomicUsize,
    started: Instant,
    live_max: usize,
    per_user_max: u32,
    idle: Duration,
    /// Milliseconds after the start, when room may be looked for again.
    next_room: AtomicU64,
}

struct Slot<A> {
    addr: A,
    load: Arc<Load>,
}

/// How much a slot is used.
#[derive(Default)]
struct Load {
    in_flight: AtomicU32,
    /// Milliseconds after the registry's start.
    last_used: AtomicU64,
}

/// What the registry knows of a user's actor.
pub(super) enum Lookup<A = Addr<EntitlementActor>> {
    /// It lives; the lease keeps it from being let go.
    Live(Lease<A>),
    /// As much as may wait for one user is waiting.
    Busy,
    /// There is none, and as many live as may.
    Crowded,
    /// There is none, or it has died: a router must start one.
    Absent,
}

/// The right to send one message to an actor.
pub(super) struct Lease<A = Addr<EntitlementActor>> {
    pub(super) addr: A,
    /// Goes with the message: who asked may be gone long before it is handled.
    pub(super) hold: Hold,
}

/// While one is held the actor is not let go.
pub(super) struct Hold(Arc<Load>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place among those that may live; given back unless it is taken.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn reserve(live: &'a AtomicUsize, live_max: usize) -> Option<Self> {
        let one_more = |live| (live < live_max).then_some(live + 1);
        live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self(live))
    }

    fn take(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<A: Address> Registry<A> {
    pub(super) fn new(live_max: usize, per_user_max: u32, idle: Duration) -> Self {
        Self {
            slots: DashMap::new(),
            live: AtomicUsize::new(0),
            started: Instant::now(),
            live_max,
            per_user_max,
            idle,
            next_room: AtomicU64::new(0),
        }
    }

    /// Live actors.
    pub(super) fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Finds a live actor.
    pub(super) fn lease(&self, user: UserId) -> Lookup<A> {
        match self.slots.get(&user) {
            Some(slot) if slot.addr.is_connected() => self.hold(&slot),
            _ => Lookup::Absent,
        }
    }

    /// The same, and starts one if there is none.
    pub(super) fn start(&self, user: UserId, start: impl FnOnce() -> A) -> Lookup<A> {
        match self.slots.entry(user) {
            Entry::Occupied(mut slot) => {
                if !slot.get().addr.is_connected() {
                    count_died(user);
                    slot.insert(Slot { addr: start(), load: Arc::default() });
                }
                self.hold(slot.get())
            }
            Entry::Vacant(vacant) => {
                let Some(place) = Place::reserve(&self.live, self.live_max) else { return Lookup::Crowded };
                let slot = vacant.insert(Slot { addr: start(), load: Arc::default() });
                place.take();
                self.hold(&slot)
            }
        }
    }

    /// Under the entry's lock, so that [`let_go`](Self::let_go) sees it.
    fn hold(&self, slot: &Slot<A>) -> Lookup<A> {
        if slot.load.in_flight.fetch_add(1, Ordering::AcqRel) >= self.per_user_max {
            slot.load.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Lookup::Busy;
        }
        slot.load.last_used.store(self.millis(), Ordering::Relaxed);
        Lookup::Live(Lease { addr: slot.addr.clone(), hold: Hold(Arc::clone(&slot.load)) })
    }

    /// Lets go of actors that nobody has asked for a while: dropping the only address ends an actor once its mailbox is empty,
    /// and while nothing is held it is. Forgets those that have died.
    pub(super) fn let_go_idle(&self) {
        let crowded = CROWDED * to_f64(self.live_max);
        self.let_go(if to_f64(self.len()) > crowded { IDLE_WHEN_CROWDED.min(self.idle) } else { self.idle });
    }

    /// Lets go of whoever has nothing to do, now that one more is wanted than may live.
    pub(super) fn make_room(&self) {
        let (now, next) = (self.millis(), self.next_room.load(Ordering::Relaxed));
        let after = now.saturating_add(to_millis(MAKE_ROOM_EVERY));
        let is_mine = || self.next_room.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if now >= next && is_mine() {
            self.let_go(Duration::ZERO);
        }
    }

    fn let_go(&self, idle: Duration) {
        let (now, idle) = (self.millis(), to_millis(idle));
        let mut let_go = 0;
        self.slots.retain(|user, slot| {
            let has_died = !slot.addr.is_connected();
            let is_used = || {
                slot.load.in_flight.load(Ordering::Acquire) > 0
                    || now.saturating_sub(slot.load.last_used.load(Ordering::Relaxed)) < idle
            };
            if has_died {
                count_died(*user);
            } else if is_used() {
                return true;
            } else {
                let_go += 1;
            }
            self.live.fetch_sub(1, Ordering::Relaxed);
            false
        });
        metrics::counter!("tollgate_actors_let_go_total").increment(let_go);
    }

    fn millis(&self) -> u64 {
        to_millis(self.started.elapsed())
    }
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count_died(user: UserId) {
    metrics::counter!("tollgate_actors_died_total").increment(1);
    tracing::warn!(user.id = %user, "an actor had died");
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
