//! What Stripe answered when it was asked, and as whom it knows a user.

use chrono::{TimeDelta, Utc};
use tollgate::{
    domain::{
        change::{Cause, Effect},
        event::Outcome,
        grant::Grant,
        id::{CustomerId, UserId},
    },
    ledger::Entry,
};

use super::super::{commit_one, purchase, purchase_of, user};
use crate::harness::ledger::TestLedger;

/// A purchase with some of it changed.
fn changed(entry: Entry, change: impl FnOnce(&mut Grant), cause: Option<Cause>) -> Entry {
    let Entry::Change(mut purchase) = entry else { unreachable!() };
    let Effect::Purchase(grant) = &mut purchase.effect else { unreachable!() };
    change(grant);
    if let Some(cause) = cause {
        grant.event = None;
        purchase.cause = cause;
    }
    Entry::Change(purchase)
}

pub(in super::super) async fn a_fetched_purchase_and_its_event_are_one_grant_in_either_order(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let paid_at = Utc::now() - TimeDelta::minutes(1);
    let mut ends = Vec::new();
    for (turn, fetched_first) in [(1, true), (2, false)] {
        let user = user();
        let (event, session) = (format!("evt_{turn}"), format!("cs_{turn}"));
        let told = purchase_of(user, &event, &session, "PRO", paid_at);
        let later = purchase_of(user, &event, &session, "PRO", Utc::now());
        let fetched = changed(later, |_| (), Some(Cause::Fetched));
        let outcomes = if fetched_first {
            [commit_one(&mut *lane, fetched.clone()).await, commit_one(&mut *lane, told).await]
        } else {
            [commit_one(&mut *lane, told).await, commit_one(&mut *lane, fetched.clone()).await]
        };
        let second = if fetched_first { Outcome::Applied } else { Outcome::Superseded };
        assert_eq!(outcomes.map(|committed| committed.outcome), [Outcome::Applied, second]);
        assert_eq!(commit_one(&mut *lane, fetched).await.outcome, Outcome::Superseded, "asked again");
        assert_eq!(ledger.grants(user).await.unwrap().len(), 1);
        ends.push(ledger.entitlement(user).await.unwrap().expires_at);
        assert!(ledger.event(&event).await.unwrap().is_some(), "the event has its row all the same");
    }
    assert_eq!(ends[0], ends[1], "the event's own time holds");
}

pub(in super::super) async fn a_customer_is_that_of_the_newest_purchase_and_nobody_elses(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (owner, other) = (user(), user());
    let mut number = 0;
    let mut buy = async |user: UserId, customer: &str, days_ago: i64| {
        number += 1;
        let at = Utc::now() - TimeDelta::days(days_ago);
        let entry = purchase_of(user, &format!("evt_{number}"), &format!("cs_{number}"), "PRO", at);
        let entry = changed(entry, |grant| grant.customer = CustomerId::parse(customer).ok(), None);
        assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Applied);
    };
    let customer = async || ledger.customer(owner).await.unwrap().map(|customer| customer.as_str().to_owned());
    assert_eq!(customer().await, None);
    buy(owner, "cus_Ended", 500).await;
    assert_eq!(customer().await.as_deref(), Some("cus_Ended"), "what is over was a purchase, too");
    buy(owner, "cus_Live", 100).await;
    buy(owner, "cus_Newer", 10).await;
    assert_eq!(customer().await.as_deref(), Some("cus_Newer"));
    buy(other, "cus_Newer", 5).await;
    assert_eq!(customer().await.as_deref(), Some("cus_Live"), "one that two users share is nobody's");
    assert_eq!(ledger.customer(other).await.unwrap(), None);
    let plain = purchase(owner, "evt_0", "cs_0");
    assert_eq!(commit_one(&mut *lane, plain).await.outcome, Outcome::Applied);
    assert_eq!(customer().await.as_deref(), Some("cus_Live"), "a purchase without a customer says nothing");
}
