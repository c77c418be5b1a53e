//! Readiness: asks every dependency how it is.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    cache::{BreakerState, Cache},
    clock::{Clocks, Question, Skew},
    http::{Dependency, DependencyState, Readiness, ReadyReport, UnderWay},
    intake::signature::Tolerance,
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
    /// Of a webhook's signature, where the ledger has a clock of its own.
    pub(super) tolerance: Option<Tolerance>,
    pub(super) under_way: UnderWay,
    pub(super) pulse: Pulse,
}

#[async_trait]
impl Readiness for Probe {
    async fn check(&self) -> ReadyReport {
        let ((ledger, clock), cache) = tokio::join!(self.check_ledger(), self.check_cache());
        let webhook = if self.webhook_configured {
            dependency("webhook", DependencyState::Ready, None)
        } else {
            dependency("webhook", DependencyState::Unready, Some("STRIPE_WEBHOOK_SECRET is not set"))
        };
        let mut dependencies = vec![ledger, cache, webhook];
        dependencies.extend(clock);
        if self.pulse.is_lost() {
            dependencies.push(dependency("writes", DependencyState::Unready, Some("the ledger takes no writes")));
        }
        ReadyReport::new(dependencies)
    }

    fn is_stopping(&self) -> bool {
        self.under_way.is_leaving()
    }
}

impl Probe {
    /// The ledger answers with its time, which this machine's is compared with.
    async fn check_ledger(&self) -> (Dependency, Option<Dependency>) {
        let question = Question::begin();
        let detail = match tokio::time::timeout(TIMEOUT, self.ledger.now()).await {
            Ok(Ok(now)) => {
                let clock = self.tolerance.map(|tolerance| check_clock(question.answered(now), tolerance));
                return (dependency("ledger", DependencyState::Ready, None), clock);
            }
            Ok(Err(_)) => "out of reach",
            Err(_) => "too slow",
        };
        (dependency("ledger", DependencyState::Unready, Some(detail)), None)
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

fn check_clock(skew: Skew, tolerance: Tolerance) -> Dependency {
    let (status, detail) = match skew.clocks(tolerance.duration()) {
        Clocks::Agree => (DependencyState::Ready, None),
        Clocks::Apart => (DependencyState::Degraded, Some("this machine's clock and the database's are apart")),
        Clocks::Hopeless => (
            DependencyState::Unready,
            Some("this machine's clock and the database's are so far apart that webhooks are refused"),
        ),
    };
    dependency("clock", status, detail)
}

const fn dependency(name: &'static str, status: DependencyState, detail: Option<&'static str>) -> Dependency {
    Dependency { name, status, detail }
}
