//! What is not Stripe's, for scripts: switches that make deliveries misbehave, deliveries by hand, the sandbox's own time, and what
//! banks and settings do at Stripe's.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data, Path},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AfterRetries, SandboxError, Switches, happenings::Cause, life, payments, refusal::Refusal, server::Site};

/// `GET /sandbox/switches`
pub(super) async fn switches(request: HttpRequest, site: Data<Site>) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    Ok(HttpResponse::Ok().json(site.shared.look().switches))
}

/// `POST /sandbox/switches`, the switches as JSON.
pub(super) async fn set_switches(request: HttpRequest, body: Bytes, site: Data<Site>) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    let switches: Switches = serde_json::from_slice(&body).map_err(|error| {
        Refusal::invalid_request(format!(r#"Expected {{"copies":1,"reorder":false,"withhold":false}}: {error}"#))
    })?;
    Ok(HttpResponse::Ok().json(super::switch(&site.shared, switches)))
}

/// `POST /sandbox/events/{id}/redeliver`
pub(super) async fn redeliver(
    request: HttpRequest,
    event: Path<String>,
    site: Data<Site>,
) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    let delivery = site.courier.redeliver(&event).await.map_err(|error| match error {
        SandboxError::UnknownEvent => Refusal::no_such("event", &event, "id"),
        error => Refusal::internal(error.to_string()),
    })?;
    Ok(HttpResponse::Ok().json(json!({ "status": delivery.status, "body": delivery.body })))
}

/// Where the sandbox's time is to go.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Advance {
    /// Unix seconds.
    To(i64),
    /// So many seconds on.
    By(i64),
}

/// The longest advance, in seconds: a hundred years.
const ADVANCE_MAX: i64 = 100 * 366 * 24 * 60 * 60;

/// `GET /sandbox/clock`: the time of whoever has no test clock.
pub(super) async fn clock(request: HttpRequest, site: Data<Site>) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    Ok(HttpResponse::Ok().json(told_time(&site)))
}

/// `POST /sandbox/clock`: answers when all that falls due on the way has happened.
pub(super) async fn advance(request: HttpRequest, body: Bytes, site: Data<Site>) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    let now = site.shared.look().now();
    let goal = match serde_json::from_slice(&body) {
        Ok(Advance::To(at)) => Some(at),
        Ok(Advance::By(seconds)) => now.checked_add(seconds),
        Err(_) => None,
    };
    let goal = goal.filter(|goal| (now..=now.saturating_add(ADVANCE_MAX)).contains(goal)).ok_or_else(|| {
        let message = r#"Expected {"by":86400} or {"to":1830000000}: seconds, forwards, a hundred years at most"#;
        Refusal::invalid_request(message)
    })?;
    life::advance(&site.shared, goal).await?;
    Ok(HttpResponse::Ok().json(told_time(&site)))
}

fn told_time(site: &Site) -> Value {
    let state = site.shared.look();
    json!({ "now": state.now(), "advancing": state.is_advancing() })
}

/// `POST /sandbox/after-retries`: what becomes of a subscription whose last attempt at a payment has failed, as JSON.
pub(super) async fn set_after_retries(
    request: HttpRequest,
    body: Bytes,
    site: Data<Site>,
) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    let after_retries: AfterRetries = serde_json::from_slice(&body)
        .map_err(|_| Refusal::invalid_request(r#"Expected "cancel", "unpaid" or "past_due""#))?;
    site.shared.look().after_retries = after_retries;
    Ok(HttpResponse::Ok().json(after_retries))
}

/// `POST /sandbox/charges/{id}/dispute`: the payer's bank takes the money back.
pub(super) async fn dispute(
    request: HttpRequest,
    charge: Path<String>,
    site: Data<Site>,
) -> Result<HttpResponse, Refusal> {
    site.admit(request.headers())?;
    let (dispute, receipt) = site.shared.change(|state| {
        let now = state.caught_up();
        let customer = state.charges.get(&charge).filter(|charge| charge.succeeded)?.customer.clone();
        let cause = Cause::at(state.time_of(customer.as_deref(), now));
        payments::dispute(state, &charge, false, &cause);
        state.disputes.iter().next_back().map(|dispute| dispute.shown())
    });
    receipt.kept().await?;
    let dispute = dispute.ok_or_else(|| Refusal::no_such("charge", &charge, "id"))?;
    Ok(HttpResponse::Ok().json(dispute))
}
