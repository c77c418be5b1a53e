//! The registry against a model of it, under schedules of its operations: all of them where they are short, random ones where they are long.
//!
//! Each operation is done under its entry's lock, which is the map's own and which no model checker for threads can see into; so what there is
//! to schedule are whole operations, and an interleaving is an order of them. What runs beside the locks, the count of the living, is tried by
//! threads.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;
use uuid::Uuid;

use super::registry::{Address, Hold, Lease, Lookup, Registry};
use crate::domain::id::UserId;

/// An actor that is nothing but alive.
#[derive(Clone)]
struct Actor(Arc<AtomicBool>);

impl Actor {
    fn start() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Address for Actor {
    fn is_connected(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

const USERS: u128 = 3;
const LIVE_MAX: usize = 2;
const PER_USER_MAX: usize = 2;

fn user(number: u128) -> UserId {
    UserId::from(Uuid::from_u128(number))
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A caller looks for an actor.
    Lease(u128),
    /// A router starts one.
    Start(u128),
    /// The oldest message of the user has been handled.
    Handled(u128),
    /// The user's actor dies.
    Dies(u128),
    /// The supervision looks.
    LetGo,
    /// Room is asked for.
    MakeRoom,
}

/// What the registry should know of a user's actor.
struct Expected {
    actor: Weak<AtomicBool>,
    held: usize,
}

/// The registry, what it should know, and all that is held.
struct Both {
    registry: Registry<Actor>,
    model: BTreeMap<u128, Expected>,
    /// With the actor each is of.
    holds: BTreeMap<u128, Vec<(Weak<AtomicBool>, Hold)>>,
    lets_go_idle: bool,
}

impl Both {
    /// Where idle actors are let go at once, or never: what is between is a comparison of two numbers.
    fn new(lets_go_idle: bool) -> Self {
        let idle = if lets_go_idle { Duration::ZERO } else { Duration::from_secs(3600) };
        // The cap of a registry that is never crowded is not reached either.
        let registry = Registry::new(LIVE_MAX, u32::try_from(PER_USER_MAX).unwrap(), idle);
        Self { registry, model: BTreeMap::new(), holds: BTreeMap::new(), lets_go_idle }
    }

    fn is_alive(&self, number: u128) -> bool {
        let actor = self.model.get(&number).and_then(|expected| expected.actor.upgrade());
        actor.is_some_and(|alive| alive.load(Ordering::Acquire))
    }

    fn expect_lease(&mut self, number: u128, found: Lookup<Actor>) {
        let expected = self.model.get_mut(&number).unwrap();
        match found {
            Lookup::Live(Lease { addr, hold }) => {
                assert!(expected.actor.ptr_eq(&Arc::downgrade(&addr.0)), "the one actor that the user has");
                expected.held += 1;
                assert!(expected.held <= PER_USER_MAX, "more than may wait for one user");
                self.holds.entry(number).or_default().push((Arc::downgrade(&addr.0), hold));
            }
            Lookup::Busy => assert_eq!(expected.held, PER_USER_MAX, "there was room"),
            Lookup::Crowded | Lookup::Absent => panic!("it lives"),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Lease(number) => match self.registry.lease(user(number)) {
                Lookup::Absent => assert!(!self.is_alive(number), "it was there"),
                found => self.expect_lease(number, found),
            },
            Step::Start(number) => {
                let was_alive = self.is_alive(number);
                let mut started = None;
                let found = self.registry.start(user(number), || {
                    let actor = Actor::start();
                    started = Some(Arc::downgrade(&actor.0));
                    actor
                });
                assert!(!(was_alive && started.is_some()), "a second one beside one that lives");
                if matches!(found, Lookup::Crowded) {
                    assert!(started.is_none() && !self.model.contains_key(&number));
                    assert_eq!(self.model.len(), LIVE_MAX, "refused for lack of room");
                    return;
                }
                if let Some(actor) = started {
                    self.model.insert(number, Expected { actor, held: 0 });
                }
                self.expect_lease(number, found);
            }
            Step::Handled(number) => {
                let Some(holds) = self.holds.get_mut(&number).filter(|holds| !holds.is_empty()) else { return };
                let (actor, hold) = holds.remove(0);
                drop(hold);
                if let Some(expected) = self.model.get_mut(&number)
                    && expected.actor.ptr_eq(&actor)
                {
                    expected.held -= 1;
                }
            }
            Step::Dies(number) => {
                if let Some(alive) = self.model.get(&number).and_then(|expected| expected.actor.upgrade()) {
                    alive.store(false, Ordering::Release);
                }
            }
            Step::LetGo => {
                self.registry.let_go_idle();
                self.forget(self.lets_go_idle);
            }
            Step::MakeRoom => {
                let before = self.registry.len();
                self.registry.make_room();
                // Once in a while only; then whoever has nothing to do goes.
                if self.registry.len() < before {
                    self.forget(true);
                }
            }
        }
        self.check();
    }

    fn forget(&mut self, lets_go_idle: bool) {
        let numbers: Vec<u128> = self.model.keys().copied().collect();
        for number in numbers {
            if !self.is_alive(number) || (lets_go_idle && self.model[&number].held == 0) {
                self.model.remove(&number);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.registry.len(), self.model.len(), "the count is that of the living");
        assert!(self.registry.len() <= LIVE_MAX, "more than may live");
        for (number, expected) in &self.model {
            assert!(expected.actor.strong_count() > 0, "the actor of user {number} was let go");
        }
        for (actor, _) in self.holds.values().flatten() {
            let is_known = self.model.values().any(|expected| expected.actor.ptr_eq(actor));
            let has_died = actor.upgrade().is_none_or(|alive| !alive.load(Ordering::Acquire));
            assert!(is_known || has_died, "let go while a message of its own was under way");
        }
    }

    /// Everything is handled, and all are let go: nothing may be left.
    fn end(mut self) {
        let actors: Vec<_> = self.model.values().map(|expected| expected.actor.clone()).collect();
        self.holds.clear();
        for expected in self.model.values() {
            if let Some(alive) = expected.actor.upgrade() {
                alive.store(self.lets_go_idle, Ordering::Release);
            }
        }
        self.registry.let_go_idle();
        assert_eq!(self.registry.len(), 0);
        assert!(actors.iter().all(|actor| actor.strong_count() == 0), "memory returns");
    }
}

/// Runs every order in which the steps of several parties can follow each other. Gives how many there were.
fn every_order(parties: &[&[Step]], run: &mut impl FnMut(&[Step])) -> u32 {
    fn go(parties: &[&[Step]], at: &mut Vec<usize>, order: &mut Vec<Step>, run: &mut impl FnMut(&[Step])) -> u32 {
        let mut count = 0;
        for party in 0..parties.len() {
            let Some(step) = parties[party].get(at[party]) else { continue };
            at[party] += 1;
            order.push(*step);
            count += go(parties, at, order, run);
            order.pop();
            at[party] -= 1;
        }
        if count == 0 {
            run(order);
            return 1;
        }
        count
    }
    go(parties, &mut vec![0; parties.len()], &mut Vec::new(), run)
}

#[test]
fn every_order_of_two_callers_a_death_and_a_look_keeps_the_promises() {
    use Step::{Dies, Handled, Lease, LetGo, MakeRoom, Start};
    let caller: &[Step] = &[Lease(0), Start(0), Lease(0), Handled(0)];
    let other: &[Step] = &[Lease(0), Start(0), Handled(0), Start(1)];
    let others: [&[Step]; 3] = [&[LetGo, LetGo], &[Dies(0), LetGo], &[Start(2), MakeRoom, Start(2)]];
    for lets_go_idle in [true, false] {
        for third in others {
            let orders = every_order(&[caller, other, third], &mut |order| {
                let mut both = Both::new(lets_go_idle);
                order.iter().for_each(|step| both.step(*step));
                both.end();
            });
            assert!(orders >= 3_150, "{orders}");
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let number = 0..USERS;
    prop_oneof![
        4 => number.clone().prop_map(Step::Lease),
        3 => number.clone().prop_map(Step::Start),
        4 => number.clone().prop_map(Step::Handled),
        1 => number.prop_map(Step::Dies),
        1 => Just(Step::LetGo),
        1 => Just(Step::MakeRoom),
    ]
}

proptest! {
    #[test]
    fn any_long_schedule_keeps_the_promises(lets_go_idle: bool, steps in prop::collection::vec(any_step(), 0..200)) {
        let mut both = Both::new(lets_go_idle);
        steps.into_iter().for_each(|step| both.step(step));
        both.end();
    }
}

/// A start that panics gave its place to nobody, for ever.
#[test]
fn a_start_that_panics_leaves_its_place_and_no_lock() {
    let registry: Registry<Actor> = Registry::new(1, 1, Duration::ZERO);
    let start = std::panic::AssertUnwindSafe(|| registry.start(user(1), || panic!("as it was told")));
    assert!(std::panic::catch_unwind(start).is_err());
    assert_eq!(registry.len(), 0);
    assert!(matches!(registry.start(user(1), Actor::start), Lookup::Live(_)));
}

#[test]
fn a_hundred_thousand_users_never_exceed_the_cap_and_leave_nothing() {
    const CAP: usize = 64;
    let registry: Registry<Actor> = Registry::new(CAP, 1, Duration::ZERO);
    let served: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u128)
            .map(|part| {
                let registry = &registry;
                scope.spawn(move || {
                    let mut served = 0;
                    for number in 0..25_000 {
                        let user = user(part * 25_000 + number);
                        let is_served = || matches!(registry.start(user, Actor::start), Lookup::Live(_));
                        while !is_served() {
                            assert!(registry.len() <= CAP);
                            registry.let_go_idle();
                        }
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(served, 100_000);
    registry.let_go_idle();
    assert_eq!(registry.len(), 0);
}
