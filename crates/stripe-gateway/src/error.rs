//! How a call to Stripe can fail, told apart by what the caller should do next.

use std::fmt;

/// Why a call did not give its result.
///
/// `Display` and `Debug` name statuses and Stripe's machine-readable codes only: never a key, never the text of
/// Stripe's message, which may quote request parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Stripe said no, and would say no again: any status that is neither a success nor worth repeating
    /// (mostly 4xx; also a redirect, which is never followed).
    #[error("Stripe refused the request (status {status}, code {})", code.as_deref().unwrap_or("none"))]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stripe's `error.code`, or `error.type` where there is no code (`idempotency_error` has none).
        code: Option<String>,
    },
    /// Stripe could not be reached, did not answer in time, or answered with a fault of its own, and the attempts or
    /// the time allowed are used up. Whether anything was created is not known.
    #[error("Stripe is unavailable ({cause}; attempts: {attempts})")]
    Unavailable {
        /// What the last attempt ended with.
        cause: Unavailability,
        /// How many requests were sent.
        attempts: u32,
        /// Some attempt was answered with 5xx. Stripe keeps such an answer under the idempotency key for a day and
        /// repeats it, so only a new key can succeed; without one, the same key must be used again.
        /// Rule: <https://docs.stripe.com/api/idempotent_requests>.
        stored_failure: bool,
    },
    /// A success whose body is not what was asked for (not JSON, a missing field, larger than the limit).
    #[error("Stripe's answer could not be read")]
    Unreadable,
    /// The call was not made: a setting or an argument is wrong. The sentence says which; it holds no secret.
    #[error("{0}")]
    Configuration(String),
}

impl GatewayError {
    /// Whether the next try of the same purchase must use a new idempotency key.
    ///
    /// True where Stripe has stored this very answer under the old key: a refusal, a 5xx, an answer we cannot read.
    /// False where the old key still protects against a second session: a time-out, a broken connection, 409, 429.
    #[must_use]
    pub fn needs_new_key(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Unreadable => true,
            Self::Unavailable { stored_failure, .. } => *stored_failure,
            Self::Configuration(_) => false,
        }
    }

    /// Whether something that the request names by its id is not there (any more).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == "resource_missing")
    }

    /// Whether another request with the same key was still under way.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Unavailable { cause: Unavailability::Status { status: 409, .. }, .. })
    }

    /// Whether the key was used before with other parameters.
    #[must_use]
    pub fn is_other_request(&self) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == "idempotency_error")
    }
}

/// What the last attempt of an unavailable Stripe ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailability {
    /// An answer that says "not now": 409 (the key is in use by a concurrent request), 424, 429 or 5xx.
    Status {
        /// HTTP status.
        status: u16,
        /// Stripe's `error.code` or `error.type`, where the body was Stripe's.
        code: Option<String>,
    },
    /// No complete answer within the time allowed for one attempt.
    Timeout,
    /// No connection, or it broke before the answer was complete.
    Network,
    /// Not sent: our own share of Stripe's rate limit was used up until the time was over.
    Paced,
}

impl fmt::Display for Unavailability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { status, code } => {
                let code = code.as_deref().unwrap_or("none");
                write!(formatter, "status {status}, code {code}")
            }
            Self::Timeout => formatter.write_str("timed out"),
            Self::Network => formatter.write_str("network failure"),
            Self::Paced => formatter.write_str("our own share of the rate limit is used up"),
        }
    }
}
