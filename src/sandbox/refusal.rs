//! Errors in Stripe's shape: `{"error": {"type", "code", "message", "param"}}`.

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use serde_json::{Value, json};

use super::disk::NotKept;

/// Why a request to the API is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
    param: Option<String>,
}

impl Refusal {
    /// A parameter that is not as it must be.
    pub(super) fn invalid(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::of(400, Some(code), message) }
    }

    pub(super) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required param: {param}.");
        Self::invalid("parameter_missing", param, message)
    }

    pub(super) fn unknown(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Received unknown parameter: {param}. The sandbox takes what it can act on.");
        Self::invalid("parameter_unknown", param, message)
    }

    /// There is no such object. `noun` as in "No such customer".
    pub(super) fn no_such(noun: &str, id: &str, param: &str) -> Self {
        let message = format!("No such {noun}: '{id}'");
        Self { param: Some(param.to_owned()), ..Self::of(404, Some("resource_missing"), message) }
    }

    /// Wrong as a whole: no single parameter is to blame.
    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::of(400, None, message)
    }

    pub(super) fn unrecognised(method: &str, path: &str) -> Self {
        Self::of(404, Some("url_invalid"), format!("Unrecognized request URL ({method}: {path})."))
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::of(401, None, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::of(403, None, message)
    }

    pub(super) fn too_large() -> Self {
        Self::of(413, None, "The request is larger than 64 KiB.")
    }

    /// The key belongs to another request.
    pub(super) fn other_parameters() -> Self {
        let message = "This idempotency key was used before with another address or other parameters.";
        Self { kind: "idempotency_error", ..Self::of(400, None, message) }
    }

    /// A card does not pay.
    pub(super) fn declined() -> Self {
        let kind = "card_error";
        Self { kind, ..Self::of(402, Some("card_declined"), "Your card was declined.") }
    }

    /// The fault is the sandbox's own.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { kind: "api_error", ..Self::of(500, None, message) }
    }

    fn of(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind: "invalid_request_error", code, message: message.into(), param: None }
    }

    fn body(&self) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message });
        if let Some(fields) = error.as_object_mut() {
            if let Some(code) = self.code {
                fields.insert("code".to_owned(), code.into());
                fields.insert("doc_url".to_owned(), format!("https://docs.stripe.com/error-codes#{code}").into());
            }
            if let Some(param) = &self.param {
                fields.insert("param".to_owned(), param.as_str().into());
            }
        }
        json!({ "error": error })
    }
}

impl From<NotKept> for Refusal {
    fn from(error: NotKept) -> Self {
        Self::internal(error.to_string())
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::build(self.status_code()).json(self.body())
    }
}
