//! A user's entitlements as they change, as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). For `fetch`,
//! since a browser's `EventSource` cannot send a token.
//!
//! Nothing queues up: what is to be written is chosen when there is room for it, and is the newest then. Whoever takes nothing for
//! [`PATIENCE`] loses his place.

use std::{convert::Infallible, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, VARY},
    rt,
    web::Data,
};
use bytes::Bytes;
use chrono::Utc;
use futures::{Stream, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{ApiError, ErrorBody, Shared, caller, entitlements};
use crate::{domain::id::UserId, reader::Reading, watch::Following};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx to pass on each event as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How often something is written at least: proxies end what is silent, and only writing shows that a client is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_LINE: Bytes = Bytes::from_static(b": still here\n\n");
/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);

const TOKEN_ENDED: Bytes = Bytes::from_static(b"event: end\ndata: {\"reason\":\"token\"}\n\n");
const STOPPING: Bytes = Bytes::from_static(b"event: end\ndata: {\"reason\":\"stopping\"}\n\n");

/// Tells what the caller may do, and each change of it
///
/// An event `entitlement` carries the same JSON as `GET /api/entitlements` and has the version as its id: first the present state, then each newer
/// one, of changes in quick succession perhaps only the last. An event `end` with `{"reason":"token"}` (the token has ended) or `{"reason":"stopping"}` is the last.
#[utoipa::path(
    get, path = "/api/entitlements/stream", tag = "entitlements", security(("session" = [])),
    params(
        ("minVersion" = Option<u64>, Query, description = "The version that the caller has: only newer ones are sent"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The same; the larger one counts"),
    ),
    responses(
        (status = 200, description = "The caller's entitlements, until the token ends", body = String, content_type = "text/event-stream"),
        (status = 400, description = "`INVALID_REQUEST`", body = ErrorBody),
        (status = 401, description = "`UNAUTHORIZED`", body = ErrorBody),
        (status = 429, description = "`RATE_LIMITED`, with `Retry-After`: eight streams of this user are open", body = ErrorBody),
        (status = 503, description = "`UNAVAILABLE`, with `Retry-After`: out of reach, or too many streams are open", body = ErrorBody),
    ),
)]
pub(super) async fn own(state: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let session = caller::session(&state, &request)?;
    let last = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    let had = entitlements::version_had(request.query_string())?.max(last);
    let left = session.ends_at().saturating_sub(Utc::now().timestamp()).max(0);
    let ends = Instant::now() + Duration::from_secs(u32::try_from(left).unwrap_or(u32::MAX).into());
    let (following, first) = state.watch.follow(session.user, had).await?;
    let mut teller = Teller { state, user: session.user, following, first, ends, quiet_since: Instant::now() };
    let (events, taken) = mpsc::channel(1);
    rt::spawn(async move { write(events, PATIENCE, async || teller.next().await).await });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "Authorization"))
        .insert_header((X_ACCEL_BUFFERING, "no"))
        // A stop must not wait for a connection that would be kept for further requests.
        .force_close()
        .streaming(lines(taken)))
}

fn lines(taken: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(taken, |mut taken| async move { Some((Ok(taken.recv().await?), taken)) })
}

/// Writes what `next` gives until that says that it was the last, the client is gone, or has taken nothing for too long.
async fn write(events: mpsc::Sender<Bytes>, patience: Duration, mut next: impl AsyncFnMut() -> (Bytes, bool)) {
    loop {
        // First the room, then what goes there: it does not grow old on the way.
        let room = match timeout(patience, events.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_gone)) => return,
            Err(_too_slow) => {
                metrics::counter!("tollgate_streams_dropped_total").increment(1);
                return;
            }
        };
        let (event, is_last) = tokio::select! {
            () = events.closed() => return,
            next = next() => next,
        };
        room.send(event);
        if is_last {
            return;
        }
    }
}

/// What one client is told.
struct Teller {
    state: Data<Shared>,
    user: UserId,
    following: Following,
    /// What it is told first, if it has not got that already.
    first: Option<Reading>,
    /// When the token is good no longer.
    ends: Instant,
    quiet_since: Instant,
}

impl Teller {
    /// The next thing to be written, and whether it is the last.
    async fn next(&mut self) -> (Bytes, bool) {
        let next = match self.first.take() {
            Some(first) => (self.event(&first), false),
            None => tokio::select! {
                biased;
                () = self.state.watch.stopped() => (STOPPING, true),
                () = sleep_until(self.ends) => (TOKEN_ENDED, true),
                reading = self.following.next() => (self.event(&reading), false),
                () = sleep_until(self.quiet_since + HEARTBEAT) => (HEARTBEAT_LINE, false),
            },
        };
        self.quiet_since = Instant::now();
        next
    }

    fn event(&self, reading: &Reading) -> Bytes {
        let version = reading.entitlement.version;
        let catalogue = self.state.catalogue.get();
        match serde_json::to_string(&entitlements::shown(&catalogue, self.user, reading)) {
            Ok(json) => format!("event: entitlement\nid: {version}\ndata: {json}\n\n").into(),
            Err(error) => {
                tracing::error!(%error, "an entitlement could not be written");
                HEARTBEAT_LINE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_dropped_and_nothing_queues_up_for_him() {
        let (events, mut taken) = mpsc::channel(1);
        let mut asked = 0;
        write(events, Duration::from_millis(1), async || {
            asked += 1;
            (HEARTBEAT_LINE, false)
        })
        .await;
        assert_eq!(asked, 1);
        assert_eq!((taken.recv().await, taken.recv().await), (Some(HEARTBEAT_LINE), None));
    }

    #[tokio::test]
    async fn who_is_gone_is_noticed_while_nothing_happens() {
        let (events, taken) = mpsc::channel(1);
        let writing = write(events, PATIENCE, std::future::pending);
        let leaving = async { drop(taken) };
        tokio::join!(writing, leaving);
    }
}
