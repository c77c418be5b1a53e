//! The listener: whom it answers, and what every answer has.
//!
//! It is for this machine alone. A page of the web may make a browser send requests here, under a name that leads here by
//! DNS: so the `Host` must be a loopback name. Whoever passes requests on from elsewhere says so in a header, and is refused.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use actix_web::{
    App, HttpMessage, HttpRequest, HttpResponse, HttpServer, ResponseError,
    body::MessageBody,
    dev::{Server, ServiceRequest, ServiceResponse},
    http::header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue, HttpDate,
        REFERRER_POLICY, TryIntoHeaderValue, X_CONTENT_TYPE_OPTIONS,
    },
    middleware::{Next, from_fn},
    web::{self, Bytes, Data, PayloadConfig},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    api::{self, Call, Reply},
    control,
    courier::Courier,
    form,
    objects::{API_VERSION, new_id},
    pay, portal,
    refusal::Refusal,
    state::Shared,
};

/// Enough for any request; nothing is uploaded here.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Stripe's.
const IDEMPOTENCY_KEY_LEN_MAX: usize = 255;
const WORKERS: usize = 2;
const FORM: &str = "application/x-www-form-urlencoded";

/// What handlers work with.
pub(super) struct Site {
    pub(super) shared: Arc<Shared>,
    pub(super) courier: Arc<Courier>,
    key: [u8; 32],
}

impl Site {
    pub(super) fn new(shared: Arc<Shared>, courier: Arc<Courier>, secret_key: &SecretString) -> Self {
        Self { shared, courier, key: Sha256::digest(secret_key.expose_secret()).into() }
    }

    /// Whether a caller has the key: as a bearer token, or as the user of Basic.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let told = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let key = match told.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.to_owned(),
            Some((scheme, user)) if scheme.eq_ignore_ascii_case("basic") => basic_user(user).unwrap_or_default(),
            _ => return Err(Refusal::unauthorized("No API key: send the sandbox's as a bearer token.")),
        };
        // Digests are compared: how long that takes says nothing of the key.
        if <[u8; 32]>::from(Sha256::digest(key)) == self.key {
            return Ok(());
        }
        Err(Refusal::unauthorized("Invalid API key: this is not the sandbox's."))
    }
}

fn basic_user(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}

/// Answers on `listener` once it is polled.
pub(super) fn serve(listener: TcpListener, site: Site) -> std::io::Result<Server> {
    let site = Data::new(site);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(site.clone())
            .app_data(PayloadConfig::new(BODY_BYTES_MAX))
            .wrap(from_fn(guard))
            .route("/c/pay/{id}", web::get().to(pay::show))
            .route("/c/pay/{id}", web::post().to(pay::submit))
            .route("/c/pay/{id}/settle", web::post().to(pay::settle))
            .route("/c/pay/{id}/cancel", web::get().to(pay::cancel))
            .route("/c/assets/{path}", web::get().to(pay::asset))
            .route("/p/session/{id}", web::get().to(portal::show))
            .route("/p/session/{id}", web::post().to(portal::submit))
            .route("/sandbox/clock", web::get().to(control::clock))
            .route("/sandbox/clock", web::post().to(control::advance))
            .route("/sandbox/after-retries", web::post().to(control::set_after_retries))
            .route("/sandbox/charges/{id}/dispute", web::post().to(control::dispute))
            .route("/sandbox/switches", web::get().to(control::switches))
            .route("/sandbox/switches", web::post().to(control::set_switches))
            .route("/sandbox/events/{id}/redeliver", web::post().to(control::redeliver))
            .default_service(web::to(call))
    });
    Ok(server.workers(WORKERS).shutdown_timeout(1).disable_signals().listen(listener)?.run())
}

/// The id of a request, as Stripe gives each one.
#[derive(Clone)]
struct RequestId(String);

/// A time in Unix seconds as the header `Date` has it (RFC 9110, 5.6.7).
fn date(seconds: i64) -> Option<HeaderValue> {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?;
    HttpDate::from(time).try_into_value().ok()
}

async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let id = new_id("req_", 14);
    // Callers take the answer's time for that of what it says.
    let now = request.app_data::<Data<Site>>().and_then(|site| date(site.shared.look().now()));
    let mut response = match is_local(request.request()) {
        Ok(()) => {
            request.extensions_mut().insert(RequestId(id.clone()));
            next.call(request).await?.map_into_left_body()
        }
        Err(refusal) => request.into_response(refusal.error_response()).map_into_right_body(),
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("request-id"), id);
    }
    if let Some(now) = now {
        headers.insert(DATE, now);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // `no-referrer` would make browsers hide the origin of the pay page's own form.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    Ok(response)
}

/// Whether a request comes from this machine and is meant for it.
fn is_local(request: &HttpRequest) -> Result<(), Refusal> {
    if request.headers().keys().any(is_of_a_proxy) {
        return Err(Refusal::forbidden("The sandbox answers this machine only: requests must not be passed on to it."));
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let named = request.uri().authority().map(actix_web::http::uri::Authority::as_str);
    if host.is_some_and(is_loopback) && named.is_none_or(is_loopback) {
        return Ok(());
    }
    Err(Refusal::forbidden("The sandbox answers as 127.0.0.1, localhost or [::1] only."))
}

/// Whether a header says that somebody passed the request on.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    matches!(name.as_str(), "forwarded" | "via" | "x-real-ip") || name.as_str().starts_with("x-forwarded-")
}

/// Any port: it may be mapped to another one.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "[::1]"].contains(&name) || name.eq_ignore_ascii_case("localhost")
}

/// A call of the API.
async fn call(request: HttpRequest, body: Result<Bytes, actix_web::Error>, site: Data<Site>) -> HttpResponse {
    let mut response = match answer(&request, body, &site).await {
        Ok(reply) => {
            let mut response = HttpResponse::Ok().json(reply.body);
            if reply.replayed {
                let name = HeaderName::from_static("idempotent-replayed");
                response.headers_mut().insert(name, HeaderValue::from_static("true"));
            }
            response
        }
        Err(refusal) => refusal.error_response(),
    };
    let version = request.headers().get("stripe-version").cloned();
    let version = version.unwrap_or_else(|| HeaderValue::from_static(API_VERSION));
    response.headers_mut().insert(HeaderName::from_static("stripe-version"), version);
    response
}

async fn answer(request: &HttpRequest, body: Result<Bytes, actix_web::Error>, site: &Site) -> Result<Reply, Refusal> {
    site.admit(request.headers())?;
    let params = params(request, body)?;
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let (method, path, idempotency_key) =
        (request.method().as_str(), request.path(), idempotency_key(request.headers())?);
    let (done, receipt) = site.shared.change(|state| {
        let now = state.caught_up();
        let call = Call { method, path, request_id: &request_id, idempotency_key, now };
        api::answer(state, &call, params)
    });
    let reply = done?;
    receipt.kept().await?;
    Ok(reply)
}

fn params(request: &HttpRequest, body: Result<Bytes, actix_web::Error>) -> Result<Value, Refusal> {
    let body = body.map_err(|_| Refusal::too_large())?;
    let is_post = request.method() == actix_web::http::Method::POST;
    let encoded = if is_post { &body[..] } else { request.query_string().as_bytes() };
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if is_post && !body.is_empty() && !kind.to_ascii_lowercase().starts_with(FORM) {
        return Err(Refusal::invalid_request(format!("The body must be a form: Content-Type: {FORM}.")));
    }
    form::decode(encoded).map_err(|error| Refusal::invalid_request(error.to_string()))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let usable = |key: &&str| (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&key.len());
    match key.to_str().ok().filter(usable) {
        Some(key) => Ok(Some(key)),
        None => Err(Refusal::invalid_request("An idempotency key has 1 to 255 characters.")),
    }
}
