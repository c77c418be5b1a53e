//! The catalogue that is in force. Everybody holds the same handle, so that a new catalogue takes its place everywhere at once.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::plan::Catalogue;

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
    fn a_replacement_is_seen_by_all_handles_and_not_by_what_has_begun() {
        let live = LiveCatalogue::from(catalogue());
        let (other, begun) = (live.clone(), live.get());
        let next = Catalogue::new(vec![catalogue().plans()[0].clone()]).unwrap();
        live.replace(next.clone());
        assert_eq!((*other.get()).clone(), next);
        assert_eq!(*begun, catalogue());
    }
}
