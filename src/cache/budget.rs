//! The time one request may spend on Redis, shared by all its steps.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use super::CacheError;

/// A shrinking allowance of time. What is used up by one step is missing to the next.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    left: Duration,
}

impl Budget {
    /// A fresh allowance.
    #[must_use]
    pub const fn new(allowance: Duration) -> Self {
        Self { left: allowance }
    }

    /// Runs a step within what is left.
    ///
    /// # Errors
    /// [`CacheError::TooSlow`] if it does not finish in time, or nothing was left.
    pub async fn spend<T>(&mut self, step: impl Future<Output = T>) -> Result<T, CacheError> {
        if self.left.is_zero() {
            return Err(CacheError::TooSlow);
        }
        let started = Instant::now();
        let result = tokio::time::timeout(self.left, step).await;
        self.left = self.left.saturating_sub(started.elapsed());
        result.map_err(|_| {
            self.left = Duration::ZERO;
            CacheError::TooSlow
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_one_step_uses_is_missing_to_the_next() {
        let mut budget = Budget::new(Duration::from_millis(20));
        assert_eq!(budget.spend(async { 1 }).await, Ok(1));
        assert_eq!(budget.spend(std::future::pending::<()>()).await, Err(CacheError::TooSlow));
        assert_eq!(budget.spend(async { 2 }).await, Err(CacheError::TooSlow), "nothing is left");
    }
}
