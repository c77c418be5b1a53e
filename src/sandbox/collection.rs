//! Objects of one kind, by id and in the order in which they were made.

use std::collections::{BTreeMap, HashMap};

use serde::{Serialize, de::DeserializeOwned};

/// What is kept by id.
pub(super) trait Kept: Serialize + DeserializeOwned + Clone {
    /// Its name in the file.
    const KIND: &'static str;

    fn id(&self) -> &str;
}

/// Objects of one kind.
#[derive(Debug)]
pub(super) struct Collection<T> {
    places: HashMap<String, i64>,
    objects: BTreeMap<i64, T>,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self { places: HashMap::new(), objects: BTreeMap::new() }
    }
}

impl<T: Kept> Collection<T> {
    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.objects.get(self.places.get(id)?)
    }

    pub(super) fn place(&self, id: &str) -> Option<i64> {
        self.places.get(id).copied()
    }

    /// Puts an object at a place: its own if it has one.
    pub(super) fn put(&mut self, place: i64, object: T) {
        self.places.insert(object.id().to_owned(), place);
        self.objects.insert(place, object);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<T> {
        self.objects.remove(&self.places.remove(id)?)
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.objects.values()
    }

    /// Those that are older than the one with this id, newest first.
    pub(super) fn older_than(&self, id: &str) -> Option<impl Iterator<Item = &T>> {
        Some(self.objects.range(..self.place(id)?).rev().map(|(_, object)| object))
    }

    /// Those that are newer than the one with this id, oldest first.
    pub(super) fn newer_than(&self, id: &str) -> Option<impl Iterator<Item = &T>> {
        Some(self.objects.range(self.place(id)?.saturating_add(1)..).map(|(_, object)| object))
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}
