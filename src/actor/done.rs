//! Events that this process knows to have had their effect: a copy of what the ledger said, bounded, and void under another epoch.
//! A redelivery that is found here needs neither an actor nor Redis nor the ledger.

use std::sync::{PoisonError, RwLock};

use crate::{domain::id::EventId, ledger::Epoch, recent::Recent};

/// Events known at least: some 3 MiB. Redeliveries come soon after the first delivery, or long after; Redis and the ledger know
/// the rest.
const EVENTS_MAX: usize = 32_768;

/// See the [module](self).
pub(super) struct Done(RwLock<Known>);

struct Known {
    epoch: Option<Epoch>,
    events: Recent<EventId, ()>,
}

impl Default for Done {
    fn default() -> Self {
        Self(RwLock::new(Known { epoch: None, events: Recent::new(EVENTS_MAX) }))
    }
}

impl Done {
    /// Whether the ledger of this epoch has said that the event had its effect.
    pub(super) fn contains(&self, event: &EventId, epoch: &Epoch) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.epoch.as_ref() == Some(epoch) && known.events.get(event).is_some()
    }

    /// The ledger of this epoch has said so.
    pub(super) fn insert(&self, event: EventId, epoch: &Epoch) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.epoch.as_ref() != Some(epoch) {
            known.epoch = Some(epoch.clone());
            known.events.clear();
        }
        known.events.insert(event, ());
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
    fn a_panic_under_the_lock_poisons_nobody() {
        let (done, one) = (Done::default(), Epoch::new("one"));
        done.insert(event(1), &one);
        let panics = std::panic::AssertUnwindSafe(|| {
            let _held = done.0.write();
            panic!("as it was told");
        });
        assert!(std::panic::catch_unwind(panics).is_err() && done.0.is_poisoned());
        done.insert(event(2), &one);
        assert!(done.contains(&event(1), &one) && done.contains(&event(2), &one));
    }
}
