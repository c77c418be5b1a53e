//! A subscriber's life at the press of a button: months pass, cards fail, money goes back. What comes of it arrives as webhooks, like all else.

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Payload},
};
use serde::{Deserialize, Serialize};

use super::{DemoError, Shared, visitor::read};
use crate::{
    http::{self, body},
    sandbox::Happening,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LifeRequest {
    user_id: String,
    happening: Happening,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortalRequest {
    user_id: String,
}

#[derive(Serialize)]
struct LifeAnswer {
    /// The sandbox's time, in Unix seconds.
    now: i64,
}

#[derive(Serialize)]
struct PortalAnswer {
    url: String,
}

/// What time it is in the sandbox.
pub(super) async fn time(demo: Data<Shared>) -> HttpResponse {
    body::json(StatusCode::OK, &LifeAnswer { now: demo.parts.deliveries.now() })
}

/// Lets something happen to a user, and answers when it has.
pub(super) async fn happen(
    demo: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, DemoError> {
    let expected = "Expected a JSON object with userId and happening";
    let LifeRequest { user_id, happening } = read(&request, payload, expected).await?;
    demo.parts.deliveries.happen(http::user_id(&user_id)?, happening).await?;
    Ok(time(demo).await)
}

/// Opens the customer portal for a user.
pub(super) async fn portal(
    demo: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, DemoError> {
    let asked: PortalRequest = read(&request, payload, "Expected a JSON object with userId and nothing else").await?;
    let url = demo.parts.deliveries.open_portal(http::user_id(&asked.user_id)?, demo.parts.app.as_str()).await?;
    Ok(body::json(StatusCode::OK, &PortalAnswer { url }))
}
