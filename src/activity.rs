//! What happens to purchases, told as it happens to whoever watches: the demo page. Only the newest steps are kept. In production
//! nobody watches, and nothing is kept at all.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;

use crate::domain::id::UserId;

/// Steps that are kept.
const KEPT: usize = 500;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// A pay page was opened for a buyer.
    SessionCreated {
        /// `cs_…`
        session: String,
    },
    /// The buyer paid, or ordered with a delayed payment method.
    SessionCompleted {
        /// `cs_…`
        session: String,
        /// Whether the money is there already.
        paid: bool,
    },
    /// The buyer's payment was declined.
    PaymentDeclined {
        /// `cs_…`
        session: String,
    },
    /// A delivery of an event was answered, or failed.
    EventDelivered {
        /// `evt_…`
        event: String,
        /// The event's type.
        kind: String,
        /// Which attempt of this delivery it was, from 1; each copy and each press of a button is a delivery of its own.
        attempt: usize,
        /// What it was answered with; 0 if there was no answer.
        status: u16,
        /// Whether the answer said that it was delivered before.
        idempotent: bool,
    },
    /// A delivery is held back by a switch.
    EventWithheld {
        /// `evt_…`
        event: String,
        /// The event's type.
        kind: String,
    },
    /// An event is in the ledger and had its effect.
    EventApplied {
        /// `evt_…`
        event: String,
        /// The event's type.
        kind: String,
    },
    /// An event is in the ledger, of a type that means nothing here.
    EventUnhandled {
        /// `evt_…`
        event: String,
        /// The event's type.
        kind: String,
    },
    /// An event is in the ledger and changed nothing, or waits there.
    EventNotApplied {
        /// `evt_…`
        event: String,
        /// The event's type.
        kind: String,
        /// What became of it, for people.
        why: String,
    },
    /// An event had been delivered before: nothing was done.
    DuplicateSkipped {
        /// `evt_…`
        event: String,
    },
    /// Readers see a new state.
    CacheWritten {
        /// The user's level.
        level: String,
        /// The state's version.
        version: u64,
    },
}

/// A step with its place, its moment, and whom it concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Happened {
    /// Grows by one with each step.
    pub id: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// Whom it concerns, where that is known.
    #[serde(serialize_with = "as_text")]
    pub user: Option<UserId>,
    /// What.
    #[serde(flatten)]
    pub step: Step,
}

fn as_text<S: serde::Serializer>(user: &Option<UserId>, serializer: S) -> Result<S::Ok, S::Error> {
    user.map(|user| user.to_string()).serialize(serializer)
}

/// Where steps are told, and watched. Clones share everything.
#[derive(Clone, Default)]
pub struct Activity(Option<Arc<Feed>>);

struct Feed {
    newest: watch::Sender<u64>,
    kept: Mutex<VecDeque<Happened>>,
}

impl Activity {
    /// Keeps nothing: what is told here costs a look at a pointer.
    #[must_use]
    pub const fn unwatched() -> Self {
        Self(None)
    }

    /// Keeps the newest steps for whoever watches.
    #[must_use]
    pub fn watched() -> Self {
        Self(Some(Arc::new(Feed { newest: watch::Sender::new(0), kept: Mutex::default() })))
    }

    /// Tells a step. It is made only if somebody may watch.
    pub fn tell(&self, user: Option<UserId>, step: impl FnOnce() -> Step) {
        let Some(feed) = &self.0 else { return };
        let step = step();
        let mut kept = feed.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *feed.newest.borrow() + 1;
        kept.push_back(Happened { id, at: Utc::now(), user, step });
        if kept.len() > KEPT {
            kept.pop_front();
        }
        feed.newest.send_replace(id);
    }

    /// The newest step's id: 0 before the first.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.as_ref().map_or(0, |feed| *feed.newest.borrow())
    }

    /// The kept steps after `id`, oldest first; waits until there is one. Never ends where nothing is kept.
    pub async fn after(&self, id: u64) -> Vec<Happened> {
        let Some(feed) = &self.0 else { return std::future::pending().await };
        let mut newest = feed.newest.subscribe();
        // The sender lives as long as the feed: this cannot fail.
        let _newer = newest.wait_for(|newest| *newest > id).await.is_ok();
        let kept = feed.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|happened| happened.id > id).cloned().collect()
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Activity(watched)" } else { "Activity(unwatched)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(number: usize) -> Step {
        Step::DuplicateSkipped { event: format!("evt_{number}") }
    }

    #[tokio::test]
    async fn the_newest_steps_are_kept_in_order() {
        let activity = Activity::watched();
        for number in 0..KEPT + 3 {
            activity.tell(None, || skipped(number));
        }
        let all = activity.after(0).await;
        assert_eq!((all.len(), all.first().map(|first| first.id)), (KEPT, Some(4)));
        let last = activity.after(activity.newest() - 1).await;
        assert_eq!(last.iter().map(|last| last.step.clone()).collect::<Vec<_>>(), [skipped(KEPT + 2)]);
    }

    #[tokio::test]
    async fn who_watches_is_woken_by_the_next_step() {
        let activity = Activity::watched();
        let watcher = tokio::spawn({
            let activity = activity.clone();
            async move { activity.after(0).await.len() }
        });
        activity.tell(None, || skipped(0));
        assert_eq!(watcher.await.unwrap(), 1);
    }

    #[test]
    fn unwatched_nothing_is_made() {
        Activity::unwatched().tell(None, || unreachable!("nobody watches"));
    }

    #[tokio::test]
    async fn steps_are_told_as_flat_objects() {
        let activity = Activity::watched();
        let user = UserId::parse("7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71").unwrap();
        activity.tell(Some(user), || Step::CacheWritten { level: "PRO".into(), version: 3 });
        let told = serde_json::to_value(&activity.after(0).await[0]).unwrap();
        assert_eq!(
            (&told["step"], &told["level"], &told["version"]),
            (&"cacheWritten".into(), &"PRO".into(), &3.into())
        );
        assert_eq!((&told["id"], &told["user"]), (&1.into(), &user.to_string().into()));
    }
}
