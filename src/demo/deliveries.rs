//! Stripe's bad manners at the press of a button: an event delivered again, several times, in disorder, or not at all for a while.

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Payload},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{DemoError, Shared, visitor::read};
use crate::{
    domain::id::{EventId, UserId},
    http::{ApiError, body},
    sandbox::{Delivery, Happening, Sandbox, SandboxError, Switches},
};

/// Stripe's side: whose deliveries the page repeats and disturbs, and where it lets things happen.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// Delivers an event once more, at once.
    ///
    /// # Errors
    /// The event is unknown, or was not taken.
    async fn redeliver(&self, event: &str) -> Result<Delivery, SandboxError>;

    /// Lets something happen to what a user bought, and waits until it has.
    ///
    /// # Errors
    /// There is nothing it could happen to, or it was not kept.
    async fn happen(&self, user: UserId, happening: Happening) -> Result<(), SandboxError>;

    /// Opens the customer portal; gives its address.
    ///
    /// # Errors
    /// The user is no customer, or it was not kept.
    async fn open_portal(&self, user: UserId, return_url: &str) -> Result<String, SandboxError>;

    /// The sandbox's time, in Unix seconds.
    fn now(&self) -> i64;

    /// How deliveries misbehave now.
    fn switches(&self) -> Switches;

    /// Lets deliveries misbehave from now on.
    fn set_switches(&self, switches: Switches);
}

#[async_trait]
impl Deliveries for Sandbox {
    async fn redeliver(&self, event: &str) -> Result<Delivery, SandboxError> {
        self.redeliver(event).await
    }

    async fn happen(&self, user: UserId, happening: Happening) -> Result<(), SandboxError> {
        self.happen(user, happening).await
    }

    async fn open_portal(&self, user: UserId, return_url: &str) -> Result<String, SandboxError> {
        self.open_portal(user, return_url).await
    }

    fn now(&self) -> i64 {
        self.now()
    }

    fn switches(&self) -> Switches {
        self.switches()
    }

    fn set_switches(&self, switches: Switches) {
        self.set_switches(switches);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgainRequest {
    event: String,
}

/// How the service answered the delivery, word for word.
#[derive(Serialize)]
struct AgainAnswer {
    status: u16,
    body: String,
}

/// Delivers an event once more, and shows the answer.
pub(super) async fn again(
    demo: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, DemoError> {
    let asked: AgainRequest = read(&request, payload, "Expected a JSON object with event and nothing else").await?;
    let event = EventId::parse(&asked.event).map_err(|_| ApiError::InvalidRequest("The event must be an id, evt_…"))?;
    let Delivery { status, body } = demo.parts.deliveries.redeliver(event.as_str()).await?;
    Ok(body::json(StatusCode::OK, &AgainAnswer { status, body }))
}

/// How deliveries misbehave now.
pub(super) async fn switches(demo: Data<Shared>) -> HttpResponse {
    body::json(StatusCode::OK, &demo.parts.deliveries.switches())
}

/// Lets them misbehave otherwise, and tells how they do now.
pub(super) async fn set_switches(
    demo: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, DemoError> {
    let expected = "Expected a JSON object with copies, reorder and withhold";
    let wanted: Switches = read(&request, payload, expected).await?;
    demo.parts.deliveries.set_switches(wanted);
    Ok(switches(demo).await)
}
