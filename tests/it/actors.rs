//! The actor room by its public handle, over a ledger that fails where the test says so: order per user, bounds, and what is
//! remembered after what.

mod passivation;
mod threads;

use std::{
    cell::Cell,
    sync::{Arc, Barrier},
    time::Duration,
};

use chrono::TimeDelta;
use futures::{
    future::{Either, join_all, select},
    poll,
};
use tollgate::{
    activity::Activity,
    actor::{ActorLimits, ApplyError, Entitlements},
    cache::{Cache, RedisCache, RedisSettings},
    domain::{
        change::{Cause, Change, Owner, Subject, Unowned},
        event::{Outcome, ParkReason},
        id::{SubscriptionId, UserId},
        money::Report,
    },
    ledger::LedgerError,
    watch::Hub,
    watchdog::Watchdog,
};
use uuid::Uuid;

use crate::harness::{
    RedisServer, eventually,
    scripted::{Fault, LIMITS, ScriptedLedger, delivery, delivery_after},
};

const PATIENCE: Duration = LIMITS.reply_timeout;

const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// The actors of one test; they end with it.
struct Stage {
    ledger: ScriptedLedger,
    entitlements: Entitlements,
}

impl Stage {
    /// Without Redis: nothing listens on port 1.
    fn new(limits: ActorLimits) -> Self {
        Self::with_redis("redis://127.0.0.1:1", limits)
    }

    fn with_redis(url: &str, limits: ActorLimits) -> Self {
        Self::of(&ScriptedLedger::new(), url, limits)
    }

    /// One more replica on the same ledger.
    fn of(ledger: &ScriptedLedger, url: &str, limits: ActorLimits) -> Self {
        let cache = Cache::from(RedisCache::new(url, RedisSettings::default()).unwrap());
        let entitlements =
            Entitlements::start(Arc::new(ledger.clone()), cache, Hub::new(0), Activity::unwatched(), limits);
        Self { ledger: ledger.clone(), entitlements }
    }

    async fn apply(&self, user: UserId, event: &str) -> Result<Outcome, ApplyError> {
        self.entitlements.apply(delivery(user, event)).await
    }

    /// A change whose caller does not wait here.
    fn spawn(&self, user: UserId, event: &str) -> tokio::task::JoinHandle<Result<Outcome, ApplyError>> {
        let (entitlements, change) = (self.entitlements.clone(), delivery(user, event));
        tokio::spawn(async move { entitlements.apply(change).await })
    }

    async fn until_begun(&self, batches: usize) {
        eventually(PATIENCE, "the lane has taken the batch", || async { self.ledger.batches().len() == batches }).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.ledger.open_gate();
        self.entitlements.stop();
    }
}

/// Users by number: 3 and 4 take different lanes where there are two.
fn user(number: u128) -> UserId {
    UserId::from(Uuid::from_u128(number))
}

#[actix_web::test]
async fn a_duplicate_is_known_without_asking_the_ledger() {
    let stage = Stage::new(LIMITS);
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Duplicate));
    assert_eq!(stage.ledger.asked_about("evt_1"), 1);
}

#[actix_web::test]
async fn another_replica_finds_the_mark_in_redis_and_does_not_ask_the_ledger() {
    let redis = RedisServer::start().await;
    let one = Stage::with_redis(&redis.url(), LIMITS);
    let two = Stage::of(&one.ledger, &redis.url(), LIMITS);
    // Redis is asked about events that are too old to be first deliveries.
    let deliver = async |stage: &Stage, user| stage.entitlements.apply(delivery_after(MINUTE, user, "evt_1")).await;
    assert_eq!(deliver(&one, user(1)).await, Ok(Outcome::Applied));
    eventually(PATIENCE, "the mark is there", || async { redis.get("webhook:event:evt_1").await.is_some() }).await;
    assert_eq!(deliver(&two, user(1)).await, Ok(Outcome::Duplicate));
    assert_eq!(one.ledger.asked_about("evt_1"), 1);
    // A restored database does not believe the marks of the one it replaces.
    one.ledger.set_epoch("second");
    assert_eq!(deliver(&two, user(2)).await, Ok(Outcome::Duplicate));
    assert_eq!(one.ledger.asked_about("evt_1"), 2);
}

/// The same delivery, of an event that names no user.
fn unowned(event: &str) -> Unowned {
    let Change { cause, effect, .. } = delivery(user(0), event);
    Unowned {
        subject: Subject { subscription: SubscriptionId::parse("sub_1").unwrap(), customer: None },
        cause,
        effect,
    }
}

#[actix_web::test]
async fn an_owner_who_changes_between_look_up_and_lock_is_looked_up_again() {
    let stage = Stage::new(LIMITS);
    stage.ledger.owned_by([Owner::User(user(1)), Owner::User(user(2))]);
    stage.ledger.fail("evt_1", Fault::Answers(LedgerError::OwnerChanged));
    let result = stage.entitlements.apply_unowned(unowned("evt_1")).await;
    assert_eq!(result, Ok((Some(user(2)), Outcome::Applied)));
    let users: Vec<UserId> = stage.ledger.batches().concat().into_iter().map(|(user, _)| user).collect();
    assert_eq!(users, [user(1), user(2)]);
}

#[actix_web::test]
async fn a_report_that_somebody_has_come_to_depend_on_is_sent_again() {
    let stage = Stage::new(LIMITS);
    let Change { cause, .. } = delivery(user(1), "evt_1");
    let report = Report { cause, facts: vec![] };
    stage.ledger.fail("evt_1", Fault::Answers(LedgerError::OwnerChanged));
    assert_eq!(stage.entitlements.report(report.clone()).await, Ok(Outcome::Applied));
    assert_eq!(stage.ledger.asked_about("evt_1"), 2);
    assert_eq!(stage.entitlements.report(report).await, Ok(Outcome::Duplicate), "the process knows it by now");
    assert_eq!(stage.ledger.asked_about("evt_1"), 2);
}

#[actix_web::test]
async fn a_parked_event_that_is_still_nobodys_is_not_recorded_again() {
    let stage = Stage::new(LIMITS);
    for (owner, reason) in [(Owner::Nobody, ParkReason::UnknownOwner), (Owner::Several, ParkReason::SeveralOwners)] {
        stage.ledger.owned_by([owner]);
        let Unowned { subject, cause: Cause::Delivery(event), effect } = unowned("evt_1") else { unreachable!() };
        let again = Unowned { subject, cause: Cause::Retry(event), effect };
        assert_eq!(stage.entitlements.apply_unowned(again).await, Ok((None, Outcome::Parked(reason))));
    }
    assert_eq!(stage.ledger.asked_about("evt_1"), 0, "or it would be due at once, and so for ever");
}

#[actix_web::test]
async fn an_epoch_that_changes_voids_what_is_known() {
    let stage = Stage::new(LIMITS);
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    stage.ledger.set_epoch("second");
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Duplicate));
    assert_eq!(stage.ledger.asked_about("evt_1"), 2, "the memory was of another ledger");
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Duplicate));
    assert_eq!(stage.ledger.asked_about("evt_1"), 2, "and is of this one now");
}

/// After `fault` nobody knows what became of the event: it must be asked about again, and nothing else need be.
async fn assert_finds_out_after(fault: Fault, expected: ApplyError, again: Outcome) {
    let stage = Stage::new(LIMITS);
    assert_eq!(stage.apply(user(1), "evt_before").await, Ok(Outcome::Applied));
    stage.ledger.fail("evt_1", fault);
    assert_eq!(stage.apply(user(1), "evt_1").await, Err(expected));
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(again), "the redelivery finds out");
    assert_eq!(stage.apply(user(1), "evt_before").await, Ok(Outcome::Duplicate));
    assert_eq!(stage.ledger.asked_about("evt_before"), 1, "what the ledger has said stays true");
    assert_eq!(stage.entitlements.live(), 1);
}

#[actix_web::test]
async fn after_a_lane_that_panicked_the_redelivery_finds_out() {
    assert_finds_out_after(Fault::LanePanics, ApplyError::InDoubt, Outcome::Applied).await;
}

#[actix_web::test]
async fn after_a_lost_commit_reply_the_redelivery_finds_out() {
    assert_finds_out_after(Fault::CommitsInDoubt, ApplyError::InDoubt, Outcome::Duplicate).await;
}

#[actix_web::test]
async fn messages_that_wait_behind_a_doubtful_one_are_not_lost() {
    let stage = Stage::new(LIMITS);
    stage.ledger.close_gate();
    stage.ledger.fail("evt_1", Fault::LanePanics);
    let first = stage.spawn(user(1), "evt_1");
    stage.until_begun(1).await;
    let mut waiting: Vec<_> =
        (2..10).map(|n| Box::pin(stage.entitlements.apply(delivery(user(1), &format!("evt_{n}"))))).collect();
    for change in &mut waiting {
        assert!(poll!(change.as_mut()).is_pending());
    }
    stage.ledger.open_gate();
    assert_eq!(first.await.unwrap(), Err(ApplyError::InDoubt));
    assert_eq!(join_all(waiting).await, [Ok(Outcome::Applied); 8], "the actor stopped; its mailbox did not");
}

#[actix_web::test]
async fn a_change_that_panics_is_answered_and_harms_nobody() {
    let stage = Stage::new(LIMITS);
    stage.ledger.fail("evt_1", Fault::Answers(LedgerError::Panicked));
    assert_eq!(stage.apply(user(1), "evt_1").await, Err(ApplyError::Panicked));
    assert_eq!(stage.apply(user(1), "evt_2").await, Ok(Outcome::Applied));
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
}

#[actix_web::test]
async fn what_the_ledger_could_not_do_is_not_remembered_as_done() {
    let stage = Stage::new(LIMITS);
    let refused = LedgerError::Refused { sqlstate: "23503".into(), constraint: "fk".into() };
    for (error, expected) in [
        (LedgerError::Unavailable("down".into()), ApplyError::Unavailable),
        (LedgerError::Contended, ApplyError::Unavailable),
        (refused, ApplyError::Refused),
    ] {
        stage.ledger.fail("evt_1", Fault::Answers(error));
        assert_eq!(stage.apply(user(1), "evt_1").await, Err(expected));
    }
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
}

#[actix_web::test]
async fn changes_of_one_user_never_overlap_and_those_of_different_users_share_batches() {
    let stage = Stage::new(LIMITS);
    let mut wave = 0;
    // Whether two users meet in the queue is up to the scheduler: waves until they have.
    while stage.ledger.batches().iter().all(|batch| batch.len() < 2) || wave < 5 {
        wave += 1;
        assert!(wave < 500, "no two users ever shared a batch");
        let changes = (0..64).map(|n| stage.spawn(user(n % 8), &format!("evt_{wave}x{n}")));
        for change in join_all(changes.collect::<Vec<_>>()).await {
            assert_eq!(change.unwrap(), Ok(Outcome::Applied));
        }
    }
    for batch in stage.ledger.batches() {
        let mut users: Vec<UserId> = batch.iter().map(|(user, _)| *user).collect();
        users.sort_unstable();
        users.dedup();
        assert_eq!(users.len(), batch.len(), "a user twice in one batch: {batch:?}");
    }
}

#[actix_web::test]
async fn a_users_changes_are_applied_in_the_order_of_their_arrival() {
    let stage = Stage::new(LIMITS);
    assert_eq!(stage.apply(user(1), "evt_0").await, Ok(Outcome::Applied));
    stage.ledger.close_gate();
    let mut changes: Vec<_> =
        (1..40).map(|n| Box::pin(stage.entitlements.apply(delivery(user(1), &format!("evt_{n}"))))).collect();
    for change in &mut changes {
        assert!(poll!(change.as_mut()).is_pending());
    }
    stage.ledger.open_gate();
    join_all(changes).await;
    let order: Vec<String> = stage.ledger.batches().concat().into_iter().map(|(_, id)| id.to_string()).collect();
    assert_eq!(order, (0..40).map(|n| format!("evt_{n}")).collect::<Vec<_>>());
}

#[actix_web::test]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let stage = Stage::new(LIMITS);
    stage.ledger.close_gate();
    let caller = stage.spawn(user(1), "evt_1");
    stage.until_begun(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    stage.ledger.open_gate();
    eventually(PATIENCE, "it is committed", || async { stage.ledger.has("evt_1") }).await;
    eventually(PATIENCE, "readers are to be shown it", || async { stage.entitlements.unpublished() == 1 }).await;
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Duplicate));
}

#[actix_web::test]
async fn a_user_with_too_much_waiting_is_refused_at_once_and_others_go_on() {
    let stage = Stage::new(ActorLimits { per_user_max: 4, lanes: 2, ..LIMITS });
    let (busy, other) = (user(3), user(4));
    assert_eq!(stage.apply(other, "evt_warm").await, Ok(Outcome::Applied));
    stage.ledger.close_gate();
    let first = stage.spawn(busy, "evt_1");
    stage.until_begun(2).await;
    let mut waiting: Vec<_> =
        (2..5).map(|n| Box::pin(stage.entitlements.apply(delivery(busy, &format!("evt_{n}"))))).collect();
    for change in &mut waiting {
        assert!(poll!(change.as_mut()).is_pending());
    }
    let mut one_too_many = Box::pin(stage.apply(busy, "evt_5"));
    assert_eq!(poll!(one_too_many.as_mut()), std::task::Poll::Ready(Err(ApplyError::Busy)));
    let beside = stage.spawn(other, "evt_6");
    stage.until_begun(3).await;
    stage.ledger.open_gate();
    assert_eq!(beside.await.unwrap(), Ok(Outcome::Applied));
    assert_eq!(first.await.unwrap(), Ok(Outcome::Applied));
    assert_eq!(join_all(waiting).await, [Ok(Outcome::Applied); 3]);
    assert_eq!(stage.apply(busy, "evt_5").await, Ok(Outcome::Applied), "there is room again");
}

#[actix_web::test]
async fn a_full_queue_is_an_answer_and_not_a_wait() {
    let stage = Stage::new(ActorLimits { queue_max: 1, ..LIMITS });
    stage.ledger.close_gate();
    let first = stage.spawn(user(1), "evt_1");
    stage.until_begun(1).await;
    // The lane is at work and its queue holds one: of two more, one is refused at once and one waits.
    let two = select(stage.spawn(user(2), "evt_2"), stage.spawn(user(3), "evt_3"));
    let (Either::Left((refused, waits)) | Either::Right((refused, waits))) = two.await;
    assert_eq!(refused.unwrap(), Err(ApplyError::Busy));
    stage.ledger.open_gate();
    assert_eq!(waits.await.unwrap(), Ok(Outcome::Applied));
    assert_eq!(first.await.unwrap(), Ok(Outcome::Applied));
}

#[actix_web::test]
async fn an_idle_actor_is_let_go_and_the_next_message_finds_a_fresh_one() {
    let stage = Stage::new(ActorLimits { idle: Duration::from_millis(50), ..LIMITS });
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    assert_eq!(stage.entitlements.live(), 1);
    eventually(PATIENCE, "nobody lives", || async { stage.entitlements.live() == 0 }).await;
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Duplicate));
    assert_eq!(stage.ledger.asked_about("evt_1"), 1, "what the ledger has said is not the actor's to forget");
    assert_eq!(stage.apply(user(1), "evt_2").await, Ok(Outcome::Applied));
    assert_eq!(stage.entitlements.live(), 1);
}

#[actix_web::test]
async fn an_actor_at_work_is_not_let_go() {
    let stage = Stage::new(ActorLimits { idle: Duration::from_millis(50), ..LIMITS });
    assert_eq!(stage.apply(user(2), "evt_0").await, Ok(Outcome::Applied));
    stage.ledger.close_gate();
    let slow = stage.spawn(user(1), "evt_1");
    stage.until_begun(2).await;
    eventually(PATIENCE, "only the idle one is let go", || async { stage.entitlements.live() == 1 }).await;
    stage.ledger.open_gate();
    assert_eq!(slow.await.unwrap(), Ok(Outcome::Applied));
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Duplicate));
    assert_eq!(stage.ledger.asked_about("evt_1"), 1, "it is still the same one");
}

#[actix_web::test]
async fn what_readers_were_not_shown_is_shown_later() {
    let redis = RedisServer::start().await;
    let stage = Stage::with_redis(&redis.url(), LIMITS);
    redis.stop().await;
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    assert_eq!(stage.entitlements.unpublished(), 1);
    redis.start_again().await;
    eventually(PATIENCE, "it is shown", || async {
        stage.entitlements.republish_due(Duration::ZERO, 10).await;
        stage.entitlements.unpublished() == 0
    })
    .await;
    assert_eq!(redis.get(&format!("entitlements:{}", user(1))).await.as_deref(), Some("PRO"));
}

/// The application deletes a user whose newest state has not been shown yet: what the ledger says now is the newest.
#[actix_web::test]
async fn a_user_the_ledger_has_forgotten_does_not_wait_for_ever() {
    let redis = RedisServer::start().await;
    let stage = Stage::with_redis(&redis.url(), LIMITS);
    redis.stop().await;
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    assert_eq!(stage.entitlements.unpublished(), 1);
    stage.ledger.forget_user(user(1));
    redis.start_again().await;
    eventually(PATIENCE, "nothing waits any more", || async {
        stage.entitlements.republish_due(Duration::ZERO, 10).await;
        stage.entitlements.unpublished() == 0
    })
    .await;
}

#[actix_web::test]
async fn a_stopped_room_refuses_instead_of_hanging() {
    let stage = Stage::new(ActorLimits { reply_timeout: Duration::from_secs(2), ..LIMITS });
    assert_eq!(stage.apply(user(1), "evt_1").await, Ok(Outcome::Applied));
    stage.entitlements.stop();
    // A change that overtakes the stop is applied, and known from then on: a new one each time.
    let count = Cell::new(2);
    eventually(PATIENCE, "changes are refused", || {
        let event = format!("evt_{}", count.replace(count.get() + 1));
        let stage = &stage;
        async move { stage.apply(user(2), &event).await.is_err() }
    })
    .await;
}

#[actix_web::test]
async fn a_thread_that_is_held_up_is_seen_and_holds_up_its_own_users_alone() {
    let stage = Stage::new(ActorLimits { arbiters: 2, lanes: 2, ..LIMITS });
    let watchdog = Watchdog::new(Duration::from_millis(500));
    stage.entitlements.watched_by(&watchdog);
    let release = Arc::new(Barrier::new(2));
    stage.ledger.fail("evt_1", Fault::BlocksThread(Arc::clone(&release)));
    let held_up = stage.spawn(user(3), "evt_1");
    stage.until_begun(1).await;
    assert_eq!(stage.apply(user(4), "evt_2").await, Ok(Outcome::Applied));
    eventually(PATIENCE, "it is seen", async || watchdog.held_up() == ["actors"]).await;
    assert_eq!(stage.apply(user(4), "evt_3").await, Ok(Outcome::Applied));
    tokio::task::spawn_blocking(move || release.wait()).await.unwrap();
    assert_eq!(held_up.await.unwrap(), Ok(Outcome::Applied));
    eventually(PATIENCE, "it goes on", async || watchdog.held_up().is_empty()).await;
}
