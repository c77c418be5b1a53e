//! Who asks? The handlers' door to [`auth`](crate::auth).

use actix_web::{HttpRequest, http::header::AUTHORIZATION};
use chrono::Utc;

use super::{ApiError, Shared};
use crate::{
    auth::{AuthError, Session, bearer},
    domain::id::UserId,
};

/// The user whose session token came with the request.
///
/// # Errors
/// 401, whatever is wrong.
pub(super) fn user(state: &Shared, request: &HttpRequest) -> Result<UserId, ApiError> {
    Ok(session(state, request)?.user)
}

/// The same with the end of the token.
///
/// # Errors
/// 401, whatever is wrong.
pub(super) fn session(state: &Shared, request: &HttpRequest) -> Result<Session, ApiError> {
    Ok(state.sessions.verify(token(request)?, Utc::now().timestamp())?)
}

/// Lets application servers pass.
///
/// # Errors
/// 403 for a user, 401 for everybody else.
pub(super) fn service(state: &Shared, request: &HttpRequest) -> Result<(), ApiError> {
    let token = token(request)?;
    if state.service_tokens.contains(token) {
        return Ok(());
    }
    state.sessions.verify(token, Utc::now().timestamp())?;
    Err(ApiError::Forbidden)
}

/// Lets operators pass; everybody, where no token is set: the listener is then on loopback.
///
/// # Errors
/// 401.
pub(super) fn operator(state: &Shared, request: &HttpRequest) -> Result<(), ApiError> {
    match &state.admin_token {
        None => Ok(()),
        Some(known) if known.contains(token(request)?) => Ok(()),
        Some(_) => Err(ApiError::Unauthorized),
    }
}

fn token(request: &HttpRequest) -> Result<&str, AuthError> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next();
    if headers.next().is_some() {
        return Err(AuthError::Malformed("two authorization headers"));
    }
    bearer(header.map(|header| header.as_bytes()))
}
