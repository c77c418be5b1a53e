//! Subscriptions over all orders of their events, against a model that knows the history: what came last in it holds.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;
use crate::domain::{
    change::{Account, Decision, Effect},
    grant::{Grant, Source, SourceKind},
    id::{EventId, SessionId, SubscriptionId},
    money::Objects,
    plan::{self, Catalogue, Mode, tests::catalogue},
    tests::{permutations, time},
};

const DAY: i64 = 86_400;

/// What a subscription looked like, with the attributes that the tests change.
#[derive(Debug, Clone)]
struct Looks {
    status: SubscriptionStatus,
    ends_at: i64,
    invoice: u32,
}

impl Looks {
    fn attributes(&self) -> Attributes {
        let status = format!("{:?}", self.status);
        let (ends_at, invoice) = (self.ends_at.to_string(), format!("\"in_{}\"", self.invoice));
        [("status", status), ("current_period_end", ends_at), ("latest_invoice", invoice)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }
}

/// The events of a subscription that went through these states, each with Stripe's second.
fn history(steps: &[(i64, Looks)]) -> Vec<Snapshot> {
    let mut before: Option<Attributes> = None;
    let mut events = Vec::new();
    for (created, looks) in steps {
        let values = looks.attributes();
        let earlier = before.replace(values.clone()).unwrap_or_default();
        events.push(Snapshot {
            status: looks.status,
            ends_at: time(looks.ends_at),
            level: looks.status.gives().then(|| Level::parse("PRO").unwrap()),
            created: time(*created),
            started_at: time(0),
            before: earlier.into_iter().filter(|(name, value)| values.get(name) != Some(value)).collect(),
            values,
            quantity: None,
            fetched_at: None,
        });
    }
    events
}

fn id() -> SubscriptionId {
    SubscriptionId::parse("sub_1").unwrap()
}

fn told(snapshot: &Snapshot) -> Effect {
    Effect::Purchase(Grant::of_subscription(&id(), None, snapshot.clone()))
}

/// The session in which it was bought, paid at this second.
fn checkout(created: i64) -> Effect {
    let level = Level::parse("PRO").unwrap();
    let period_end =
        catalogue().plan(&level).unwrap().period_end(Mode::Subscription, plan::Terms::default(), time(created));
    Effect::Purchase(Grant {
        source: Source { kind: SourceKind::Subscription, id: "sub_1".into() },
        level,
        status: GrantStatus::Active,
        period_end,
        reported_at: time(created),
        event: Some(EventId::parse("evt_checkout").unwrap()),
        session: Some(SessionId::parse("cs_1").unwrap()),
        payment_intent: None,
        customer: None,
        hold: None,
        snapshots: Snapshots::default(),
    })
}

fn run(script: &[Effect], catalogue: &Catalogue, now: DateTime<Utc>) -> Account {
    let mut account = Account::default();
    for effect in script {
        account.apply(effect, &Objects::default(), catalogue, now);
    }
    account
}

/// Level and end as the model has them: of the last state, if that gives anything.
fn expected(last: &Snapshot, now: DateTime<Utc>) -> (Level, Option<DateTime<Utc>>) {
    match &last.level {
        Some(level) if now < last.ends_at => (level.clone(), Some(last.ends_at)),
        _ => (Level::free(), None),
    }
}

fn looks(status: SubscriptionStatus, ends_at: i64, invoice: u32) -> Looks {
    Looks { status, ends_at, invoice }
}

/// Bought, paid and given its first invoice within one second; renewed, not paid, ended.
fn life() -> Vec<Snapshot> {
    use SubscriptionStatus::{Active, Canceled, Incomplete, PastDue};
    history(&[
        (0, looks(Incomplete, 30 * DAY, 1)),
        (0, looks(Active, 33 * DAY, 1)),
        (30 * DAY, looks(Active, 63 * DAY, 2)),
        (60 * DAY, looks(PastDue, 63 * DAY, 3)),
        (60 * DAY, looks(Canceled, 60 * DAY, 3)),
    ])
}

#[test]
fn all_orders_of_all_parts_of_a_life_end_in_its_last_state() {
    let (life, catalogue) = (life(), catalogue());
    let mut events: Vec<(usize, Effect)> = life.iter().map(told).enumerate().collect();
    events.push((events.len(), checkout(1)));
    for part in 1..1_u32 << events.len() {
        let script: Vec<_> = events.iter().filter(|(place, _)| part & (1 << place) != 0).cloned().collect();
        let last = script.iter().filter_map(|(place, _)| life.get(*place)).next_back();
        for order in permutations(&script) {
            let mut order: Vec<Effect> = order.into_iter().map(|(_, effect)| effect).collect();
            let now = time(15 * DAY);
            let once = run(&order, &catalogue, now);
            let found = (once.entitlement.level.clone(), once.entitlement.expires_at);
            match last {
                Some(last) => assert_eq!(found, expected(last, now), "{order:#?}"),
                None => assert_eq!(found.0.as_str(), "PRO", "bought, and nothing else is known"),
            }
            assert_eq!(once.grants.len(), 1);
            // All of it again, backwards: nothing changes.
            order.reverse();
            let mut twice = once.clone();
            for effect in &order {
                assert_eq!(twice.apply(effect, &Objects::default(), &catalogue, now), Decision::Superseded);
            }
            assert_eq!(twice, once);
        }
    }
}

#[test]
fn a_checkout_that_comes_last_keeps_what_the_subscription_says_and_is_linked() {
    let [_, active, ..] = &life()[..] else { unreachable!() };
    for order in permutations(&[told(active), checkout(1)]) {
        let account = run(&order, &catalogue(), time(DAY));
        let grant = &account.grants[0];
        assert_eq!((grant.period_end, grant.session.as_ref().unwrap().as_str()), (active.ends_at, "cs_1"));
        assert_eq!(grant.event.as_ref().unwrap().as_str(), "evt_checkout");
    }
}

#[test]
fn two_events_for_one_change_are_one_change() {
    let life = life();
    let mut account = run(&[told(&life[1])], &catalogue(), time(0));
    let once = account.clone();
    assert_eq!(account.apply(&told(&life[1]), &Objects::default(), &catalogue(), time(1)), Decision::Superseded);
    assert_eq!(account, once);
}

#[test]
fn a_tie_that_nobody_can_break_keeps_the_richer_state_and_says_so() {
    use SubscriptionStatus::{Active, PastDue};
    let there_and_back =
        history(&[(0, looks(Active, DAY, 1)), (0, looks(PastDue, DAY, 1)), (0, looks(Active, DAY, 1))]);
    for order in permutations(&there_and_back[1..]) {
        let snapshots = order.into_iter().map(Snapshots::from).reduce(|mut one, other| {
            one.join(&other);
            one
        });
        let snapshots = snapshots.unwrap();
        assert_eq!(snapshots.latest().unwrap().status, Active);
        assert!(!snapshots.is_tied(), "both give the same");
    }
    let unrelated = [
        history(&[(0, looks(Active, DAY, 1))]).remove(0),
        history(&[(0, looks(SubscriptionStatus::Paused, DAY, 1))]).remove(0),
    ];
    for order in permutations(&unrelated) {
        let mut snapshots = Snapshots::from(order[0].clone());
        assert!(!snapshots.is_tied());
        snapshots.join(&order[1].clone().into());
        assert_eq!(snapshots.latest().unwrap().status, Active);
        assert!(snapshots.is_tied());
        snapshots.join(&history(&[(1, looks(PastDue, DAY, 2))]).remove(0).into());
        assert!(!snapshots.is_tied(), "a newer event has told");
    }
}

#[test]
fn more_events_of_one_second_than_are_kept_end_alike_in_any_order() {
    let events: Vec<Snapshot> = (0..3 * SAME_SECOND_MAX)
        .map(|n| history(&[(0, looks(SubscriptionStatus::Active, i64::try_from(n).unwrap(), 1))]).remove(0))
        .collect();
    let join = |events: &mut dyn Iterator<Item = &Snapshot>| {
        events.fold(Snapshots::default(), |mut known, event| {
            known.join(&event.clone().into());
            known
        })
    };
    let (forth, back) = (join(&mut events.iter()), join(&mut events.iter().rev()));
    assert_eq!(forth, back);
    assert_eq!(forth.latest(), events.last());
}

#[test]
fn once_per_user_counts_from_the_subscriptions_beginning() {
    let mut plans = catalogue().plans().to_vec();
    plans.iter_mut().for_each(|plan| plan.once_per_user = true);
    let catalogue = Catalogue::new(plans).unwrap();
    let [_, active, renewed, ..] = &life()[..] else { unreachable!() };
    let Effect::Purchase(mut second) = told(&Snapshot { started_at: time(DAY), ..active.clone() }) else {
        unreachable!()
    };
    second.source.id = "sub_2".into();
    for order in permutations(&[told(active), told(renewed), Effect::Purchase(second)]) {
        let account = run(&order, &catalogue, time(15 * DAY));
        assert_eq!(
            account.entitlement.expires_at,
            Some(renewed.ends_at),
            "the first one counts, however new its last event"
        );
    }
}

#[test]
fn a_subscription_that_ended_was_the_one_a_user_may_have() {
    let mut plans = catalogue().plans().to_vec();
    plans.iter_mut().for_each(|plan| plan.once_per_user = true);
    let catalogue = Catalogue::new(plans).unwrap();
    let life = life();
    let Effect::Purchase(mut second) = told(&Snapshot { started_at: time(DAY), ..life[2].clone() }) else {
        unreachable!()
    };
    second.source.id = "sub_2".into();
    let first = |status| told(&Snapshot { status, level: Level::parse("PRO").ok(), ..life[4].clone() });
    for (status, gets_another) in [(SubscriptionStatus::Canceled, false), (SubscriptionStatus::IncompleteExpired, true)]
    {
        for order in permutations(&[first(status), Effect::Purchase(second.clone())]) {
            let level = run(&order, &catalogue, time(40 * DAY)).entitlement.level;
            assert_eq!(!level.is_free(), gets_another, "{status:?}");
        }
    }
}

/// Everything at once: the best of what is live holds, whatever came when.
#[test]
fn all_720_orders_of_a_mixed_script_end_alike() {
    let (life, catalogue) = (life(), catalogue());
    let bought = |session: &str, level: &str, created: i64| {
        let Effect::Purchase(grant) = checkout(created) else { unreachable!() };
        let level = Level::parse(level).unwrap();
        Effect::Purchase(Grant {
            source: Source { kind: SourceKind::Checkout, id: session.into() },
            period_end: catalogue.plan(&level).unwrap().period_end(
                Mode::Payment,
                plan::Terms::default(),
                time(created),
            ),
            level,
            event: EventId::parse(&format!("evt_{session}")).ok(),
            session: SessionId::parse(session).ok(),
            ..grant
        })
    };
    let script = [
        checkout(1),
        told(&life[1]),
        told(&life[2]),
        told(&life[4]),
        bought("cs_trial", "TRIAL", 58 * DAY),
        bought("cs_team", "TEAM", -310 * DAY),
    ];
    for (now, level, end) in [
        (50 * DAY, "TEAM", Some(time(55 * DAY))),
        // The subscription is known to have ended, so that the trial is what is left.
        (60 * DAY, "TRIAL", Some(time(65 * DAY))),
        (70 * DAY, "FREE", None),
    ] {
        for order in permutations(&script) {
            let found = run(&order, &catalogue, time(now)).entitlement;
            assert_eq!((found.level.as_str(), found.expires_at), (level, end), "{order:#?}");
        }
    }
}

#[test]
fn a_late_end_of_an_old_subscription_leaves_the_new_one_alone() {
    let life = life();
    let Effect::Purchase(mut new) = told(&life[2]) else { unreachable!() };
    new.source.id = "sub_2".into();
    for order in permutations(&[told(&life[1]), told(&life[4]), Effect::Purchase(new)]) {
        let account = run(&order, &catalogue(), time(40 * DAY));
        assert_eq!(
            (account.entitlement.level.as_str(), account.entitlement.expires_at),
            ("PRO", Some(life[2].ends_at))
        );
    }
}

#[test]
fn when_access_ends() {
    use SubscriptionStatus::{Active, Canceled, Incomplete, PastDue, Paused, Trialing, Unpaid};
    let (start, end, grace) = (time(0), time(30 * DAY), TimeDelta::days(3));
    let terms = |status| Terms {
        status,
        period_start: Some(start),
        period_end: Some(end),
        trial_end: None,
        cancel_at: None,
        cancels_at_period_end: false,
        ended_at: None,
    };
    let early = Some(time(10 * DAY));
    let late = Some(time(90 * DAY));
    for (terms, expected) in [
        (terms(Active), Some(end + grace)),
        (Terms { cancels_at_period_end: true, ..terms(Active) }, Some(end)),
        (Terms { cancel_at: early, ..terms(Active) }, early),
        (Terms { cancel_at: late, ..terms(Active) }, Some(end + grace)),
        (Terms { cancel_at: Some(time(31 * DAY)), ..terms(Active) }, Some(time(31 * DAY))),
        (Terms { trial_end: early, ..terms(Active) }, Some(end + grace)),
        (Terms { trial_end: early, ..terms(Trialing) }, Some(time(13 * DAY))),
        (Terms { trial_end: early, cancels_at_period_end: true, ..terms(Trialing) }, early),
        (terms(Trialing), Some(end + grace)),
        (terms(PastDue), Some(start + grace)),
        (Terms { period_end: Some(time(DAY)), ..terms(PastDue) }, Some(time(DAY))),
        (Terms { cancel_at: Some(time(DAY)), ..terms(PastDue) }, Some(time(DAY))),
        (Terms { period_start: None, ..terms(PastDue) }, None),
        (Terms { period_end: None, ..terms(Active) }, None),
        (Terms { ended_at: early, ..terms(Canceled) }, early),
        (terms(Unpaid), Some(end)),
        (terms(Paused), Some(end)),
        (Terms { period_end: None, ..terms(Incomplete) }, None),
    ] {
        assert_eq!(terms.ends_at(grace), expected, "{terms:?}");
    }
}

#[test]
fn what_each_status_gives() {
    for (word, status, grant) in [
        ("trialing", SubscriptionStatus::Trialing, GrantStatus::Active),
        ("active", SubscriptionStatus::Active, GrantStatus::Active),
        ("past_due", SubscriptionStatus::PastDue, GrantStatus::Active),
        ("unpaid", SubscriptionStatus::Unpaid, GrantStatus::Suspended),
        ("paused", SubscriptionStatus::Paused, GrantStatus::Suspended),
        ("incomplete", SubscriptionStatus::Incomplete, GrantStatus::Pending),
        ("incomplete_expired", SubscriptionStatus::IncompleteExpired, GrantStatus::Revoked),
        ("canceled", SubscriptionStatus::Canceled, GrantStatus::Revoked),
    ] {
        assert_eq!(SubscriptionStatus::from_word(word), Some(status));
        assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{word}\""));
        assert_eq!((status.grant_status(), status.gives()), (grant, grant == GrantStatus::Active));
    }
    assert_eq!(SubscriptionStatus::from_word("resting"), None);
}

#[test]
fn what_is_kept_is_read_back() {
    let mut snapshots = Snapshots::from(life()[0].clone());
    snapshots.join(&life()[1].clone().into());
    let text = serde_json::to_string(&snapshots).unwrap();
    assert_eq!(serde_json::from_str::<Snapshots>(&text).unwrap(), snapshots);
    assert!(serde_json::from_str::<Snapshots>(&text.replace("\"PRO\"", "\"pro\"")).is_err());
}

fn any_history() -> impl Strategy<Value = Vec<Snapshot>> {
    let step = (0..3_i64, 0..6_usize, 1..60_i64);
    prop::collection::vec(step, 1..8).prop_map(|steps| {
        use SubscriptionStatus::{Active, Incomplete, PastDue, Paused, Trialing, Unpaid};
        let statuses = [Active, Incomplete, PastDue, Paused, Trialing, Unpaid];
        let mut now = 0;
        let steps: Vec<(i64, Looks)> = (1..)
            .zip(steps)
            .map(|(invoice, (later, status, ends_at))| {
                now += later;
                (now, looks(statuses[status], ends_at, invoice))
            })
            .collect();
        history(&steps)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Each state names the one before it, so the last is known wherever all have come, however they came.
    #[test]
    fn any_order_with_any_repetition_ends_in_the_last_state(
        history in any_history(),
        is_over in any::<bool>(),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 24),
        now in 0..60_i64,
    ) {
        let mut history = history;
        if is_over {
            // The end comes first of all, in a second of its own before the others: it is the end for ever.
            let mut end = history[0].clone();
            (end.status, end.level, end.created) = (SubscriptionStatus::Canceled, None, time(-1));
            history.push(end);
        }
        let mut delivered: Vec<Effect> = history.iter().map(told).collect();
        for index in &shuffle {
            let again = told(index.get(&history));
            delivered.insert(index.index(delivered.len() + 1), again);
        }
        for (place, index) in shuffle.iter().enumerate() {
            let (other, len) = (index.index(delivered.len()), delivered.len());
            delivered.swap(place % len, other);
        }
        let now = time(now);
        let found = run(&delivered, &catalogue(), now).entitlement;
        let last = history.last().unwrap();
        prop_assert_eq!((found.level, found.expires_at), expected(last, now));
    }
}

#[test]
fn what_was_fetched_is_the_last_word_of_its_second_and_any_newer_event_replaces_it() {
    use SubscriptionStatus::{Active, Canceled, Unpaid};
    let of = |created, status, ends, fetched_at: Option<i64>| {
        let mut told = history(&[(created, looks(status, ends, 1))]).remove(0);
        told.fetched_at = fetched_at.map(time);
        told
    };
    let tied = [of(10, Active, 33 * DAY, None), of(10, Unpaid, 33 * DAY, None)];
    let (fetched, again) = (of(10, Unpaid, 33 * DAY, Some(12)), of(10, Active, 63 * DAY, Some(40)));
    let last = |script: &[&Snapshot]| {
        let mut ends =
            permutations(&script.iter().map(|told| (*told).clone()).collect::<Vec<_>>()).into_iter().map(|order| {
                let mut known = Snapshots::default();
                order.iter().chain(&order).for_each(|told| known.join(&told.clone().into()));
                assert!(script.len() == 2 || !known.is_tied(), "{known:?}");
                known.latest().unwrap().clone()
            });
        let first = ends.next().unwrap();
        assert!(ends.all(|end| end == first), "in any order");
        first
    };
    assert_eq!(last(&[&tied[0], &tied[1]]), tied[0], "the richer one, till Stripe was asked");
    assert_eq!(last(&[&tied[0], &tied[1], &fetched]), fetched);
    assert_eq!(last(&[&tied[0], &tied[1], &fetched, &again]), again, "asked twice, the later answer holds");
    let newer = of(11, Active, 93 * DAY, None);
    assert_eq!(last(&[&tied[0], &tied[1], &fetched, &again, &newer]), newer);
    let ended = of(9, Canceled, 20 * DAY, None);
    assert_eq!(last(&[&tied[0], &fetched, &again, &ended]), ended, "for ever");
}
