//! Which answers are worth another attempt, and how long to wait before it.
//!
//! Rules: <https://docs.stripe.com/error-low-level> (`Stripe-Should-Retry` decides; without it, conflicts, rate
//! limits, failed dependencies and server errors are temporary) and <https://docs.stripe.com/api/idempotent_requests>.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// First pause; each following one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Doubling stops here, whatever the number of attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What an answer that is not a success means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Another attempt with the same key may succeed.
    pub(crate) retry: bool,
    /// The fault is temporary and not the request's.
    pub(crate) temporary: bool,
    /// Stripe (or a proxy) asks for at least this pause.
    pub(crate) asked_pause: Option<Duration>,
}

impl Verdict {
    pub(crate) fn of(status: u16, headers: &HeaderMap) -> Self {
        let temporary = matches!(status, 409 | 424 | 429 | 500..=599);
        // 501 and 505 and above are not announced as passing faults, so they are not worth repeating.
        let worth_repeating = matches!(status, 409 | 424 | 429 | 500 | 502..=504);
        // A replay is the stored first answer: asking again under this key can only bring it back.
        let replayed = header(headers, "idempotent-replayed") == Some("true");
        let retry = match header(headers, "stripe-should-retry") {
            Some("true") => !replayed,
            Some("false") => false,
            _ => worth_repeating && !replayed,
        };
        let asked_pause = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        Self { retry, temporary, asked_pause }
    }
}

/// Text of a header, `None` where it is missing or not plain text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The pause after attempt number `attempt` (counted from 1): 100 ms · 2ⁿ, of which the upper half is left to chance, so
/// that replicas which failed together do not come back together.
pub(crate) fn pause_after(attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(10);
    let longest = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn retry(status: u16, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Verdict::of(status, &map).retry
    }

    #[test]
    fn passing_faults_are_retried_and_refusals_are_not() {
        for status in [409, 424, 429, 500, 502, 503, 504] {
            assert!(retry(status, &[]), "{status}");
        }
        for status in [301, 400, 401, 402, 403, 404, 501] {
            assert!(!retry(status, &[]), "{status}");
        }
    }

    #[test]
    fn stripes_own_word_goes_before_the_status() {
        assert!(!retry(500, &[("stripe-should-retry", "false")]));
        assert!(retry(400, &[("stripe-should-retry", "true")]));
        assert!(retry(500, &[("stripe-should-retry", "nonsense")]));
    }

    #[test]
    fn a_replayed_failure_is_not_asked_for_again() {
        assert!(!retry(500, &[("idempotent-replayed", "true")]));
        let both = [("idempotent-replayed", "true"), ("stripe-should-retry", "true")];
        assert!(!retry(500, &both));
    }

    #[test]
    fn retry_after_in_seconds_is_understood() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "2".parse().unwrap());
        let asked = Verdict::of(429, &headers).asked_pause;
        assert_eq!(asked, Some(Duration::from_secs(2)));
        headers.insert(RETRY_AFTER, "Wed, 21 Oct 2026 07:28:00 GMT".parse().unwrap());
        assert_eq!(Verdict::of(429, &headers).asked_pause, None);
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for (attempt, shortest, longest) in [(1, 50, 100), (2, 100, 200), (3, 200, 400)] {
            let pause = pause_after(attempt);
            assert!(pause >= Duration::from_millis(shortest));
            assert!(pause <= Duration::from_millis(longest));
        }
        assert!(pause_after(u32::MAX) <= LONGEST_PAUSE);
    }
}
