//! What is not Stripe's, for scripts: switches that make deliveries misbehave, deliveries by hand, the sandbox's own time, and what
//! banks and settings do at Stripe's.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data, Path},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AfterRetries, SandboxError, Switches,
    happenings::Cause,
    life, payments,
    refusal::Refusal,
    server::{Site, refuse},
};

/// `GET /sandbox/switches`
pub(super) async fn switches(request: HttpRequest, site: Data<Site>) -> HttpResponse {
    match site.admit(request.headers()) {
        Ok(()) => HttpResponse::Ok().json(site.shared.look().switches),
        Err(refusal) => refuse(&refusal),
    }
}

/// `POST /sandbox/switches`, the switches as JSON.
pub(super) async fn set_switches(request: HttpRequest, body: Bytes, site: Data<Site>) -> HttpResponse {
    if let Err(refusal) = site.admit(request.headers()) {
        return refuse(&refusal);
    }
    match serde_json::from_slice::<Switches>(&body) {
        Ok(switches) => HttpResponse::Ok().json(super::switch(&site.shared, switches)),
        Err(error) => {
            let message = format!(r#"Expected {{"copies":1,"reorder":false,"withhold":false}}: {error}"#);
            refuse(&Refusal::invalid_request(message))
        }
    }
}

/// `POST /sandbox/events/{id}/redeliver`
pub(super) async fn redeliver(request: HttpRequest, event: Path<String>, site: Data<Site>) -> HttpResponse {
    if let Err(refusal) = site.admit(request.headers()) {
        return refuse(&refusal);
    }
    match site.courier.redeliver(&event).await {
        Ok(delivery) => HttpResponse::Ok().json(json!({ "status": delivery.status, "body": delivery.body })),
        Err(SandboxError::UnknownEvent) => refuse(&Refusal::no_such("event", &event, "id")),
        Err(error) => refuse(&Refusal::internal(error.to_string())),
    }
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
pub(super) async fn clock(request: HttpRequest, site: Data<Site>) -> HttpResponse {
    match site.admit(request.headers()) {
        Ok(()) => HttpResponse::Ok().json(told_time(&site)),
        Err(refusal) => refuse(&refusal),
    }
}

/// `POST /sandbox/clock`: answers when all that falls due on the way has happened.
pub(super) async fn advance(request: HttpRequest, body: Bytes, site: Data<Site>) -> HttpResponse {
    if let Err(refusal) = site.admit(request.headers()) {
        return refuse(&refusal);
    }
    let now = site.shared.look().now();
    let goal = match serde_json::from_slice(&body) {
        Ok(Advance::To(at)) => Some(at),
        Ok(Advance::By(seconds)) => now.checked_add(seconds),
        Err(_) => None,
    };
    let Some(goal) = goal.filter(|goal| (now..=now.saturating_add(ADVANCE_MAX)).contains(goal)) else {
        let message = r#"Expected {"by":86400} or {"to":1830000000}: seconds, forwards, a hundred years at most"#;
        return refuse(&Refusal::invalid_request(message));
    };
    match life::advance(&site.shared, goal).await {
        Ok(()) => HttpResponse::Ok().json(told_time(&site)),
        Err(error) => refuse(&Refusal::internal(error.to_string())),
    }
}

fn told_time(site: &Site) -> Value {
    let state = site.shared.look();
    json!({ "now": state.now(), "advancing": state.is_advancing() })
}

/// `POST /sandbox/after-retries`: what becomes of a subscription whose last attempt at a payment has failed, as JSON.
pub(super) async fn set_after_retries(request: HttpRequest, body: Bytes, site: Data<Site>) -> HttpResponse {
    if let Err(refusal) = site.admit(request.headers()) {
        return refuse(&refusal);
    }
    match serde_json::from_slice::<AfterRetries>(&body) {
        Ok(after_retries) => {
            site.shared.look().after_retries = after_retries;
            HttpResponse::Ok().json(after_retries)
        }
        Err(_) => refuse(&Refusal::invalid_request(r#"Expected "cancel", "unpaid" or "past_due""#)),
    }
}

/// `POST /sandbox/charges/{id}/dispute`: the payer's bank takes the money back.
pub(super) async fn dispute(request: HttpRequest, charge: Path<String>, site: Data<Site>) -> HttpResponse {
    if let Err(refusal) = site.admit(request.headers()) {
        return refuse(&refusal);
    }
    let (dispute, receipt) = site.shared.change(|state| {
        let now = state.caught_up();
        let customer = state.charges.get(&charge).filter(|charge| charge.succeeded)?.customer.clone();
        let cause = Cause::at(state.time_of(customer.as_deref(), now));
        payments::dispute(state, &charge, false, &cause);
        state.disputes.iter().next_back().map(|dispute| dispute.shown())
    });
    match (receipt.kept().await, dispute) {
        (Err(error), _) => refuse(&Refusal::internal(error.to_string())),
        (Ok(()), Some(dispute)) => HttpResponse::Ok().json(dispute),
        (Ok(()), None) => refuse(&Refusal::no_such("charge", &charge, "id")),
    }
}
