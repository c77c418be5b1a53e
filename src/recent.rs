//! A bounded memory: what was put in last stays, what is older goes, at the price of two maps. No clock, no list to keep in order.

use std::{borrow::Borrow, collections::HashMap, fmt, hash::Hash};

/// Keeps at least the newest `generation_max` entries and at most twice as many.
pub(crate) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation_max: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(generation_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max: generation_max.max(1) }
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.young.insert(key, value);
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// How many; never what: keys may be secrets.
impl<K, V> fmt::Debug for Recent<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("young", &self.young.len()).field("old", &self.old.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_the_memory_is_bounded() {
        let mut recent = Recent::new(100);
        for n in 0..250 {
            recent.insert(n, n * 2);
        }
        for n in 150..250 {
            assert_eq!(recent.get(&n), Some(&(n * 2)));
        }
        assert_eq!(recent.get(&0), None);
        assert!(recent.young.len() + recent.old.len() <= 200);
        recent.clear();
        assert_eq!(recent.get(&249), None);
    }

    #[test]
    fn what_it_holds_is_not_printed() {
        let mut recent = Recent::new(10);
        recent.insert("a-secret".to_owned(), ());
        assert!(!format!("{recent:?}").contains("a-secret"));
    }
}
