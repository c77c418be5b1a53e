//! The promise of the fold, tested over all orders: the same events give the same state, however they arrive.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    change::{Account, Decision, Effect},
    entitlement::{Entitlement, fold},
    grant::{Grant, GrantStatus, Source, SourceKind},
    id::{EventId, SessionId, SubscriptionId},
    level::Level,
    money::Objects,
    plan::{Mode, Terms, tests::catalogue},
    subscription::{Attributes, Snapshot, Snapshots, SubscriptionStatus},
};

pub(super) fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn report(event: &str, session: &str, level: &str, status: GrantStatus, created: i64) -> Effect {
    let level = Level::parse(level).unwrap();
    let period_end = catalogue().plan(&level).unwrap().period_end(Mode::Payment, Terms::default(), time(created));
    Effect::Purchase(Grant {
        source: Source { kind: SourceKind::Checkout, id: session.into() },
        level,
        status,
        period_end,
        reported_at: time(created),
        event: Some(EventId::parse(event).unwrap()),
        session: Some(SessionId::parse(session).unwrap()),
        payment_intent: None,
        customer: None,
        hold: None,
        snapshots: Snapshots::default(),
    })
}

/// All orders of a script, by Heap's method.
pub(super) fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    fn walk<T: Clone>(k: usize, items: &mut Vec<T>, out: &mut Vec<Vec<T>>) {
        if k <= 1 {
            out.push(items.clone());
            return;
        }
        for i in 0..k {
            walk(k - 1, items, out);
            items.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
        }
    }
    let mut out = Vec::new();
    walk(items.len(), &mut items.to_vec(), &mut out);
    out
}

fn run(script: &[Effect], now: DateTime<Utc>) -> Account {
    let mut account = Account::default();
    for effect in script {
        account.apply(effect, &Objects::default(), &catalogue(), now);
    }
    account
}

/// What must not depend on the order. The version counts applied changes and may.
fn essence(account: &Account) -> (Level, Option<DateTime<Utc>>, Vec<Grant>) {
    let mut grants = account.grants.clone();
    grants.sort_by(|a, b| a.source.cmp(&b.source));
    (account.entitlement.level.clone(), account.entitlement.expires_at, grants)
}

#[test]
fn all_720_orders_of_a_purchase_script_end_alike() {
    let script = [
        report("evt_1", "cs_a", "PRO", GrantStatus::Pending, 10),
        report("evt_2", "cs_a", "PRO", GrantStatus::Active, 400),
        report("evt_3", "cs_a", "PRO", GrantStatus::Active, 300),
        report("evt_4", "cs_b", "TRIAL", GrantStatus::Active, 20),
        report("evt_5", "cs_c", "TRIAL", GrantStatus::Active, 15),
        report("evt_6", "cs_d", "TEAM", GrantStatus::Revoked, 30),
    ];
    let expected = essence(&run(&script, time(500)));
    assert_eq!(expected.0.as_str(), "PRO");
    assert_eq!(expected.1, Some(time(300) + TimeDelta::days(365)), "the earliest event that shows it paid counts");
    let orders = permutations(&script);
    assert_eq!(orders.len(), 720);
    for order in orders {
        assert_eq!(essence(&run(&order, time(500))), expected);
    }
}

#[test]
fn a_failed_delayed_payment_grants_nothing_and_a_later_report_of_payment_does() {
    let pending = report("evt_1", "cs_a", "PRO", GrantStatus::Pending, 10);
    let failed = report("evt_2", "cs_a", "PRO", GrantStatus::Revoked, 20);
    let paid = report("evt_3", "cs_a", "PRO", GrantStatus::Active, 30);
    assert!(run(std::slice::from_ref(&pending), time(40)).entitlement.level.is_free());
    assert!(run(&[pending.clone(), failed.clone()], time(40)).entitlement.level.is_free());
    assert!(run(&[failed.clone(), pending.clone()], time(40)).entitlement.level.is_free());
    for order in permutations(&[pending, failed, paid]) {
        assert_eq!(run(&order, time(40)).entitlement.level.as_str(), "PRO");
    }
}

#[test]
fn a_trial_is_once_per_user_and_the_earliest_counts() {
    let first = report("evt_1", "cs_a", "TRIAL", GrantStatus::Active, 0);
    let second = report("evt_2", "cs_b", "TRIAL", GrantStatus::Active, 86_400);
    for order in permutations(&[first, second]) {
        let account = run(&order, time(2 * 86_400));
        assert_eq!(account.entitlement.expires_at, Some(time(0) + TimeDelta::days(7)));
        let late = time(0) + TimeDelta::days(7);
        assert!(fold(&account.grants, &catalogue(), late).0.is_free(), "the second trial never counts");
    }
}

#[test]
fn when_the_best_grant_lapses_the_next_best_takes_over() {
    let mut account = run(
        &[
            report("evt_1", "cs_a", "TEAM", GrantStatus::Active, 0),
            report("evt_2", "cs_b", "PRO", GrantStatus::Active, 86_400),
        ],
        time(90_000),
    );
    assert_eq!(account.entitlement.level.as_str(), "TEAM");
    let version = account.entitlement.version;
    let end = account.entitlement.expires_at.unwrap();
    let early = end - TimeDelta::seconds(1);
    assert_eq!(
        account.apply(&Effect::Lapse { version }, &Objects::default(), &catalogue(), early),
        Decision::Superseded
    );
    assert_eq!(
        account.apply(&Effect::Lapse { version: version + 1 }, &Objects::default(), &catalogue(), end),
        Decision::Superseded
    );
    assert_eq!(
        account.apply(&Effect::Lapse { version }, &Objects::default(), &catalogue(), end),
        Decision::Applied { grants: vec![] }
    );
    assert_eq!(account.entitlement.level.as_str(), "PRO");
    assert_eq!(account.entitlement.version, version + 1);
}

fn by_hand(id: u128, level: &str, until: i64) -> Grant {
    Grant::by_hand(Uuid::from_u128(id), Level::parse(level).unwrap(), time(until), time(0))
}

#[test]
fn what_a_person_gave_is_one_more_grant_until_a_person_takes_it() {
    let (gift, bought) = (by_hand(1, "TEAM", 1000), report("evt_1", "cs_a", "PRO", GrantStatus::Active, 0));
    let mut account = run(&[bought, Effect::GiveByHand(gift.clone())], time(1));
    assert_eq!((account.entitlement.level.as_str(), account.entitlement.expires_at), ("TEAM", Some(time(1000))));

    let again = Effect::GiveByHand(Grant { period_end: time(9999), ..gift.clone() });
    assert_eq!(
        account.apply(&again, &Objects::default(), &catalogue(), time(2)),
        Decision::Superseded,
        "the same id is the same grant"
    );
    let take = Effect::TakeByHand(gift.source.clone());
    assert_eq!(account.apply(&take, &Objects::default(), &catalogue(), time(3)), Decision::Applied { grants: vec![1] });
    assert_eq!((account.entitlement.level.as_str(), account.entitlement.version), ("PRO", 3));
    assert_eq!(account.grants[1].period_end, time(1000), "what it was is kept");
    for late in [take, Effect::GiveByHand(gift)] {
        assert_eq!(
            account.apply(&late, &Objects::default(), &catalogue(), time(4)),
            Decision::Superseded,
            "a late retry gives nothing back"
        );
    }
}

#[test]
fn what_was_bought_is_not_taken_by_hand() {
    let bought = report("evt_1", "cs_a", "PRO", GrantStatus::Active, 0);
    let mut account = run(&[bought], time(1));
    let take = Effect::TakeByHand(account.grants[0].source.clone());
    assert_eq!(account.apply(&take, &Objects::default(), &catalogue(), time(2)), Decision::Superseded);
    assert_eq!(account.entitlement.level.as_str(), "PRO");
}

#[test]
fn a_trial_given_by_hand_counts_beside_the_one_that_everybody_has() {
    let own = report("evt_1", "cs_a", "TRIAL", GrantStatus::Active, 0);
    let end_of_own = time(0) + TimeDelta::days(7);
    let given = by_hand(1, "TRIAL", 30 * 86_400);
    for order in permutations(&[own, Effect::GiveByHand(given.clone())]) {
        let mut account = run(&order, time(1));
        assert_eq!(account.entitlement.expires_at, Some(time(30 * 86_400)), "given although there was one");
        account.apply(&Effect::TakeByHand(given.source.clone()), &Objects::default(), &catalogue(), time(2));
        assert_eq!(account.entitlement.expires_at, Some(end_of_own), "nor was that one used up");
    }
}

#[test]
fn the_quantity_is_that_of_the_grant_that_holds_and_never_a_sum() {
    let seats = |id: &str, ends: i64, quantity| {
        let snapshot = Snapshot {
            status: SubscriptionStatus::Active,
            ends_at: time(ends),
            level: Level::parse("PRO").ok(),
            created: time(0),
            started_at: time(0),
            values: Attributes::new(),
            before: Attributes::new(),
            quantity,
            fetched_at: None,
        };
        Effect::Purchase(Grant::of_subscription(&SubscriptionId::parse(id).unwrap(), None, snapshot))
    };
    for (script, quantity) in [
        (vec![seats("sub_1", 100, Some(5)), seats("sub_2", 100, Some(3))], 5),
        (vec![seats("sub_1", 100, Some(5)), seats("sub_2", 101, Some(3))], 3),
        (vec![seats("sub_1", 100, Some(5)), Effect::GiveByHand(by_hand(1, "TEAM", 50))], 1),
        (vec![seats("sub_1", 100, None)], 1),
        (vec![seats("sub_1", 100, Some(0))], 1),
    ] {
        for order in permutations(&script) {
            assert_eq!(run(&order, time(1)).entitlement.quantity, quantity, "{order:?}");
        }
    }
    let mut ended = run(&[seats("sub_1", 100, Some(5))], time(1));
    ended.apply(&Effect::Lapse { version: 1 }, &Objects::default(), &catalogue(), time(100));
    assert_eq!((ended.entitlement.level.is_free(), ended.entitlement.quantity), (true, 1));
}

#[test]
fn an_unknown_level_is_never_served() {
    let Effect::Purchase(mut grant) = report("evt_1", "cs_a", "PRO", GrantStatus::Active, 0) else { unreachable!() };
    grant.level = Level::parse("ADMIN").unwrap();
    assert_eq!(fold(&[grant], &catalogue(), time(1)), (Level::free(), None, 1));
}

fn any_report() -> impl Strategy<Value = Effect> {
    (
        0..40_u32,
        0..5_u32,
        prop_oneof![Just("TRIAL"), Just("PRO"), Just("TEAM")],
        prop_oneof![Just(GrantStatus::Pending), Just(GrantStatus::Revoked), Just(GrantStatus::Active)],
        0..4_i64,
    )
        .prop_map(|(event, session, level, status, created)| {
            report(&format!("evt_{event}"), &format!("cs_{session}"), level, status, created * 86_400)
        })
}

/// An event id stands for one content, so a script keeps one report per id.
fn distinct_events(mut script: Vec<Effect>) -> Vec<Effect> {
    let mut seen = std::collections::HashSet::new();
    script.retain(|effect| match effect {
        Effect::Purchase(grant) => seen.insert(grant.event.clone()),
        _ => true,
    });
    script
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_order_with_any_repetition_ends_alike(
        script in prop::collection::vec(any_report(), 1..12).prop_map(distinct_events),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 24),
        now in 0..700_i64,
    ) {
        let now = time(now * 86_400);
        let expected = essence(&run(&script, now));
        let mut delivered: Vec<Effect> = script.clone();
        // Duplicates anywhere, then the rest in an order drawn at random.
        for index in &shuffle {
            let again = index.get(&script).clone();
            let place = index.index(delivered.len() + 1);
            delivered.insert(place, again);
        }
        for (place, index) in shuffle.iter().enumerate() {
            let other = index.index(delivered.len());
            let len = delivered.len();
            delivered.swap(place % len, other);
        }
        prop_assert_eq!(essence(&run(&delivered, now)), expected);
    }

    #[test]
    fn versions_count_exactly_the_applied_changes(script in prop::collection::vec(any_report(), 1..12)) {
        let mut account = Account::default();
        for effect in &script {
            let before = account.clone();
            match account.apply(effect, &Objects::default(), &catalogue(), time(0)) {
                Decision::Applied { .. } => {
                    prop_assert_eq!(account.entitlement.version, before.entitlement.version + 1);
                }
                Decision::Superseded => prop_assert_eq!(&account, &before),
            }
            // The same effect again never changes anything.
            let once = account.clone();
            prop_assert_eq!(account.apply(effect, &Objects::default(), &catalogue(), time(0)), Decision::Superseded);
            prop_assert_eq!(&account, &once);
        }
    }

    #[test]
    fn what_is_served_was_bought_and_is_live(
        script in prop::collection::vec(any_report(), 0..12),
        now in 0..700_i64,
    ) {
        let now = time(now * 86_400);
        let Entitlement { level, expires_at, .. } = run(&script, now).entitlement;
        if level.is_free() {
            prop_assert_eq!(expires_at, None);
        } else {
            let bought = script.iter().any(|effect| matches!(effect, Effect::Purchase(grant)
                if grant.level == level && grant.status == GrantStatus::Active && Some(grant.period_end) == expires_at));
            prop_assert!(bought && expires_at.is_some_and(|end| now < end));
        }
    }
}
