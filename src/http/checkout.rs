//! Buying: opening a session, looking at it afterwards, and the page where a customer manages what he has.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderName, HeaderValue},
    web::{Data, Payload},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ErrorBody, Shared, body, caller, time};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest request, in bytes: the one that is described has some forty.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// What the caller wants to buy. Nothing else can be said: price and addresses are the server's business.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CheckoutRequest {
    /// A level of the catalogue, exactly as it is written there.
    #[schema(example = "PRO")]
    entitlement_level: String,
    /// How often to pay, where the level is sold by several: `day`, `week`, `month` or `year`. The default one where absent.
    #[schema(example = "year")]
    interval: Option<String>,
}

/// A session to pay.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CheckoutAnswer<'a> {
    /// `cs_…`
    session_id: &'a str,
    /// Where to send the buyer.
    url: &'a str,
    /// When Stripe closes it.
    #[serde(serialize_with = "time::seconds")]
    expires_at: DateTime<Utc>,
}

/// How a session stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionAnswer<'a> {
    /// `cs_…`
    session_id: &'a str,
    /// `open`, `complete`, `pending` (a delayed payment, or Stripe cannot say: ask again) or `expired`.
    #[schema(example = "complete")]
    state: &'static str,
    /// Whether the purchase has given the user the level.
    granted: bool,
    /// The version of the user's entitlement by then: `GET /api/entitlements?minVersion=` shows what the purchase gave.
    #[schema(example = 7)]
    version: u64,
    /// What is being bought.
    entitlement_level: &'a str,
    /// When Stripe closes, or closed, it.
    #[serde(serialize_with = "time::seconds")]
    expires_at: DateTime<Utc>,
}

/// What the page for customers is asked for: nothing can be said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortalRequest {}

/// A page of Stripe's.
#[derive(Serialize, ToSchema)]
pub(super) struct PortalAnswer<'a> {
    /// Where to send the customer; it works for some minutes.
    url: &'a str,
}

/// Opens a Checkout Session for the caller
///
/// While a session of the caller's for the same level and interval is open, that one is given again: two clicks, one session. With the same
/// `Idempotency-Key` it is given until it ends, even if it has been used.
#[utoipa::path(
    post, path = "/api/checkout/session", tag = "checkout", security(("session" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters")),
    request_body = CheckoutRequest,
    responses(
        (status = 200, description = "Send the buyer to `url`", body = CheckoutAnswer),
        (status = 400, description = "`INVALID_ENTITLEMENT_LEVEL`, `INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 408, description = "`REQUEST_TIMEOUT`", body = ErrorBody),
        (status = 409, description = "`ALREADY_ENTITLED`, with `portal`; `PAYMENT_PENDING`, `IDEMPOTENCY_CONFLICT`", body = ErrorBody),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = ErrorBody),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`", body = ErrorBody),
        (status = 429, description = "`RATE_LIMITED`, with `Retry-After`", body = ErrorBody),
        (status = 502, description = "`STRIPE_ERROR`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn start(
    state: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let user = caller::user(&state, &request)?;
    state.clients.may_check_out(&request)?;
    body::require_json(&request)?;
    let key = idempotency_key(&request)?;
    let body = body::read(&request, payload, BODY_BYTES_MAX, state.body_timeout, &state.bodies).await?;
    let wish: CheckoutRequest = serde_json::from_slice(&body.bytes).map_err(|_| {
        ApiError::InvalidRequest("Expected a JSON object with entitlementLevel, perhaps interval, and nothing else")
    })?;
    let started = state.billing.start_checkout(user, &wish.entitlement_level, wish.interval.as_deref(), key).await?;
    let answer =
        CheckoutAnswer { session_id: started.session_id.as_str(), url: &started.url, expires_at: started.expires_at };
    Ok(body::private(&answer))
}

/// Tells how one of the caller's sessions stands
///
/// It does not wait for Stripe's webhook: a session of which the end is not known yet is looked up at Stripe, every two seconds at most, and
/// what was paid is granted before this is answered. While Stripe cannot be asked it is `pending`.
#[utoipa::path(
    get, path = "/api/checkout/session/{id}", tag = "checkout", security(("session" = [])),
    params(("id" = String, Path, description = "`cs_…`")),
    responses(
        (status = 200, description = "One of the caller's sessions", body = SessionAnswer),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 404, description = "`NOT_FOUND`: no such session, or another user's", body = ErrorBody),
        (status = 429, description = "`RATE_LIMITED`, with `Retry-After`: Stripe would have to be asked, and was asked often", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn session(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let user = caller::user(&state, &request)?;
    let id = request.match_info().get("id").ok_or(ApiError::NotFound)?;
    let view = state.fulfilment.session(user, id, || state.clients.may_look_up(&request)).await?;
    let answer = SessionAnswer {
        session_id: view.id.as_str(),
        state: view.state.as_str(),
        granted: view.granted,
        version: view.version,
        entitlement_level: view.level.as_str(),
        expires_at: view.expires_at,
    };
    Ok(body::private(&answer))
}

/// Opens Stripe's page where the caller sees invoices, and changes or cancels subscriptions
///
/// Its back link leads to the application, as configured.
#[utoipa::path(
    post, path = "/api/billing/portal", tag = "checkout", security(("session" = [])),
    responses(
        (status = 200, description = "Send the customer to `url`", body = PortalAnswer),
        (status = 400, description = "`INVALID_REQUEST`: the body is neither empty nor `{}`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 408, description = "`REQUEST_TIMEOUT`", body = ErrorBody),
        (status = 409, description = "`NO_CUSTOMER`: the caller has bought nothing yet", body = ErrorBody),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`", body = ErrorBody),
        (status = 429, description = "`RATE_LIMITED`, with `Retry-After`", body = ErrorBody),
        (status = 502, description = "`STRIPE_ERROR`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn portal(
    state: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let user = caller::user(&state, &request)?;
    state.clients.may_open_portal(&request)?;
    let body = body::read(&request, payload, BODY_BYTES_MAX, state.body_timeout, &state.bodies).await?;
    if !body.bytes.is_empty() && serde_json::from_slice::<PortalRequest>(&body.bytes).is_err() {
        return Err(ApiError::InvalidRequest("Expected no body, or {}"));
    }
    let url = state.billing.open_portal(user).await?;
    Ok(body::private(&PortalAnswer { url: &url }))
}

/// Which characters a key may have is billing's to say; two keys are none.
fn idempotency_key(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let mut keys = request.headers().get_all(IDEMPOTENCY_KEY);
    let key = keys.next().map(HeaderValue::to_str).transpose();
    match (key, keys.next()) {
        (Ok(key), None) => Ok(key),
        _ => Err(ApiError::InvalidRequest("Idempotency-Key must be given once, in printable ASCII")),
    }
}
