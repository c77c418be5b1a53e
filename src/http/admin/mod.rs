//! For operators, on a listener of their own.
//!
//! What is below `/api/admin` must not be reached by a page in an operator's browser. Without a token, a page of another site may
//! be given a name that leads here (DNS rebinding): its requests carry that name in `Host`. A proxy or a tunnel may show the port to
//! the world: it says so in a header. And any page may post here without reading the answer: its `Origin` is not this listener's.

mod by_hand;
mod events;
#[cfg(feature = "fail-points")]
mod fail_points;
mod overview;
mod query;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{self, Data, Payload, ServiceConfig},
};
use serde::de::DeserializeOwned;
use url::Url;
use utoipa::OpenApi;

use super::{ApiError, Shared, body, caller, get, not_found, openapi::AdminToken, post, route::Route, site, user_id};
use crate::domain::id::UserId;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tollgate for operators",
        description = "What the admin listener answers. Where `TOLLGATE_ADMIN_TOKEN` is set, each request carries it. Every \
                       response has `X-Request-Id`; every error is `{\"error\", \"code\"}`.",
    ),
    paths(
        events::list,
        events::show,
        events::replay,
        events::replay_many,
        overview::user,
        by_hand::give,
        by_hand::take,
        by_hand::history,
        overview::summary,
    ),
    components(schemas(super::ErrorBody)),
    modifiers(&AdminToken),
    tags((name = "admin", description = "For operators")),
)]
pub(super) struct Contract;

/// Everything below `/api/admin`.
pub(super) fn routes(app: &mut ServiceConfig) {
    #[cfg(feature = "fail-points")]
    app.route(fail_points::PATH, web::get().to(fail_points::hits))
        .route(fail_points::PATH, web::post().to(fail_points::arm));
    app.service(get(Route::AdminEvents, events::list))
        .service(post(Route::AdminReplayMany, events::replay_many))
        .service(get(Route::AdminEvent, events::show))
        .service(post(Route::AdminReplay, events::replay))
        .service(get(Route::AdminEntitlements, overview::user))
        .service(post(Route::AdminGrants, by_hand::give))
        .service(post(Route::AdminRevocations, by_hand::take))
        .service(get(Route::AdminHistory, by_hand::history))
        .service(get(Route::AdminSummary, overview::summary))
        .default_service(web::to(not_found));
}

/// All metrics, in Prometheus' text format.
pub(super) async fn all_metrics(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let under_way = state.webhooks_in_flight_max.saturating_sub(state.webhooks_in_flight.available_permits());
    for (gauge, value) in [
        (metrics::gauge!("tollgate_http_body_bytes"), state.bodies.taken()),
        (metrics::gauge!("tollgate_webhooks_in_flight"), under_way),
    ] {
        gauge.set(f64::from(u32::try_from(value).unwrap_or(u32::MAX)));
    }
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body((state.render_metrics)()))
}

/// Lets operators pass, and no page of another site.
///
/// # Errors
/// 403 for a page, 401 without the token.
fn admit(state: &Shared, request: &HttpRequest) -> Result<(), ApiError> {
    let headers = request.headers();
    let host = site::host(headers).ok_or(NOT_LOCAL)?;
    let own = ["http", "https"].map(|scheme| Url::parse(&format!("{scheme}://{host}")));
    let own: Vec<Url> = own.into_iter().flatten().collect();
    let is_local = own.iter().any(site::is_loopback) && !site::is_passed_on(headers);
    if state.admin_token.is_none() && !is_local {
        return Err(NOT_LOCAL);
    }
    if !site::is_asked_by(headers, &own) {
        return Err(ApiError::NotFromThere("Pages of other sites may not ask this"));
    }
    caller::operator(state, request)
}

const NOT_LOCAL: ApiError = ApiError::NotFromThere(
    "Without TOLLGATE_ADMIN_TOKEN this is answered as localhost or 127.0.0.1 only, on the machine itself",
);

/// Longest request that is taken, in bytes.
const BODY_BYTES_MAX: usize = 4096;

/// What an operator asks for, in JSON; `wrong` refuses anything else.
async fn read<T: DeserializeOwned>(
    state: &Shared,
    request: &HttpRequest,
    payload: Payload,
    wrong: ApiError,
) -> Result<T, ApiError> {
    body::require_json(request)?;
    let body = body::read(request, payload, BODY_BYTES_MAX, state.body_timeout, &state.bodies).await?;
    serde_json::from_slice(&body.bytes).map_err(|_| wrong)
}

/// The user whom an operator asks about.
fn user(request: &HttpRequest) -> Result<UserId, ApiError> {
    user_id(request.match_info().query("userId"))
}

/// Whose doing it is, for the log.
fn address(request: &HttpRequest) -> Option<impl tracing::Value> {
    request.peer_addr().map(tracing::field::display)
}
