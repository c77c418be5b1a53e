//! Threads, routers and lanes that end under load: everybody gets an answer, the next message finds all of it alive again, and who
//! is on another thread does not notice.

use std::time::Duration;

use futures::future::join_all;
use tollgate::{
    actor::{ActorLimits, ApplyError},
    domain::{
        change::Cause,
        event::{Outcome, ParkReason},
    },
    ledger::{Note, Verdict},
};

use super::{LIMITS, PATIENCE, Stage, user};
use crate::harness::{
    RedisServer, eventually,
    scripted::{Fault, delivery},
};

const TWO_THREADS: ActorLimits = ActorLimits { arbiters: 2, lanes: 2, ..LIMITS };

/// An event that changes nothing; which lane it takes is up to its id.
fn note(event: &str) -> Note {
    let Cause::Delivery(event) = delivery(user(0), event).cause else { unreachable!() };
    Note { event, verdict: Verdict::Parked(ParkReason::UnknownOwner), user: None }
}

/// Waits until each lane takes entries again that no router ever sees.
async fn lanes_live(stage: &Stage) {
    for event in ["evt_even_0", "evt_even_1"] {
        eventually(PATIENCE, "the lane lives", || async { stage.entitlements.record(note(event)).await.is_ok() }).await;
    }
}

#[actix_web::test]
async fn a_thread_that_ends_under_load_leaves_nobody_without_an_answer() {
    let stage = Stage::new(TWO_THREADS);
    stage.ledger.close_gate();
    stage.ledger.fail("evt_3x0", Fault::ThreadEnds);
    let change = |n, number| stage.spawn(user(number), &format!("evt_{number}x{n}"));
    let changes: Vec<_> = (0..40).flat_map(|n| [change(n, 3), change(n, 4)]).collect();
    stage.until_begun(2).await;
    stage.ledger.open_gate();
    // What waited on the thread that ended was sent once more; what its lane had in hand too, since its actor was gone.
    for answer in join_all(changes).await {
        assert_eq!(answer.unwrap(), Ok(Outcome::Applied));
    }
    assert_eq!([3, 4].map(|number| stage.ledger.version(user(number))), [40, 40], "each had its effect once");
    assert_eq!(stage.ledger.asked_about("evt_3x0"), 2);
    assert_eq!(stage.ledger.asked_about("evt_4x0"), 1, "on the other thread nobody noticed");
}

#[actix_web::test]
async fn the_lanes_of_a_thread_that_ended_waited_for_a_message_to_its_router() {
    let stage = Stage::new(TWO_THREADS);
    for number in [3, 4] {
        let event = format!("evt_{number}");
        stage.ledger.fail(&event, Fault::ThreadEnds);
        // Nobody of this thread comes again: the caller is gone.
        stage.spawn(user(number), &event).abort_handle().abort();
        let _answer = stage.apply(user(number), &event).await;
    }
    lanes_live(&stage).await;
}

#[actix_web::test]
async fn a_lane_that_cannot_be_made_is_made_again() {
    let stage = Stage::new(TWO_THREADS);
    lanes_live(&stage).await;
    stage.ledger.fail("evt_1", Fault::LanePanics);
    stage.ledger.panic_in_lanes(2);
    let in_hand = stage.apply(user(1), "evt_1").await;
    assert_eq!(in_hand, Err(ApplyError::InDoubt), "known at once, not when time is up");
    lanes_live(&stage).await;
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
}

/// What the thread took with it may have been committed: readers would have been shown the old state for an hour.
#[actix_web::test]
async fn a_commit_whose_thread_ended_before_the_answer_was_not_shown_to_readers() {
    for fault in [Fault::ThreadEndsCommitted, Fault::LanePanics] {
        let stage = Stage::new(TWO_THREADS);
        stage.ledger.close_gate();
        stage.ledger.fail("evt_1", fault);
        let caller = stage.spawn(user(1), "evt_1");
        stage.until_begun(1).await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        stage.ledger.open_gate();
        eventually(PATIENCE, "readers are to be shown whatever came of it", || async {
            stage.entitlements.unpublished() == 1
        })
        .await;
    }
}

/// One thread alone let idle actors go, and when it had ended nobody did.
#[actix_web::test]
async fn idle_actors_are_let_go_whichever_thread_ended() {
    let limits = ActorLimits { idle: Duration::from_millis(1), ..TWO_THREADS };
    for number in [3, 4] {
        let stage = Stage::new(limits);
        stage.ledger.fail("evt_1", Fault::ThreadEnds);
        assert_eq!(stage.apply(user(number), "evt_1").await, Ok(Outcome::Applied));
        assert_eq!(stage.apply(user(7 - number), "evt_2").await, Ok(Outcome::Applied));
        eventually(PATIENCE, "nobody lives", || async { stage.entitlements.live() == 0 }).await;
    }
}

#[actix_web::test]
async fn the_thread_after_one_that_ended_reaches_redis_at_once() {
    let redis = RedisServer::start().await;
    let stage = Stage::with_redis(&redis.url(), ActorLimits { arbiters: 1, lanes: 1, ..LIMITS });
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    eventually(PATIENCE, "Redis is reached", || async {
        stage.entitlements.republish_due(Duration::ZERO, 10).await;
        stage.entitlements.unpublished() == 0
    })
    .await;
    // Nobody sends this one again, so that the next is the first that the fresh thread shows.
    stage.ledger.fail("evt_2", Fault::ThreadEnds);
    stage.ledger.close_gate();
    let caller = stage.spawn(user(1), "evt_2");
    stage.until_begun(2).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    stage.ledger.open_gate();
    eventually(PATIENCE, "the lane lives", || async { stage.entitlements.record(note("evt_3")).await.is_ok() }).await;
    assert_eq!(stage.apply(user(2), "evt_4").await, Ok(Outcome::Applied));
    let level = redis.get(&format!("entitlements:{}", user(2))).await;
    assert_eq!(level.as_deref(), Some("PRO"), "with the answer, not later");
}

#[cfg(feature = "fail-points")]
mod routers {
    use tollgate::fail_point::arm;
    use uuid::Uuid;

    use super::*;
    use crate::harness::scripted::ScriptedLedger;
    use tollgate::domain::id::UserId;

    #[actix_web::test]
    async fn a_router_that_dies_under_load_is_begun_again_and_nobody_is_without_an_answer() {
        let stage = Stage::of(&ScriptedLedger::new(), "redis://127.0.0.1:1", ActorLimits { arbiters: 1, ..LIMITS });
        let users: Vec<UserId> = (0..50).map(|_| UserId::from(Uuid::new_v4())).collect();
        arm(&format!("actor.start=panic*1@{}", users[10])).unwrap();
        let changes = users.iter().enumerate().map(|(n, user)| stage.spawn(*user, &format!("evt_{n}")));
        for change in join_all(changes.collect::<Vec<_>>()).await {
            assert_eq!(change.unwrap(), Ok(Outcome::Applied));
        }
        assert_eq!(stage.entitlements.live(), 50);
    }

    #[actix_web::test]
    async fn a_router_that_dies_again_and_again_is_an_answer() {
        let stage = Stage::new(TWO_THREADS);
        let [poison, other] = [Uuid::new_v4(), Uuid::new_v4()].map(UserId::from);
        arm(&format!("actor.start=panic*2@{poison}")).unwrap();
        assert_eq!(stage.apply(poison, "evt_1").await, Err(ApplyError::Unavailable));
        assert_eq!(stage.apply(other, "evt_2").await, Ok(Outcome::Applied));
        assert_eq!(stage.apply(poison, "evt_1").await, Ok(Outcome::Applied));
    }
}
