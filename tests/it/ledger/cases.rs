//! What holds of a ledger on every database. Each case runs on each of them, under its own name (`ledger::sqlite::…`).

pub(crate) mod by_hand;
mod deleted;
mod fetched;
mod fetches;
pub(crate) mod money;
pub(super) mod subscription;
mod tries;

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tollgate::{
    domain::{
        change::{Cause, Change, Effect},
        event::{IgnoreReason, Outcome, ParkReason},
        grant::GrantStatus,
        id::{SessionId, UserId},
        level::Level,
    },
    ledger::{Entry, InboxEvent, InboxFilter, InboxPlace, Note, SessionRecord, Standing, StoredEvent, Verdict},
};
use uuid::Uuid;

pub(super) use self::by_hand::{
    an_id_of_somebody_elses_grant_gives_nothing, how_many_were_bought_is_part_of_the_state,
    levels_that_are_over_are_listed_in_pages, over, what_changed_is_remembered_with_whose_doing_it_was,
};
pub(super) use self::deleted::a_user_deleted_while_he_buys_is_gone_or_begins_anew;
pub(super) use self::fetched::{
    a_customer_is_that_of_the_newest_purchase_and_nobody_elses,
    a_fetched_purchase_and_its_event_are_one_grant_in_either_order,
};
pub(super) use self::fetches::{
    a_lease_that_ran_out_is_given_to_another, a_question_is_leased_to_one_and_ends_with_its_answer,
    an_event_asks_anew_or_answers_whoever_asks_meanwhile, an_older_replica_took_questions_that_it_cannot_read,
    money_that_went_back_of_an_unknown_payment_is_asked_about,
    subscriptions_about_to_lapse_are_found_until_they_do_not,
};
pub(super) use self::money::{
    a_chain_from_user_to_refund_may_be_completed_by_any_link, a_customer_deleted_while_many_buy_as_it_takes_from_all,
    a_deleted_customer_takes_from_all_who_bought_as_it, a_dispute_lost_after_an_upgrade_is_of_the_period_it_paid,
    a_refund_and_its_payment_at_the_same_instant_always_meet, a_refund_of_an_older_period_takes_nothing,
    a_refund_takes_what_was_bought_and_gives_it_back_if_it_fails, links_of_a_chain_at_the_same_instant_always_meet,
    money_of_nobody_is_kept, two_events_for_one_change_of_money_are_one,
};
pub(super) use self::subscription::{
    a_late_end_of_an_old_subscription_leaves_the_new_one_alone,
    a_subscriptions_events_on_many_lanes_at_once_end_in_the_last_state,
    a_subscriptions_own_events_replace_what_its_checkout_said, an_end_that_is_known_before_all_else_stays_the_end,
    an_end_waited_for_an_hour_after_its_subscription_was_bought, an_owner_is_found_by_what_was_bought,
    nothing_is_written_for_an_owner_who_has_changed, of_one_second_the_later_state_holds_in_any_order,
};
pub(super) use self::tries::{poison_is_never_due, tries_are_counted_until_one_ends_in_order};
use super::{commit, commit_one, event, purchase, purchase_of, seconds, user};
use crate::harness::{eventually, ledger::TestLedger};

pub(super) async fn a_purchase_is_grant_state_and_inbox_in_one(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let user = user();
    let mut lane = ledger.lane();

    let committed = commit_one(&mut *lane, purchase(user, "evt_1", "cs_1")).await;
    assert_eq!(committed.outcome, Outcome::Applied);
    let state = committed.entitlement.unwrap();
    assert_eq!((state.level.as_str(), state.version), ("PRO", 1));
    assert_eq!(ledger.entitlement(user).await.unwrap(), state);

    let again = commit_one(&mut *lane, purchase(user, "evt_1", "cs_1")).await;
    assert_eq!((again.outcome, again.entitlement), (Outcome::Duplicate, Some(state.clone())));
    let sibling = commit_one(&mut *lane, purchase(user, "evt_2", "cs_1")).await;
    assert_eq!((sibling.outcome, sibling.entitlement), (Outcome::Superseded, Some(state)));

    assert_eq!(on.value("SELECT count(*) FROM user_entitlements").await, "1");
    assert_eq!(
        on.column("SELECT id || ' ' || outcome FROM stripe_events ORDER BY id").await,
        ["evt_1 applied", "evt_2 superseded"]
    );
    assert_eq!(ledger.levels_in_use().await.unwrap(), [Level::parse("PRO").unwrap()]);
}

pub(super) async fn one_batch_holds_many_users_and_many_events_of_one(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let users: Vec<UserId> = (0..40).map(|_| user()).collect();
    let mut entries: Vec<Entry> =
        users.iter().enumerate().map(|(n, user)| purchase(*user, &format!("evt_{n}"), &format!("cs_{n}"))).collect();
    // Three sessions of one user, the same event thrice, and one that only says something.
    entries.push(purchase(users[0], "evt_100", "cs_100"));
    entries.push(purchase(users[0], "evt_101", "cs_101"));
    entries.push(purchase(users[0], "evt_101", "cs_101"));
    entries.push(purchase(users[0], "evt_101", "cs_101"));
    entries.push(Entry::Note(Note {
        event: event("evt_200"),
        verdict: Verdict::Ignored(IgnoreReason::UnhandledType),
        user: None,
    }));
    let results = commit(&mut *ledger.lane(), entries).await;
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.as_ref().unwrap().outcome).collect();
    assert_eq!(outcomes[..42], [Outcome::Applied; 42]);
    assert_eq!(outcomes[42..44], [Outcome::Duplicate; 2]);
    assert_eq!(outcomes[44], Outcome::Ignored(IgnoreReason::UnhandledType));
    let versions: Vec<u64> =
        [0, 40, 41].map(|n| results[n].as_ref().unwrap().entitlement.as_ref().unwrap().version).to_vec();
    assert_eq!(versions, [1, 2, 3], "each change of one user has its own version");
    assert_eq!(on.value("SELECT count(*) FROM user_entitlements").await, "42");
    assert_eq!(on.value("SELECT max(version) FROM entitlement_state").await, "3");
    assert_eq!(
        on.column(
            "SELECT type || coalesce(object_id, '-') || coalesce(api_version, '-') || coalesce(user_id, '-') \
             FROM (SELECT type, object_id, api_version, CAST(user_id AS text) AS user_id FROM stripe_events \
               WHERE outcome = 'ignored') AS e"
        )
        .await,
        ["checkout.session.completed---"],
        "an ignored event keeps id and type only"
    );
}

pub(super) async fn sixteen_lanes_at_once_apply_each_event_and_each_session_once(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut applied = 0;
    for round in 0..25 {
        let user = user();
        let racers = (0..16).map(|racer| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move {
                // Half deliver one event, half bring Event objects of their own about one session.
                let (id, session) = if racer % 2 == 0 {
                    (format!("evt_a{round}"), format!("cs_a{round}"))
                } else {
                    (format!("evt_b{round}x{racer}"), format!("cs_b{round}"))
                };
                commit_one(&mut *ledger.lane(), purchase_of(user, &id, &session, "PRO", seconds(1_790_000_000))).await
            })
        });
        for racer in futures::future::join_all(racers).await {
            match racer.unwrap().outcome {
                Outcome::Applied => applied += 1,
                Outcome::Duplicate | Outcome::Superseded => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(on.value("SELECT count(*) FROM user_entitlements").await, "50", "two sessions a round");
    // Event objects of one session and second differ in their id alone: a smaller one may still improve the report.
    assert!(applied >= 50, "{applied}");
    assert_eq!(on.value("SELECT count(*) FROM stripe_events").await, (25 * 9).to_string());
    assert_eq!(
        on.value("SELECT sum(version) FROM entitlement_state").await,
        applied.to_string(),
        "versions count exactly the applied changes"
    );
}

pub(super) async fn a_grant_of_somebody_else_is_parked_and_its_batch_goes_on(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (owner, thief, bystander) = (user(), user(), user());
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(owner, "evt_1", "cs_1")).await;
    let results = commit(
        &mut *lane,
        vec![purchase(bystander, "evt_2", "cs_2"), purchase(thief, "evt_3", "cs_1"), purchase(user(), "evt_4", "cs_4")],
    )
    .await;
    let outcomes: Vec<Outcome> = results.into_iter().map(|result| result.unwrap().outcome).collect();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Parked(ParkReason::ForeignSource), Outcome::Applied]);
    assert!(ledger.entitlement(thief).await.unwrap().level.is_free());
    assert_eq!(ledger.entitlement(owner).await.unwrap().version, 1);
}

pub(super) async fn an_ignored_event_is_no_duplicate_once_its_type_is_handled(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let note =
        Entry::Note(Note { event: event("evt_1"), verdict: Verdict::Ignored(IgnoreReason::UnhandledType), user: None });
    assert_eq!(commit_one(&mut *lane, note.clone()).await.outcome, Outcome::Ignored(IgnoreReason::UnhandledType));
    assert_eq!(commit_one(&mut *lane, note).await.outcome, Outcome::DuplicateWaiting);
    let entry = purchase(user(), "evt_1", "cs_1");
    assert_eq!(commit_one(&mut *lane, entry.clone()).await.outcome, Outcome::Applied);
    assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Duplicate);
}

pub(super) async fn the_end_of_a_level_is_a_change_with_a_version_of_its_own(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let user = user();
    let mut lane = ledger.lane();
    let ended = Utc::now() - TimeDelta::days(7) + TimeDelta::milliseconds(1500);
    let state = commit_one(&mut *lane, purchase_of(user, "evt_1", "cs_1", "TRIAL", ended)).await.entitlement.unwrap();
    assert_eq!(state.level.as_str(), "TRIAL");
    eventually(Duration::from_secs(30), "the trial is over", || async { over(&*ledger).await == [(user, 1)] }).await;
    assert!(ledger.entitlement(user).await.unwrap().level.is_free(), "never served beyond its end");
    let lapse =
        |version| Entry::Change(Change { user, found_by: None, cause: Cause::Time, effect: Effect::Lapse { version } });
    assert_eq!(commit_one(&mut *lane, lapse(7)).await.outcome, Outcome::Superseded);
    let lapsed = commit_one(&mut *lane, lapse(1)).await;
    assert_eq!(lapsed.outcome, Outcome::Applied);
    assert_eq!(lapsed.entitlement.unwrap().version, 2);
    assert_eq!(over(&*ledger).await, []);
}

pub(super) async fn sessions_keys_and_replicas_have_their_books(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (owner, other) = (user(), user());
    let session = SessionRecord {
        id: SessionId::parse("cs_1").unwrap(),
        user: owner,
        level: Level::parse("PRO").unwrap(),
        interval: None,
        expired: false,
        expires_at: seconds(1_800_000_000),
        url: Some("https://pay.test/1".into()),
        opened_by: Some("key-1".into()),
    };
    ledger.record_session(&session).await.unwrap();
    ledger.record_session(&session).await.unwrap();
    assert_eq!(ledger.session(owner, &session.id).await.unwrap(), Some(session.clone()));
    assert_eq!(ledger.session(other, &session.id).await.unwrap(), None, "somebody else's");
    assert_eq!(ledger.session_opened_by(owner, "key-1").await.unwrap(), Some(session.clone()));
    assert_eq!(ledger.session_opened_by(owner, "key-2").await.unwrap(), None);
    assert_eq!(ledger.session_opened_by(other, "key-1").await.unwrap(), None, "somebody else's");
    let expired = Entry::Change(Change {
        found_by: None,
        user: owner,
        cause: Cause::Delivery(event("evt_1")),
        effect: Effect::SessionExpired(session.id.clone()),
    });
    assert_eq!(commit_one(&mut *ledger.lane(), expired).await.outcome, Outcome::Applied);
    assert!(ledger.session(owner, &session.id).await.unwrap().unwrap().expired);

    let attempt = async || ledger.claim_key(owner, [1; 32], "PRO year", 3).await.unwrap().attempt;
    assert_eq!(attempt().await, 3);
    assert_eq!(ledger.claim_key(owner, [1; 32], "PRO", 9).await.unwrap().wish, "PRO year", "the first use counts");
    for _ in 0..2 {
        ledger.move_key(owner, [1; 32], 3, 4).await.unwrap();
        assert_eq!(attempt().await, 4, "two failures of one attempt are one");
    }
    ledger.move_key(owner, [1; 32], 4, 9).await.unwrap();
    assert_eq!(attempt().await, 9);

    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    ledger.beat(one, Duration::ZERO).await.unwrap();
    let seen: HashSet<Uuid> =
        ledger.beat(two, Duration::ZERO).await.unwrap().iter().map(|instance| instance.id).collect();
    assert_eq!(seen, HashSet::from([one, two]));
    ledger.forget_instance(one).await.unwrap();
    assert_eq!(ledger.beat(two, Duration::ZERO).await.unwrap().len(), 1);
    assert_eq!(ledger.levels_in_use().await.unwrap(), []);
}

pub(super) async fn what_changed_is_listed_newest_first(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let users: Vec<UserId> = (0..5).map(|_| user()).collect();
    let start = ledger.now().await.unwrap();
    for (n, user) in users.iter().enumerate() {
        commit_one(&mut *lane, purchase(*user, &format!("evt_{n}"), &format!("cs_{n}"))).await;
    }
    let all = ledger.changed_between(start, DateTime::<Utc>::MAX_UTC, 10).await.unwrap();
    let expected: Vec<UserId> = users.iter().rev().copied().collect();
    assert_eq!(all.iter().map(|changed| changed.user).collect::<Vec<_>>(), expected);
    let page = ledger.changed_between(all[3].changed_at, all[1].changed_at, 2).await.unwrap();
    assert_eq!(page, all[1..3]);
    assert_eq!(ledger.levels_in_use().await.unwrap(), [Level::parse("PRO").unwrap()]);
    commit_one(&mut *lane, purchase(users[1], "evt_5", "cs_5")).await;
    let mut versions = ledger.versions(&[users[0], users[1], user()]).await.unwrap();
    versions.sort_by_key(|(_, version)| *version);
    assert_eq!(versions, [(users[0], 1), (users[1], 2)], "who has no state is left out");
    assert_eq!(ledger.versions(&[]).await, Ok(vec![]));
}

/// A burst of copies in one batch: each took a transaction of its own, one inside the other, until the stack was full.
pub(super) async fn a_thousand_copies_in_one_batch_are_one_transaction(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let entry = purchase(user(), "evt_1", "cs_1");
    let note = Entry::Note(Note {
        event: event("evt_2"),
        verdict: Verdict::Parked(ParkReason::UnknownLevel),
        user: Some(user()),
    });
    let batch = [vec![entry; 1000], vec![note; 1000]].concat();
    let results = commit(&mut *lane, batch).await;
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.as_ref().unwrap().outcome).collect();
    assert_eq!((outcomes[0], outcomes[1000]), (Outcome::Applied, Outcome::Parked(ParkReason::UnknownLevel)));
    assert_eq!(outcomes[1..1000], [Outcome::Duplicate; 999]);
    assert_eq!(outcomes[1001..], [Outcome::DuplicateWaiting; 999]);
    assert!(results[..1000].iter().all(|result| result.as_ref().unwrap().entitlement.as_ref().unwrap().version == 1));
    assert_eq!(on.value("SELECT count(DISTINCT received_at) FROM stripe_events").await, "1");
}

/// Copies that differ, which Stripe does not send, are told apart by asking: the first one holds.
pub(super) async fn many_bodies_under_one_event_id_do_not_fill_the_stack(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let buyer = user();
    let bodies = (0..200).map(|n| purchase(buyer, "evt_1", &format!("cs_{n}"))).collect();
    let results = commit(&mut *ledger.lane(), bodies).await;
    assert_eq!(results[0].as_ref().unwrap().outcome, Outcome::Applied);
    assert!(results[1..].iter().all(|result| result.as_ref().unwrap().outcome == Outcome::Duplicate));
    assert_eq!(on.value("SELECT count(*) FROM user_entitlements").await, "1");
}

pub(super) async fn a_foreign_session_is_tried_again_with_back_off(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    commit_one(&mut *lane, purchase(user(), "evt_1", "cs_1")).await;
    let entry = purchase(user(), "evt_2", "cs_1");
    let outcome = commit_one(&mut *lane, entry.clone()).await.outcome;
    assert_eq!(outcome, Outcome::Parked(ParkReason::ForeignSource));
    assert_eq!(ledger.parked_due(10).await.unwrap(), []);
    on.last_tried("evt_2", Duration::from_secs(31)).await;
    assert_eq!(ledger.parked_due(10).await.unwrap().len(), 1);
    let outcome = commit_one(&mut *lane, retried(entry, "evt_2")).await.outcome;
    assert_eq!(outcome, Outcome::Parked(ParkReason::ForeignSource));
    assert_eq!(ledger.parked_due(10).await.unwrap(), [], "a retry does not wake what it retries");
    assert_eq!(on.value("SELECT reason FROM stripe_events WHERE id = 'evt_2'").await, "foreign_source");
}

/// The same change, as the sweep of parked events brings it.
fn retried(entry: Entry, id: &str) -> Entry {
    let Entry::Change(change) = entry else { panic!("a note is not tried again") };
    Entry::Change(Change { cause: Cause::Retry(event(id)), ..change })
}

pub(super) async fn a_parked_event_is_kept_woken_and_applied_once(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let buyer = user();
    let verdict = Verdict::Parked(ParkReason::UnknownLevel);
    let note = Entry::Note(Note { event: event("evt_1"), verdict, user: Some(buyer) });
    let parked = commit_one(&mut *lane, note.clone()).await;
    assert_eq!((parked.outcome, parked.entitlement), (Outcome::Parked(ParkReason::UnknownLevel), None));
    assert_eq!(on.value("SELECT payload FROM stripe_events").await, "{\"id\":\"evt\"}", "kept for the next try");
    assert_eq!(ledger.parked_due(10).await.unwrap(), [], "not at once");
    assert_eq!(commit_one(&mut *lane, note).await.outcome, Outcome::DuplicateWaiting);
    let due = ledger.parked_due(10).await.unwrap();
    assert_eq!(due.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["evt_1"], "a redelivery wakes it");
    assert_eq!(due[0].payload, event("evt_1").payload);
    assert_eq!(ledger.parked_due(10).await.unwrap(), [], "it counts as tried");

    let retry = retried(purchase(buyer, "evt_1", "cs_1"), "evt_1");
    let results = commit(&mut *lane, vec![retry.clone(), retry]).await;
    let outcomes: Vec<Outcome> = results.iter().map(|result| result.as_ref().unwrap().outcome).collect();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Duplicate], "whoever claims it applies it, once");
    assert_eq!(commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await.outcome, Outcome::Duplicate);
    let row = "SELECT outcome || coalesce(reason, '-') || coalesce(payload, '-') FROM stripe_events";
    assert_eq!(on.value(row).await, "applied--");
    assert_eq!(ledger.entitlement(buyer).await.unwrap().level.as_str(), "PRO");
}

pub(super) async fn what_cannot_be_applied_is_tried_more_and_more_rarely(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let verdict = Verdict::Parked(ParkReason::UnknownLevel);
    let note = Entry::Note(Note { event: event("evt_1"), verdict, user: None });
    commit_one(&mut *ledger.lane(), note).await;
    // The first was the delivery. Each number: not due yet after, due after, in seconds.
    for (early, late) in [(29, 31), (59, 61), (119, 121), (239, 241), (479, 481), (959, 961), (1919, 1921)] {
        on.last_tried("evt_1", Duration::from_secs(early)).await;
        assert_eq!(ledger.parked_due(10).await.unwrap(), [], "{early}");
        on.last_tried("evt_1", Duration::from_secs(late)).await;
        assert_eq!(ledger.parked_due(10).await.unwrap().len(), 1, "{late}");
    }
    for _ in 0..8 {
        on.last_tried("evt_1", Duration::from_secs(3599)).await;
        assert_eq!(ledger.parked_due(10).await.unwrap(), []);
        on.last_tried("evt_1", Duration::from_secs(3601)).await;
        assert_eq!(ledger.parked_due(10).await.unwrap().len(), 1, "an hour apart in the end");
    }
}

/// The catalogue may be another one by the time an event is written.
pub(super) async fn what_was_bought_while_its_level_left_the_catalogue_was_served_as_free(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (Entry::Change(mut change), buyer) = (purchase(user(), "evt_1", "cs_1"), user()) else { unreachable!() };
    change.user = buyer;
    let Effect::Purchase(grant) = &mut change.effect else { unreachable!() };
    grant.level = Level::parse("GOLD").unwrap();
    let batch = vec![purchase(buyer, "evt_2", "cs_2"), Entry::Change(change)];
    let results = commit(&mut *lane, batch).await;
    assert_eq!(results[1].as_ref().unwrap().outcome, Outcome::Parked(ParkReason::UnknownLevel));
    assert_eq!(results[0].as_ref().unwrap().outcome, Outcome::Applied);
    assert_eq!(ledger.grants(buyer).await.unwrap().len(), 1);
    let StoredEvent { event, payload } = ledger.event("evt_1").await.unwrap().unwrap();
    assert_eq!((event.reason.as_deref(), payload.is_some()), (Some("unknown_level"), true), "it is tried again");
}

pub(super) async fn a_pending_purchase_is_no_level_until_it_is_paid(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let buyer = user();
    let mut pending = purchase(buyer, "evt_1", "cs_1");
    let Entry::Change(Change { effect: Effect::Purchase(grant), .. }) = &mut pending else { unreachable!() };
    grant.status = GrantStatus::Pending;
    let committed = commit_one(&mut *lane, pending).await;
    assert_eq!((committed.outcome, committed.entitlement.unwrap().version), (Outcome::Applied, 1));
    assert!(ledger.entitlement(buyer).await.unwrap().level.is_free());
    assert_eq!(ledger.levels_in_use().await.unwrap(), [], "for whoever reads the table alone, too");
    let paid = commit_one(&mut *lane, purchase(buyer, "evt_2", "cs_1")).await;
    assert_eq!(paid.entitlement.as_ref().unwrap().level.as_str(), "PRO");
    assert_eq!(ledger.levels_in_use().await.unwrap().len(), 1);
    let [grant] = <[_; 1]>::try_from(ledger.grants(buyer).await.unwrap()).unwrap();
    assert_eq!((grant.status, Some(grant.period_end)), (GrantStatus::Active, paid.entitlement.unwrap().expires_at));
}

/// Stripe does not send another object under a known id; somebody with the webhook's secret may.
pub(super) async fn another_object_under_a_known_id_changes_nothing(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let buyer = user();
    let first = commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await;
    let Entry::Change(mut change) = purchase(buyer, "evt_1", "cs_2") else { unreachable!() };
    let Cause::Delivery(record) = &mut change.cause else { unreachable!() };
    record.object_hash = [8; 32];
    let second = commit_one(&mut *lane, Entry::Change(change)).await;
    assert_eq!((second.outcome, second.entitlement), (Outcome::Duplicate, first.entitlement));
    assert_eq!(on.value("SELECT count(*) FROM user_entitlements").await, "1");
}

fn parked(id: &str, reason: ParkReason, user: Option<UserId>) -> Entry {
    Entry::Note(Note { event: event(id), verdict: Verdict::Parked(reason), user })
}

fn ids(events: &[InboxEvent]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

pub(super) async fn the_inbox_is_listed_newest_first_in_pages(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (buyer, other) = (user(), user());
    let start = ledger.now().await.unwrap();
    commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await;
    commit_one(&mut *lane, purchase(other, "evt_2", "cs_2")).await;
    // One transaction, one moment: the id decides.
    let batch = vec![
        parked("evt_3", ParkReason::UnknownLevel, Some(buyer)),
        parked("evt_5", ParkReason::InvalidUser, None),
        parked("evt_4", ParkReason::UnknownLevel, None),
    ];
    commit(&mut *lane, batch).await;
    let mut ignored = event("evt_6");
    ignored.kind = "product.updated".into();
    let verdict = Verdict::Ignored(IgnoreReason::UnhandledType);
    commit_one(&mut *lane, Entry::Note(Note { event: ignored, verdict, user: None })).await;
    commit_one(&mut *lane, purchase(buyer, "evt_7", "cs_1")).await;

    let all = ledger.events(&InboxFilter::default(), 100).await.unwrap();
    assert_eq!(ids(&all), ["evt_7", "evt_6", "evt_5", "evt_4", "evt_3", "evt_2", "evt_1"]);
    let mut walked = Vec::new();
    let mut filter = InboxFilter::default();
    loop {
        let page = ledger.events(&filter, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some(InboxPlace { received_at: last.received_at, id: last.id.clone() });
        walked.extend(page);
    }
    assert_eq!(walked, all, "nothing twice, nothing left out");

    let standing = |standing| InboxFilter { standing: Some(standing), ..InboxFilter::default() };
    let none = InboxFilter::default;
    for (filter, expected) in [
        (standing(Standing::Parked), vec!["evt_5", "evt_4", "evt_3"]),
        (standing(Standing::Superseded), vec!["evt_7"]),
        (standing(Standing::Ignored), vec!["evt_6"]),
        (standing(Standing::Applied), vec!["evt_2", "evt_1"]),
        (InboxFilter { reason: Some("unknown_level".into()), ..standing(Standing::Parked) }, vec!["evt_4", "evt_3"]),
        (InboxFilter { reason: Some("unknown_level".into()), ..none() }, vec!["evt_4", "evt_3"]),
        (InboxFilter { user: Some(buyer), ..none() }, vec!["evt_7", "evt_3", "evt_1"]),
        (InboxFilter { kind: Some("product.updated".into()), ..none() }, vec!["evt_6"]),
        (InboxFilter { since: Some(all[4].received_at), ..none() }, vec!["evt_7", "evt_6", "evt_5", "evt_4", "evt_3"]),
        (InboxFilter { since: Some(start + TimeDelta::days(1)), ..none() }, vec![]),
    ] {
        assert_eq!(ids(&ledger.events(&filter, 100).await.unwrap()), expected, "{filter:?}");
    }
}

pub(super) async fn one_event_is_shown_with_what_is_kept_of_it(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let buyer = user();
    assert_eq!(ledger.event("evt_1").await.unwrap(), None);
    let note = parked("evt_1", ParkReason::UnknownLevel, Some(buyer));
    let at = note.event().unwrap().created;
    commit_one(&mut *lane, note.clone()).await;
    let stored = ledger.event("evt_1").await.unwrap().unwrap();
    let InboxEvent { standing, reason, attempts, created, processed_at, .. } = &stored.event;
    assert_eq!((*standing, reason.as_deref(), *attempts), (Standing::Parked, Some("unknown_level"), 1));
    assert_eq!((*created, processed_at.is_some()), (Some(at), true));
    assert_eq!(
        (stored.event.kind.as_str(), stored.event.object_id.as_deref()),
        ("checkout.session.completed", Some("cs_1"))
    );
    assert_eq!((stored.event.user, stored.payload), (Some(buyer), Some(event("evt_1").payload)));

    commit_one(&mut *lane, note).await;
    let woken = ledger.event("evt_1").await.unwrap().unwrap();
    assert_eq!(woken.event.processed_at, None, "a redelivery made it due at once");
    commit_one(&mut *lane, retried(purchase(buyer, "evt_1", "cs_1"), "evt_1")).await;
    let applied = ledger.event("evt_1").await.unwrap().unwrap();
    assert_eq!((applied.event.standing, applied.event.reason, applied.payload), (Standing::Applied, None, None));
}

pub(super) async fn parked_events_and_what_came_lately_are_counted(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    assert_eq!(ledger.parked().await.unwrap(), []);
    let start = ledger.now().await.unwrap();
    commit_one(&mut *lane, parked("evt_1", ParkReason::UnknownLevel, None)).await;
    commit_one(&mut *lane, parked("evt_2", ParkReason::UnknownLevel, None)).await;
    commit_one(&mut *lane, parked("evt_3", ParkReason::InvalidUser, None)).await;
    commit_one(&mut *lane, purchase(user(), "evt_4", "cs_1")).await;
    let counted = ledger.parked().await.unwrap();
    let words: Vec<_> = counted.iter().map(|parked| (parked.reason.as_str(), parked.count)).collect();
    assert_eq!(words, [("invalid_user", 1), ("unknown_level", 2)]);
    let first = ledger.event("evt_1").await.unwrap().unwrap().event;
    assert_eq!(counted[1].oldest, first.received_at);

    let lately: HashSet<_> = ledger.received_since(start - TimeDelta::hours(1)).await.unwrap().into_iter().collect();
    assert_eq!(lately, HashSet::from([(Standing::Applied, 1), (Standing::Parked, 3)]));
    assert_eq!(ledger.received_since(start + TimeDelta::days(1)).await.unwrap(), []);
}

pub(super) async fn replicas_are_listed_without_a_beat(on: &dyn TestLedger) {
    let ledger = on.ledger();
    assert_eq!(ledger.instances().await.unwrap(), []);
    let replica = Uuid::new_v4();
    let listed = ledger.beat(replica, Duration::from_secs(5)).await.unwrap();
    assert_eq!(ledger.instances().await.unwrap(), listed);
    assert_eq!(listed.len(), 1);
}
