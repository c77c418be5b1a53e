//! When what is asked again.

use super::*;
use crate::domain::id::ObjectId;

fn fetch() -> Fetch {
    let asked_at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    Fetch {
        object: ObjectId::parse("sub_1").unwrap(),
        reason: FetchReason::Lapsing,
        attempts: 1,
        wanted_at: asked_at,
        asked_at,
        known_at: None,
        ends_at: None,
    }
}

/// Without a key questions wait, however long. Then a Stripe that was busy for a moment had them given up, and with them a refund.
#[test]
fn a_question_that_had_waited_for_days_was_given_up_at_its_first_failure() {
    let waited = Fetch { wanted_at: fetch().asked_at - TimeDelta::days(30), ..fetch() };
    let busy = FetchError::Stripe(GatewayError::Unreadable);
    assert!(!is_given_up(&waited, &busy));
    assert!(is_given_up(&Fetch { attempts: TRIES_MAX, ..waited.clone() }, &busy));
    assert!(is_given_up(&waited, &FetchError::Unaskable));
}

#[test]
fn pauses_after_failures_grow_to_an_hour() {
    for (attempts, seconds) in [(1, 10.0), (2, 20.0), (5, 160.0), (10, 3600.0), (u32::MAX, 3600.0)] {
        let pause = pause_after(attempts).as_secs_f64();
        assert!((seconds / 2.0..=seconds).contains(&pause), "{attempts}: {pause}");
    }
}

#[test]
fn what_lapses_is_asked_at_its_end_and_then_ever_more_rarely() {
    let end = fetch().asked_at;
    let pause =
        |after: TimeDelta| pause_of_lapsing(&Fetch { asked_at: end + after, ends_at: Some(end), ..fetch() }).as_secs();
    let pauses = [-60, -1, 0, 1, 10, 120, 2880].map(|minutes| pause(TimeDelta::minutes(minutes)));
    assert_eq!(pauses, [3600, 60, 60, 60, 600, 7200, 43_200]);
}
