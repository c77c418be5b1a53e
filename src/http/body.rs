//! Bodies: in with a limit of length and time, and of what all of them take together; out as JSON.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ContentType, HeaderValue},
    },
    web::Payload,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::ApiError;

/// How much of a body that is too long is still read, so that its sender, who reads only after he has written, gets the
/// answer.
const DRAINED_BYTES_MAX: usize = 1024 * 1024;

/// Room for a body in pieces before it is known to come: a length is only a claim.
const FIRST_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Up to this a body is a short one: Stripe's events are.
const SHORT_BYTES: usize = 64 * 1024;

/// Room that the bodies of all requests under way share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct BodyRoom {
    free: Arc<Semaphore>,
    bytes: usize,
}

impl BodyRoom {
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// How many bytes bodies take now.
    pub(super) fn taken(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }

    /// Takes room for the next piece of a body. Long bodies leave half of all room to short ones, so that senders of long ones
    /// do not keep Stripe out.
    fn take(&self, held: &mut Option<OwnedSemaphorePermit>, piece: usize) -> Option<()> {
        let length = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits).saturating_add(piece);
        let left = if length > SHORT_BYTES { self.bytes / 2 } else { 0 };
        if self.free.available_permits() < left.saturating_add(piece) {
            return None;
        }
        let more = Arc::clone(&self.free).try_acquire_many_owned(u32::try_from(piece).ok()?).ok()?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Some(())
    }
}

/// A whole body.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    /// To be held as long as anything made of the bytes is.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// The raw body, at most `limit` bytes, all of it within `time`.
///
/// # Errors
/// Too long, too slow, broken off, or no room for it.
pub(crate) async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    limit: usize,
    time: Duration,
    room: &BodyRoom,
) -> Result<Body, ApiError> {
    let deadline = Instant::now() + time;
    let claimed = claimed_length(request);
    let mut held = None;
    let too_long = match timeout_at(deadline, take(&mut payload, claimed, limit, room, &mut held)).await {
        Err(_) => return Err(ApiError::RequestTimeout),
        Ok(Err(_)) => return Err(ApiError::InvalidRequest("The request body could not be read")),
        Ok(Ok(Taken::All(bytes))) => return Ok(Body { bytes, room: held }),
        Ok(Ok(Taken::NoRoom)) => return Err(ApiError::Unavailable),
        Ok(Ok(Taken::TooLong(read))) => read,
    };
    drop(held);
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
    NoRoom,
}

async fn take(
    payload: &mut Payload,
    claimed: Option<usize>,
    limit: usize,
    room: &BodyRoom,
    held: &mut Option<OwnedSemaphorePermit>,
) -> Result<Taken, actix_web::error::PayloadError> {
    if claimed.is_some_and(|length| length > limit) {
        return Ok(Taken::TooLong(0));
    }
    // Most bodies come in one piece, which is then not copied.
    let Some(first) = payload.try_next().await? else { return Ok(Taken::All(Bytes::new())) };
    if first.len() > limit {
        return Ok(Taken::TooLong(first.len()));
    }
    if room.take(held, first.len()).is_none() {
        return Ok(Taken::NoRoom);
    }
    let Some(second) = payload.try_next().await? else { return Ok(Taken::All(first)) };
    let mut body = BytesMut::with_capacity(claimed.unwrap_or(0).min(FIRST_BUFFER_BYTES_MAX));
    body.extend_from_slice(&first);
    let mut piece = second;
    loop {
        if body.len().saturating_add(piece.len()) > limit {
            return Ok(Taken::TooLong(body.len().saturating_add(piece.len())));
        }
        if room.take(held, piece.len()).is_none() {
            return Ok(Taken::NoRoom);
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

/// The same that no cache keeps: it tells of people and their purchases.
pub(super) fn private(body: &impl Serialize) -> HttpResponse {
    let mut response = json(StatusCode::OK, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_leave_half_of_the_room_to_short_ones() {
        let room = BodyRoom::new(4 * SHORT_BYTES);
        let (mut long, mut other, mut short) = (None, None, None);
        for _ in 0..2 {
            room.take(&mut long, SHORT_BYTES).unwrap();
        }
        room.take(&mut other, SHORT_BYTES).unwrap();
        assert!(room.take(&mut other, 1).is_none(), "it has become a long one");
        room.take(&mut short, SHORT_BYTES).unwrap();
        assert_eq!(room.taken(), 4 * SHORT_BYTES);
        assert!(room.take(&mut None, 1).is_none(), "nothing is left");
        drop(long);
        assert_eq!(room.taken(), 2 * SHORT_BYTES);
        assert!(room.take(&mut other, 1).is_none());
        drop(short);
        room.take(&mut other, 1).unwrap();
        drop(other);
        assert_eq!(room.taken(), 0);
    }
}
