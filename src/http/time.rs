//! Times in answers: RFC 3339, UTC, with `Z`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// In whole seconds, as Stripe counts.
pub(super) fn seconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// In whole seconds, or `null`.
pub(super) fn optional_seconds<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// In milliseconds: when we did something.
pub(super) fn millis<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
