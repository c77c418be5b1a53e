//! Questions to Stripe: found by the transactions that leave something open, leased to one replica at a time, ended by answers and by events.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use tollgate::{
    domain::{event::Outcome, money::RefundStatus, subscription::SubscriptionStatus},
    ledger::{Fetch, FetchEnd, FetchReason, Lane, Ledger},
};

use super::{
    super::{commit_one, user},
    money::{refund, refunded, tie},
    subscription::snapshot,
};
use crate::harness::{PATIENCE, ledger::TestLedger, until_ok};

const LEASE: Duration = Duration::from_secs(60);

/// Waits for a question, with four who ask at once: one of them is given it.
async fn given(ledger: &dyn Ledger) -> Fetch {
    until_ok(PATIENCE, "a question is due", || async {
        let asked = join_all((0..4).map(|_| ledger.fetches_due(10, LEASE))).await;
        let mut given: Vec<Fetch> = asked.into_iter().flat_map(Result::unwrap).collect();
        assert!(given.len() < 2, "{given:?}");
        given.pop().ok_or("nothing is due")
    })
    .await
}

/// Reasons, with how many wait and how many were given up.
async fn counts(ledger: &dyn Ledger) -> Vec<(String, u64, u64)> {
    let counts = ledger.fetches().await.unwrap();
    counts.into_iter().map(|count| (count.reason, count.waiting, count.given_up)).collect()
}

fn waiting(reason: &str) -> Vec<(String, u64, u64)> {
    vec![(reason.to_owned(), 1, 0)]
}

/// Two states of one second, and gives that second.
async fn tie_a_subscription(lane: &mut dyn Lane, user: tollgate::domain::id::UserId) -> chrono::DateTime<Utc> {
    let second = Utc::now() - TimeDelta::hours(1);
    for (event, status) in [("evt_1", SubscriptionStatus::Active), ("evt_2", SubscriptionStatus::Unpaid)] {
        commit_one(lane, snapshot(user, event, "sub_1", (status, None), second)).await;
    }
    second
}

pub(in super::super) async fn a_question_is_leased_to_one_and_ends_with_its_answer(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let second = tie_a_subscription(&mut *lane, user()).await;
    assert_eq!(counts(&*ledger).await, waiting("tied"));
    let first = given(&*ledger).await;
    assert_eq!((first.object.as_str(), first.reason, first.attempts), ("sub_1", FetchReason::Tied, 1));
    assert_eq!(first.known_at.map(|known| known.timestamp()), Some(second.timestamp()));

    ledger.end_fetch(&first, FetchEnd::Failed(Duration::ZERO)).await.unwrap();
    let again = given(&*ledger).await;
    assert_eq!(again.attempts, 2);
    for end in [FetchEnd::GivenUp, FetchEnd::Answered(Duration::ZERO)] {
        ledger.end_fetch(&first, end).await.unwrap();
        assert_eq!(counts(&*ledger).await, waiting("tied"), "its lease is over");
    }
    ledger.end_fetch(&again, FetchEnd::GivenUp).await.unwrap();
    assert_eq!(counts(&*ledger).await, [("tied".to_owned(), 0, 1)]);
    assert_eq!(ledger.fetches().await.unwrap()[0].oldest, None);

    commit_one(&mut *lane, snapshot(user(), "evt_4", "sub_2", (SubscriptionStatus::Active, None), second)).await;
    assert_eq!(counts(&*ledger).await, [("tied".to_owned(), 0, 1)], "of another subscription");
}

pub(in super::super) async fn a_lease_that_ran_out_is_given_to_another(on: &dyn TestLedger) {
    let ledger = on.ledger();
    tie_a_subscription(&mut *ledger.lane(), user()).await;
    let lost = until_ok(PATIENCE, "a question is due", || async {
        ledger.fetches_due(1, Duration::ZERO).await.unwrap().pop().ok_or("nothing is due")
    })
    .await;
    let taken = given(&*ledger).await;
    assert_eq!((taken.attempts, taken.object), (2, lost.object));
}

pub(in super::super) async fn an_event_asks_anew_or_answers_whoever_asks_meanwhile(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (mut lane, user) = (ledger.lane(), user());
    let second = tie_a_subscription(&mut *lane, user).await;
    let fetch = given(&*ledger).await;
    let third = snapshot(user, "evt_3", "sub_1", (SubscriptionStatus::Paused, None), second);
    assert_eq!(commit_one(&mut *lane, third).await.outcome, Outcome::Applied);
    ledger.end_fetch(&fetch, FetchEnd::Answered(Duration::ZERO)).await.unwrap();
    assert_eq!(counts(&*ledger).await, waiting("tied"), "the answer may be older than the event");
    let newer = second + TimeDelta::seconds(1);
    commit_one(&mut *lane, snapshot(user, "evt_4", "sub_1", (SubscriptionStatus::Unpaid, None), newer)).await;
    assert_eq!(counts(&*ledger).await, []);
}

pub(in super::super) async fn subscriptions_about_to_lapse_are_found_until_they_do_not(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (mut lane, user) = (ledger.lane(), user());
    let (month, now) = (TimeDelta::days(30), Utc::now());
    let (half_an_hour, days) = (TimeDelta::minutes(30), TimeDelta::days);
    for (n, (id, created)) in
        [("sub_1", now - month + half_an_hour), ("sub_far", now - month + days(1)), ("sub_past", now - month - days(6))]
            .into_iter()
            .enumerate()
    {
        let told = snapshot(user, &format!("evt_{n}"), id, (SubscriptionStatus::Active, None), created);
        commit_one(&mut *lane, told).await;
    }
    for _ in 0..2 {
        ledger.find_lapsing(10).await.unwrap();
        assert_eq!(counts(&*ledger).await, waiting("lapsing"));
    }
    let fetch = given(&*ledger).await;
    assert_eq!((fetch.object.as_str(), fetch.reason), ("sub_1", FetchReason::Lapsing));
    assert!(fetch.ends_at.is_some_and(|end| end > now));
    ledger.end_fetch(&fetch, FetchEnd::Failed(Duration::ZERO)).await.unwrap();
    let again = given(&*ledger).await;
    ledger.end_fetch(&again, FetchEnd::Answered(Duration::ZERO)).await.unwrap();
    let anew = given(&*ledger).await;
    assert_eq!((again.attempts, anew.attempts), (2, 1), "it lapses all the same, and what failed before is over");
    assert!(anew.wanted_at > again.wanted_at);
    ledger.end_fetch(&anew, FetchEnd::Answered(LEASE)).await.unwrap();
    assert_eq!(ledger.fetches().await.unwrap()[0].oldest, None, "nothing waits for its answer");

    commit_one(&mut *lane, snapshot(user, "evt_9", "sub_1", (SubscriptionStatus::Active, None), now)).await;
    ledger.find_lapsing(10).await.unwrap();
    assert_eq!(counts(&*ledger).await, []);
}

/// While a new version reaches one replica after the other.
pub(in super::super) async fn an_older_replica_took_questions_that_it_cannot_read(on: &dyn TestLedger) {
    let ledger = on.ledger();
    tie_a_subscription(&mut *ledger.lane(), user()).await;
    on.execute("INSERT INTO stripe_fetches (object_id, reason, wanted_at, due_at) SELECT 'sub_2', 'new', wanted_at, wanted_at FROM stripe_fetches")
        .await;
    assert_eq!(given(&*ledger).await.reason, FetchReason::Tied);
    assert_eq!(on.value("SELECT attempts FROM stripe_fetches WHERE reason = 'new'").await, "0");
}

pub(in super::super) async fn money_that_went_back_of_an_unknown_payment_is_asked_about(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    commit_one(&mut *lane, refund("evt_1", "pi_1", "re_1", RefundStatus::Succeeded, 10)).await;
    let (unattached, unmeasured) = (("unattached".to_owned(), 1, 0), ("unmeasured".to_owned(), 1, 0));
    assert_eq!(counts(&*ledger).await, [unattached.clone(), unmeasured]);
    commit_one(&mut *lane, refunded("evt_2", "pi_1", 2900, 11)).await;
    assert_eq!(counts(&*ledger).await, [unattached]);
    commit_one(&mut *lane, tie("evt_3", "in_1", "sub_1", Some(100))).await;
    commit_one(&mut *lane, tie("evt_4", "pi_1", "in_1", None)).await;
    assert_eq!(counts(&*ledger).await, []);
}
