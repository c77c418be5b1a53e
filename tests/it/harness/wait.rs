//! Waiting for a condition instead of letting things settle: as fast as the machine allows, and a clear end if it never
//! comes true.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Polls `condition` until it is true. Panics, with the caller's line, when it is not within the given time.
#[track_caller]
pub(crate) fn eventually<F, Fut>(within: Duration, what: &str, mut condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    until_ok(within, what, move || {
        let met = condition();
        async move { met.await.then_some(()).ok_or("not yet") }
    })
}

/// Polls `attempt` until it succeeds and gives what it found. The panic that ends a wait in vain shows the last error.
#[track_caller]
pub(crate) fn until_ok<F, Fut, T, E>(within: Duration, what: &str, mut attempt: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    let caller = Location::caller();
    let deadline = Instant::now() + within;
    async move {
        let mut pause = FIRST_PAUSE;
        let mut last_error = String::from("the first attempt did not end in time");
        loop {
            // A hanging attempt must not outlive the deadline either: that is what a paused server looks like.
            match timeout_at(deadline, attempt()).await {
                Ok(Ok(found)) => return found,
                Ok(Err(error)) => last_error = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() + pause >= deadline {
                panic!("{caller}: gave up after {within:?} waiting until {what}: {last_error}");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
