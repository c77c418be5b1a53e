//! The ledger on real databases: one transaction per batch, two keys against duplicates. What holds of every database is one suite
//! (`cases`).

pub(crate) mod cases;
mod likeness;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tollgate::{
    domain::{
        change::{Cause, Change, Effect},
        event::EventRecord,
        grant::{Grant, GrantStatus, Source, SourceKind},
        id::{EventId, SessionId, UserId},
        level::Level,
        plan::{Mode, Terms},
        subscription::Snapshots,
    },
    ledger::{Committed, Entry, Lane, LedgerError, Ticket},
};
use uuid::Uuid;

pub(crate) use crate::harness::ledger::{built_in, ledger_on};

macro_rules! on_every_database {
    ($($case:ident)+) => {
        mod postgres {
            $(#[tokio::test]
            async fn $case() {
                super::cases::$case(&crate::harness::ledger::OnPostgres::new().await).await;
            })+
        }

        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                super::cases::$case(&crate::harness::ledger::InAFile::new().await).await;
            })+
        }
    };
}

on_every_database! {
    a_lease_that_ran_out_is_given_to_another
    an_older_replica_took_questions_that_it_cannot_read
    a_question_is_leased_to_one_and_ends_with_its_answer
    an_event_asks_anew_or_answers_whoever_asks_meanwhile
    money_that_went_back_of_an_unknown_payment_is_asked_about
    subscriptions_about_to_lapse_are_found_until_they_do_not
    a_chain_from_user_to_refund_may_be_completed_by_any_link
    a_customer_deleted_while_many_buy_as_it_takes_from_all
    a_deleted_customer_takes_from_all_who_bought_as_it
    a_dispute_lost_after_an_upgrade_is_of_the_period_it_paid
    a_foreign_session_is_tried_again_with_back_off
    a_customer_is_that_of_the_newest_purchase_and_nobody_elses
    a_fetched_purchase_and_its_event_are_one_grant_in_either_order
    a_grant_of_somebody_else_is_parked_and_its_batch_goes_on
    a_late_end_of_an_old_subscription_leaves_the_new_one_alone
    a_parked_event_is_kept_woken_and_applied_once
    a_pending_purchase_is_no_level_until_it_is_paid
    a_purchase_is_grant_state_and_inbox_in_one
    a_refund_and_its_payment_at_the_same_instant_always_meet
    a_refund_of_an_older_period_takes_nothing
    a_refund_takes_what_was_bought_and_gives_it_back_if_it_fails
    a_subscriptions_events_on_many_lanes_at_once_end_in_the_last_state
    a_subscriptions_own_events_replace_what_its_checkout_said
    a_thousand_copies_in_one_batch_are_one_transaction
    a_user_deleted_while_he_buys_is_gone_or_begins_anew
    an_end_that_is_known_before_all_else_stays_the_end
    an_id_of_somebody_elses_grant_gives_nothing
    an_ignored_event_is_no_duplicate_once_its_type_is_handled
    an_owner_is_found_by_what_was_bought
    another_object_under_a_known_id_changes_nothing
    how_many_were_bought_is_part_of_the_state
    levels_that_are_over_are_listed_in_pages
    links_of_a_chain_at_the_same_instant_always_meet
    many_bodies_under_one_event_id_do_not_fill_the_stack
    money_of_nobody_is_kept
    nothing_is_written_for_an_owner_who_has_changed
    an_end_waited_for_an_hour_after_its_subscription_was_bought
    what_was_bought_while_its_level_left_the_catalogue_was_served_as_free
    poison_is_never_due
    tries_are_counted_until_one_ends_in_order
    of_one_second_the_later_state_holds_in_any_order
    one_batch_holds_many_users_and_many_events_of_one
    one_event_is_shown_with_what_is_kept_of_it
    parked_events_and_what_came_lately_are_counted
    replicas_are_listed_without_a_beat
    sessions_keys_and_replicas_have_their_books
    sixteen_lanes_at_once_apply_each_event_and_each_session_once
    the_end_of_a_level_is_a_change_with_a_version_of_its_own
    the_inbox_is_listed_newest_first_in_pages
    two_events_for_one_change_of_money_are_one
    what_cannot_be_applied_is_tried_more_and_more_rarely
    what_changed_is_listed_newest_first
    what_changed_is_remembered_with_whose_doing_it_was
}

pub(crate) fn user() -> UserId {
    UserId::from(Uuid::new_v4())
}

fn seconds(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

pub(crate) fn event(id: &str) -> EventRecord {
    EventRecord {
        id: EventId::parse(id).unwrap(),
        kind: "checkout.session.completed".into(),
        object_id: Some("cs_1".into()),
        created: seconds(Utc::now().timestamp()),
        livemode: false,
        api_version: Some("2026-10-28.endive".into()),
        object_hash: [7; 32],
        payload: Bytes::from_static(b"{\"id\":\"evt\"}"),
    }
}

pub(crate) fn purchase(user: UserId, id: &str, session: &str) -> Entry {
    purchase_of(user, id, session, "PRO", Utc::now())
}

fn purchase_of(user: UserId, id: &str, session: &str, level: &str, at: DateTime<Utc>) -> Entry {
    let level = Level::parse(level).unwrap();
    let period_end = built_in().plan(&level).unwrap().period_end(Mode::Payment, Terms::default(), at);
    Entry::Change(Change {
        user,
        found_by: None,
        cause: Cause::Delivery(event(id)),
        effect: Effect::Purchase(Grant {
            source: Source { kind: SourceKind::Checkout, id: session.into() },
            level,
            status: GrantStatus::Active,
            period_end: seconds(period_end.timestamp()),
            reported_at: seconds(at.timestamp()),
            event: Some(EventId::parse(id).unwrap()),
            session: Some(SessionId::parse(session).unwrap()),
            payment_intent: None,
            customer: None,
            hold: None,
            snapshots: Snapshots::default(),
        }),
    })
}

/// Commits a batch and waits for all answers.
pub(crate) async fn commit(lane: &mut dyn Lane, entries: Vec<Entry>) -> Vec<Result<Committed, LedgerError>> {
    let (tickets, answers): (Vec<Ticket>, Vec<_>) = entries.into_iter().map(ticket).unzip();
    lane.commit(tickets).await;
    futures::future::join_all(answers)
        .await
        .into_iter()
        .map(|answer| answer.expect("every ticket is answered"))
        .collect()
}

pub(crate) fn ticket(entry: Entry) -> (Ticket, oneshot::Receiver<Result<Committed, LedgerError>>) {
    let (sender, receiver) = oneshot::channel();
    let reply = Box::new(move |result| drop(sender.send(result)));
    (Ticket { entry, reply }, receiver)
}

pub(crate) async fn commit_one(lane: &mut dyn Lane, entry: Entry) -> Committed {
    commit(lane, vec![entry]).await.pop().unwrap().unwrap()
}
