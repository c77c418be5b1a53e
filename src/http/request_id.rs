//! What every request gets, whatever becomes of it: an id, a place in the log, counts and times, and an answer even if its
//! handler panics.

use std::{
    future::{Ready, ready},
    panic::AssertUnwindSafe,
    rc::Rc,
    time::{Instant, SystemTime},
};

use actix_web::{
    Error, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready},
    http::{
        ConnectionType, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
};
use futures::{FutureExt, future::LocalBoxFuture};
use metrics::{Counter, counter};
use tracing::Instrument;
use uuid::Builder;

use super::{
    ApiError,
    route::{Route, RouteMeters},
    under_way::UnderWay,
    unread::Unread,
};

/// The header, both ways.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a caller, in bytes.
const ID_LEN_MAX: usize = 64;

/// The outermost middleware: to be wrapped round everything else. The metrics recorder must have been installed before a
/// server with it starts.
#[derive(Debug, Clone, Default)]
pub struct RequestId {
    under_way: UnderWay,
}

impl From<UnderWay> for RequestId {
    fn from(under_way: UnderWay) -> Self {
        Self { under_way }
    }
}

/// One of these per thread: they count together all the same.
struct Meters {
    routes: RouteMeters,
    panics: Counter,
}

impl<S, B> Transform<S, ServiceRequest> for RequestId
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Transform = WithRequestId<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let panics = counter!("tollgate_http_panics_total");
        let meters = Rc::new(Meters { routes: RouteMeters::new(), panics });
        ready(Ok(WithRequestId { service, meters, under_way: self.under_way.clone() }))
    }
}

/// A service of one thread with [`RequestId`] round it.
pub struct WithRequestId<S> {
    service: S,
    meters: Rc<Meters>,
    under_way: UnderWay,
}

impl<S, B> Service<ServiceRequest> for WithRequestId<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let start = Instant::now();
        let id = id_of(request.headers());
        let route = Route::of(request.path());
        let span = tracing::info_span!("request", request.id = id.to_str().unwrap_or_default());
        let meters = Rc::clone(&self.meters);
        let unread = Unread::hold(&mut request);
        let (working, under_way) = (self.under_way.begin(), self.under_way.clone());
        // Routing happens here, handlers only when this is awaited.
        let answer = AssertUnwindSafe(span.in_scope(|| self.service.call(request))).catch_unwind();
        let work = async move {
            let result = match answer.await {
                Ok(Ok(mut response)) => {
                    add_headers(response.headers_mut(), id);
                    let response = response.map_into_boxed_body();
                    Ok(match unread {
                        Some(unread) => response.map_body(|_, body| unread.until_sent(body)),
                        None => response,
                    })
                }
                Ok(Err(error)) => Err(Failed { id, cause: Cause::Error(error), unread }),
                Err(_) => {
                    // What it said has been logged by the panic hook.
                    tracing::error!(route = route.pattern(), "handler panicked");
                    meters.panics.increment(1);
                    Err(Failed { id, cause: Cause::Panic, unread })
                }
            };
            let status = match &result {
                Ok(response) => response.status(),
                Err(failed) => failed.status_code(),
            };
            let took = start.elapsed();
            meters.routes.record(route, status.as_u16(), took);
            tracing::debug!(route = route.pattern(), status = status.as_u16(), took = ?took, "answered");
            drop(working);
            let mut result = result.map_err(Error::from);
            if under_way.is_leaving()
                && let Ok(response) = &mut result
            {
                response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
            }
            result
        };
        Box::pin(work.instrument(span))
    }
}

/// No response came back, so there is none to add headers to: they are added when the error becomes one.
#[derive(Debug)]
struct Failed {
    id: HeaderValue,
    cause: Cause,
    unread: Option<Unread>,
}

#[derive(Debug)]
enum Cause {
    Error(Error),
    Panic,
}

impl Failed {
    fn inner(&self) -> &dyn ResponseError {
        match &self.cause {
            Cause::Error(error) => error.as_response_error(),
            Cause::Panic => &ApiError::Internal,
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self.inner(), f)
    }
}

impl ResponseError for Failed {
    fn status_code(&self) -> StatusCode {
        self.inner().status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.inner().error_response();
        add_headers(response.headers_mut(), self.id.clone());
        match self.unread.clone() {
            Some(unread) => response.map_body(|_, body| unread.until_sent(body)),
            None => response,
        }
    }
}

/// An answer is no page and nobody else's business, where its handler does not say otherwise.
const UNLESS_SAID: [(HeaderName, HeaderValue); 4] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

fn add_headers(headers: &mut HeaderMap, id: HeaderValue) {
    headers.insert(X_REQUEST_ID, id);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in UNLESS_SAID {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
}

/// The caller's id if it is safe in a log line, else a new one: a UUID of version 7, so that ids sort by time.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    match headers.get(&X_REQUEST_ID) {
        Some(id) if is_good(id.as_bytes()) => id.clone(),
        _ => fresh(),
    }
}

fn is_good(id: &[u8]) -> bool {
    (1..=ID_LEN_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn fresh() -> HeaderValue {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or_default();
    // Made by hand: the library's own would lock a process-wide counter and ask the kernel for each.
    let id = Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
    let mut buffer = [0; uuid::fmt::Simple::LENGTH];
    HeaderValue::from_str(id.simple().encode_lower(&mut buffer)).unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_taken() {
        for good in ["a", "A-1_b.c", &"x".repeat(64)] {
            assert!(is_good(good.as_bytes()), "{good}");
        }
        for wrong in ["", "a b", "a\"", "a/b", "\u{e9}", "a\x1b[0m", &"x".repeat(65)] {
            assert!(!is_good(wrong.as_bytes()), "{wrong:?}");
        }
        let (one, other) = (fresh(), fresh());
        assert!(one != other && is_good(one.as_bytes()) && one.len() == 32, "{one:?}");
    }
}
