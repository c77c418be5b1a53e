//! Readiness: asks every dependency how it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    cache::{BreakerState, Cache},
    http::{Dependency, DependencyState, Readiness, ReadyReport},
    ledger::Ledger,
    upkeep::Pulse,
};

/// What a probe may take.
const TIMEOUT: Duration = Duration::from_millis(800);

/// See the [module](self).
pub(super) struct Probe {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) cache: Cache,
    pub(super) webhook_configured: bool,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) pulse: Pulse,
}

#[async_trait]
impl Readiness for Probe {
    async fn check(&self) -> ReadyReport {
        let (ledger, cache) = tokio::join!(self.check_ledger(), self.check_cache());
        let webhook = if self.webhook_configured {
            dependency("webhook", DependencyState::Ready, None)
        } else {
            dependency("webhook", DependencyState::Unready, Some("STRIPE_WEBHOOK_SECRET is not set"))
        };
        let mut dependencies = vec![ledger, cache, webhook];
        if self.stopping.load(Ordering::Relaxed) {
            dependencies.push(dependency("server", DependencyState::Unready, Some("stopping")));
        }
        if self.pulse.is_lost() {
            dependencies.push(dependency("writes", DependencyState::Unready, Some("the ledger takes no writes")));
        }
        ReadyReport::new(dependencies)
    }
}

impl Probe {
    async fn check_ledger(&self) -> Dependency {
        match tokio::time::timeout(TIMEOUT, self.ledger.now()).await {
            Ok(Ok(_)) => dependency("ledger", DependencyState::Ready, None),
            Ok(Err(_)) => dependency("ledger", DependencyState::Unready, Some("out of reach")),
            Err(_) => dependency("ledger", DependencyState::Unready, Some("too slow")),
        }
    }

    async fn check_cache(&self) -> Dependency {
        if self.cache.breaker().state() == BreakerState::Open {
            return dependency("cache", DependencyState::Degraded, Some("out of reach"));
        }
        match tokio::time::timeout(TIMEOUT, self.cache.ping()).await {
            Ok(Ok(())) => dependency("cache", DependencyState::Ready, None),
            Ok(Err(_)) | Err(_) => dependency("cache", DependencyState::Degraded, Some("out of reach")),
        }
    }
}

const fn dependency(name: &'static str, status: DependencyState, detail: Option<&'static str>) -> Dependency {
    Dependency { name, status, detail }
}
