//! Commits that readers have not been shown yet. An entry goes in with the commit and out only when the cache has that version
//! or a newer one: a failed cache write is never forgotten while this process lives. (When it dies, `upkeep` republishes what
//! changed since everything it had was shown.)

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use dashmap::DashMap;

use crate::domain::id::UserId;

/// Beyond this many, one moment stands for all.
const ENTRIES_MAX: usize = 100_000;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Unpublished {
    waiting: DashMap<UserId, Waiting>,
    /// Since when commits went uncounted.
    overflow: Mutex<Option<Instant>>,
}

struct Waiting {
    version: u64,
    since: Instant,
}

impl Unpublished {
    /// A version was committed.
    pub(super) fn committed(&self, user: UserId, version: u64) {
        if self.waiting.len() >= ENTRIES_MAX {
            return self.uncounted();
        }
        self.waiting
            .entry(user)
            .and_modify(|waiting| waiting.version = waiting.version.max(version))
            .or_insert_with(|| Waiting { version, since: Instant::now() });
    }

    /// Somebody's state was committed, or perhaps was, and nobody knows whose.
    pub(super) fn uncounted(&self) {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// The cache has this version or a newer one.
    pub(super) fn published(&self, user: UserId, version: u64) {
        self.waiting.remove_if(&user, |_, waiting| waiting.version <= version);
    }

    /// The newest version that waits for a user.
    pub(super) fn newest(&self, user: UserId) -> Option<u64> {
        self.waiting.get(&user).map(|waiting| waiting.version)
    }

    /// How long the oldest has waited.
    pub(super) fn behind(&self) -> Duration {
        let overflow = *self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = self.waiting.iter().map(|entry| entry.since).chain(overflow).min();
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Users that have waited for at least `age`: at most `limit`.
    pub(super) fn due(&self, age: Duration, limit: usize) -> Vec<UserId> {
        self.waiting.iter().filter(|entry| entry.since.elapsed() >= age).map(|entry| *entry.key()).take(limit).collect()
    }

    /// How long ago commits began to go uncounted, if they did; the caller republishes everything since.
    pub(super) fn take_overflow(&self) -> Option<Duration> {
        self.overflow.lock().unwrap_or_else(PoisonError::into_inner).take().map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_the_newest_version_takes_an_entry_out() {
        let set = Unpublished::default();
        let user = UserId::from(Uuid::from_u128(1));
        set.committed(user, 2);
        set.committed(user, 1);
        set.published(user, 1);
        assert_eq!(set.due(Duration::ZERO, 10), vec![user], "version 2 has not been shown");
        set.published(user, 3);
        assert_eq!(set.len(), 0);
    }
}
