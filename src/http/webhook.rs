//! Stripe's webhook: a 2xx means that the event is in the ledger, and nothing else does.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{ContentType, HeaderName},
    },
    web::{Data, Payload},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use metrics::{Counter, counter};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::{
    ApiError, ErrorBody, Shared,
    body::{self, Body},
    time,
};
use crate::{
    activity::Step,
    config::ServerConfig,
    domain::{
        event::{EventRecord, IgnoreReason, Outcome},
        id::{EventId, UserId},
    },
    fail_point::{self, Point},
    intake::{
        Interpreter,
        signature::{SignatureError, VerifiedPayload, verify},
    },
};

const STRIPE_SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

const SUPERSEDED: &str = "superseded by what was known before";

/// [`Replay`], written once.
const REPLAY: &[u8] = br#"{"ok":true,"idempotent":true}"#;

/// What Stripe is told of an event that is in the ledger.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum WebhookAnswer<'a> {
    /// It was not there before.
    First(First<'a>),
    /// It was.
    #[expect(dead_code, reason = "always the same, and so never made: see REPLAY")]
    Replay(Replay),
}

/// A first delivery.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct First<'a> {
    /// Always true.
    ok: bool,
    /// Always false: this delivery was the first.
    idempotent: bool,
    /// `evt_…`
    #[schema(example = "evt_1ST408649ff95a1b564786de")]
    event_id: &'a str,
    /// The event's type.
    #[schema(example = "checkout.session.completed")]
    event_type: &'a str,
    /// Whether it changed anything.
    processed: bool,
    /// Present and true where the event is kept until it can be applied.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    parked: bool,
    /// What became of it, for people.
    message: &'a str,
    /// When.
    #[serde(serialize_with = "time::millis")]
    timestamp: DateTime<Utc>,
}

/// A delivery of what was delivered before.
#[derive(Serialize, ToSchema)]
pub(super) struct Replay {
    /// Always true.
    ok: bool,
    /// Always true.
    idempotent: bool,
}

/// Takes an event from Stripe
///
/// The body is verified against `Stripe-Signature` byte for byte. A 2xx means that the event is durable in the ledger;
/// anything else claims nothing, and Stripe will deliver it again.
#[utoipa::path(
    post, path = "/api/webhooks/stripe", tag = "webhooks",
    params(("Stripe-Signature" = String, Header, description = "`t=<unix seconds>,v1=<hex>`")),
    request_body(content = Object, content_type = "application/json", description = "The event, as Stripe signed it"),
    responses(
        (status = 200, description = "In the ledger: applied, acknowledged, parked, or there before", body = WebhookAnswer),
        (status = 400, description = "`MISSING_SIGNATURE`, `INVALID_SIGNATURE`, `INVALID_PAYLOAD`", body = ErrorBody),
        (status = 408, description = "`REQUEST_TIMEOUT`", body = ErrorBody),
        (status = 413, description = "`PAYLOAD_TOO_LARGE`: more than 1 MiB", body = ErrorBody),
        (status = 415, description = "`UNSUPPORTED_MEDIA_TYPE`: a content encoding", body = ErrorBody),
        (status = 500, description = "`WEBHOOK_SECRET_NOT_CONFIGURED`, `INTERNAL`", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`", body = ErrorBody),
    ),
)]
pub(super) async fn receive(
    state: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let answer = accept(&state, &request, payload).await;
    if let Err(error) = &answer {
        state.webhook_meters.refused(error);
    }
    answer
}

async fn accept(state: &Shared, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, ApiError> {
    let (payload, _room) = signed(state, request, payload).await?;
    // Only what Stripe signed counts against the limit, so that nobody else can use it up.
    let _permit = state.webhooks_in_flight.try_acquire().map_err(|_| ApiError::Unavailable)?;
    let envelope = Interpreter::open(&payload).map_err(|error| {
        tracing::warn!(error = %error, "signed body is not an event");
        ApiError::InvalidPayload
    })?;
    if state.entitlements.has_done(&envelope.event().id) {
        let event = Told::of(envelope.event());
        state.webhook_meters.taken(Outcome::Duplicate);
        event.log(None, Outcome::Duplicate);
        state.activity.tell(None, || event.step(Outcome::Duplicate));
        return Ok(event.answer(Outcome::Duplicate));
    }
    let event = Told::of(envelope.event());
    let (user, outcome) = state.trials.deliver(&payload, envelope).await.map_err(|error| {
        counter!("tollgate_events_not_taken_total", "reason" => error.word()).increment(1);
        tracing::warn!(event.id = %event.id, event.r#type = event.kind, error = %error, "event not taken");
        ApiError::from(error)
    })?;
    state.webhook_meters.taken(outcome);
    event.log(user, outcome);
    fail_point::pass(Point::Answer, || event.id.to_string()).await;
    // That it was applied has been told by who applied it, before readers could see it.
    if outcome != Outcome::Applied {
        state.activity.tell(user, || event.step(outcome));
    }
    Ok(event.answer(outcome))
}

/// The body, if Stripe signed it, and the room that it takes. What the head already decides is decided before the body is read.
async fn signed(
    state: &Shared,
    request: &HttpRequest,
    payload: Payload,
) -> Result<(VerifiedPayload, Option<OwnedSemaphorePermit>), ApiError> {
    body::refuse_encoded(request)?;
    if state.webhooks_in_flight.available_permits() == 0 {
        return Err(ApiError::Unavailable);
    }
    let secrets = state.webhook_secrets.as_ref().ok_or(ApiError::WebhookSecretNotConfigured)?;
    let mut headers = request.headers().get_all(STRIPE_SIGNATURE);
    let header = headers.next().filter(|header| !header.as_bytes().trim_ascii().is_empty());
    let header = header.ok_or(ApiError::MissingSignature)?;
    if headers.next().is_some() {
        return Err(ApiError::InvalidSignature);
    }
    let Body { bytes, room } =
        body::read(request, payload, ServerConfig::BODY_BYTES_MAX, state.body_timeout, &state.bodies).await?;
    fail_point::pass(Point::BodyRead, String::new).await;
    let payload = verify(secrets, header.as_bytes(), bytes, Utc::now().timestamp(), state.tolerance);
    let payload = payload.map_err(|error| {
        tracing::debug!(error = %error, "webhook not believed");
        match error {
            SignatureError::Missing => ApiError::MissingSignature,
            _ => ApiError::InvalidSignature,
        }
    })?;
    fail_point::pass(Point::Signed, String::new).await;
    Ok((payload, room))
}

/// What is told of an event when the event itself is on its way into the ledger.
struct Told {
    id: EventId,
    kind: String,
}

impl Told {
    fn of(event: &EventRecord) -> Self {
        Self { id: event.id.clone(), kind: event.kind.clone() }
    }

    fn answer(&self, outcome: Outcome) -> HttpResponse {
        let (processed, parked, message) = match outcome {
            Outcome::Duplicate | Outcome::DuplicateWaiting => {
                return HttpResponse::Ok().insert_header(ContentType::json()).body(Bytes::from_static(REPLAY));
            }
            Outcome::Applied => (true, false, "event applied"),
            Outcome::Superseded => (false, false, SUPERSEDED),
            Outcome::Ignored(reason) => (false, false, reason.explanation()),
            Outcome::Parked(reason) => (false, true, reason.explanation()),
        };
        let answer = WebhookAnswer::First(First {
            ok: true,
            idempotent: false,
            event_id: self.id.as_str(),
            event_type: &self.kind,
            processed,
            parked,
            message,
            timestamp: Utc::now(),
        });
        body::json(StatusCode::OK, &answer)
    }

    fn step(&self, outcome: Outcome) -> Step {
        let (event, kind) = (self.id.to_string(), self.kind.clone());
        let because =
            |why: &str| Step::EventNotApplied { event: event.clone(), kind: kind.clone(), why: why.to_owned() };
        match outcome {
            Outcome::Duplicate | Outcome::DuplicateWaiting => Step::DuplicateSkipped { event },
            Outcome::Applied => Step::EventApplied { event, kind },
            Outcome::Ignored(IgnoreReason::UnhandledType) => Step::EventUnhandled { event, kind },
            Outcome::Superseded => because(SUPERSEDED),
            Outcome::Ignored(reason) => because(reason.explanation()),
            Outcome::Parked(reason) => because(reason.explanation()),
        }
    }

    fn log(&self, user: Option<UserId>, outcome: Outcome) {
        let (id, kind, user) = (&self.id, self.kind.as_str(), user.map(tracing::field::display));
        match outcome {
            Outcome::Applied => {
                tracing::info!(event.id = %id, event.r#type = kind, user.id = user, "applied event");
            }
            Outcome::Duplicate | Outcome::DuplicateWaiting => {
                tracing::info!(event.id = %id, event.r#type = kind, "skipped replay");
            }
            Outcome::Superseded => {
                tracing::info!(event.id = %id, event.r#type = kind, user.id = user, "superseded event");
            }
            Outcome::Ignored(
                reason @ (IgnoreReason::UnhandledType
                | IgnoreReason::SetupMode
                | IgnoreReason::ThinEvent
                | IgnoreReason::ToldElsewhere
                | IgnoreReason::Unattributed),
            ) => {
                tracing::debug!(event.id = %id, event.r#type = kind, reason = %reason, "ignored event");
            }
            // Somebody has sent it to the wrong place.
            Outcome::Ignored(reason @ (IgnoreReason::LivemodeMismatch | IgnoreReason::ConnectedAccount)) => {
                tracing::warn!(event.id = %id, event.r#type = kind, reason = %reason, "ignored event");
            }
            Outcome::Parked(reason) => {
                tracing::warn!(event.id = %id, event.r#type = kind, user.id = user, reason = %reason, "parked event");
            }
        }
    }
}

/// One count for each way a delivery can end.
pub(super) struct WebhookMeters {
    applied: Counter,
    duplicate: Counter,
    superseded: Counter,
    ignored: Counter,
    parked: Counter,
    missing_signature: Counter,
    invalid_signature: Counter,
    invalid_payload: Counter,
    unavailable: Counter,
    refused: Counter,
}

impl WebhookMeters {
    pub(super) fn new() -> Self {
        let of = |outcome: &'static str| counter!("tollgate_webhook_events_total", "outcome" => outcome);
        Self {
            applied: of("applied"),
            duplicate: of("duplicate"),
            superseded: of("superseded"),
            ignored: of("ignored"),
            parked: of("parked"),
            missing_signature: of("missing_signature"),
            invalid_signature: of("invalid_signature"),
            invalid_payload: of("invalid_payload"),
            unavailable: of("unavailable"),
            refused: of("refused"),
        }
    }

    fn taken(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Applied => &self.applied,
            Outcome::Duplicate | Outcome::DuplicateWaiting => &self.duplicate,
            Outcome::Superseded => &self.superseded,
            Outcome::Ignored(_) => &self.ignored,
            Outcome::Parked(_) => &self.parked,
        };
        counter.increment(1);
    }

    fn refused(&self, error: &ApiError) {
        let counter = match error {
            ApiError::MissingSignature => &self.missing_signature,
            ApiError::InvalidSignature => &self.invalid_signature,
            ApiError::InvalidPayload => &self.invalid_payload,
            ApiError::Unavailable => &self.unavailable,
            _ => &self.refused,
        };
        counter.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use serde_json::json;

    use super::*;
    use crate::domain::event::ParkReason;

    async fn answer(outcome: Outcome) -> serde_json::Value {
        let told = Told { id: EventId::parse("evt_1").unwrap(), kind: "checkout.session.completed".to_owned() };
        let response = told.answer(outcome);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers().get("content-type").unwrap(), "application/json");
        serde_json::from_slice(&to_bytes(response.into_body()).await.unwrap()).unwrap()
    }

    #[actix_web::test]
    async fn replays_are_told_in_two_words() {
        for outcome in [Outcome::Duplicate, Outcome::DuplicateWaiting] {
            assert_eq!(answer(outcome).await, json!({ "ok": true, "idempotent": true }));
        }
        assert_eq!(serde_json::to_vec(&Replay { ok: true, idempotent: true }).unwrap(), REPLAY);
    }

    #[actix_web::test]
    async fn first_deliveries_are_told_in_full() {
        for (outcome, processed, message) in [
            (Outcome::Applied, true, "event applied"),
            (Outcome::Superseded, false, "superseded by what was known before"),
            (Outcome::Ignored(IgnoreReason::UnhandledType), false, IgnoreReason::UnhandledType.explanation()),
        ] {
            let mut answer = answer(outcome).await;
            let timestamp = answer.as_object_mut().unwrap().remove("timestamp").unwrap();
            let timestamp = timestamp.as_str().unwrap();
            assert!(timestamp.ends_with('Z') && timestamp.parse::<DateTime<Utc>>().is_ok(), "{timestamp}");
            let rest = json!({
                "ok": true, "idempotent": false, "eventId": "evt_1", "eventType": "checkout.session.completed",
                "processed": processed, "message": message,
            });
            assert_eq!(answer, rest);
        }
        let parked = answer(Outcome::Parked(ParkReason::UnknownUser)).await;
        assert_eq!((&parked["parked"], &parked["processed"]), (&json!(true), &json!(false)));
        assert_eq!(parked["message"], ParkReason::UnknownUser.explanation());
    }
}
