//! Bodies: in with a limit of length and time, out as JSON.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ContentType},
    },
    web::Payload,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::ApiError;

/// How much of a body that is too long is still read, so that its sender, who reads only after he has written, gets the
/// answer.
const DRAINED_BYTES_MAX: usize = 1024 * 1024;

/// Room for a body in pieces before it is known to come: a length is only a claim.
const FIRST_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The raw body, at most `limit` bytes, all of it within `time`.
///
/// # Errors
/// Too long, too slow, or broken off.
pub(crate) async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
    time: Duration,
) -> Result<Bytes, ApiError> {
    let deadline = Instant::now() + time;
    let claimed = claimed_length(request);
    let too_long = match timeout_at(deadline, take(&mut payload, claimed, limit)).await {
        Err(_) => return Err(ApiError::RequestTimeout),
        Ok(Err(_)) => return Err(ApiError::InvalidRequest("The request body could not be read")),
        Ok(Ok(Taken::All(body))) => return Ok(body),
        Ok(Ok(Taken::TooLong(read))) => read,
    };
    let most = limit.saturating_add(DRAINED_BYTES_MAX).saturating_sub(too_long);
    // However the rest comes, or does not, the answer stays the same.
    let _ = timeout_at(deadline, drain(&mut payload, most)).await;
    Err(ApiError::PayloadTooLarge)
}

/// Refuses a body that would have to be unpacked first: signatures are over the bytes as they come, and a small packet may
/// hold a large body.
///
/// # Errors
/// Another encoding than `identity`.
pub(super) fn refuse_encoded(request: &HttpRequest) -> Result<(), ApiError> {
    let encoded = |value: &[u8]| !value.trim_ascii().eq_ignore_ascii_case(b"identity");
    if request.headers().get_all(CONTENT_ENCODING).any(|value| encoded(value.as_bytes())) {
        return Err(ApiError::UnsupportedMediaType("Send the body without a Content-Encoding"));
    }
    Ok(())
}

/// Refuses everything but JSON: a page of another origin can send text, but not JSON, without the browser asking first.
///
/// # Errors
/// Another type, or an encoded body.
pub(crate) fn require_json(request: &HttpRequest) -> Result<(), ApiError> {
    let mut types = request.headers().get_all(CONTENT_TYPE);
    let is_json = types.next().and_then(|value| value.as_bytes().split(|byte| *byte == b';').next());
    let is_json = is_json.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"));
    if !is_json || types.next().is_some() {
        return Err(ApiError::UnsupportedMediaType("Send the body as application/json"));
    }
    refuse_encoded(request)
}

enum Taken {
    All(Bytes),
    /// So much had been read when it was clear.
    TooLong(usize),
}

async fn take(
    payload: &mut Payload,
    claimed: Option<usize>,
    limit: usize,
) -> Result<Taken, actix_web::error::PayloadError> {
    if claimed.is_some_and(|length| length > limit) {
        return Ok(Taken::TooLong(0));
    }
    // Most bodies come in one piece, which is then not copied.
    let Some(first) = payload.try_next().await? else { return Ok(Taken::All(Bytes::new())) };
    if first.len() > limit {
        return Ok(Taken::TooLong(first.len()));
    }
    let Some(second) = payload.try_next().await? else { return Ok(Taken::All(first)) };
    let mut body = BytesMut::with_capacity(claimed.unwrap_or(0).min(FIRST_BUFFER_BYTES_MAX));
    body.extend_from_slice(&first);
    let mut piece = second;
    loop {
        if body.len().saturating_add(piece.len()) > limit {
            return Ok(Taken::TooLong(body.len().saturating_add(piece.len())));
        }
        body.extend_from_slice(&piece);
        piece = match payload.try_next().await? {
            Some(piece) => piece,
            None => return Ok(Taken::All(body.freeze())),
        };
    }
}

async fn drain(payload: &mut Payload, most: usize) {
    let mut left = most;
    while let Some(Ok(piece)) = payload.next().await {
        let Some(less) = left.checked_sub(piece.len()) else { return };
        left = less;
    }
}

fn claimed_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    let mut bytes = Vec::with_capacity(256);
    match serde_json::to_writer(&mut bytes, body) {
        Ok(()) => HttpResponse::build(status).insert_header(ContentType::json()).body(bytes),
        Err(error) => {
            tracing::error!(error = %error, "answer could not be written");
            HttpResponse::from_error(ApiError::Internal)
        }
    }
}
