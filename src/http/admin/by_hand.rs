//! Levels given and taken by hand, and the history of what a user had.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Payload},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{address, admit, overview::GrantAnswer, query, read, user};
use crate::{
    domain::{
        by_hand::{Line, Remark},
        level::Level,
    },
    http::{ApiError, ErrorBody, Shared, body, time},
    operators::{Gift, HistoryEntry, Taking},
};

/// A level to be given.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GrantRequest {
    /// Chosen by the caller: asking again with it is the same grant.
    id: Uuid,
    /// A level of the catalogue.
    #[schema(example = "PRO")]
    level: String,
    /// When it ends.
    until: DateTime<Utc>,
    /// Who gives it.
    #[schema(example = "robin", min_length = 1, max_length = 200)]
    operator: String,
    /// Why.
    #[schema(example = "Prize of the spring draw", min_length = 1, max_length = 200)]
    reason: String,
}

/// The grant as it stands.
#[derive(Serialize, ToSchema)]
pub(super) struct GrantedAnswer<'a> {
    /// Whether this call made it; `false` where it was there already, be it revoked since.
    created: bool,
    grant: GrantAnswer<'a>,
}

/// What is to be taken: either `grant` or `allManual`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RevocationRequest {
    /// The id of a grant that was given by hand.
    grant: Option<String>,
    /// All that was given by hand.
    #[serde(default)]
    all_manual: bool,
    /// Who takes it.
    #[schema(example = "robin", min_length = 1, max_length = 200)]
    operator: String,
    /// Why.
    #[schema(example = "Given to the wrong user", min_length = 1, max_length = 200)]
    reason: String,
}

/// What was taken.
#[derive(Serialize, ToSchema)]
pub(super) struct RevokedAnswer<'a> {
    /// What this call took; nothing where all of it had been taken before.
    revoked: Vec<GrantAnswer<'a>>,
}

/// How a user's entitlement changed.
#[derive(Serialize, ToSchema)]
pub(super) struct HistoryAnswer {
    /// The newest first.
    history: Vec<HistoryEntryAnswer>,
    /// The next page's `before`; `null` on the last page.
    #[schema(required)]
    next: Option<u64>,
}

/// One change of what a user may do, and whose doing it was.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryEntryAnswer {
    /// The version that began with it.
    version: u64,
    /// The level since then.
    #[schema(example = "PRO")]
    entitlement_level: String,
    /// When that was to end; `null` for `FREE`.
    #[serde(serialize_with = "time::optional_seconds")]
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// How many were bought of what gives the level.
    quantity: u32,
    /// When it happened.
    #[serde(serialize_with = "time::millis")]
    changed_at: DateTime<Utc>,
    /// `delivery` or `retry` of an event, `fetched` where Stripe was asked, `operator`, or `time`.
    #[schema(example = "operator")]
    cause: String,
    /// The event that did it.
    #[schema(required)]
    event_id: Option<String>,
    /// The person who did it.
    #[schema(required)]
    operator: Option<String>,
    /// Why the person did it.
    #[schema(required)]
    reason: Option<String>,
    /// The grant that it gave, changed or took: kind and id.
    #[schema(required, example = "manual:7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71")]
    source: Option<String>,
}

impl From<HistoryEntry> for HistoryEntryAnswer {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            version: entry.version,
            entitlement_level: entry.level,
            expires_at: entry.expires_at,
            quantity: entry.quantity,
            changed_at: entry.changed_at,
            cause: entry.cause,
            event_id: entry.event,
            operator: entry.operator,
            reason: entry.reason,
            source: entry.source,
        }
    }
}

/// Gives a level by hand
///
/// It is one more grant beside what was bought: the better one holds. Asked again with the same `id`, it is the same grant.
#[utoipa::path(
    post, path = "/api/admin/entitlements/{userId}/grants", tag = "admin", security(("admin" = [])),
    params(("userId" = Uuid, Path, description = "To whom")),
    request_body = GrantRequest,
    responses(
        (status = 200, description = "The grant", body = GrantedAnswer),
        (status = 400, description = "`INVALID_REQUEST`, or `INVALID_ENTITLEMENT_LEVEL`: not in the catalogue", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 404, description = "`UNKNOWN_USER`: the application's table has no such user", body = ErrorBody),
        (status = 409, description = "`GRANT_ID_TAKEN`: by another grant", body = ErrorBody),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: ask again with the same `id`", body = ErrorBody),
    ),
)]
pub(super) async fn give(
    state: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    const WRONG: ApiError = ApiError::InvalidRequest(
        "The body must hold id, a UUID, level, until, a moment such as 2026-01-31T10:00:00Z, operator and reason",
    );

    admit(&state, &request)?;
    let user = user(&request)?;
    let GrantRequest { id, level, until, operator, reason } = read(&state, &request, payload, WRONG).await?;
    let remark = remark(&operator, &reason)?;
    let level = Level::parse(&level).ok().filter(|level| state.catalogue.get().plan(level).is_some());
    let level = level.ok_or(ApiError::InvalidEntitlementLevel)?;
    let (grant, created) = state.operators.give(Gift { id, user, level, until }, remark.clone()).await?;
    tracing::info!(
        user.id = %user,
        operator.address = address(&request),
        operator.name = remark.operator.as_str(),
        reason = remark.reason.as_str(),
        grant = %grant.source,
        level = %grant.level,
        until = %grant.period_end,
        created,
        "an operator gave a level by hand"
    );
    Ok(body::private(&GrantedAnswer { created, grant: GrantAnswer::from(&grant) }))
}

/// Takes back what was given by hand
///
/// What Stripe sold is not taken here: its next event would give it back. Refund the payment or cancel the subscription at Stripe.
#[utoipa::path(
    post, path = "/api/admin/entitlements/{userId}/revocations", tag = "admin", security(("admin" = [])),
    params(("userId" = Uuid, Path, description = "From whom")),
    request_body = RevocationRequest,
    responses(
        (status = 200, description = "What was taken", body = RevokedAnswer),
        (status = 400, description = "`INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 404, description = "`NOT_FOUND`: the user has no such grant", body = ErrorBody),
        (status = 409, description = "`NOT_BY_HAND`: Stripe sold it", body = ErrorBody),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: ask again", body = ErrorBody),
    ),
)]
pub(super) async fn take(
    state: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    const WRONG: ApiError = ApiError::InvalidRequest(
        "The body must hold grant, the id of one, or allManual, true, and operator and reason",
    );

    admit(&state, &request)?;
    let user = user(&request)?;
    let RevocationRequest { grant, all_manual, operator, reason } = read(&state, &request, payload, WRONG).await?;
    let remark = remark(&operator, &reason)?;
    let taking = match (grant, all_manual) {
        (Some(id), false) => Taking::Grant(id),
        (None, true) => Taking::AllByHand,
        (Some(_), true) | (None, false) => return Err(WRONG),
    };
    let taken = state.operators.take(user, &taking, &remark).await?;
    for grant in &taken {
        tracing::info!(
            user.id = %user,
            operator.address = address(&request),
            operator.name = remark.operator.as_str(),
            reason = remark.reason.as_str(),
            grant = %grant.source,
            "an operator took a level back that had been given by hand"
        );
    }
    Ok(body::private(&RevokedAnswer { revoked: taken.iter().map(GrantAnswer::from).collect() }))
}

/// Tells how a user's entitlement changed, and whose doing it was
///
/// One entry for each change of level, end or quantity, and for each that a person made.
#[utoipa::path(
    get, path = "/api/admin/entitlements/{userId}/history", tag = "admin", security(("admin" = [])),
    params(
        ("userId" = Uuid, Path, description = "Whose"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 where absent"),
        ("before" = Option<u64>, Query, description = "Only what came before this version: what the page before gave as `next`"),
    ),
    responses(
        (status = 200, description = "A page, the newest first", body = HistoryAnswer),
        (status = 400, description = "`INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn history(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let user = user(&request)?;
    let (before, limit) = page(request.query_string())?;
    let entries = state.operators.history(user, before, limit).await?;
    let next = query::last_of_full(&entries, limit).map(|entry| entry.version);
    Ok(body::private(&HistoryAnswer { history: entries.into_iter().map(HistoryEntryAnswer::from).collect(), next }))
}

fn remark(operator: &str, reason: &str) -> Result<Remark, ApiError> {
    let line = |text, wrong| Line::parse(text).ok_or(ApiError::InvalidRequest(wrong));
    Ok(Remark {
        operator: line(operator, "operator must be one line of 1 to 200 characters: who does it")?,
        reason: line(reason, "reason must be one line of 1 to 200 characters: why it is done")?,
    })
}

fn page(text: &str) -> Result<(Option<u64>, u32), ApiError> {
    const WRONG: ApiError =
        ApiError::InvalidRequest("The query may hold limit, a number from 1 to 200, and before, a version, each once");

    let (mut before, mut limit) = (None, None);
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        match &*name {
            "limit" if limit.is_none() => {
                limit = Some(query::limit(&value).ok_or(WRONG)?);
            }
            "before" if before.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                before = Some(value.parse().map_err(|_| WRONG)?);
            }
            _ => return Err(WRONG),
        }
    }
    Ok((before, limit.unwrap_or(query::LIMIT_DEFAULT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        assert_eq!(page(""), Ok((None, 50)));
        assert_eq!(page("limit=200&before=7"), Ok((Some(7), 200)));
        for wrong in ["limit=0", "limit=201", "limit=1&limit=1", "before=-1", "before=", "before=+1", "after=1"] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_and_why_must_be_said_in_one_line_each() {
        assert!(remark("robin", "a gift").is_ok());
        for (operator, reason) in [("", "a gift"), ("robin", " "), ("robin\n", "a gift"), ("robin", "a\u{1b}[2Jgift")] {
            assert!(remark(operator, reason).is_err(), "{operator:?} {reason:?}");
        }
    }
}
