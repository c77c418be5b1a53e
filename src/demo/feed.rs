//! What happens, as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>): first the steps that are
//! kept, then each as it is told. A browser that comes back says which it had last, and gets what it missed.

use std::{convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, HeaderName},
    web::{Bytes, Data},
};
use futures::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};

use super::{DemoError, Shared};
use crate::activity::{Activity, Happened};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How often something is written at least: a client that is gone is noticed only by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(10);
const HEARTBEAT_LINE: Bytes = Bytes::from_static(b": still here\n\n");

/// The first thing written: after how many milliseconds a browser that lost the stream tries again.
const RETRY_LINE: Bytes = Bytes::from_static(b"retry: 1000\n\n");

/// One page that watches.
struct Watcher {
    activity: Activity,
    /// The newest step that was written.
    seen: u64,
    stopping: watch::Receiver<bool>,
    heartbeat: Duration,
    // Given back when the stream is dropped.
    _place: OwnedSemaphorePermit,
}

/// Steps until the client, or the server, goes.
pub(super) async fn stream(demo: Data<Shared>, request: HttpRequest) -> Result<HttpResponse, DemoError> {
    let place = Arc::clone(&demo.streams).try_acquire_owned().map_err(|_| DemoError::TooManyStreams)?;
    let activity = demo.parts.activity.clone();
    let last = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok());
    // One that we never told is of a run before this one, which began to count anew.
    let seen = last.filter(|last| *last <= activity.newest()).unwrap_or(0);
    let stopping = demo.stopping.subscribe();
    let watcher = Watcher { activity, seen, stopping, heartbeat: HEARTBEAT, _place: place };
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/event-stream")).streaming(watcher.lines()))
}

impl Watcher {
    fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let first = stream::iter([Ok(RETRY_LINE)]);
        let rest = stream::unfold(self, |mut watcher| async move { Some((Ok(watcher.next().await?), watcher)) });
        futures::StreamExt::chain(first, rest)
    }

    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            // An error says that the demo itself is gone.
            _stopped = self.stopping.wait_for(|stopping| *stopping) => None,
            steps = self.activity.after(self.seen) => {
                self.seen = steps.last().map_or(self.seen, |step| step.id);
                Some(written(&steps))
            }
            () = sleep(self.heartbeat) => Some(HEARTBEAT_LINE),
        }
    }
}

fn written(steps: &[Happened]) -> Bytes {
    let mut text = String::new();
    for step in steps {
        match serde_json::to_string(step) {
            // Writing to a string cannot fail.
            Ok(json) => _ = write!(text, "id: {}\ndata: {json}\n\n", step.id),
            Err(error) => tracing::error!(error = %error, "step could not be written"),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_quiet_stream_is_written_to_all_the_same() {
        let (_server, stopping) = watch::channel(false);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let activity = Activity::watched();
        let mut watcher = Watcher { activity, seen: 0, stopping, heartbeat: Duration::from_millis(1), _place: place };
        assert_eq!(watcher.next().await, Some(HEARTBEAT_LINE));
        assert_eq!(watcher.next().await, Some(HEARTBEAT_LINE));
    }
}
