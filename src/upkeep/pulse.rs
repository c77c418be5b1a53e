//! Whether the ledger takes writes: a full disk and a read-only database answer every question as ever.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// When the ledger last took this replica's heartbeat. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse {
    last: Arc<Mutex<Instant>>,
    lost_after: Duration,
}

impl Pulse {
    /// As if it had taken one now.
    pub(super) fn new(lost_after: Duration) -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())), lost_after }
    }

    pub(super) fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether it has taken none for as long as a replica may be silent.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > self.lost_after
    }
}
