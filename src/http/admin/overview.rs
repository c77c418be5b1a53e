//! What a user has and why, and how the service stands.

use actix_web::{HttpRequest, HttpResponse, web::Data};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{admit, events::EventAnswer};
use crate::{
    domain::{grant::Grant, id::UserId},
    http::{ApiError, ErrorBody, Shared, body, time},
    operators::{FetchCount, Instance, ParkedCount, Standing, Summary, UserReport},
};

/// What a user has, and why.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserAnswer<'a> {
    /// Who.
    #[schema(value_type = Uuid)]
    user_id: UserId,
    /// `FREE` without a grant.
    #[schema(example = "PRO")]
    entitlement_level: &'a str,
    /// When the level ends; `null` for `FREE`.
    #[serde(serialize_with = "time::optional_seconds")]
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// How many were bought of what gives the level.
    quantity: u32,
    /// Grows with every change; 0 for somebody nobody has heard of.
    version: u64,
    /// What the level is worked out from.
    grants: Vec<GrantAnswer<'a>>,
    /// The newest 50 events about the user.
    events: Vec<EventAnswer>,
}

/// One reason why a user may have a level.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GrantAnswer<'a> {
    /// What kind of purchase; `manual` where a person gave it.
    #[schema(example = "checkout")]
    source: &'static str,
    /// Its id.
    #[schema(example = "cs_test_a1vwTuYQX8Raz1YcJnzy21hH")]
    source_id: &'a str,
    /// What is granted.
    #[schema(example = "PRO")]
    level: &'a str,
    /// What is known of the purchase.
    #[schema(example = "active")]
    status: &'static str,
    /// How many were bought.
    quantity: u32,
    /// When it ends.
    #[serde(serialize_with = "time::seconds")]
    period_end: DateTime<Utc>,
    /// The event that told of it.
    #[schema(required)]
    event_id: Option<&'a str>,
}

impl<'a> From<&'a Grant> for GrantAnswer<'a> {
    fn from(grant: &'a Grant) -> Self {
        Self {
            source: grant.source.kind.as_str(),
            source_id: &grant.source.id,
            level: grant.level.as_str(),
            status: grant.standing().as_str(),
            quantity: grant.quantity(),
            period_end: grant.period_end,
            event_id: grant.event.as_ref().map(|event| event.as_str()),
        }
    }
}

/// How the service stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SummaryAnswer {
    /// From when on events are counted: a day ago.
    #[serde(serialize_with = "time::seconds")]
    since: DateTime<Utc>,
    /// How the events stand that were received since.
    received: ReceivedAnswer,
    /// Everything that is parked, by reason.
    parked: Vec<ParkedAnswer>,
    /// What is to be asked of Stripe, by reason.
    fetches: Vec<FetchAnswer>,
    /// Users with a live actor in this process.
    live_actors: usize,
    /// Users whose newest state this process has not shown to readers.
    unpublished: usize,
    /// All replicas.
    instances: Vec<InstanceAnswer>,
}

/// Events by how they stand.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceivedAnswer {
    applied: u64,
    superseded: u64,
    ignored: u64,
    parked: u64,
}

/// Parked events of one reason.
#[derive(Serialize, ToSchema)]
pub(super) struct ParkedAnswer {
    /// Why they wait.
    #[schema(example = "unknown_level")]
    reason: String,
    /// How many.
    count: u64,
    /// When the oldest was received.
    #[serde(serialize_with = "time::seconds")]
    oldest: DateTime<Utc>,
}

impl From<ParkedCount> for ParkedAnswer {
    fn from(ParkedCount { reason, count, oldest }: ParkedCount) -> Self {
        Self { reason, count, oldest }
    }
}

/// Questions to Stripe of one reason.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FetchAnswer {
    /// Why it is asked.
    #[schema(example = "tied")]
    reason: String,
    /// How many are to be asked.
    waiting: u64,
    /// How many were given up.
    given_up: u64,
    /// Since when the oldest waits; `null` if none does.
    #[serde(serialize_with = "time::optional_seconds")]
    #[schema(required)]
    oldest: Option<DateTime<Utc>>,
}

impl From<FetchCount> for FetchAnswer {
    fn from(FetchCount { reason, waiting, given_up, oldest }: FetchCount) -> Self {
        Self { reason, waiting, given_up, oldest }
    }
}

/// A replica.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceAnswer {
    /// Its name, new with every start.
    id: Uuid,
    /// Its last heartbeat.
    #[serde(serialize_with = "time::millis")]
    last_seen: DateTime<Utc>,
    /// Readers have been shown everything that it committed before.
    #[serde(serialize_with = "time::millis")]
    shown_until: DateTime<Utc>,
}

impl From<Instance> for InstanceAnswer {
    fn from(Instance { id, last_seen, shown_until }: Instance) -> Self {
        Self { id, last_seen, shown_until }
    }
}

/// Tells what a user has, and why
#[utoipa::path(
    get, path = "/api/admin/entitlements/{userId}", tag = "admin", security(("admin" = [])),
    params(("userId" = Uuid, Path, description = "Whose")),
    responses(
        (status = 200, description = "State, grants and events, from the ledger", body = UserAnswer),
        (status = 400, description = "`INVALID_REQUEST`: no UUID", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn user(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let user = super::user(&request)?;
    let UserReport { entitlement, grants, events } = state.operators.user(user).await?;
    Ok(body::private(&UserAnswer {
        user_id: user,
        entitlement_level: entitlement.level.as_str(),
        expires_at: entitlement.expires_at,
        quantity: entitlement.quantity,
        version: entitlement.version,
        grants: grants.iter().map(GrantAnswer::from).collect(),
        events: events.into_iter().map(EventAnswer::from).collect(),
    }))
}

/// Tells how the service stands
#[utoipa::path(
    get, path = "/api/admin/summary", tag = "admin", security(("admin" = [])),
    responses(
        (status = 200, description = "Counts, the oldest parked events, replicas", body = SummaryAnswer),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn summary(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let Summary { since, received, parked, fetches, live_actors, unpublished, instances } =
        state.operators.summary().await?;
    let count = |wanted| received.iter().filter(|(standing, _)| *standing == wanted).map(|(_, count)| count).sum();
    Ok(body::private(&SummaryAnswer {
        since,
        received: ReceivedAnswer {
            applied: count(Standing::Applied),
            superseded: count(Standing::Superseded),
            ignored: count(Standing::Ignored),
            parked: count(Standing::Parked),
        },
        parked: parked.into_iter().map(ParkedAnswer::from).collect(),
        fetches: fetches.into_iter().map(FetchAnswer::from).collect(),
        live_actors,
        unpublished,
        instances: instances.into_iter().map(InstanceAnswer::from).collect(),
    }))
}
