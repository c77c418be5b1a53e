//! Actors that are let go while they are wanted: nothing is lost, nobody has two, and in the end nobody lives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::Arbiter;
use futures::future::join_all;
use tokio::sync::mpsc;
use tollgate::{
    activity::Activity,
    actor::{ActorLimits, ApplyError, Entitlements},
    cache::{Cache, MemoryCache, MemorySettings},
    domain::event::Outcome,
    watch::Hub,
};

use super::{LIMITS, PATIENCE, Stage, user};
use crate::harness::{
    eventually,
    ledger::{InAFile, TestLedger},
    scripted::delivery,
};

const THREADS: u128 = 8;
const USERS: u128 = 10;

/// Has eight threads deliver events of ten users, three at once on each, and gives how many were sent to each user.
async fn deliver(entitlements: &Entitlements, name: &str, messages_per_thread: u128) -> [u64; 10] {
    let (done, mut ended) = mpsc::unbounded_channel();
    let threads: Vec<Arbiter> = (0..THREADS).map(|_| Arbiter::new()).collect();
    for (thread, arbiter) in threads.iter().enumerate() {
        let (entitlements, done, name) = (entitlements.clone(), done.clone(), name.to_owned());
        arbiter.spawn(async move {
            let mut sent = [0; 10];
            for message in (0..messages_per_thread).step_by(3) {
                let three = (message..message + 3).map(|message| {
                    let number = rand::random_range(0..USERS);
                    sent[usize::try_from(number).unwrap()] += 1;
                    entitlements.apply(delivery(user(number), &format!("evt_{name}x{thread}x{message}")))
                });
                let replies = join_all(three.collect::<Vec<_>>()).await;
                assert_eq!(replies, [Ok(Outcome::Applied); 3]);
            }
            done.send(sent).unwrap();
        });
    }
    drop(done);
    let mut sum = [0; 10];
    let mut count = 0;
    while let Some(sent) = ended.recv().await {
        count += 1;
        sum = std::array::from_fn(|number| sum[number] + sent[number]);
    }
    assert_eq!(count, threads.len(), "a thread's assertion failed: its panic is above");
    for thread in threads {
        thread.stop();
    }
    sum
}

#[actix_web::test]
async fn actors_that_are_let_go_all_the_time_lose_no_message() {
    let messages = std::env::var("TOLLGATE_PASSIVATION_MESSAGES").map_or(25_000, |number| number.parse().unwrap());
    for idle in 0..=2 {
        let stage = Stage::new(ActorLimits { idle: Duration::from_millis(idle), ..LIMITS });
        let sent = deliver(&stage.entitlements, &format!("idle{idle}"), messages / 3 / THREADS).await;
        let versions = std::array::from_fn(|number| stage.ledger.version(user(number.try_into().unwrap())));
        assert_eq!(versions, sent, "each change one version, none lost, none twice");
        for batch in stage.ledger.batches() {
            let mut users: Vec<_> = batch.iter().map(|(user, _)| *user).collect();
            users.sort_unstable();
            users.dedup();
            assert_eq!(users.len(), batch.len(), "two actors of one user at once: {batch:?}");
        }
        eventually(PATIENCE, "nobody lives", || async { stage.entitlements.live() == 0 }).await;
    }
}

#[actix_web::test]
async fn actors_that_are_let_go_all_the_time_lose_no_message_in_a_file() {
    let file = InAFile::new().await;
    let limits = ActorLimits { idle: Duration::ZERO, ..LIMITS };
    let cache = Cache::from(MemoryCache::new(MemorySettings::default()));
    let entitlements = Entitlements::start(file.ledger(), cache, Hub::new(0), Activity::unwatched(), limits);
    let sent = deliver(&entitlements, "real", 60).await;
    for (number, sent) in sent.into_iter().enumerate() {
        let state = file.ledger().entitlement(user(number.try_into().unwrap())).await.unwrap();
        assert_eq!(state.version, sent);
    }
    eventually(PATIENCE, "nobody lives", || async { entitlements.live() == 0 }).await;
    entitlements.stop();
}

/// Who hung up gave back his hold on an actor that was at his change: it was let go, and the next message started another one beside it.
#[actix_web::test]
async fn an_actor_was_let_go_at_its_work_when_its_caller_hung_up() {
    let stage = Stage::new(ActorLimits { idle: Duration::ZERO, ..LIMITS });
    stage.ledger.close_gate();
    let caller = stage.spawn(user(1), "evt_1");
    stage.until_begun(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let idle = stage.spawn(user(2), "evt_2");
    idle.abort();
    eventually(PATIENCE, "who has nothing to do is let go", || async { stage.entitlements.live() == 1 }).await;
    let behind = stage.spawn(user(1), "evt_3");
    stage.ledger.open_gate();
    assert_eq!(behind.await.unwrap(), Ok(Outcome::Applied));
    assert_eq!(stage.ledger.version(user(1)), 2);
    eventually(PATIENCE, "nobody lives", || async { stage.entitlements.live() == 0 }).await;
}

/// More users than may live at once, each comes once: who is refused comes again.
#[actix_web::test]
async fn thousands_of_users_under_a_small_cap_are_all_served_and_forgotten() {
    const CAP: usize = 16;
    let stage = Stage::new(ActorLimits { live_max: CAP, idle: Duration::from_millis(1), ..LIMITS });
    let most = Arc::new(AtomicUsize::new(0));
    let lanes = (0..8).map(|lane| {
        let (stage, most) = (&stage, Arc::clone(&most));
        async move {
            for number in 0..500 {
                let user = user(1_000 * (lane + 1) * 10 + number);
                let event = format!("evt_{lane}x{number}");
                loop {
                    match stage.apply(user, &event).await {
                        Err(ApplyError::Busy) => tokio::task::yield_now().await,
                        answer => break assert_eq!(answer, Ok(Outcome::Applied)),
                    }
                }
                most.fetch_max(stage.entitlements.live(), Ordering::Relaxed);
            }
        }
    });
    join_all(lanes).await;
    let most = most.load(Ordering::Relaxed);
    assert!(most <= CAP, "{most} lived at once");
    eventually(PATIENCE, "nobody lives", || async { stage.entitlements.live() == 0 }).await;
}

#[actix_web::test]
async fn where_all_are_at_work_one_more_is_refused_and_is_served_as_soon_as_one_is_not() {
    let stage = Stage::new(ActorLimits { live_max: 2, ..LIMITS });
    stage.ledger.close_gate();
    let at_work = [1, 2].map(|number| stage.spawn(user(number), &format!("evt_{number}")));
    eventually(PATIENCE, "both are at work", || async { stage.entitlements.live() == 2 }).await;
    assert_eq!(stage.apply(user(3), "evt_3").await, Err(ApplyError::Busy));
    stage.ledger.open_gate();
    for change in at_work {
        assert_eq!(change.await.unwrap(), Ok(Outcome::Applied));
    }
    // Idle, though not for long: there is room for whoever comes.
    eventually(PATIENCE, "there is room", || async { stage.apply(user(3), "evt_3").await == Ok(Outcome::Applied) })
        .await;
    assert_eq!(stage.apply(user(1), "evt_4").await, Ok(Outcome::Applied));
}
