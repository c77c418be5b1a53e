//! What may a user do? Asked by the user, or by an application server about anybody.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderValue, VARY},
    },
    web::Data,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{ApiError, ErrorBody, Shared, body, caller, time};
use crate::{domain::id::UserId, reader::Reading};

/// What a user may do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntitlementAnswer<'a> {
    /// Who.
    #[schema(value_type = uuid::Uuid)]
    user_id: UserId,
    /// `FREE` without a grant.
    #[schema(example = "PRO")]
    entitlement_level: &'a str,
    /// When the level ends; `null` for `FREE`.
    #[serde(serialize_with = "time::optional_seconds")]
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// What the level includes.
    features: &'a [String],
    /// Where the answer was found: `cache` or `database`.
    #[schema(example = "cache")]
    source: &'static str,
    /// Grows with every change of this user's entitlements.
    #[schema(example = 7)]
    version: u64,
}

/// Tells what the caller may do
#[utoipa::path(
    get, path = "/api/entitlements", tag = "entitlements", security(("session" = [])),
    params(("minVersion" = Option<u64>, Query, description = "Never answer with an older version")),
    responses(
        (status = 200, description = "The caller's entitlements", body = EntitlementAnswer),
        (status = 400, description = "`INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: out of reach, or not yet at `minVersion`", body = ErrorBody),
    ),
)]
pub(super) async fn own(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let user = caller::user(&state, &request)?;
    answer(&state, &request, user).await
}

/// Tells what any user may do
#[utoipa::path(
    get, path = "/api/entitlements/{userId}", tag = "entitlements", security(("service" = [])),
    params(
        ("userId" = uuid::Uuid, Path, description = "Whose"),
        ("minVersion" = Option<u64>, Query, description = "Never answer with an older version"),
    ),
    responses(
        (status = 200, description = "The user's entitlements; `FREE` also where nobody has heard of the user", body = EntitlementAnswer),
        (status = 400, description = "`INVALID_REQUEST`: no UUID, or a wrong query", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: a user's token", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: out of reach, or not yet at `minVersion`", body = ErrorBody),
    ),
)]
pub(super) async fn of_user(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    caller::service(&state, &request)?;
    let user = request.match_info().get("userId").and_then(|id| UserId::parse(id).ok());
    let user = user.ok_or(ApiError::InvalidRequest("The user id must be a UUID"))?;
    answer(&state, &request, user).await
}

async fn answer(state: &Shared, request: &HttpRequest, user: UserId) -> Result<HttpResponse, ApiError> {
    let min_version = min_version(request.query_string())?;
    let reading = state.reader.read(user, min_version).await?;
    let mut response = body::json(StatusCode::OK, &shown(state, user, &reading));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    headers.insert(VARY, HeaderValue::from_static("Authorization"));
    Ok(response)
}

/// As a caller sees it.
pub(super) fn shown<'a>(state: &'a Shared, user: UserId, reading: &'a Reading) -> EntitlementAnswer<'a> {
    let entitlement = &reading.entitlement;
    EntitlementAnswer {
        user_id: user,
        entitlement_level: entitlement.level.as_str(),
        expires_at: entitlement.expires_at,
        features: state.catalogue.features(&entitlement.level),
        source: reading.source.as_str(),
        version: entitlement.version,
    }
}

/// The only parameter there is. A misspelt one is refused: whoever asks for a version must not get an older one.
pub(super) fn min_version(query: &str) -> Result<Option<u64>, ApiError> {
    const WRONG: ApiError = ApiError::InvalidRequest("The query may only be minVersion, a whole number, once");

    if query.is_empty() {
        return Ok(None);
    }
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    match (pairs.next(), pairs.next()) {
        (Some((name, value)), None) if name == "minVersion" && value.bytes().all(|byte| byte.is_ascii_digit()) => {
            value.parse().map(Some).map_err(|_| WRONG)
        }
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(min_version(""), Ok(None));
        assert_eq!(min_version("minVersion=7"), Ok(Some(7)));
        assert_eq!(min_version("minVersion=18446744073709551615"), Ok(Some(u64::MAX)));
        for wrong in [
            "minVersion",
            "minVersion=",
            "minVersion=+7",
            "minVersion=-1",
            "minVersion=1.5",
            "minVersion=18446744073709551616",
            "minVersion=1&minVersion=1",
            "minversion=1",
            "minVersion=1&x=1",
            "x",
        ] {
            assert!(min_version(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_answer_field_by_field() {
        let features = ["export".to_owned()];
        let mut answer = EntitlementAnswer {
            user_id: uuid::Uuid::from_u128(1).into(),
            entitlement_level: "PRO",
            expires_at: "2026-01-31T10:00:00.123456Z".parse().ok(),
            features: &features,
            source: "cache",
            version: 7,
        };
        let text = serde_json::to_string(&answer).unwrap();
        let expected = r#"{"userId":"00000000-0000-0000-0000-000000000001","entitlementLevel":"PRO","#;
        let expected = expected.to_owned()
            + r#""expiresAt":"2026-01-31T10:00:00Z","features":["export"],"source":"cache","version":7}"#;
        assert_eq!(text, expected);
        answer.expires_at = None;
        assert!(serde_json::to_string(&answer).unwrap().contains(r#""expiresAt":null"#));
    }
}
