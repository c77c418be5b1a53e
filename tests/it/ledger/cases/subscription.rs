//! Subscriptions: their own events replace what their checkout said, each one's end is its own, and whose they are is read under the
//! lock.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rand::seq::SliceRandom;
use tollgate::{
    domain::{
        change::{Cause, Change, Effect, Owner, Subject},
        event::{EventRecord, Outcome, ParkReason},
        grant::{Grant, GrantStatus, Source, SourceKind},
        id::{CustomerId, SubscriptionId, UserId},
        level::Level,
        subscription::{Snapshot, SubscriptionStatus},
    },
    ledger::{Entry, LedgerError, Note, Verdict},
};

use super::super::{commit, commit_one, event, purchase, user};
use crate::harness::ledger::TestLedger;

const CUSTOMER: &str = "cus_1";

fn subscription(id: &str) -> SubscriptionId {
    SubscriptionId::parse(id).unwrap()
}

/// A subscription to PRO as an event of this moment shows it; it gives a month if it gives anything. `was` is the status before.
pub(in crate::ledger) fn snapshot(
    user: UserId,
    event_id: &str,
    id: &str,
    (status, was): (SubscriptionStatus, Option<SubscriptionStatus>),
    created: DateTime<Utc>,
) -> Entry {
    snapshot_of_many(user, event_id, id, (status, was), created, 1)
}

/// The same, of so many.
pub(super) fn snapshot_of_many(
    user: UserId,
    event_id: &str,
    id: &str,
    (status, was): (SubscriptionStatus, Option<SubscriptionStatus>),
    created: DateTime<Utc>,
    quantity: u32,
) -> Entry {
    let created = DateTime::from_timestamp(created.timestamp(), 0).unwrap();
    let attributes = |status: SubscriptionStatus| BTreeMap::from([("status".to_owned(), format!("{status:?}"))]);
    let snapshot = Snapshot {
        status,
        ends_at: created + TimeDelta::days(30),
        level: status.gives().then(|| Level::parse("PRO").unwrap()),
        created,
        started_at: created,
        values: attributes(status),
        before: was.map(attributes).unwrap_or_default(),
        quantity: Some(quantity),
        fetched_at: None,
    };
    let customer = CustomerId::parse(CUSTOMER).unwrap();
    let effect = Effect::Purchase(Grant::of_subscription(&subscription(id), Some(customer), snapshot));
    Entry::Change(Change { user, found_by: None, cause: Cause::Delivery(event(event_id)), effect })
}

/// The checkout of a subscription, paid.
fn checkout(user: UserId, event_id: &str, id: &str) -> Entry {
    let mut entry = purchase(user, event_id, "cs_1");
    if let Entry::Change(Change { effect: Effect::Purchase(grant), .. }) = &mut entry {
        grant.source = Source { kind: SourceKind::Subscription, id: id.into() };
    }
    entry
}

/// The same change, of an event that did not name the user.
fn found(entry: Entry, id: &str, customer: Option<&str>) -> Entry {
    let Entry::Change(change) = entry else { unreachable!() };
    let customer = customer.map(|customer| CustomerId::parse(customer).unwrap());
    Entry::Change(Change { found_by: Some(Subject { subscription: subscription(id), customer }), ..change })
}

pub(crate) async fn a_subscriptions_own_events_replace_what_its_checkout_said(on: &dyn TestLedger) {
    use SubscriptionStatus::{Active, Canceled, Paused};
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (user, start) = (user(), Utc::now() - TimeDelta::days(1));
    let provisional = commit_one(&mut *lane, checkout(user, "evt_1", "sub_1")).await.entitlement.unwrap();
    let refined = commit_one(&mut *lane, snapshot(user, "evt_2", "sub_1", (Active, None), start)).await;
    let refined = refined.entitlement.unwrap();
    assert_eq!((refined.level.as_str(), refined.version), ("PRO", 2));
    assert!(refined.expires_at < provisional.expires_at);

    let live = "SELECT count(*) FROM user_entitlements WHERE expires_at > created_at";
    let status = "SELECT status FROM user_entitlements";
    assert_eq!((on.value(live).await, on.value(status).await), ("1".into(), "active".into()));
    let later = start + TimeDelta::hours(1);
    let paused = commit_one(&mut *lane, snapshot(user, "evt_3", "sub_1", (Paused, Some(Active)), later)).await;
    assert!(paused.entitlement.unwrap().level.is_free());
    assert_eq!((on.value(live).await, on.value(status).await), ("0".into(), "suspended".into()));
    let resumed = snapshot(user, "evt_4", "sub_1", (Active, Some(Paused)), later + TimeDelta::seconds(1));
    assert_eq!(commit_one(&mut *lane, resumed).await.entitlement.unwrap().level.as_str(), "PRO");
    let ended = snapshot(user, "evt_5", "sub_1", (Canceled, Some(Active)), later);
    assert!(
        commit_one(&mut *lane, ended).await.entitlement.unwrap().level.is_free(),
        "ended for ever, however late told"
    );
    assert_eq!((on.value(live).await, on.value(status).await), ("0".into(), "revoked".into()));

    let sibling = snapshot(user, "evt_6", "sub_1", (Canceled, Some(Active)), later);
    assert_eq!(commit_one(&mut *lane, sibling).await.outcome, Outcome::Superseded, "two events for one change");
    let [grant] = &ledger.grants(user).await.unwrap()[..] else { panic!("one row per subscription") };
    assert_eq!((grant.status, grant.session.as_ref().unwrap().as_str()), (GrantStatus::Revoked, "cs_1"));
    assert_eq!(ledger.entitlement(user).await.unwrap().version, 5);
}

pub(crate) async fn an_end_that_is_known_before_all_else_stays_the_end(on: &dyn TestLedger) {
    use SubscriptionStatus::{Active, Canceled};
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (user, start) = (user(), Utc::now() - TimeDelta::days(1));
    let ended = snapshot(user, "evt_1", "sub_1", (Canceled, None), start + TimeDelta::hours(1));
    assert!(commit_one(&mut *lane, ended).await.entitlement.unwrap().level.is_free());
    assert_eq!(on.value("SELECT entitlement_level FROM user_entitlements").await, "FREE", "its price was not known");
    let began = commit_one(&mut *lane, snapshot(user, "evt_2", "sub_1", (Active, None), start)).await;
    assert_eq!(began.outcome, Outcome::Superseded);
    let bought = commit_one(&mut *lane, checkout(user, "evt_3", "sub_1")).await;
    assert!(bought.entitlement.unwrap().level.is_free());
}

pub(crate) async fn a_late_end_of_an_old_subscription_leaves_the_new_one_alone(on: &dyn TestLedger) {
    use SubscriptionStatus::{Active, Canceled};
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (user, start) = (user(), Utc::now() - TimeDelta::days(3));
    commit_one(&mut *lane, snapshot(user, "evt_1", "sub_old", (Active, None), start)).await;
    let new = snapshot(user, "evt_2", "sub_new", (Active, None), start + TimeDelta::days(2));
    let new = commit_one(&mut *lane, new).await.entitlement.unwrap();
    let end = snapshot(user, "evt_3", "sub_old", (Canceled, Some(Active)), start + TimeDelta::days(1));
    let after = commit_one(&mut *lane, end).await.entitlement.unwrap();
    assert_eq!((after.level, after.expires_at, after.version), (new.level, new.expires_at, 3));
}

/// The first second of a subscription, in both orders, in one transaction and in two.
pub(crate) async fn of_one_second_the_later_state_holds_in_any_order(on: &dyn TestLedger) {
    use SubscriptionStatus::{Incomplete, PastDue, Trialing};
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let now = Utc::now();
    for (n, (first, second)) in
        [(Incomplete, Trialing), (Trialing, Incomplete), (Trialing, PastDue)].into_iter().enumerate()
    {
        for (order, together) in [([0, 1], true), ([1, 0], true), ([0, 1], false), ([1, 0], false)] {
            let (user, id) = (user(), format!("{n}_{}{}", order[0], u8::from(together)));
            let events = [(first, None), (second, Some(first))];
            let entries = order
                .map(|place| snapshot(user, &format!("evt_{id}_{place}"), &format!("sub_{id}"), events[place], now));
            if together {
                commit(&mut *lane, entries.into()).await;
            } else {
                for entry in entries {
                    commit_one(&mut *lane, entry).await;
                }
            }
            let expected = if second.gives() { "PRO" } else { "FREE" };
            assert_eq!(ledger.entitlement(user).await.unwrap().level.as_str(), expected, "{first:?} {second:?} {id}");
        }
    }
}

pub(crate) async fn an_owner_is_found_by_what_was_bought(on: &dyn TestLedger) {
    use SubscriptionStatus::{Active, Canceled};
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (one, other, now) = (user(), user(), Utc::now());
    let subject = |id: &str, customer: Option<&str>| Subject {
        subscription: subscription(id),
        customer: customer.map(|customer| CustomerId::parse(customer).unwrap()),
    };
    assert_eq!(ledger.owner(&subject("sub_1", Some(CUSTOMER))).await.unwrap(), Owner::Nobody);
    commit_one(&mut *lane, snapshot(one, "evt_1", "sub_1", (Active, None), now)).await;
    for customer in [None, Some(CUSTOMER), Some("cus_2")] {
        assert_eq!(ledger.owner(&subject("sub_1", customer)).await.unwrap(), Owner::User(one), "{customer:?}");
    }
    assert_eq!(ledger.owner(&subject("sub_2", Some(CUSTOMER))).await.unwrap(), Owner::Likely(one));
    assert_eq!(ledger.owner(&subject("sub_2", None)).await.unwrap(), Owner::Nobody);

    let unnamed = found(snapshot(one, "evt_2", "sub_2", (Active, None), now), "sub_2", Some(CUSTOMER));
    assert_eq!(commit_one(&mut *lane, unnamed).await.outcome, Outcome::Applied);
    commit_one(&mut *lane, snapshot(other, "evt_3", "sub_3", (Active, None), now)).await;
    assert_eq!(ledger.owner(&subject("sub_4", Some(CUSTOMER))).await.unwrap(), Owner::Several);
    assert_eq!(ledger.owner(&subject("sub_2", Some(CUSTOMER))).await.unwrap(), Owner::User(one), "that is certain");
    let end = snapshot(one, "evt_4", "sub_2", (Canceled, None), now + TimeDelta::seconds(1));
    assert_eq!(commit_one(&mut *lane, found(end, "sub_2", Some(CUSTOMER))).await.outcome, Outcome::Applied);
}

/// An end whose owner nobody knew had been tried many times when the subscription was bought.
pub(crate) async fn an_end_waited_for_an_hour_after_its_subscription_was_bought(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    for id in ["sub_1", "sub_2"] {
        let event = EventRecord { object_id: Some(id.to_owned()), ..event(&format!("evt_{id}")) };
        let verdict = Verdict::Parked(ParkReason::UnknownOwner);
        commit_one(&mut *lane, Entry::Note(Note { event, verdict, user: None })).await;
    }
    for (ago, due) in [(31, 2), (61, 2), (121, 2), (60, 0)] {
        for id in ["evt_sub_1", "evt_sub_2"] {
            on.last_tried(id, Duration::from_secs(ago)).await;
        }
        assert_eq!(ledger.parked_due(10).await.unwrap().len(), due, "{ago}: more and more rarely");
    }
    commit_one(&mut *lane, checkout(user(), "evt_1", "sub_1")).await;
    let due = ledger.parked_due(10).await.unwrap();
    assert_eq!(due.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["evt_sub_1"]);
}

/// Between being looked up and being locked the owner became another one: nothing is written for that event, and its batch goes on.
pub(crate) async fn nothing_is_written_for_an_owner_who_has_changed(on: &dyn TestLedger) {
    use SubscriptionStatus::{Active, Canceled};
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (one, other, now) = (user(), user(), Utc::now());
    commit_one(&mut *lane, snapshot(one, "evt_1", "sub_1", (Active, None), now)).await;
    let later = now + TimeDelta::seconds(1);
    let mistaken = found(snapshot(other, "evt_2", "sub_1", (Canceled, None), later), "sub_1", None);
    let batch = vec![purchase(other, "evt_3", "cs_3"), mistaken, purchase(other, "evt_4", "cs_4")];
    let results = commit(&mut *lane, batch).await;
    assert_eq!(results[1], Err(LedgerError::OwnerChanged));
    for result in [&results[0], &results[2]] {
        assert_eq!(result.as_ref().unwrap().outcome, Outcome::Applied);
    }
    assert_eq!(on.value("SELECT count(*) FROM stripe_events WHERE id = 'evt_2'").await, "0", "it is not lost");
    assert_eq!(ledger.entitlement(one).await.unwrap().level.as_str(), "PRO");
    let right = found(snapshot(one, "evt_2", "sub_1", (Canceled, None), later), "sub_1", None);
    assert_eq!(commit_one(&mut *lane, right).await.outcome, Outcome::Applied);
    assert!(ledger.entitlement(one).await.unwrap().level.is_free());
}

pub(crate) async fn a_subscriptions_events_on_many_lanes_at_once_end_in_the_last_state(on: &dyn TestLedger) {
    use SubscriptionStatus::{Paused, Trialing, Unpaid};
    const LANES: usize = 8;
    let ledger = on.ledger();
    let (user, start) = (user(), Utc::now() - TimeDelta::days(1));
    // In each second the trial is paused: the last state is a pause.
    let mut events: Vec<Entry> = (0..24)
        .map(|n| {
            let states = if n % 2 == 0 { (Trialing, Some(Unpaid)) } else { (Paused, Some(Trialing)) };
            snapshot(user, &format!("evt_{n}"), "sub_1", states, start + TimeDelta::seconds(n / 2))
        })
        .collect();
    events.shuffle(&mut rand::rng());
    let lanes = events.chunks(events.len().div_ceil(LANES)).map(|part| {
        let (mut lane, part) = (ledger.lane(), part.to_vec());
        tokio::spawn(async move { commit(&mut *lane, part).await })
    });
    for results in futures::future::join_all(lanes).await {
        assert!(results.unwrap().iter().all(Result::is_ok));
    }
    let [grant] = &ledger.grants(user).await.unwrap()[..] else { panic!("one row per subscription") };
    assert_eq!(grant.status, GrantStatus::Suspended);
    assert!(ledger.entitlement(user).await.unwrap().level.is_free());
    assert_eq!(on.value("SELECT count(*) FROM stripe_events").await, "24");
}
