//! Events that this process knows to have had their effect: a copy of what the ledger said, bounded, and void under another epoch.
//! A redelivery that is found here needs neither an actor nor Redis nor the ledger.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use crate::{domain::id::EventId, ledger::Epoch};

/// Events in one of the two generations: some 3 MiB. Redeliveries come soon after the first delivery, or long after; Redis and
/// the ledger know the rest.
const GENERATION_MAX: usize = 32_768;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Done(RwLock<Generations>);

#[derive(Default)]
struct Generations {
    epoch: Option<Epoch>,
    young: HashSet<EventId>,
    old: HashSet<EventId>,
}

impl Done {
    /// Whether the ledger of this epoch has said that the event had its effect.
    pub(super) fn contains(&self, event: &EventId, epoch: &Epoch) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.epoch.as_ref() == Some(epoch) && (known.young.contains(event) || known.old.contains(event))
    }

    /// The ledger of this epoch has said so.
    pub(super) fn insert(&self, event: EventId, epoch: &Epoch) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.epoch.as_ref() != Some(epoch) {
            *known = Generations { epoch: Some(epoch.clone()), ..Generations::default() };
        }
        known.young.insert(event);
        if known.young.len() >= GENERATION_MAX {
            known.old = std::mem::take(&mut known.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> EventId {
        EventId::parse(&format!("evt_{n}")).unwrap()
    }

    #[test]
    fn another_epoch_voids_what_was_known() {
        let (done, one, two) = (Done::default(), Epoch::new("one"), Epoch::new("two"));
        done.insert(event(1), &one);
        assert!(done.contains(&event(1), &one) && !done.contains(&event(1), &two) && !done.contains(&event(2), &one));
        done.insert(event(2), &two);
        assert!(!done.contains(&event(1), &one) && !done.contains(&event(1), &two) && done.contains(&event(2), &two));
    }

    #[test]
    fn it_remembers_the_newest_and_stays_bounded() {
        let (done, epoch) = (Done::default(), Epoch::new("one"));
        for n in 0..3 * GENERATION_MAX {
            done.insert(event(n), &epoch);
        }
        for n in [2 * GENERATION_MAX, 3 * GENERATION_MAX - 1] {
            assert!(done.contains(&event(n), &epoch));
        }
        assert!(!done.contains(&event(0), &epoch));
        let known = done.0.read().unwrap();
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION_MAX);
    }
}
