//! ROOM 1: bytes in, status out. The only room that knows actix-web and status codes.
//!
//! A handler turns a request into one call of another room and its result into an answer; nothing is decided here. Refusals
//! are listed in one table (`error.rs`); bodies are read with a limit of length and time (`body.rs`); what every request
//! gets is in `request_id.rs`, to be wrapped round both listeners.

mod address;
mod admin;
pub(crate) mod body;
mod caller;
mod checkout;
mod cors;
mod entitlements;
mod error;
mod health;
mod openapi;
mod plans;
mod request_id;
mod route;
pub(crate) mod site;
mod stream;
mod time;
mod under_way;
mod unread;
mod webhook;

use std::{fmt, sync::Arc, time::Duration};

use actix_web::{
    Handler, HttpResponse, Resource, Responder,
    guard::{self, Guard},
    web::{self, Data, ServiceConfig},
};
use secrecy::SecretString;
use tokio::sync::Semaphore;

pub use self::{
    address::Clients,
    cors::Cors,
    error::{ApiError, ErrorBody},
    health::{Dependency, DependencyState, Readiness, ReadyReport},
    openapi::{admin_document, document},
    request_id::RequestId,
    under_way::UnderWay,
};
use self::{body::BodyRoom, health::CachedReadiness, route::Route, webhook::WebhookMeters};
use crate::{
    activity::Activity,
    actor::Entitlements,
    auth::{ServiceTokens, SessionVerifier},
    billing::{Billing, Fulfilment},
    domain::{id::UserId, live::LiveCatalogue},
    intake::signature::{Tolerance, WebhookSecrets},
    operators::Operators,
    reader::EntitlementReader,
    trial::Trials,
    watch::Watch,
};

/// Everything that handlers call, as the composition root has made it.
pub struct Parts {
    /// Applies what Stripe says.
    pub entitlements: Entitlements,
    /// Answers what a user may do.
    pub reader: EntitlementReader,
    /// Tells users of every change.
    pub watch: Watch,
    /// Sells.
    pub billing: Billing,
    /// Tells how sales stand.
    pub fulfilment: Fulfilment,
    /// Tells what events mean.
    pub trials: Trials,
    /// `None`: webhooks are answered 500.
    pub webhook_secrets: Option<WebhookSecrets>,
    /// How old a webhook's signature may be.
    pub tolerance: Tolerance,
    /// Told what became of events.
    pub activity: Activity,
    /// Looks into the ledger for operators.
    pub operators: Operators,
    /// Knows users.
    pub sessions: SessionVerifier,
    /// Knows application servers.
    pub service_tokens: ServiceTokens,
    /// Features of levels.
    pub catalogue: LiveCatalogue,
    /// Asks all dependencies.
    pub readiness: Arc<dyn Readiness>,
    /// Writes all metrics in Prometheus' text format.
    pub render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// `None`: metrics are for everybody who can reach the operators' listener.
    pub admin_token: Option<SecretString>,
    /// Knows clients by their addresses.
    pub clients: Clients,
    /// Limits.
    pub limits: Limits,
}

/// Limits of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How many bytes all bodies under way may take.
    pub bodies_bytes_max: usize,
    /// Most signed webhooks under way.
    pub webhooks_in_flight_max: usize,
}

/// What handlers work with, for both listeners. Clones share everything, so limits hold for all threads together.
#[derive(Clone)]
pub struct State(Arc<Shared>);

/// As handlers see it.
struct Shared {
    entitlements: Entitlements,
    reader: EntitlementReader,
    watch: Watch,
    billing: Billing,
    fulfilment: Fulfilment,
    trials: Trials,
    webhook_secrets: Option<WebhookSecrets>,
    tolerance: Tolerance,
    activity: Activity,
    operators: Operators,
    sessions: SessionVerifier,
    service_tokens: ServiceTokens,
    catalogue: LiveCatalogue,
    readiness: CachedReadiness,
    render_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    // One token among none: compared as service tokens are, in constant time.
    admin_token: Option<ServiceTokens>,
    clients: Clients,
    body_timeout: Duration,
    bodies: BodyRoom,
    webhooks_in_flight: Semaphore,
    webhooks_in_flight_max: usize,
    webhook_meters: WebhookMeters,
}

impl State {
    /// The metrics recorder must have been installed before.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let webhooks_in_flight_max = parts.limits.webhooks_in_flight_max.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            entitlements: parts.entitlements,
            reader: parts.reader,
            watch: parts.watch,
            billing: parts.billing,
            fulfilment: parts.fulfilment,
            trials: parts.trials,
            webhook_secrets: parts.webhook_secrets,
            tolerance: parts.tolerance,
            activity: parts.activity,
            operators: parts.operators,
            sessions: parts.sessions,
            service_tokens: parts.service_tokens,
            catalogue: parts.catalogue,
            readiness: CachedReadiness::new(parts.readiness),
            render_metrics: parts.render_metrics,
            admin_token: parts.admin_token.map(|token| ServiceTokens::new(&[token])),
            clients: parts.clients,
            body_timeout: parts.limits.body_timeout,
            bodies: BodyRoom::new(parts.limits.bodies_bytes_max),
            webhooks_in_flight: Semaphore::new(webhooks_in_flight_max),
            webhooks_in_flight_max,
            webhook_meters: WebhookMeters::new(),
        }))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// The public listener. To be given to `App::configure`, with [`RequestId`] wrapped round the app.
pub fn routes(state: State) -> impl FnOnce(&mut ServiceConfig) {
    move |app| {
        app.app_data(Data::from(state.0))
            .service(post(Route::Webhook, webhook::receive))
            .service(get(Route::OwnEntitlements, entitlements::own))
            // Before the pattern that it would be a user of.
            .service(get(Route::EntitlementStream, stream::own))
            .service(get(Route::UserEntitlements, entitlements::of_user))
            .service(post(Route::Checkout, checkout::start))
            .service(get(Route::CheckoutSession, checkout::session))
            .service(post(Route::Portal, checkout::portal))
            .service(get(Route::Plans, plans::all))
            .service(get(Route::Live, health::live))
            .service(get(Route::Ready, health::ready))
            .service(get(Route::OpenApi, openapi::json))
            .service(get(Route::Docs, openapi::docs))
            .service(get(Route::DocsFile, openapi::docs_file))
            .default_service(web::to(not_found));
    }
}

/// The operators' listener.
pub fn admin_routes(state: State) -> impl FnOnce(&mut ServiceConfig) {
    move |app| {
        app.app_data(Data::from(state.0))
            .service(get(Route::Metrics, admin::all_metrics))
            .service(get(Route::Live, health::live))
            .service(get(Route::Ready, health::ready))
            .service(get(Route::OpenApi, openapi::admin_json))
            .configure(admin::routes);
    }
}

fn post<F, Args>(route: Route, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    only(route, guard::Post(), "POST", handler)
}

/// `HEAD` as well: the server leaves the body out.
fn get<F, Args>(route: Route, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    only(route, guard::Any(guard::Get()).or(guard::Head()), "GET, HEAD", handler)
}

fn only<F, Args>(route: Route, methods: impl Guard + 'static, allow: &'static str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: actix_web::FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(route.pattern())
        .route(web::route().guard(methods).to(handler))
        .default_service(web::to(move || async move { Err::<HttpResponse, _>(ApiError::MethodNotAllowed(allow)) }))
}

/// The user whom a caller names.
///
/// # Errors
/// 400 for what is no UUID.
pub(crate) fn user_id(text: &str) -> Result<UserId, ApiError> {
    UserId::parse(text).map_err(|_| ApiError::InvalidRequest("The user id must be a UUID"))
}

async fn not_found() -> Result<HttpResponse, ApiError> {
    Err(ApiError::NotFound)
}

#[cfg(test)]
mod tests;
