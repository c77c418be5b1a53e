//! Tells a user's watchers of every change, as soon as it can be read.
//!
//! What goes round, within a process through the [`Hub`] and between replicas through Redis (`news.rs`), are hints: a user and
//! a version. The state itself is read, like any other, so a hint that is lost, late or wrong can do no harm to what is shown.

mod hub;
mod news;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep_until};

use self::hub::{Full, Version, Watcher};
pub use self::{hub::Hub, news::listen};
use crate::{
    clock,
    domain::{entitlement::Entitlement, id::UserId},
    ledger::{Epoch, Ledger},
    reader::{EntitlementReader, ReadError, Reading},
};

/// When to look again for what could not be read, or had not become a version yet.
const AGAIN: Duration = Duration::from_secs(1);
/// How long after a level's end it is looked for what follows: the sweep makes it a version within half of this.
const AFTER_THE_END: Duration = Duration::from_secs(1);

/// Why nobody is told of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Too many watch already.
    #[error("too many watch")]
    Busy,
    /// Too many watch this user already.
    #[error("too many watch this user")]
    BusyUser,
    /// The present state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<Full> for WatchError {
    fn from(full: Full) -> Self {
        match full {
            Full::Process => Self::Busy,
            Full::User => Self::BusyUser,
        }
    }
}

/// Lets users' states be watched. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    hub: Hub,
    reader: EntitlementReader,
    ledger: Arc<dyn Ledger>,
}

impl Watch {
    /// Takes who is told, and what is read then.
    #[must_use]
    pub const fn new(hub: Hub, reader: EntitlementReader, ledger: Arc<dyn Ledger>) -> Self {
        Self { hub, reader, ledger }
    }

    /// Begins to watch a user's state. Gives the present one at once, unless it is the version that the caller had last. A version
    /// that the ledger has not reached is another ledger's, and counts for nothing.
    ///
    /// # Errors
    /// [`WatchError`]: try again later.
    pub async fn follow(&self, user: UserId, had: Option<u64>) -> Result<(Following, Option<Reading>), WatchError> {
        // Before the state is read, so that no change falls between.
        let watcher = self.hub.watch(user)?;
        let mut following = Following {
            watcher,
            reader: self.reader.clone(),
            ledger: Arc::clone(&self.ledger),
            had: None,
            look_at: None,
            // Another watcher may have been told of what a cache has not got yet.
            is_due: true,
        };
        let epoch = self.ledger.epoch();
        let (reading, had) = match self.reader.read(user, had).await {
            Err(ReadError::Older) => (self.reader.read(user, None).await?, None),
            reading => (reading?, had),
        };
        following.note(&reading.entitlement, epoch);
        let is_news = had != Some(reading.entitlement.version);
        Ok((following, is_news.then_some(reading)))
    }

    /// Waits until the process stops: then nobody is to be told of anything any more.
    pub async fn stopped(&self) {
        self.hub.stopped().await;
    }
}

/// A user's state being watched. The place is given back when it is dropped.
pub struct Following {
    watcher: Watcher,
    reader: EntitlementReader,
    ledger: Arc<dyn Ledger>,
    had: Option<Version>,
    /// When to look without having been told.
    look_at: Option<Instant>,
    /// A look has begun, and not ended: kept here so that nothing is lost where [`next`](Self::next) is dropped half-way.
    is_due: bool,
}

impl Following {
    /// Waits for a state that is newer than the last one given. May be dropped at any moment, and called again.
    pub async fn next(&mut self) -> Reading {
        loop {
            if !self.is_due {
                tokio::select! {
                    () = self.watcher.told() => {}
                    () = until(self.look_at) => {}
                }
                self.is_due = true;
            }
            let found = self.look().await;
            self.is_due = false;
            if let Some(reading) = found {
                return reading;
            }
        }
    }

    /// Reads what is newer, if anything is.
    async fn look(&mut self) -> Option<Reading> {
        let epoch = self.ledger.epoch();
        let number = |version: Option<Version>| version.filter(|it| it.epoch == epoch).map(|it| it.number);
        let (had, told) = (number(self.had.clone()), number(self.watcher.newest()));
        let is_time = self.look_at.is_some_and(|at| at <= Instant::now());
        if had.is_some() && told <= had && !is_time {
            return None;
        }
        // Past whatever the cache holds that was given already.
        let wanted = had.map(|had| had.saturating_add(1)).max(told);
        match self.reader.read(self.watcher.user, wanted).await {
            Ok(reading) => {
                self.note(&reading.entitlement, epoch);
                Some(reading)
            }
            Err(error) => {
                tracing::debug!(%error, user.id = %self.watcher.user, "a change is looked for again");
                self.look_at = Some(Instant::now() + AGAIN);
                None
            }
        }
    }

    /// Notes what is given, and when it ends. `epoch` was read before it.
    fn note(&mut self, entitlement: &Entitlement, epoch: Epoch) {
        self.had = Some(Version { epoch, number: entitlement.version });
        self.look_at = entitlement.expires_at.map(|end| Instant::now() + left(end, clock::now()) + AFTER_THE_END);
    }
}

fn left(end: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (end - now).to_std().unwrap_or_default()
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
