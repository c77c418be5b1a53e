//! The one place that knows status codes: every refusal with its status, its code and its sentence.
//!
//! Sentences are constants: nothing of Stripe's words, of the database's or of the caller's can get into an answer.

use std::time::Duration;

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{ALLOW, ContentType, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use super::route::Route;
use crate::{
    actor::ApplyError, auth::AuthError, billing::CheckoutError, operators::OperatorError, reader::ReadError,
    watch::WatchError,
};

/// Why a request gets no other answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// The level is unknown or not for sale.
    InvalidEntitlementLevel,
    /// The request is not as described; the sentence says what is wrong.
    InvalidRequest(&'static str),
    /// Nobody we know asks.
    Unauthorized,
    /// Somebody we know asks for what is not theirs.
    Forbidden,
    /// What asks is a page of another site, or asks by another name; the sentence says what is expected.
    NotFromThere(&'static str),
    /// No such route, or no such thing of this caller's.
    NotFound,
    /// The route has other methods: these.
    MethodNotAllowed(&'static str),
    /// The body, or the answer to it, took too long.
    RequestTimeout,
    /// Buying it again would take money for nothing.
    AlreadyEntitled,
    /// It is bought already; the money is on its way.
    PaymentPending,
    /// Stripe has no customer who could be shown a page.
    NoCustomer,
    /// One key for two wishes.
    IdempotencyConflict,
    /// Only parked events can be tried again.
    NotParked,
    /// Operators: the application has no such user.
    UnknownUser,
    /// Operators: what Stripe sold is not taken by hand.
    NotByHand,
    /// Operators: another grant has the id.
    GrantIdTaken,
    /// The body is too long.
    PayloadTooLarge,
    /// The body is not of the type, or is encoded; the sentence says what is expected.
    UnsupportedMediaType(&'static str),
    /// Too many requests; another is taken after this time.
    RateLimited(Duration),
    /// A webhook without a signature.
    MissingSignature,
    /// A webhook that Stripe did not sign.
    InvalidSignature,
    /// Stripe signed it, but it is no event.
    InvalidPayload,
    /// Stripe refused or failed.
    Stripe,
    /// There is no Stripe key.
    PaymentsNotConfigured,
    /// There is no webhook secret.
    WebhookSecretNotConfigured,
    /// Not now: out of reach, overloaded, or the outcome is not known.
    Unavailable,
    /// A bug.
    Internal,
}

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A sentence for a person.
    #[schema(example = "Authentication required")]
    pub error: &'static str,
    /// A word for a program.
    #[schema(example = "UNAUTHORIZED")]
    pub code: &'static str,
    /// With `ALREADY_ENTITLED` only: what to `POST` to for the page where a customer changes or cancels what he has.
    #[schema(nullable = false, example = "/api/billing/portal")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portal: Option<&'static str>,
}

impl ApiError {
    /// Status, code and sentence.
    #[must_use]
    pub const fn row(&self) -> (StatusCode, &'static str, &'static str) {
        match *self {
            Self::InvalidEntitlementLevel => {
                (StatusCode::BAD_REQUEST, "INVALID_ENTITLEMENT_LEVEL", "Entitlement level is unknown or not for sale")
            }
            Self::InvalidRequest(sentence) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST", sentence),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Authentication required"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN", "A service token is required"),
            Self::NotFromThere(sentence) => (StatusCode::FORBIDDEN, "FORBIDDEN", sentence),
            Self::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND", "Not found"),
            Self::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "Method not allowed; see the Allow header")
            }
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "The request body took too long to arrive")
            }
            Self::AlreadyEntitled => {
                (StatusCode::CONFLICT, "ALREADY_ENTITLED", "This level is already active or can be had only once")
            }
            Self::PaymentPending => (
                StatusCode::CONFLICT,
                "PAYMENT_PENDING",
                "This level is bought already and the payment is on its way; it can be bought again if that fails",
            ),
            Self::NoCustomer => {
                (StatusCode::CONFLICT, "NO_CUSTOMER", "Nothing has been bought yet: there is nothing to manage")
            }
            Self::IdempotencyConflict => (
                StatusCode::CONFLICT,
                "IDEMPOTENCY_CONFLICT",
                "This Idempotency-Key was used for another entitlement level or interval",
            ),
            Self::NotParked => (StatusCode::CONFLICT, "NOT_PARKED", "The event is not parked: there is nothing to try"),
            Self::UnknownUser => {
                (StatusCode::NOT_FOUND, "UNKNOWN_USER", "The application's users have nobody with this id")
            }
            Self::NotByHand => (
                StatusCode::CONFLICT,
                "NOT_BY_HAND",
                "Stripe sold this grant: refund the payment or cancel the subscription there, and its event ends it",
            ),
            Self::GrantIdTaken => {
                (StatusCode::CONFLICT, "GRANT_ID_TAKEN", "Another grant has this id: of another user, level or end")
            }
            Self::PayloadTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", "The request body is too long")
            }
            Self::UnsupportedMediaType(sentence) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", sentence)
            }
            Self::RateLimited(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "Too many requests; try again later")
            }
            Self::MissingSignature => (StatusCode::BAD_REQUEST, "MISSING_SIGNATURE", "Missing stripe signature"),
            Self::InvalidSignature => (StatusCode::BAD_REQUEST, "INVALID_SIGNATURE", "Invalid signature"),
            Self::InvalidPayload => (StatusCode::BAD_REQUEST, "INVALID_PAYLOAD", "The body is not a Stripe event"),
            Self::Stripe => (StatusCode::BAD_GATEWAY, "STRIPE_ERROR", "The payment provider could not be used"),
            Self::PaymentsNotConfigured => (StatusCode::BAD_GATEWAY, "STRIPE_ERROR", "Payments are not configured"),
            Self::WebhookSecretNotConfigured => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "WEBHOOK_SECRET_NOT_CONFIGURED",
                "The webhook secret is not configured",
            ),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "Temporarily unavailable; try again later")
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "Internal error"),
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.row().1)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.row().0
    }

    fn error_response(&self) -> HttpResponse {
        let (status, code, error) = self.row();
        let mut response = HttpResponse::build(status);
        match *self {
            Self::Unauthorized => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer"));
            }
            Self::MethodNotAllowed(allow) => {
                response.insert_header((ALLOW, allow));
            }
            Self::RateLimited(wait) => {
                // Rounded up: who waits as long as told must not be told again.
                let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
                response.insert_header((RETRY_AFTER, seconds));
            }
            Self::Unavailable => {
                // Not the same for all, or all come back together.
                response.insert_header((RETRY_AFTER, rand::random_range(1_u64..=5)));
            }
            // What is left of the body is not waited for.
            Self::RequestTimeout | Self::PayloadTooLarge => {
                response.force_close();
            }
            _ => {}
        }
        response.insert_header(ContentType::json());
        let portal = matches!(self, Self::AlreadyEntitled).then_some(Route::Portal.pattern());
        match serde_json::to_vec(&ErrorBody { error, code, portal }) {
            Ok(body) => response.body(body),
            Err(_) => response.finish(),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        // The reason is for us only.
        tracing::debug!(error = %error, "refused a token");
        Self::Unauthorized
    }
}

impl From<CheckoutError> for ApiError {
    fn from(error: CheckoutError) -> Self {
        match error {
            CheckoutError::InvalidLevel => Self::InvalidEntitlementLevel,
            CheckoutError::InvalidInterval => Self::InvalidRequest(
                "This level is not sold by that interval; GET /api/plans lists those it is sold by",
            ),
            CheckoutError::InvalidKey => Self::InvalidRequest("Idempotency-Key must be 1 to 255 printable characters"),
            CheckoutError::IdempotencyConflict => Self::IdempotencyConflict,
            CheckoutError::RateLimited { retry_after } => Self::RateLimited(retry_after),
            CheckoutError::AlreadyEntitled => Self::AlreadyEntitled,
            CheckoutError::PaymentPending => Self::PaymentPending,
            CheckoutError::NoCustomer => Self::NoCustomer,
            CheckoutError::NotConfigured => Self::PaymentsNotConfigured,
            CheckoutError::Stripe => Self::Stripe,
            CheckoutError::Busy | CheckoutError::Unavailable => Self::Unavailable,
            CheckoutError::NotFound => Self::NotFound,
            CheckoutError::Internal => Self::Internal,
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            // Stripe sends it again, and the event's id keeps it from counting twice.
            ApplyError::Busy
            | ApplyError::Unavailable
            | ApplyError::OwnerChanged
            | ApplyError::InDoubt
            | ApplyError::TimedOut => Self::Unavailable,
            ApplyError::Panicked | ApplyError::Refused => Self::Internal,
        }
    }
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::NoSuchEvent | OperatorError::NoSuchGrant => Self::NotFound,
            OperatorError::NoSuchUser => Self::UnknownUser,
            OperatorError::NotByHand => Self::NotByHand,
            OperatorError::GrantIdTaken => Self::GrantIdTaken,
            OperatorError::Over => Self::InvalidRequest("until must be in the future"),
            OperatorError::NotParked => Self::NotParked,
            OperatorError::Ledger(error) => {
                tracing::warn!(%error, "an operator was not answered");
                Self::Unavailable
            }
            OperatorError::Apply(error) => error.into(),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable | ReadError::Older => Self::Unavailable,
        }
    }
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Busy => Self::Unavailable,
            // Nobody knows when a place becomes free.
            WatchError::BusyUser => Self::RateLimited(Duration::from_secs(5)),
            WatchError::Read(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    #[actix_web::test]
    async fn the_table() {
        let second = Duration::from_secs(1);
        for (error, status, code) in [
            (ApiError::InvalidEntitlementLevel, 400, "INVALID_ENTITLEMENT_LEVEL"),
            (ApiError::InvalidRequest("No"), 400, "INVALID_REQUEST"),
            (ApiError::MissingSignature, 400, "MISSING_SIGNATURE"),
            (ApiError::InvalidSignature, 400, "INVALID_SIGNATURE"),
            (ApiError::InvalidPayload, 400, "INVALID_PAYLOAD"),
            (ApiError::Unauthorized, 401, "UNAUTHORIZED"),
            (ApiError::Forbidden, 403, "FORBIDDEN"),
            (ApiError::NotFromThere("No"), 403, "FORBIDDEN"),
            (ApiError::NotFound, 404, "NOT_FOUND"),
            (ApiError::MethodNotAllowed("POST"), 405, "METHOD_NOT_ALLOWED"),
            (ApiError::RequestTimeout, 408, "REQUEST_TIMEOUT"),
            (ApiError::AlreadyEntitled, 409, "ALREADY_ENTITLED"),
            (ApiError::PaymentPending, 409, "PAYMENT_PENDING"),
            (ApiError::NoCustomer, 409, "NO_CUSTOMER"),
            (ApiError::IdempotencyConflict, 409, "IDEMPOTENCY_CONFLICT"),
            (ApiError::NotParked, 409, "NOT_PARKED"),
            (ApiError::UnknownUser, 404, "UNKNOWN_USER"),
            (ApiError::NotByHand, 409, "NOT_BY_HAND"),
            (ApiError::GrantIdTaken, 409, "GRANT_ID_TAKEN"),
            (ApiError::PayloadTooLarge, 413, "PAYLOAD_TOO_LARGE"),
            (ApiError::UnsupportedMediaType("No"), 415, "UNSUPPORTED_MEDIA_TYPE"),
            (ApiError::RateLimited(second), 429, "RATE_LIMITED"),
            (ApiError::Internal, 500, "INTERNAL"),
            (ApiError::WebhookSecretNotConfigured, 500, "WEBHOOK_SECRET_NOT_CONFIGURED"),
            (ApiError::Stripe, 502, "STRIPE_ERROR"),
            (ApiError::PaymentsNotConfigured, 502, "STRIPE_ERROR"),
            (ApiError::Unavailable, 503, "UNAVAILABLE"),
        ] {
            let response = error.error_response();
            assert_eq!((response.status().as_u16(), error.status_code().as_u16()), (status, status));
            assert_eq!(response.headers().get("content-type").unwrap(), "application/json");
            let body = to_bytes(response.into_body()).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let mut expected = serde_json::json!({ "error": error.row().2, "code": code });
            if error == ApiError::AlreadyEntitled {
                expected["portal"] = "/api/billing/portal".into();
            }
            assert_eq!(body, expected);
        }
    }

    #[test]
    fn sentences_that_callers_know() {
        assert_eq!(ApiError::Unauthorized.row().2, "Authentication required");
        assert_eq!(ApiError::MissingSignature.row().2, "Missing stripe signature");
        assert_eq!(ApiError::InvalidSignature.row().2, "Invalid signature");
    }

    #[test]
    fn headers_that_tell_what_to_do() {
        let header = |error: ApiError, name: &str| {
            error.error_response().headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header(ApiError::Unauthorized, "www-authenticate").as_deref(), Some("Bearer"));
        assert_eq!(header(ApiError::MethodNotAllowed("POST"), "allow").as_deref(), Some("POST"));
        for (millis, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (6_000, "6")] {
            let limited = ApiError::RateLimited(Duration::from_millis(millis));
            assert_eq!(header(limited, "retry-after").as_deref(), Some(seconds));
        }
        let seconds: u64 = header(ApiError::Unavailable, "retry-after").unwrap().parse().unwrap();
        assert!((1..=5).contains(&seconds));
    }
}
