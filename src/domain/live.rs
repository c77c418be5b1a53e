//! The catalogue that is in force. Everybody holds the same handle, so that a new catalogue takes its place everywhere at once.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    level::Level,
    plan::{Catalogue, Plan},
};

/// A handle on the catalogue in force. Clones share it.
#[derive(Debug, Clone)]
pub struct LiveCatalogue(Arc<ArcSwap<Catalogue>>);

impl LiveCatalogue {
    /// The catalogue in force. Whoever decides something takes it once and decides by it to the end.
    #[must_use]
    pub fn get(&self) -> Arc<Catalogue> {
        self.0.load_full()
    }

    /// Puts another in force for everything that is decided from now on.
    pub fn replace(&self, catalogue: Catalogue) {
        self.0.store(Arc::new(catalogue));
    }
}

/// Why a catalogue cannot take the place of the one in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// States in the ledger and in caches were decided by the old rank.
    #[error("level {level} has rank {old} and would have {new}: a rank can be changed only by a restart")]
    RankChanged {
        /// Whose rank.
        level: Level,
        /// In force.
        old: u32,
        /// In the new catalogue.
        new: u32,
    },
    /// Whoever holds it would be served `FREE`.
    #[error("there are live grants of {0}, which the catalogue does not have: keep its plan until the last has ended")]
    LevelHeld(Level),
}

impl Catalogue {
    /// Whether this can take the place of the one in force while `held` levels have live grants.
    ///
    /// # Errors
    /// [`SuccessionError`] names the level it would do wrong.
    pub fn may_replace(&self, old: &Self, held: &[Level]) -> Result<(), SuccessionError> {
        for plan in old.plans() {
            let (level, old) = (&plan.level, plan.rank);
            match self.plan(level) {
                Some(Plan { rank: new, .. }) if *new != old => {
                    return Err(SuccessionError::RankChanged { level: level.clone(), old, new: *new });
                }
                _ => {}
            }
        }
        match held.iter().find(|level| self.plan(level).is_none()) {
            Some(level) => Err(SuccessionError::LevelHeld(level.clone())),
            None => Ok(()),
        }
    }
}

impl From<Catalogue> for LiveCatalogue {
    fn from(catalogue: Catalogue) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(catalogue)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::tests::catalogue;

    #[test]
    fn what_people_hold_stays_and_ranks_stay() {
        let old = catalogue();
        let without = |level: &str| {
            let kept = old.plans().iter().filter(|plan| plan.level.as_str() != level);
            Catalogue::new(kept.cloned().collect()).unwrap()
        };
        let pro = Level::parse("PRO").unwrap();
        assert_eq!(without("PRO").may_replace(&old, &[]), Ok(()));
        let refused = Err(SuccessionError::LevelHeld(pro.clone()));
        assert_eq!(without("PRO").may_replace(&old, std::slice::from_ref(&pro)), refused);
        assert_eq!(old.may_replace(&without("PRO"), std::slice::from_ref(&pro)), Ok(()), "a level may join");

        let mut plans = old.plans().to_vec();
        plans[1].rank = 25;
        plans[2].checkout.tax = true;
        let refused = Err(SuccessionError::RankChanged { level: pro, old: 20, new: 25 });
        assert_eq!(Catalogue::new(plans.clone()).unwrap().may_replace(&old, &[]), refused);
        plans[1].rank = 20;
        assert_eq!(Catalogue::new(plans).unwrap().may_replace(&old, &[]), Ok(()));
    }

    #[test]
    fn a_replacement_is_seen_by_all_handles_and_not_by_what_has_begun() {
        let live = LiveCatalogue::from(catalogue());
        let (other, begun) = (live.clone(), live.get());
        let next = Catalogue::new(vec![catalogue().plans()[0].clone()]).unwrap();
        live.replace(next.clone());
        assert_eq!((*other.get()).clone(), next);
        assert_eq!(*begun, catalogue());
    }
}
