//! Which pages of other sites may call the API from a browser: those of the sites that are named, exactly. Tokens travel in a
//! header that no browser adds by itself, so nothing is allowed "with credentials".

use std::sync::Arc;

use actix_web::{
    Error, HttpResponse,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN,
            VARY,
        },
    },
    middleware::Next,
};

use super::route::Route;

/// The sites, as browsers name them in `Origin`.
#[derive(Debug, Clone)]
pub struct Cors(Arc<[String]>);

impl Cors {
    /// Without any site no page of another one may call.
    #[must_use]
    pub fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }

    /// Answers a browser that asks whether it may ask, and tells it whether its page may read the answer. For Stripe's webhook
    /// and what is not the API it does nothing.
    ///
    /// # Errors
    /// Those of what is behind it.
    pub async fn pass(
        self,
        request: ServiceRequest,
        next: Next<impl MessageBody + 'static>,
    ) -> Result<ServiceResponse<BoxBody>, Error> {
        let is_api = request.path().starts_with("/api/") && Route::of(request.path()) != Route::Webhook;
        if self.0.is_empty() || !is_api {
            return Ok(next.call(request).await?.map_into_boxed_body());
        }
        let origin = self.named(&request);
        let asks_first =
            request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = match &origin {
            Some(_) if asks_first => request.into_response(may_ask()),
            _ => next.call(request).await?.map_into_boxed_body(),
        };
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After, X-Request-Id"));
        }
        Ok(response)
    }

    /// The one site whose page asks, if it is named.
    fn named(&self, request: &ServiceRequest) -> Option<HeaderValue> {
        let mut origins = request.headers().get_all(ORIGIN);
        let origin =
            origins.next().filter(|origin| self.0.iter().any(|named| named.as_bytes() == origin.as_bytes()))?;
        origins.next().is_none().then(|| origin.clone())
    }
}

fn may_ask() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"))
        .insert_header((
            ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id",
        ))
        // Ten minutes: who is taken from the list is soon asked again.
        .insert_header((ACCESS_CONTROL_MAX_AGE, "600"))
        .finish()
}
