//! Who is at the page: one of three people, or somebody new, with a session token as the sign-in service would issue it.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Payload},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{DemoError, Shared};
use crate::{
    domain::id::UserId,
    http::{
        self, ApiError,
        body::{self, BodyRoom},
    },
};

/// Longest request of the page, in bytes.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// How long one may take to arrive: it comes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Users that are always there. The README's examples are about the first.
const USERS: [User; 3] = [
    User { user_id: "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71", name: "Ada" },
    User { user_id: "1c9d5b7e-84f2-4a36-b0d8-63e7a2f4c592", name: "Ben" },
    User { user_id: "e2b84a10-9c67-4f5d-8e3b-7a1f60d2c9b4", name: "Chloe" },
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct User {
    user_id: &'static str,
    name: &'static str,
}

#[derive(Serialize)]
struct Users {
    users: [User; USERS.len()],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SessionRequest {
    user_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionAnswer {
    token: String,
    user_id: UserId,
}

/// Who can be chosen.
pub(super) async fn users() -> HttpResponse {
    body::json(StatusCode::OK, &Users { users: USERS })
}

/// Signs a user in: any, so that the page can make up new ones.
pub(super) async fn session(
    demo: Data<Shared>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, DemoError> {
    let asked: SessionRequest = read(&request, payload, "Expected a JSON object with userId and nothing else").await?;
    let user_id = http::user_id(&asked.user_id)?;
    let token = (demo.parts.issue_token)(user_id).map_err(|error| {
        tracing::error!(error = %error, "session token could not be issued");
        ApiError::Internal
    })?;
    Ok(body::json(StatusCode::OK, &SessionAnswer { token, user_id }))
}

/// A request's JSON, or a refusal that says what was expected.
pub(super) async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    expected: &'static str,
) -> Result<T, ApiError> {
    let alone = BodyRoom::new(BODY_BYTES_MAX);
    let body = body::read(request, payload, BODY_BYTES_MAX, BODY_TIMEOUT, &alone).await?;
    serde_json::from_slice(&body.bytes).map_err(|_| ApiError::InvalidRequest(expected))
}
