//! Refusals of this room, in the shape that all refusals of the service have.

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header::RETRY_AFTER},
};

use crate::{
    http::{ApiError, ErrorBody},
    sandbox::SandboxError,
};

/// Why a request to the demo gets no other answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DemoError {
    /// Another machine asks, or this one under a name that may be anybody's.
    NotLocal,
    /// Somebody shows the demo to others.
    Forwarded,
    /// A page of another origin asks.
    OtherOrigin,
    /// The sandbox knows no such event.
    UnknownEvent,
    /// The service's own endpoint did not take a delivery.
    Undelivered,
    /// There is nothing it could happen to; the sentence says what is missing.
    Impossible(&'static str),
    /// Too many pages watch.
    TooManyStreams,
    /// What may happen to any request.
    Api(ApiError),
}

impl DemoError {
    const fn row(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotLocal => (
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "The demo is for the machine it runs on: open it there, as localhost or 127.0.0.1",
            ),
            Self::Forwarded => (
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "The demo hands out session tokens, so it may not be forwarded: open it without the proxy, as localhost",
            ),
            Self::OtherOrigin => {
                (StatusCode::FORBIDDEN, "FORBIDDEN", "Only the demo's own page may ask this: open it and use it there")
            }
            Self::UnknownEvent => (StatusCode::NOT_FOUND, "NOT_FOUND", "The sandbox has no such event"),
            Self::Undelivered => {
                (StatusCode::BAD_GATEWAY, "UNDELIVERED", "The event could not be delivered; the log says why")
            }
            Self::Impossible(why) => (StatusCode::CONFLICT, "IMPOSSIBLE", why),
            Self::TooManyStreams => {
                (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "Too many pages are watching: close one")
            }
            Self::Api(error) => error.row(),
        }
    }
}

impl std::fmt::Display for DemoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.row().1)
    }
}

impl ResponseError for DemoError {
    fn status_code(&self) -> StatusCode {
        self.row().0
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Api(error) = self {
            return error.error_response();
        }
        let (status, code, error) = self.row();
        let mut response = HttpResponse::build(status);
        if *self == Self::TooManyStreams {
            response.insert_header((RETRY_AFTER, 5));
        }
        response.json(ErrorBody { error, code, portal: None })
    }
}

impl From<ApiError> for DemoError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<SandboxError> for DemoError {
    fn from(error: SandboxError) -> Self {
        tracing::warn!(error = %error, "the sandbox did not do it");
        match error {
            SandboxError::UnknownEvent => Self::UnknownEvent,
            SandboxError::Undelivered(_) => Self::Undelivered,
            SandboxError::Impossible(why) => Self::Impossible(why),
            SandboxError::NotKept => Self::Api(ApiError::Internal),
        }
    }
}
