//! What people do by hand, and what is remembered of it and of everything else.

use chrono::{DateTime, TimeDelta, Utc};
use tollgate::{
    domain::{
        by_hand::{Line, Remark},
        change::{Cause, Change, Effect},
        event::{Outcome, ParkReason},
        grant::{Grant, GrantStatus},
        id::UserId,
        level::Level,
        subscription::SubscriptionStatus,
    },
    ledger::{Entry, HistoryEntry, Ledger},
};
use uuid::Uuid;

use super::{
    super::{commit_one, purchase, seconds, user},
    subscription::snapshot_of_many,
};
use crate::harness::{PATIENCE, eventually, ledger::TestLedger};

fn by_operator(user: UserId, effect: Effect) -> Entry {
    let line = |text| Line::parse(text).unwrap();
    let remark = Remark { operator: line("robin"), reason: line("a gift") };
    Entry::Change(Change { user, found_by: None, cause: Cause::Operator(remark), effect })
}

pub(crate) fn gift(user: UserId, id: u128, until: DateTime<Utc>) -> Entry {
    let grant = Grant::by_hand(Uuid::from_u128(id), Level::parse("PRO").unwrap(), until, seconds(1_790_000_000));
    by_operator(user, Effect::GiveByHand(grant))
}

pub(in crate::ledger) fn taking(user: UserId, id: u128) -> Entry {
    let Entry::Change(Change { effect: Effect::GiveByHand(grant), .. }) = gift(user, id, seconds(0)) else {
        unreachable!()
    };
    by_operator(user, Effect::TakeByHand(grant.source))
}

fn words(entry: &HistoryEntry) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let HistoryEntry { version, level, quantity, cause, event, operator, reason, source, .. } = entry;
    let [event, operator, reason, source] = [event, operator, reason, source].map(or_none);
    format!("{version} {level} {quantity} {cause} {event} {operator} {reason} {source}")
}

/// Whose level's time is over, with the version that is.
pub(in crate::ledger) async fn over(ledger: &dyn Ledger) -> Vec<(UserId, u64)> {
    ledger.lapsed(None, 10).await.unwrap().into_iter().map(|lapsed| (lapsed.user, lapsed.version)).collect()
}

pub(in crate::ledger) async fn what_changed_is_remembered_with_whose_doing_it_was(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (user, mut lane) = (user(), ledger.lane());
    let id = Uuid::from_u128(1);
    let until = Utc::now() + TimeDelta::seconds(1);
    assert_eq!(commit_one(&mut *lane, gift(user, 1, until)).await.outcome, Outcome::Applied);
    eventually(PATIENCE, "the level is over", || async { over(&*ledger).await == [(user, 1)] }).await;
    let lapse = Change { user, found_by: None, cause: Cause::Time, effect: Effect::Lapse { version: 1 } };
    assert_eq!(commit_one(&mut *lane, Entry::Change(lapse)).await.outcome, Outcome::Applied);
    // A fact that changes nothing: another version, and nothing to remember.
    let mut pending = purchase(user, "evt_1", "cs_1");
    if let Entry::Change(Change { effect: Effect::Purchase(grant), .. }) = &mut pending {
        grant.status = GrantStatus::Pending;
    }
    assert_eq!(commit_one(&mut *lane, pending).await.entitlement.unwrap().version, 3);
    let bought = commit_one(&mut *lane, purchase(user, "evt_2", "cs_1")).await.entitlement.unwrap();
    // What a person does is remembered also where the better grant holds as before.
    let soon = seconds(Utc::now().timestamp() + 60);
    for entry in [gift(user, 2, soon), taking(user, 2)] {
        assert_eq!(commit_one(&mut *lane, entry.clone()).await.outcome, Outcome::Applied);
        assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Superseded);
    }

    let history = ledger.history(user, None, 10).await.unwrap();
    let second = Uuid::from_u128(2);
    assert_eq!(
        history.iter().map(words).collect::<Vec<_>>(),
        [
            format!("6 PRO 1 operator - robin a gift manual:{second}"),
            format!("5 PRO 1 operator - robin a gift manual:{second}"),
            "4 PRO 1 delivery evt_2 - - checkout:cs_1".to_owned(),
            "2 FREE 1 time - - - -".to_owned(),
            format!("1 PRO 1 operator - robin a gift manual:{id}"),
        ]
    );
    assert_eq!((history[2].expires_at, history[3].expires_at), (bought.expires_at, None));
    assert!(history.iter().zip(&history[1..]).all(|(newer, older)| newer.changed_at >= older.changed_at));
    let versions = async |before, limit| {
        let page = ledger.history(user, before, limit).await.unwrap();
        page.iter().map(|entry| entry.version).collect::<Vec<_>>()
    };
    assert_eq!(versions(None, 2).await, [6, 5]);
    assert_eq!(versions(Some(5), 2).await, [4, 2]);
    assert_eq!(versions(Some(2), 2).await, [1]);
    assert_eq!(versions(Some(u64::MAX), 1).await, [6]);
    assert_eq!(ledger.history(super::user(), None, 10).await.unwrap(), []);
}

pub(in crate::ledger) async fn an_id_of_somebody_elses_grant_gives_nothing(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (owner, other, mut lane) = (user(), user(), ledger.lane());
    let until = seconds(Utc::now().timestamp() + 60);
    commit_one(&mut *lane, gift(owner, 1, until)).await;
    let refused = commit_one(&mut *lane, gift(other, 1, until)).await;
    assert_eq!(refused.outcome, Outcome::Parked(ParkReason::ForeignSource));
    commit_one(&mut *lane, taking(other, 1)).await;
    assert_eq!(ledger.entitlement(owner).await.unwrap().level.as_str(), "PRO");
    assert!(ledger.entitlement(other).await.unwrap().level.is_free());
    assert_eq!(ledger.history(other, None, 10).await.unwrap(), []);
    assert_eq!(on.value("SELECT count(*) FROM stripe_events").await, "0", "there is no event to be parked");
}

pub(in crate::ledger) async fn how_many_were_bought_is_part_of_the_state(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (user, mut lane) = (user(), ledger.lane());
    let began = Utc::now() - TimeDelta::days(1);
    for (n, (status, bought, quantity)) in (1..).zip([
        (SubscriptionStatus::Active, 5, 5),
        (SubscriptionStatus::Active, 3, 3),
        (SubscriptionStatus::Canceled, 3, 1),
    ]) {
        let event = format!("evt_{n}");
        let entry = snapshot_of_many(user, &event, "sub_1", (status, None), began + TimeDelta::seconds(n), bought);
        let committed = commit_one(&mut *lane, entry).await.entitlement.unwrap();
        assert_eq!(committed.quantity, quantity);
        assert_eq!(ledger.entitlement(user).await.unwrap(), committed);
        let changed = ledger.changed_between(began, Utc::now() + TimeDelta::hours(1), 10).await.unwrap();
        assert_eq!(changed.iter().map(|state| state.entitlement.quantity).collect::<Vec<_>>(), [quantity]);
        let history = ledger.history(user, None, 1).await.unwrap();
        assert_eq!((history[0].version, history[0].quantity), (committed.version, quantity));
    }
}

pub(in crate::ledger) async fn levels_that_are_over_are_listed_in_pages(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    for n in 0..7 {
        commit_one(&mut *lane, purchase(user(), &format!("evt_{n}"), &format!("cs_{n}"))).await;
    }
    // All but one end at the same moment.
    for (end, which) in [("min", ">="), ("max", "=")] {
        let moment = format!("(SELECT {end}(changed_at) FROM entitlement_state)");
        on.execute(&format!("UPDATE entitlement_state SET expires_at = {moment} WHERE changed_at {which} {moment}"))
            .await;
    }
    let all = ledger.lapsed(None, 10).await.unwrap();
    assert_eq!(all.len(), 7);
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = ledger.lapsed(after, 2).await.unwrap();
        listed.extend(page.iter().copied());
        after = page.last().copied();
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(listed, all);
}
