//! One HTTP exchange with Stripe, attempts included, over reqwest.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, redirect};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use stripe_client_core::{RequestBuilder, StripeMethod, VERSION};
use tokio::time::Instant;

use crate::config::{ApiBase, GatewayConfig};
use crate::error::{GatewayError, Unavailability};
use crate::pace::{Pace, Share};
use crate::retry::{Verdict, header, pause_after};

/// Largest body that is read. A Checkout Session has some 5 KiB; more than this is not Stripe.
const BODY_LIMIT: usize = 1024 * 1024;
/// Longest idempotency key, in bytes.
const KEY_LEN_MAX: usize = 255;
/// Stripe closes idle connections after about a minute; one closed on our side first cannot break under a request.
const IDLE_LIMIT: Duration = Duration::from_secs(50);
/// Finds connections that a firewall dropped silently.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// The connection pool, the headers of every request and the limits of every call.
pub(crate) struct Transport {
    client: Client,
    base: ApiBase,
    attempt_timeout: Duration,
    total_timeout: Duration,
    attempts: u32,
    pace: Pace,
}

/// A success, whatever its body says.
pub(crate) struct Success {
    pub(crate) body: Bytes,
    /// By Stripe's clock, in seconds since 1970-01-01 UTC.
    pub(crate) date: Option<i64>,
}

/// A request in the form in which each attempt sends it anew, with the same bytes and the same key.
struct Prepared {
    method: Method,
    url: String,
    body: Option<Bytes>,
    headers: HeaderMap,
    may_repeat: bool,
}

/// An attempt without a usable answer.
struct Failure {
    cause: Unavailability,
    verdict: Verdict,
}

impl Failure {
    /// Nothing is known of the outcome: under the same key, asking again is safe and may tell.
    fn unanswered(cause: Unavailability) -> Self {
        let verdict = Verdict { retry: true, temporary: true, asked_pause: None };
        Self { cause, verdict }
    }
}

impl Transport {
    pub(crate) fn new(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let base = config.checked_base()?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls()?)
            .http1_only()
            .user_agent(concat!("Tollgate/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers_of_every_request(&config.secret_key)?)
            // Stripe's API does not redirect; whoever does must not be handed the key.
            .redirect(redirect::Policy::none())
            // The loop below is the only one that repeats requests.
            .retry(reqwest::retry::never())
            .pool_idle_timeout(IDLE_LIMIT)
            .tcp_keepalive(TCP_KEEPALIVE);
        if base.loopback {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|_| GatewayError::Configuration("the HTTP client for Stripe could not be built".to_owned()))?;
        Ok(Self {
            client,
            base,
            attempt_timeout: config.timeout,
            total_timeout: config.total_timeout,
            attempts: config.attempts,
            pace: Pace::of_key(config.secret_key.expose_secret()),
        })
    }

    fn prepare(&self, request: RequestBuilder, key: Option<&str>) -> Result<Prepared, GatewayError> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let fits = (1..=KEY_LEN_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
            let value = HeaderValue::from_str(key).ok().filter(|_| fits);
            let Some(value) = value else {
                return Err(GatewayError::Configuration(
                    "an idempotency key must have 1 to 255 visible ASCII characters".to_owned(),
                ));
            };
            headers.insert("idempotency-key", value);
        }
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        if request.body.is_some() {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, form);
        }
        let query = request.query.map_or_else(String::new, |query| format!("?{query}"));
        Ok(Prepared {
            // Without a key, a second POST could do the thing twice.
            may_repeat: method != Method::POST || key.is_some(),
            url: format!("{}{}{query}", self.base.prefix, request.path),
            body: request.body.map(Bytes::from),
            method,
            headers,
        })
    }

    /// Sends a request under a key, or none, as often as need be; each attempt takes from the share.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        key: Option<&str>,
        share: Share,
    ) -> Result<Success, GatewayError> {
        let prepared = self.prepare(request, key)?;
        let deadline = Instant::now() + self.total_timeout;
        let mut server_failed = false;
        let mut attempt = 1;
        loop {
            if !self.pace.turn(share, deadline).await {
                let cause = Unavailability::Paced;
                return Err(GatewayError::Unavailable { cause, attempts: attempt - 1, stored_failure: server_failed });
            }
            let limit = self.attempt_timeout.min(deadline.saturating_duration_since(Instant::now()));
            let Failure { cause, verdict } = match self.attempt(&prepared, limit, attempt).await {
                Ok(answer) => return answer,
                Err(failure) => failure,
            };
            server_failed |= matches!(cause, Unavailability::Status { status: 500..=599, .. });
            let pause = verdict.asked_pause.unwrap_or_default().max(pause_after(attempt));
            let in_time = deadline.saturating_duration_since(Instant::now()) > pause;
            if verdict.retry && prepared.may_repeat && attempt < self.attempts && in_time {
                tokio::time::sleep(pause).await;
                attempt += 1;
                continue;
            }
            return Err(match cause {
                Unavailability::Status { status, code } if !verdict.temporary => GatewayError::Refused { status, code },
                cause => GatewayError::Unavailable { cause, attempts: attempt, stored_failure: server_failed },
            });
        }
    }

    /// One request. `Ok` is final: the body of a success, or the news that it is too large to be one.
    async fn attempt(
        &self,
        prepared: &Prepared,
        limit: Duration,
        attempt: u32,
    ) -> Result<Result<Success, GatewayError>, Failure> {
        let mut request = self
            .client
            .request(prepared.method.clone(), &prepared.url)
            .headers(prepared.headers.clone())
            .timeout(limit);
        if let Some(body) = &prepared.body {
            request = request.body(body.clone());
        }
        let response = request.send().await.map_err(|error| unanswered(error, attempt))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = capped_body(response).await;
        if status.is_success() {
            return match body {
                Ok(Some(body)) => Ok(Ok(Success { body, date: date(&headers) })),
                Ok(None) => Ok(Err(GatewayError::Unreadable)),
                Err(error) => Err(unanswered(error, attempt)),
            };
        }
        // The status of a failure is enough, even if its body never came or is not Stripe's.
        let code = body.ok().flatten().and_then(|body| error_code(&body));
        let status = status.as_u16();
        tracing::warn!(
            status,
            code,
            request_id = header(&headers, "request-id"),
            attempt,
            "Stripe answered a request with a failure"
        );
        Err(Failure { verdict: Verdict::of(status, &headers), cause: Unavailability::Status { status, code } })
    }
}

/// When the answer was made, by the sender's clock.
fn date(headers: &HeaderMap) -> Option<i64> {
    let time = httpdate::parse_http_date(header(headers, DATE.as_str())?).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// TLS with roots that come with the program and with ring, named here so that it does not matter which cryptography
/// provider the process has installed, or whether the machine has a certificate store.
fn tls() -> Result<ClientConfig, GatewayError> {
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| GatewayError::Configuration("TLS could not be set up".to_owned()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn headers_of_every_request(key: &SecretString) -> Result<HeaderMap, GatewayError> {
    let not_a_header = |_| GatewayError::Configuration("the Stripe secret key cannot be sent in a header".to_owned());
    let bearer = format!("Bearer {}", key.expose_secret());
    let mut authorization = HeaderValue::try_from(bearer).map_err(not_a_header)?;
    // Keeps it out of every Debug output.
    authorization.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, authorization);
    // The version the request types were generated from, not the account's default.
    let version = HeaderValue::from_str(VERSION.as_str()).map_err(not_a_header)?;
    headers.insert("stripe-version", version);
    Ok(headers)
}

/// The body, or `None` where it is larger than the limit.
async fn capped_body(mut response: Response) -> Result<Option<Bytes>, reqwest::Error> {
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok());
    if announced.is_some_and(|length| length > BODY_LIMIT) {
        return Ok(None);
    }
    let mut body = BytesMut::with_capacity(announced.unwrap_or_default());
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

fn unanswered(error: reqwest::Error, attempt: u32) -> Failure {
    let cause = if error.is_timeout() { Unavailability::Timeout } else { Unavailability::Network };
    // The innermost error is the one that helps (no route, name not found, certificate not trusted).
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    tracing::warn!(%cause, reason = %innermost, attempt, "Stripe did not answer a request");
    Failure::unanswered(cause)
}

#[derive(miniserde::Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(miniserde::Deserialize)]
struct ErrorDetail {
    code: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Stripe's word for what went wrong. Only what looks like one of its codes is let through, so that no free text
/// reaches a log by this way.
fn error_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let ErrorBody { error } = miniserde::json::from_str(text).ok()?;
    error.code.or(error.kind).filter(|code| {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        !code.is_empty() && code.len() <= 64 && code.bytes().all(letters)
    })
}
