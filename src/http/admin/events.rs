//! The inbox: what arrived, what is parked, and trying it again.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Payload},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{address, admit, query, read};
use crate::{
    domain::{event::ParkReason, id::UserId},
    http::{ApiError, ErrorBody, Shared, body, time},
    operators::{InboxEvent, Replayed, StoredEvent, Tried},
};

/// An event as it stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventAnswer {
    /// `evt_…`
    #[schema(example = "evt_1ST408649ff95a1b564786de")]
    id: String,
    /// The event's type.
    #[schema(example = "checkout.session.completed")]
    r#type: String,
    /// The object it is about; not kept of ignored ones.
    #[schema(required)]
    object_id: Option<String>,
    /// Whose it is, as far as that is known.
    #[schema(required, value_type = Option<uuid::Uuid>)]
    user_id: Option<UserId>,
    /// `applied`, `superseded`, `ignored` or `parked`.
    #[schema(example = "parked")]
    outcome: &'static str,
    /// Why it was parked or ignored.
    #[schema(required, example = "unknown_level")]
    reason: Option<String>,
    /// The delivery, and the tries by itself since.
    attempts: u32,
    /// Stripe's time of it; not kept of ignored ones.
    #[serde(serialize_with = "time::optional_seconds")]
    #[schema(required)]
    created: Option<DateTime<Utc>>,
    /// When it was first delivered.
    #[serde(serialize_with = "time::millis")]
    received_at: DateTime<Utc>,
    /// When it was last tried; `null` where it is to be tried at once.
    #[serde(serialize_with = "time::optional_seconds")]
    #[schema(required)]
    processed_at: Option<DateTime<Utc>>,
}

impl From<InboxEvent> for EventAnswer {
    fn from(event: InboxEvent) -> Self {
        Self {
            id: event.id,
            r#type: event.kind,
            object_id: event.object_id,
            user_id: event.user,
            outcome: event.standing.as_str(),
            reason: event.reason,
            attempts: event.attempts,
            created: event.created,
            received_at: event.received_at,
            processed_at: event.processed_at,
        }
    }
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventsAnswer {
    /// The newest first.
    events: Vec<EventAnswer>,
    /// The next page's `cursor`; `null` on the last page.
    #[schema(required)]
    next: Option<String>,
}

/// One event with what is kept of it.
#[derive(Serialize, ToSchema)]
pub(super) struct EventDetail {
    #[serde(flatten)]
    event: EventAnswer,
    /// What its reason means, and what would mend it.
    #[schema(required)]
    explanation: Option<&'static str>,
    /// As Stripe sent it, without client secrets; kept for parked ones.
    #[schema(required, value_type = Option<Object>)]
    payload: Option<Value>,
}

/// What came of trying an event again.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayAnswer<'a> {
    /// `evt_…`
    id: &'a str,
    /// `applied`, `superseded` or `parked`.
    outcome: &'static str,
    /// Why it is still parked.
    #[schema(required)]
    reason: Option<String>,
    /// The same for people.
    #[schema(required)]
    explanation: Option<&'static str>,
}

/// Which events are to be tried again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayRequest {
    /// Those that are parked for this reason; all of them where absent.
    #[schema(example = "unknown_level")]
    reason: Option<String>,
    /// What the call before gave as `next`.
    cursor: Option<String>,
}

/// What came of trying many.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayManyAnswer {
    /// How many were looked at by this call. What somebody else has dealt with meanwhile is counted here alone.
    tried: u64,
    /// How many have had their effect.
    applied: u64,
    /// How many were superseded.
    superseded: u64,
    /// How many are still parked.
    parked: u64,
    /// How many could not be tried; they are parked as before.
    failed: u64,
    /// The next call's `cursor`; `null` when all have been tried.
    #[schema(required)]
    next: Option<String>,
}

impl From<Replayed> for ReplayManyAnswer {
    fn from(replayed: Replayed) -> Self {
        let Replayed { tried, applied, superseded, parked, failed, next } = replayed;
        Self { tried, applied, superseded, parked, failed, next: next.as_ref().map(query::cursor) }
    }
}

/// Lists events, newest first
///
/// A type is looked for among all events that the other filters leave: say `since` where there are many.
#[utoipa::path(
    get, path = "/api/admin/events", tag = "admin", security(("admin" = [])),
    params(
        ("outcome" = Option<String>, Query, description = "`applied`, `superseded`, `ignored` or `parked`"),
        ("type" = Option<String>, Query, description = "The event's type"),
        ("user" = Option<uuid::Uuid>, Query, description = "Whose"),
        ("reason" = Option<String>, Query, description = "Why it was parked or ignored"),
        ("since" = Option<DateTime<Utc>>, Query, description = "Received then or later"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 where absent"),
        ("cursor" = Option<String>, Query, description = "What the page before gave as `next`"),
    ),
    responses(
        (status = 200, description = "A page", body = EventsAnswer),
        (status = 400, description = "`INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn list(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let (filter, limit) = query::read(request.query_string())?;
    let page = state.operators.events(&filter, limit).await?;
    let next = query::last_of_full(&page, limit).map(|last| query::cursor(&last.place()));
    Ok(body::private(&EventsAnswer { events: page.into_iter().map(EventAnswer::from).collect(), next }))
}

/// Shows one event
///
/// The payload tells of a person and a purchase: whoever reads it is logged.
#[utoipa::path(
    get, path = "/api/admin/events/{id}", tag = "admin", security(("admin" = [])),
    params(("id" = String, Path, description = "`evt_…`")),
    responses(
        (status = 200, description = "The event", body = EventDetail),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 404, description = "`NOT_FOUND`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn show(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let StoredEvent { event, payload } = state.operators.event(id(&request)?).await?;
    let payload = payload.map(|payload| match serde_json::from_slice(&payload) {
        Ok(payload) => without_secrets(payload),
        Err(_) => Value::String(String::from_utf8_lossy(&payload).into_owned()),
    });
    if payload.is_some() {
        tracing::info!(
            event.id = event.id,
            operator.address = address(&request),
            "an operator read an event's payload"
        );
    }
    let explanation = event.reason.as_deref().and_then(explanation);
    Ok(body::private(&EventDetail { event: event.into(), explanation, payload }))
}

/// Tries a parked event again, now
#[utoipa::path(
    post, path = "/api/admin/events/{id}/replay", tag = "admin", security(("admin" = [])),
    params(("id" = String, Path, description = "`evt_…`")),
    responses(
        (status = 200, description = "It was tried", body = ReplayAnswer),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 404, description = "`NOT_FOUND`", body = ErrorBody),
        (status = 409, description = "`NOT_PARKED`: there is nothing to try", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: it may be tried again, always", body = ErrorBody),
    ),
)]
pub(super) async fn replay(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    admit(&state, &request)?;
    let id = id(&request)?;
    let (outcome, reason) = match state.operators.replay(id).await? {
        Tried::Applied => ("applied", None),
        Tried::Superseded => ("superseded", None),
        Tried::StillParked(reason) => ("parked", Some(reason)),
    };
    tracing::info!(
        event.id = id,
        operator.address = address(&request),
        outcome,
        "an operator had a parked event tried again"
    );
    let explanation = reason.as_deref().and_then(explanation);
    Ok(body::private(&ReplayAnswer { id, outcome, reason, explanation }))
}

/// Tries parked events again, some at each call
#[utoipa::path(
    post, path = "/api/admin/events/replay", tag = "admin", security(("admin" = [])),
    request_body = ReplayRequest,
    responses(
        (status = 200, description = "Some were tried; call again with `next` as `cursor`", body = ReplayManyAnswer),
        (status = 400, description = "`INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 403, description = "`FORBIDDEN`: asked by a page of another site", body = ErrorBody),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: it may be asked again, always", body = ErrorBody),
    ),
)]
pub(super) async fn replay_many(
    state: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    const WRONG: ApiError = ApiError::InvalidRequest("The body may hold reason and cursor, both texts");

    admit(&state, &request)?;
    let ReplayRequest { reason, cursor } = read(&state, &request, payload, WRONG).await?;
    if reason.as_deref().is_some_and(|reason| query::word(reason).is_none()) {
        return Err(WRONG);
    }
    let after = cursor.map(|cursor| query::read_cursor(&cursor).ok_or(WRONG)).transpose()?;
    let replayed = state.operators.replay_many(reason, after).await?;
    let (tried, applied) = (replayed.tried, replayed.applied);
    tracing::info!(operator.address = address(&request), tried, applied, "an operator had parked events tried again");
    Ok(body::private(&ReplayManyAnswer::from(replayed)))
}

fn id(request: &HttpRequest) -> Result<&str, ApiError> {
    request.match_info().get("id").filter(|id| !id.contains('\0')).ok_or(ApiError::NotFound)
}

/// What a reason means, for people.
fn explanation(word: &str) -> Option<&'static str> {
    ParkReason::ALL.into_iter().find(|reason| reason.as_str() == word).map(ParkReason::explanation)
}

/// With a client secret whoever reads it could go on with somebody's payment.
fn without_secrets(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, value) in fields {
                *value = match value.take() {
                    Value::String(_) if name.ends_with("client_secret") => Value::String("(hidden)".to_owned()),
                    other => without_secrets(other),
                };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_secrets(item.take())),
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn client_secrets_are_hidden_wherever_they_are() {
        let shown = without_secrets(json!({
            "client_secret": "cs_test_secret_1",
            "data": [{ "payment_intent": { "client_secret": "pi_1_secret_2", "amount": 1 } }, { "client_secret": null }],
            "customer_session_client_secret": "cuss_secret_3",
        }));
        assert!(!shown.to_string().contains("_secret_"), "{shown}");
        assert_eq!(
            (&shown["data"][0]["payment_intent"]["amount"], &shown["data"][1]["client_secret"]),
            (&json!(1), &json!(null))
        );
    }
}
