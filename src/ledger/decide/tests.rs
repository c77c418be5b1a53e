//! Decisions that must not be made, between what was read and what is to be written.

use chrono::{DateTime, TimeDelta};
use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        change::Cause,
        entitlement::Entitlement,
        grant::{Grant, Source, SourceKind},
        id::CustomerId,
        level::Level,
        money::{Fact, Facts, Object},
        plan,
    },
    ledger::reach::Reaches,
};

/// While a new catalogue reached one replica after the other, a change at one that did not have it yet made `FREE` of what was held.
#[test]
fn a_replica_without_the_new_level_folded_its_holder_to_free() {
    let (user, now) = (UserId::from(Uuid::from_u128(1)), DateTime::UNIX_EPOCH);
    let (team, end) = (Level::parse("TEAM").unwrap(), now + TimeDelta::days(30));
    let grant = Grant::by_hand(Uuid::from_u128(2), team.clone(), end, now);
    let taken = Grant::by_hand(Uuid::from_u128(3), Level::parse("PRO").unwrap(), end, now);
    let cause = Cause::Time;
    let effect = Effect::TakeByHand(taken.source.clone());
    let entry = Entry::Change(Change { user, found_by: None, cause, effect });
    let users = Users::of(&[&entry], &Reaches::of(&[&entry], Vec::new()));
    let decide = |catalogue: &Catalogue, now| {
        let entitlement = Entitlement { level: team.clone(), expires_at: Some(end), quantity: 1, version: 2 };
        let account = Account { entitlement, grants: vec![grant.clone(), taken.clone()] };
        let mut found = Found {
            inbox: Inbox { first: HashSet::new(), waiting: HashSet::new() },
            accounts: vec![Loaded { exists: true, account, now, ..Loaded::default() }],
            money: Objects::default(),
        };
        let decided =
            decide(&[&entry], &users, |_| true, &mut found, catalogue, true).map(|decided| decided.slots.len());
        (decided, found.accounts.remove(0).account.entitlement.level)
    };
    let new = plan::tests::catalogue();
    let old = Catalogue::new(new.plans().iter().filter(|plan| plan.level != team).cloned().collect()).unwrap();
    let (decided, _) = decide(&old, now);
    assert!(matches!(decided, Err(Failure::Culprit(0, LedgerError::Unavailable(_)))), "{decided:?}");
    assert!(matches!(decide(&new, now), (Ok(1), level) if level == team));
    assert!(matches!(decide(&old, end), (Ok(1), level) if level.is_free()), "what is over is not held");
}

/// A customer who was deleted had bought more than one thing, and the history named any of them.
#[test]
fn the_history_named_a_grant_that_had_given_nothing() {
    let (user, now) = (UserId::from(Uuid::from_u128(1)), DateTime::UNIX_EPOCH);
    let (pro, end) = (Level::parse("PRO").unwrap(), now + TimeDelta::days(30));
    let customer = CustomerId::parse("cus_1").unwrap();
    let bought = |id: u128, level: &str| Grant {
        source: Source { kind: SourceKind::Checkout, id: format!("cs_{id}").into() },
        customer: Some(customer.clone()),
        ..Grant::by_hand(Uuid::from_u128(id), Level::parse(level).unwrap(), end, now)
    };
    let says = Object { facts: Facts { deleted: true, ..Facts::default() }, ..Object::default() };
    let deleted = Report { cause: Cause::Time, facts: vec![Fact { id: customer.object(), says }] };
    let entry = Entry::Report(deleted);
    for grants in [[bought(1, "PRO"), bought(2, "TRIAL")], [bought(2, "TRIAL"), bought(1, "PRO")]] {
        let entitlement = Entitlement { level: pro.clone(), expires_at: Some(end), quantity: 1, version: 2 };
        let account = Account { entitlement, grants: grants.into() };
        let mut found = Found {
            inbox: Inbox { first: HashSet::new(), waiting: HashSet::new() },
            accounts: vec![Loaded { exists: true, account, now, ..Loaded::default() }],
            money: Objects::default(),
        };
        let reached = Reaches::of(&[&entry], vec![(1, None, Some(user.uuid()))]);
        let users = Users::of(&[&entry], &reached);
        decide(&[&entry], &users, |_| true, &mut found, &plan::tests::catalogue(), true).map(|_| ()).unwrap();
        let named: Vec<_> =
            found.accounts[0].history.iter().map(|row| row.source.as_ref().unwrap().to_string()).collect();
        assert_eq!(named, ["checkout:cs_1"]);
    }
}
