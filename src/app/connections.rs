//! How many connections the public listener has. Those beyond the limit are closed as they come, before anything is read of them.
//!
//! A connection costs memory and a file before it has asked for anything. The HTTP library has a limit of its own, at which it accepts no
//! more: whoever came then, Stripe among them, would wait in the kernel for as long as idle ones please to stay.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::{Counter, Gauge, counter, gauge};

/// Counts connections up to a limit. Clones count together.
#[derive(Clone)]
pub(super) struct Connections(Arc<Count>);

struct Count {
    max: usize,
    open: AtomicUsize,
    shown: Gauge,
    refused: Counter,
}

/// One connection's place, for as long as it is held.
pub(super) struct Place(Connections);

impl Connections {
    /// The metrics recorder must have been installed before.
    pub(super) fn new(max: usize) -> Self {
        let (shown, refused) =
            (gauge!("tollgate_http_connections"), counter!("tollgate_http_connections_refused_total"));
        Self(Arc::new(Count { max, open: AtomicUsize::new(0), shown, refused }))
    }

    /// A place, if one is free.
    pub(super) fn admit(&self) -> Option<Place> {
        if self.0.open.fetch_add(1, Ordering::Relaxed) >= self.0.max {
            self.0.open.fetch_sub(1, Ordering::Relaxed);
            self.0.refused.increment(1);
            return None;
        }
        self.0.shown.increment(1.0);
        Some(Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.shown.decrement(1.0);
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_given_again() {
        let connections = Connections::new(2);
        let (first, second) = (connections.admit(), connections.clone().admit());
        assert!(first.is_some() && second.is_some() && connections.admit().is_none());
        drop(first);
        let third = connections.admit();
        assert!(third.is_some() && connections.admit().is_none());
    }
}
