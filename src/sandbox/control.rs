//! What is not Stripe's: switches that make deliveries misbehave, and deliveries by hand, for scripts.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data, Path},
};
use serde_json::json;

use super::{
    SandboxError, Switches,
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
