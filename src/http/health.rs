//! Is the process alive, and can it do its work?

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, ContentType, HeaderValue},
    },
    web::{Bytes, Data},
};
use async_trait::async_trait;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use utoipa::ToSchema;

use super::{Shared, body};

/// How long a report is given again: probes, however many, must not become load.
const REPORT_KEPT: Duration = Duration::from_secs(1);

/// Asks every dependency, within a limit of time.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// How each of them is now.
    async fn check(&self) -> ReadyReport;

    /// Whether this process is about to end, which no other word can make good.
    fn is_stopping(&self) -> bool;
}

/// How all dependencies are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReadyReport {
    /// The worst of all.
    status: DependencyState,
    /// Each of them.
    dependencies: Vec<Dependency>,
}

/// How one dependency is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Dependency {
    /// For example `ledger`.
    #[schema(example = "ledger")]
    pub name: &'static str,
    /// How it is.
    pub status: DependencyState,
    /// Why, in constant words: whoever asks may be anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
}

/// From good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DependencyState {
    /// It works.
    Ready,
    /// It does not, and the service goes on without.
    Degraded,
    /// It does not, and the service cannot.
    Unready,
}

impl ReadyReport {
    /// The whole is as bad as its worst part.
    #[must_use]
    pub fn new(dependencies: Vec<Dependency>) -> Self {
        let worst = dependencies.iter().map(|dependency| dependency.status).max();
        Self { status: worst.unwrap_or(DependencyState::Ready), dependencies }
    }

    /// The worst of all.
    #[must_use]
    pub const fn status(&self) -> DependencyState {
        self.status
    }

    /// Each of them.
    #[must_use]
    pub fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }
}

/// Asks at most once a second, for however many want to know.
pub(super) struct CachedReadiness {
    readiness: Arc<dyn Readiness>,
    last: Mutex<Option<(Instant, ReadyReport)>>,
}

impl CachedReadiness {
    pub(super) fn new(readiness: Arc<dyn Readiness>) -> Self {
        Self { readiness, last: Mutex::new(None) }
    }

    async fn report(&self) -> ReadyReport {
        if self.readiness.is_stopping() {
            let (name, status) = ("server", DependencyState::Unready);
            return ReadyReport::new(vec![Dependency { name, status, detail: Some("stopping") }]);
        }
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, report)) if at.elapsed() < REPORT_KEPT => report.clone(),
            _ => {
                let report = self.readiness.check().await;
                *last = Some((Instant::now(), report.clone()));
                report
            }
        }
    }
}

/// The process runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Live {
    #[schema(example = "live")]
    status: &'static str,
}

/// Tells that the process answers; asks nothing else
#[utoipa::path(
    get, path = "/health/live", tag = "health",
    responses((status = 200, description = "It answers", body = Live)),
)]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(Bytes::from_static(br#"{"status":"live"}"#))
}

/// Tells whether requests can be served
///
/// `degraded` means: yes, with something missing.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses(
        (status = 200, description = "`ready` or `degraded`", body = ReadyReport),
        (status = 503, description = "`unready`", body = ReadyReport),
    ),
)]
pub(super) async fn ready(state: Data<Shared>) -> HttpResponse {
    let report = state.readiness.report().await;
    let status = match report.status {
        DependencyState::Ready | DependencyState::Degraded => StatusCode::OK,
        DependencyState::Unready => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = body::json(status, &report);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::http::UnderWay;

    #[derive(Default)]
    struct Counting(AtomicU32, UnderWay);

    #[async_trait]
    impl Readiness for Counting {
        async fn check(&self) -> ReadyReport {
            self.0.fetch_add(1, Ordering::Relaxed);
            ReadyReport::new(vec![])
        }

        fn is_stopping(&self) -> bool {
            self.1.is_leaving()
        }
    }

    #[tokio::test]
    async fn many_ask_and_one_looks() {
        let counting = Arc::new(Counting::default());
        let cached = CachedReadiness::new(counting.clone());
        futures::future::join_all((0..50).map(|_| cached.report())).await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        if let Some((at, _)) = &mut *cached.last.lock().await {
            *at = at.checked_sub(REPORT_KEPT).unwrap();
        }
        cached.report().await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_stop_is_told_at_once_and_nobody_is_asked() {
        let counting = Arc::new(Counting::default());
        let cached = CachedReadiness::new(counting.clone());
        assert_eq!(cached.report().await.status(), DependencyState::Ready);
        counting.1.leave();
        assert_eq!(cached.report().await.status(), DependencyState::Unready);
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_whole_is_as_bad_as_its_worst_part() {
        let part = |status| Dependency { name: "part", status, detail: None };
        use DependencyState::{Degraded, Ready, Unready};
        for (parts, whole) in [
            (vec![], Ready),
            (vec![Ready, Ready], Ready),
            (vec![Degraded, Ready], Degraded),
            (vec![Degraded, Unready, Ready], Unready),
        ] {
            assert_eq!(ReadyReport::new(parts.into_iter().map(part).collect()).status(), whole);
        }
    }
}
