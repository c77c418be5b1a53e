//! How many requests are being worked on, for a stop to wait for, and whether one has begun.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Counts requests whose handlers are at work. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    working: AtomicUsize,
    none: Notify,
    leaving: AtomicBool,
}

impl UnderWay {
    /// Until what this gives is dropped, there is one more.
    pub(super) fn begin(&self) -> Working {
        self.0.working.fetch_add(1, Ordering::AcqRel);
        Working(Arc::clone(&self.0))
    }

    /// From now on each answer is the last on its connection, so that none is kept which is about to be closed.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether a stop has begun.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// Waits until no handler is at work. Streams have had their answer when it began.
    pub async fn none(&self) {
        loop {
            let mut none = std::pin::pin!(self.0.none.notified());
            // From here on the end of the last one is heard.
            none.as_mut().enable();
            if self.0.working.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

/// A request that is being worked on.
pub(super) struct Working(Arc<Count>);

impl Drop for Working {
    fn drop(&mut self) {
        if self.0.working.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn the_last_one_to_end_is_waited_for() {
        let under_way = UnderWay::default();
        under_way.none().await;
        let (one, other) = (under_way.begin(), under_way.begin());
        let mut none = std::pin::pin!(under_way.none());
        assert!(poll!(none.as_mut()).is_pending());
        drop(one);
        assert!(poll!(none.as_mut()).is_pending());
        drop(other);
        none.await;
    }
}
