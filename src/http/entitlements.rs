//! What may a user do? Asked by the user, or by an application server about anybody.

use std::borrow::Cow;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderValue, VARY},
    web::Data,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{ApiError, ErrorBody, Shared, body, caller, time, user_id};
use crate::{
    domain::{id::UserId, plan::Catalogue},
    reader::Reading,
};

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
    /// How many were bought of what gives the level, for example seats; 1 where the plan has no quantities, and for `FREE`.
    #[schema(minimum = 1, example = 1)]
    quantity: u32,
    /// What the level includes.
    features: &'a [String],
    /// Where the answer was found: `cache` or `database`.
    #[schema(example = "cache")]
    source: &'static str,
    /// Grows with every change of this user's entitlements.
    #[schema(example = 7)]
    version: u64,
}

/// Whether a user may use a feature.
#[derive(Serialize, ToSchema)]
pub(super) struct FeatureAnswer {
    /// Whether the user's level includes it.
    allowed: bool,
}

/// What is asked for: everything, or one feature.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Answer<'a> {
    /// Without `feature`.
    Entitlement(EntitlementAnswer<'a>),
    /// With `feature`.
    Feature(FeatureAnswer),
}

/// Tells what the caller may do
#[utoipa::path(
    get, path = "/api/entitlements", tag = "entitlements", security(("session" = [])),
    params(
        ("minVersion" = Option<u64>, Query, description = "Never answer with an older version"),
        ("feature" = Option<String>, Query, description = "Answer only whether the level includes this feature"),
    ),
    responses(
        (status = 200, description = "The caller's entitlements, or whether they include the feature", body = Answer),
        (status = 400, description = "`INVALID_REQUEST`: a wrong query, or a feature that no plan has", body = ErrorBody),
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
        ("feature" = Option<String>, Query, description = "Answer only whether the level includes this feature"),
    ),
    responses(
        (status = 200, description = "The user's entitlements, or whether they include the feature; `FREE` also where nobody has heard of the user", body = Answer),
        (status = 400, description = "`INVALID_REQUEST`: no UUID, a wrong query, or a feature that no plan has", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: a user's token", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: out of reach, or not yet at `minVersion`", body = ErrorBody),
    ),
)]
pub(super) async fn of_user(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    caller::service(&state, &request)?;
    answer(&state, &request, user_id(request.match_info().query("userId"))?).await
}

async fn answer(state: &Shared, request: &HttpRequest, user: UserId) -> Result<HttpResponse, ApiError> {
    let Query { min_version, feature } = Query::parse(request.query_string())?;
    let catalogue = state.catalogue.get();
    // A misspelt feature would be denied to everybody, and nobody would know why.
    if feature.as_ref().is_some_and(|feature| !catalogue.has_feature(feature)) {
        return Err(ApiError::InvalidRequest("No plan has this feature; GET /api/plans lists the features of each"));
    }
    let reading = state.reader.read(user, min_version).await?;
    let answer = match feature {
        Some(feature) => {
            let features = catalogue.features(&reading.entitlement.level);
            Answer::Feature(FeatureAnswer { allowed: features.iter().any(|own| *own == feature) })
        }
        None => Answer::Entitlement(shown(&catalogue, user, &reading)),
    };
    let mut response = body::private(&answer);
    response.headers_mut().insert(VARY, HeaderValue::from_static("Authorization"));
    Ok(response)
}

/// As a caller sees it.
pub(super) fn shown<'a>(catalogue: &'a Catalogue, user: UserId, reading: &'a Reading) -> EntitlementAnswer<'a> {
    let entitlement = &reading.entitlement;
    EntitlementAnswer {
        user_id: user,
        entitlement_level: entitlement.level.as_str(),
        expires_at: entitlement.expires_at,
        quantity: entitlement.quantity,
        features: catalogue.features(&entitlement.level),
        source: reading.source.as_str(),
        version: entitlement.version,
    }
}

/// The version that whoever opens a stream has already.
pub(super) fn version_had(query: &str) -> Result<Option<u64>, ApiError> {
    match Query::parse(query)? {
        Query { min_version, feature: None } => Ok(min_version),
        Query { feature: Some(_), .. } => {
            Err(ApiError::InvalidRequest("A stream's query may only be minVersion, a whole number, once"))
        }
    }
}

/// The parameters there are. A misspelt one is refused: whoever asks for a version must not get an older one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query<'a> {
    min_version: Option<u64>,
    feature: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    fn parse(query: &'a str) -> Result<Self, ApiError> {
        const WRONG: ApiError = ApiError::InvalidRequest(
            "The query may only be minVersion, a whole number, and feature, the name of one, each once",
        );

        let mut found = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "minVersion" if found.min_version.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    found.min_version = Some(value.parse().map_err(|_| WRONG)?);
                }
                "feature" if found.feature.is_none() => found.feature = Some(value),
                _ => return Err(WRONG),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let parsed =
            |min_version, feature: Option<&'static str>| Ok(Query { min_version, feature: feature.map(Into::into) });
        assert_eq!(Query::parse(""), parsed(None, None));
        assert_eq!(Query::parse("minVersion=7"), parsed(Some(7), None));
        assert_eq!(Query::parse("minVersion=18446744073709551615"), parsed(Some(u64::MAX), None));
        assert_eq!(Query::parse("feature=export"), parsed(None, Some("export")));
        assert_eq!(Query::parse("feature=big+export%21&minVersion=7"), parsed(Some(7), Some("big export!")));
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
            "feature=a&feature=a",
            "Feature=a",
            "x",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_answer_field_by_field() {
        let features = ["export".to_owned()];
        let mut answer = EntitlementAnswer {
            user_id: uuid::Uuid::from_u128(1).into(),
            entitlement_level: "PRO",
            expires_at: "2026-01-31T10:00:00.123456Z".parse().ok(),
            quantity: 5,
            features: &features,
            source: "cache",
            version: 7,
        };
        let text = serde_json::to_string(&answer).unwrap();
        let expected = r#"{"userId":"00000000-0000-0000-0000-000000000001","entitlementLevel":"PRO","#;
        let expected = expected.to_owned()
            + r#""expiresAt":"2026-01-31T10:00:00Z","quantity":5,"features":["export"],"source":"cache","version":7}"#;
        assert_eq!(text, expected);
        answer.expires_at = None;
        let answer = Answer::Entitlement(answer);
        assert!(serde_json::to_string(&answer).unwrap().contains(r#""expiresAt":null"#));
        let feature = Answer::Feature(FeatureAnswer { allowed: true });
        assert_eq!(serde_json::to_string(&feature).unwrap(), r#"{"allowed":true}"#);
    }
}
