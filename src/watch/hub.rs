//! Who watches whom. Whoever shows readers a state tells the hub; where nobody watches, that is one load of an integer.
//!
//! Of each watched user only the newest version is kept: a watcher that is slow finds that one, and nothing queues up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use dashmap::DashMap;
use tokio::sync::{Notify, watch};

use crate::{domain::id::UserId, ledger::Epoch};

/// Watchers of one user at once: a browser's tabs.
const PER_USER_MAX: usize = 8;

/// A place in a user's history, which another ledger begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
}

/// Why nobody else may watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The process has as many watchers as it may.
    Process,
    /// The user has.
    User,
}

/// Who watches whom, and the newest version told of each. Cheap to clone: the clones are one hub.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    users: DashMap<UserId, Watched>,
    watchers: AtomicUsize,
    watchers_max: usize,
    somebody: Notify,
    stopping: watch::Sender<bool>,
}

#[derive(Default)]
struct Watched {
    newest: watch::Sender<Option<Version>>,
    watchers: usize,
}

impl Hub {
    /// A hub for so many watchers at once.
    #[must_use]
    pub fn new(watchers_max: usize) -> Self {
        let inner = Inner {
            users: DashMap::new(),
            watchers: AtomicUsize::new(0),
            watchers_max,
            somebody: Notify::new(),
            stopping: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Tells whoever watches a user that this version is there.
    pub fn tell(&self, user: UserId, epoch: &Epoch, number: u64) {
        if !self.is_watched() {
            return;
        }
        let Some(watched) = self.inner.users.get(&user) else { return };
        watched.newest.send_if_modified(|newest| {
            let is_news = newest.as_ref().is_none_or(|newest| newest.epoch != *epoch || newest.number < number);
            if is_news {
                *newest = Some(Version { epoch: epoch.clone(), number });
            }
            is_news
        });
    }

    /// Ends all watching: what begins later ends at once.
    pub fn stop(&self) {
        self.inner.stopping.send_replace(true);
    }

    /// Waits for the [stop](Self::stop).
    pub async fn stopped(&self) {
        let mut stopping = self.inner.stopping.subscribe();
        // An error says that the hub itself is gone, which is as good.
        let _stopped = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Whether anybody watches anybody.
    pub(super) fn is_watched(&self) -> bool {
        // Before a watcher reads a state it is counted, after a state is committed the count is read: in one order for all.
        self.inner.watchers.load(Ordering::SeqCst) > 0
    }

    pub(super) async fn until_watched(&self) {
        while !self.is_watched() {
            self.inner.somebody.notified().await;
        }
    }

    /// Everybody who is watched.
    pub(super) fn watched(&self) -> Vec<UserId> {
        self.inner.users.iter().map(|entry| *entry.key()).collect()
    }

    /// Takes a place, until it is dropped.
    pub(super) fn watch(&self, user: UserId) -> Result<Watcher, Full> {
        let newest = {
            let mut watched = self.inner.users.entry(user).or_default();
            if watched.watchers >= PER_USER_MAX {
                return Err(Full::User);
            }
            watched.watchers += 1;
            watched.newest.subscribe()
        };
        let before = self.inner.watchers.fetch_add(1, Ordering::SeqCst);
        metrics::gauge!("tollgate_streams_open").increment(1.0);
        // If it is one too many, dropping it tidies up.
        let watcher = Watcher { hub: self.clone(), user, newest };
        if before >= self.inner.watchers_max {
            return Err(Full::Process);
        }
        self.inner.somebody.notify_one();
        Ok(watcher)
    }
}

/// Somebody who watches a user.
pub(super) struct Watcher {
    hub: Hub,
    pub(super) user: UserId,
    newest: watch::Receiver<Option<Version>>,
}

impl Watcher {
    /// Waits until something is told that was not asked for yet with [`newest`](Self::newest).
    pub(super) async fn told(&mut self) {
        if self.newest.changed().await.is_err() {
            // The hub keeps the sender for as long as there is a watcher.
            std::future::pending::<()>().await;
        }
    }

    /// The newest version that was told.
    pub(super) fn newest(&mut self) -> Option<Version> {
        self.newest.borrow_and_update().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.inner.users.remove_if_mut(&self.user, |_, watched| {
            watched.watchers -= 1;
            watched.watchers == 0
        });
        self.hub.inner.watchers.fetch_sub(1, Ordering::SeqCst);
        metrics::gauge!("tollgate_streams_open").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(number: u128) -> UserId {
        UserId::from(Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn a_watcher_finds_the_newest_version_and_no_queue() {
        let (hub, epoch) = (Hub::new(10), Epoch::new("e1"));
        hub.tell(user(1), &epoch, 1);
        let mut watcher = hub.watch(user(1)).unwrap();
        assert_eq!(watcher.newest(), None, "nobody watched when it was told");
        for number in [2, 4, 3] {
            hub.tell(user(1), &epoch, number);
            hub.tell(user(2), &epoch, 9);
        }
        watcher.told().await;
        assert_eq!(watcher.newest(), Some(Version { epoch: epoch.clone(), number: 4 }));
        assert!(!watcher.newest.has_changed().unwrap());
        hub.tell(user(1), &epoch, 4);
        assert!(!watcher.newest.has_changed().unwrap(), "the same again is no news");
        hub.tell(user(1), &Epoch::new("e2"), 1);
        assert_eq!(watcher.newest().unwrap().number, 1, "another ledger counts anew");
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let hub = Hub::new(PER_USER_MAX + 1);
        let tabs: Vec<_> = (0..PER_USER_MAX).map(|_| hub.watch(user(1)).unwrap()).collect();
        assert_eq!(hub.watch(user(1)).err(), Some(Full::User));
        let other = hub.watch(user(2)).unwrap();
        assert_eq!(hub.watch(user(3)).err(), Some(Full::Process));
        assert_eq!(hub.watched().len(), 2, "who was refused is not watched");
        drop(tabs);
        assert_eq!(hub.watched(), [user(2)]);
        drop(hub.watch(user(1)).unwrap());
        drop(other);
        assert!(!hub.is_watched() && hub.watched().is_empty());
    }
}
