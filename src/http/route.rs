//! The addresses, and the counts and times kept for each.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Histogram, counter, histogram};

/// An address that is answered, on either listener, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Webhook,
    Checkout,
    CheckoutSession,
    Portal,
    OwnEntitlements,
    EntitlementStream,
    UserEntitlements,
    Plans,
    Live,
    Ready,
    OpenApi,
    Docs,
    DocsFile,
    Metrics,
    AdminEvents,
    AdminEvent,
    AdminReplay,
    AdminReplayMany,
    AdminEntitlements,
    AdminGrants,
    AdminRevocations,
    AdminHistory,
    AdminSummary,
    None,
}

impl Route {
    const ALL: [Self; 24] = [
        Self::Webhook,
        Self::OwnEntitlements,
        Self::EntitlementStream,
        Self::UserEntitlements,
        Self::Checkout,
        Self::CheckoutSession,
        Self::Portal,
        Self::Plans,
        Self::Live,
        Self::Ready,
        Self::OpenApi,
        Self::Docs,
        Self::DocsFile,
        Self::Metrics,
        Self::AdminEvents,
        Self::AdminEvent,
        Self::AdminReplay,
        Self::AdminReplayMany,
        Self::AdminEntitlements,
        Self::AdminGrants,
        Self::AdminRevocations,
        Self::AdminHistory,
        Self::AdminSummary,
        Self::None,
    ];

    /// As the router takes it; also the label in metrics, which must not grow with what callers think of.
    pub(super) const fn pattern(self) -> &'static str {
        match self {
            Self::Webhook => "/api/webhooks/stripe",
            Self::Checkout => "/api/checkout/session",
            Self::CheckoutSession => "/api/checkout/session/{id}",
            Self::Portal => "/api/billing/portal",
            Self::OwnEntitlements => "/api/entitlements",
            Self::EntitlementStream => "/api/entitlements/stream",
            Self::UserEntitlements => "/api/entitlements/{userId}",
            Self::Plans => "/api/plans",
            Self::Live => "/health/live",
            Self::Ready => "/health/ready",
            Self::OpenApi => "/openapi.json",
            Self::Docs => "/docs",
            Self::DocsFile => "/docs/{file:.*}",
            Self::Metrics => "/metrics",
            Self::AdminEvents => "/api/admin/events",
            Self::AdminEvent => "/api/admin/events/{id}",
            Self::AdminReplay => "/api/admin/events/{id}/replay",
            Self::AdminReplayMany => "/api/admin/events/replay",
            Self::AdminEntitlements => "/api/admin/entitlements/{userId}",
            Self::AdminGrants => "/api/admin/entitlements/{userId}/grants",
            Self::AdminRevocations => "/api/admin/entitlements/{userId}/revocations",
            Self::AdminHistory => "/api/admin/entitlements/{userId}/history",
            Self::AdminSummary => "/api/admin/summary",
            Self::None => "none",
        }
    }

    /// Which route a path is of, as the router sees it, but without its work.
    pub(super) fn of(path: &str) -> Self {
        let of_user = path.strip_prefix("/api/admin/entitlements/").and_then(|rest| rest.split_once('/'));
        let one_segment = |rest: &str| !rest.is_empty() && !rest.contains('/');
        match path {
            "/api/webhooks/stripe" => Self::Webhook,
            "/api/checkout/session" => Self::Checkout,
            "/api/billing/portal" => Self::Portal,
            "/api/entitlements" => Self::OwnEntitlements,
            "/api/entitlements/stream" => Self::EntitlementStream,
            "/api/plans" => Self::Plans,
            "/health/live" => Self::Live,
            "/health/ready" => Self::Ready,
            "/openapi.json" => Self::OpenApi,
            "/docs" => Self::Docs,
            "/metrics" => Self::Metrics,
            "/api/admin/events" => Self::AdminEvents,
            "/api/admin/events/replay" => Self::AdminReplayMany,
            "/api/admin/summary" => Self::AdminSummary,
            _ if path.strip_prefix("/api/entitlements/").is_some_and(one_segment) => Self::UserEntitlements,
            _ if path.strip_prefix("/api/checkout/session/").is_some_and(one_segment) => Self::CheckoutSession,
            _ if path.strip_prefix("/api/admin/events/").is_some_and(one_segment) => Self::AdminEvent,
            _ if path
                .strip_prefix("/api/admin/events/")
                .and_then(|rest| rest.strip_suffix("/replay"))
                .is_some_and(one_segment) =>
            {
                Self::AdminReplay
            }
            _ if path.strip_prefix("/api/admin/entitlements/").is_some_and(one_segment) => Self::AdminEntitlements,
            _ if let Some((user, what)) = of_user
                && one_segment(user) =>
            {
                match what {
                    "grants" => Self::AdminGrants,
                    "revocations" => Self::AdminRevocations,
                    "history" => Self::AdminHistory,
                    _ => Self::None,
                }
            }
            _ if path.starts_with("/docs/") => Self::DocsFile,
            _ => Self::None,
        }
    }
}

/// Statuses that have a counter at hand; others are looked up each time.
const STATUSES: [u16; 15] = [200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 502, 503, 308];

/// Counts and times of all routes, for one thread.
pub(super) struct RouteMeters(Vec<RouteMeter>);

struct RouteMeter {
    route: Route,
    seconds: Histogram,
    // Each is registered when it is first needed: most pairs never occur.
    by_status: [OnceLock<Counter>; STATUSES.len()],
}

impl RouteMeters {
    pub(super) fn new() -> Self {
        Self(Route::ALL.into_iter().map(RouteMeter::new).collect())
    }

    pub(super) fn record(&self, route: Route, status: u16, took: Duration) {
        if let Some(meter) = self.0.iter().find(|meter| meter.route == route) {
            meter.record(status, took);
        }
    }
}

impl RouteMeter {
    fn new(route: Route) -> Self {
        Self {
            route,
            seconds: histogram!("tollgate_http_request_duration_seconds", "route" => route.pattern()),
            by_status: [const { OnceLock::new() }; STATUSES.len()],
        }
    }

    fn record(&self, status: u16, took: Duration) {
        self.seconds.record(took);
        let count = || counter!("tollgate_http_requests_total", "route" => self.route.pattern(), "status" => status.to_string());
        match STATUSES.iter().zip(&self.by_status).find(|(known, _)| **known == status) {
            Some((_, counter)) => counter.get_or_init(count).increment(1),
            None => count().increment(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_told_from_the_others() {
        for route in Route::ALL {
            let path = route.pattern().replace("{id}", "cs_1").replace("{userId}", "u").replace("{file:.*}", "a/b.css");
            assert_eq!(Route::of(&path), route, "{path}");
        }
        for path in ["", "/", "/api/entitlements/", "/api/entitlements/a/b", "/api/webhooks/stripe/", "/Metrics"] {
            assert_eq!(Route::of(path), Route::None, "{path}");
        }
    }
}
