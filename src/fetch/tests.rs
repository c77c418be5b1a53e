//! When what is asked again.

use super::*;
use crate::domain::id::ObjectId;

#[test]
fn pauses_after_failures_grow_to_an_hour() {
    for (attempts, seconds) in [(1, 10.0), (2, 20.0), (5, 160.0), (10, 3600.0), (u32::MAX, 3600.0)] {
        let pause = pause_after(attempts).as_secs_f64();
        assert!((seconds / 2.0..=seconds).contains(&pause), "{attempts}: {pause}");
    }
}

#[test]
fn what_lapses_is_asked_at_its_end_and_then_ever_more_rarely() {
    let end = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let pause = |after: TimeDelta| {
        let asked_at = end + after;
        let fetch = Fetch {
            object: ObjectId::parse("sub_1").unwrap(),
            reason: FetchReason::Lapsing,
            attempts: 1,
            wanted_at: asked_at,
            asked_at,
            known_at: None,
            ends_at: Some(end),
        };
        pause_of_lapsing(&fetch).as_secs()
    };
    let pauses = [-60, -1, 0, 1, 10, 120, 2880].map(|minutes| pause(TimeDelta::minutes(minutes)));
    assert_eq!(pauses, [3600, 60, 60, 60, 600, 7200, 43_200]);
}
