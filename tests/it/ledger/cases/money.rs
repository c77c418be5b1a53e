//! Money: what takes access away and gives it back finds whom it concerns, whatever came first, and on however many lanes at once.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use tollgate::{
    domain::{
        change::{Cause, Change, Effect},
        event::{IgnoreReason, Outcome},
        grant::{GrantStatus, Source, SourceKind},
        id::{CustomerId, ObjectId, PaymentIntentId, UserId},
        money::{Charge, Dispute, DisputeStatus, Fact, Facts, Hold, Object, Refund, RefundStatus, Report},
        subscription::SubscriptionStatus,
    },
    ledger::{Committed, Entry, Lane, Ledger, LedgerError, Note, Verdict},
};

use super::{
    super::{commit, commit_one, event, purchase, seconds, user},
    subscription::snapshot,
};
use crate::harness::ledger::TestLedger;

const PRICE: i64 = 2900;

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

pub(crate) fn report(event_id: &str, object: &str, says: Object) -> Entry {
    let facts = vec![Fact { id: id(object), says }];
    Entry::Report(Report { cause: Cause::Delivery(event(event_id)), facts })
}

fn facts(event_id: &str, object: &str, facts: Facts) -> Entry {
    report(event_id, object, Object { facts, ..Object::default() })
}

/// The charge of a payment, so much of it refunded by this second.
pub(crate) fn refunded(event_id: &str, payment: &str, amount: i64, second: i64) -> Entry {
    let charge = Some(Charge { reported_at: seconds(second), refunded: amount, captured: PRICE });
    facts(event_id, payment, Facts { charge, ..Facts::default() })
}

pub(crate) fn refund(event_id: &str, payment: &str, name: &str, status: RefundStatus, second: i64) -> Entry {
    let refund = Refund { reported_at: seconds(second), status, amount: PRICE, made_at: seconds(1) };
    facts(event_id, payment, Facts { refunds: [(id(name), refund)].into(), ..Facts::default() })
}

pub(crate) fn disputed(event_id: &str, payment: &str, status: DisputeStatus, second: i64) -> Entry {
    let dispute = Dispute { reported_at: seconds(second), status };
    facts(event_id, payment, Facts { disputes: [(id("dp_1"), dispute)].into(), ..Facts::default() })
}

pub(crate) fn deleted(event_id: &str, customer: &str) -> Entry {
    facts(event_id, customer, Facts { deleted: true, ..Facts::default() })
}

/// What belongs to what: a payment to its invoice, or an invoice to its subscription, with the end of the period it paid.
pub(crate) fn tie(event_id: &str, child: &str, parent: &str, period_end: Option<i64>) -> Entry {
    report(
        event_id,
        child,
        Object { parent: Some(id(parent)), period_end: period_end.map(seconds), ..Object::default() },
    )
}

/// A paid one-off purchase by this payment.
pub(crate) fn paid(user: UserId, event_id: &str, session: &str, payment: &str) -> Entry {
    with_links(purchase(user, event_id, session), Some(payment), None)
}

fn with_links(mut entry: Entry, payment: Option<&str>, customer: Option<&str>) -> Entry {
    if let Entry::Change(Change { effect: Effect::Purchase(grant), .. }) = &mut entry {
        grant.payment_intent = payment.map(|payment| PaymentIntentId::parse(payment).unwrap());
        grant.customer = customer.map(|customer| CustomerId::parse(customer).unwrap());
    }
    entry
}

fn subscribed(user: UserId, event_id: &str, session: &str, subscription: &str) -> Entry {
    let mut entry = purchase(user, event_id, session);
    if let Entry::Change(Change { effect: Effect::Purchase(grant), .. }) = &mut entry {
        grant.source = Source { kind: SourceKind::Subscription, id: subscription.into() };
    }
    entry
}

/// As callers and Stripe do: whoever has come to depend on it meanwhile is looked for again, and what certainly was not written is sent again.
async fn insist(lane: &mut dyn Lane, entry: Entry) -> Committed {
    loop {
        match commit(lane, vec![entry.clone()]).await.pop().unwrap() {
            Err(LedgerError::OwnerChanged | LedgerError::Contended | LedgerError::Unavailable(_)) => {}
            result => return result.unwrap(),
        }
    }
}

async fn level(ledger: &Arc<dyn Ledger>, user: UserId) -> String {
    ledger.entitlement(user).await.unwrap().level.to_string()
}

/// All orders, by rotation within rotation.
fn orders(entries: &[Entry]) -> Vec<Vec<Entry>> {
    match entries {
        [] => vec![vec![]],
        _ => (0..entries.len())
            .flat_map(|first| {
                let mut rest = entries.to_vec();
                let one = rest.remove(first);
                orders(&rest).into_iter().map(move |mut order| {
                    order.insert(0, one.clone());
                    order
                })
            })
            .collect(),
    }
}

pub(crate) async fn a_refund_takes_what_was_bought_and_gives_it_back_if_it_fails(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let user = user();
    let live = "SELECT count(*) FROM user_entitlements WHERE expires_at > created_at";
    let kept = "SELECT status || ' ' || coalesce(reported_status, '-') FROM user_entitlements";

    commit_one(&mut *lane, paid(user, "evt_1", "cs_1", "pi_1")).await;
    let pending = refund("evt_2", "pi_1", "re_1", RefundStatus::Pending, 2);
    let unmeasured = commit_one(&mut *lane, pending).await;
    assert_eq!((unmeasured.outcome, unmeasured.others), (Outcome::Applied, vec![]), "how much was paid is not known");

    let full = commit_one(&mut *lane, refunded("evt_3", "pi_1", PRICE, 2)).await;
    let [(whose, state)] = &full.others[..] else { panic!("{full:?}") };
    assert_eq!((full.outcome, *whose, full.entitlement.as_ref()), (Outcome::Applied, user, None));
    assert!(state.level.is_free() && state.version == 2, "{state:?}");
    assert_eq!(&ledger.entitlement(user).await.unwrap(), state);
    assert_eq!((on.value(live).await, on.value(kept).await), ("0".into(), "revoked active".into()));
    let [grant] = &ledger.grants(user).await.unwrap()[..] else { panic!("one grant") };
    assert_eq!((grant.status, grant.hold), (GrantStatus::Active, Some(Hold::Revoked)));
    assert_eq!(
        on.value("SELECT CAST(user_id AS text) FROM stripe_events WHERE id = 'evt_3'").await,
        user.to_string(),
        "operators see whom it concerned"
    );

    let failed = commit_one(&mut *lane, refund("evt_4", "pi_1", "re_1", RefundStatus::Failed, 9)).await;
    assert_eq!((failed.others[0].1.level.as_str(), failed.others[0].1.version), ("PRO", 3));
    assert_eq!((on.value(live).await, on.value(kept).await), ("1".into(), "active -".into()));
}

pub(crate) async fn two_events_for_one_change_of_money_are_one(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let user = user();
    commit_one(&mut *lane, paid(user, "evt_1", "cs_1", "pi_1")).await;
    let lost = |event_id: &str| disputed(event_id, "pi_1", DisputeStatus::Lost, 2);
    assert_eq!(commit_one(&mut *lane, lost("evt_2")).await.outcome, Outcome::Applied);
    let twin = commit_one(&mut *lane, lost("evt_3")).await;
    assert_eq!((twin.outcome, twin.others), (Outcome::Superseded, vec![]));
    assert_eq!(commit_one(&mut *lane, lost("evt_2")).await.outcome, Outcome::Duplicate);
    assert_eq!(ledger.entitlement(user).await.unwrap().version, 2);

    let note =
        Entry::Note(Note { event: event("evt_4"), verdict: Verdict::Ignored(IgnoreReason::UnhandledType), user: None });
    commit_one(&mut *lane, note).await;
    let redelivered = disputed("evt_4", "pi_2", DisputeStatus::Lost, 2);
    assert_eq!(commit_one(&mut *lane, redelivered).await.outcome, Outcome::Applied, "its type is handled by now");
}

/// The four links from a user to a refund, in all orders, in one transaction and in four.
pub(crate) async fn a_chain_from_user_to_refund_may_be_completed_by_any_link(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    for (n, order) in orders(&chain(user(), "")).into_iter().enumerate() {
        for together in [true, false] {
            let (user, tag) = (user(), format!("{n}{}", if together { "a" } else { "b" }));
            let links = chain(user, &tag);
            let kind = |entry: &Entry| entry.event().unwrap().id.as_str().as_bytes()[4];
            let entries: Vec<Entry> = order
                .iter()
                .map(|link| links.iter().find(|other| kind(other) == kind(link)).unwrap().clone())
                .collect();
            if together {
                for result in commit(&mut *lane, entries).await {
                    assert_eq!(result.unwrap().outcome, Outcome::Applied);
                }
            } else {
                for entry in entries {
                    assert_eq!(commit_one(&mut *lane, entry).await.outcome, Outcome::Applied);
                }
            }
            assert_eq!(level(&ledger, user).await, "FREE", "{order:?} together: {together}");
        }
    }
}

/// Checkout of a subscription, its invoice, what paid that, and the refund; the fifth letter of the event's id tells which it is.
fn chain(user: UserId, tag: &str) -> Vec<Entry> {
    let (invoice, payment, subscription) = (format!("in_{tag}x"), format!("pi_{tag}x"), format!("sub_{tag}x"));
    vec![
        subscribed(user, &format!("evt_a{tag}"), &format!("cs_{tag}x"), &subscription),
        tie(&format!("evt_b{tag}"), &invoice, &subscription, Some(1_900_000_000)),
        tie(&format!("evt_c{tag}"), &payment, &invoice, None),
        refunded(&format!("evt_d{tag}"), &payment, PRICE, 2),
    ]
}

pub(crate) async fn links_of_a_chain_at_the_same_instant_always_meet(on: &dyn TestLedger) {
    let ledger = on.ledger();
    for round in 0..40 {
        let user = user();
        let lanes = chain(user, &round.to_string()).into_iter().map(|link| {
            let mut lane = ledger.lane();
            tokio::spawn(async move { insist(&mut *lane, link).await.outcome })
        });
        for outcome in futures::future::join_all(lanes).await {
            assert_eq!(outcome.unwrap(), Outcome::Applied);
        }
        assert_eq!(level(&ledger, user).await, "FREE", "round {round}");
    }
}

pub(crate) async fn a_refund_and_its_payment_at_the_same_instant_always_meet(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let (mut buying, mut refunding) = (ledger.lane(), ledger.lane());
    for round in 0..60 {
        let (user, payment) = (user(), format!("pi_{round}"));
        let bought = paid(user, &format!("evt_a{round}"), &format!("cs_{round}"), &payment);
        let full = refunded(&format!("evt_b{round}"), &payment, PRICE, 2);
        let (one, other) = tokio::join!(insist(&mut *buying, bought), insist(&mut *refunding, full));
        assert_eq!((one.outcome, other.outcome), (Outcome::Applied, Outcome::Applied));
        assert_eq!(level(&ledger, user).await, "FREE", "round {round}");
        let kept = ledger.entitlement(user).await.unwrap();
        assert!(kept.version <= 2, "{kept:?}");
    }
}

pub(crate) async fn a_dispute_lost_after_an_upgrade_is_of_the_period_it_paid(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    for (payment, expected) in [("pi_a", "FREE"), ("pi_b", "PRO")] {
        let (user, tag) = (user(), payment);
        let name = |prefix: &str| format!("{prefix}_{tag}");
        let now = Utc::now();
        let (active, id) = (SubscriptionStatus::Active, name("sub"));
        commit_one(&mut *lane, snapshot(user, &name("evt_1"), &id, (active, None), now)).await;
        commit_one(&mut *lane, tie(&name("evt_2"), &name("in"), &id, Some(1_900_000_000))).await;
        commit_one(&mut *lane, tie(&name("evt_3"), &format!("pi_a{tag}"), &name("in"), None)).await;
        // The upgrade is paid with prorations alone.
        let later = now + TimeDelta::seconds(5);
        commit_one(&mut *lane, snapshot(user, &name("evt_4"), &id, (active, Some(active)), later)).await;
        commit_one(&mut *lane, tie(&name("evt_5"), &name("in_up"), &id, None)).await;
        commit_one(&mut *lane, tie(&name("evt_6"), &format!("pi_b{tag}"), &name("in_up"), None)).await;
        let lost = disputed(&name("evt_7"), &format!("{payment}{tag}"), DisputeStatus::Lost, 9);
        assert_eq!(commit_one(&mut *lane, lost).await.outcome, Outcome::Applied);
        assert_eq!(level(&ledger, user).await, expected, "{payment}");
    }
}

pub(crate) async fn a_refund_of_an_older_period_takes_nothing(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let user = user();
    for entry in chain(user, "1") {
        commit_one(&mut *lane, entry).await;
    }
    assert_eq!(level(&ledger, user).await, "FREE");
    let next = tie("evt_2", "in_2", "sub_1x", Some(1_950_000_000));
    assert_eq!(commit_one(&mut *lane, next).await.others[0].1.level.as_str(), "PRO", "the next period is paid");
    let again = disputed("evt_3", "pi_1x", DisputeStatus::Lost, 9);
    assert_eq!(commit_one(&mut *lane, again).await.others, []);
    assert_eq!(commit_one(&mut *lane, tie("evt_4", "pi_2", "in_2", None)).await.others, []);
    let of_this = disputed("evt_5", "pi_2", DisputeStatus::NeedsResponse, 9);
    assert!(commit_one(&mut *lane, of_this).await.others[0].1.level.is_free());
    assert_eq!(on.value("SELECT status FROM user_entitlements").await, "suspended");
    let won = disputed("evt_6", "pi_2", DisputeStatus::Won, 10);
    assert_eq!(commit_one(&mut *lane, won).await.others[0].1.level.as_str(), "PRO");
}

pub(crate) async fn a_deleted_customer_takes_from_all_who_bought_as_it(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let (one, other, stranger) = (user(), user(), user());
    let buy = |user, n: &str, customer| {
        with_links(purchase(user, &format!("evt_{n}"), &format!("cs_{n}")), None, Some(customer))
    };
    commit_one(&mut *lane, buy(stranger, "1", "cus_2")).await;
    // One bought before the deletion is told, the other in the same transaction, and once more after it.
    commit_one(&mut *lane, buy(one, "2", "cus_1")).await;
    let results = commit(&mut *lane, vec![buy(other, "3", "cus_1"), deleted("evt_4", "cus_1")]).await;
    let mut changed: Vec<UserId> = results[1].as_ref().unwrap().others.iter().map(|(user, _)| *user).collect();
    changed.sort();
    let mut expected = [one, other];
    expected.sort();
    assert_eq!(changed, expected);
    commit_one(&mut *lane, buy(other, "5", "cus_1")).await;
    for (user, expected) in [(one, "FREE"), (other, "FREE"), (stranger, "PRO")] {
        assert_eq!(level(&ledger, user).await, expected);
    }
}

/// Whoever shares a customer does not exclude each other, and a deletion in the midst misses nobody.
pub(crate) async fn a_customer_deleted_while_many_buy_as_it_takes_from_all(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let users: Vec<UserId> = (0..12).map(|_| user()).collect();
    let mut entries: Vec<Entry> = users
        .iter()
        .enumerate()
        .map(|(n, user)| with_links(purchase(*user, &format!("evt_{n}"), &format!("cs_{n}")), None, Some("cus_1")))
        .collect();
    entries.insert(6, deleted("evt_end", "cus_1"));
    let lanes = entries.into_iter().map(|entry| {
        let mut lane = ledger.lane();
        tokio::spawn(async move { insist(&mut *lane, entry).await.outcome })
    });
    for outcome in futures::future::join_all(lanes).await {
        assert_eq!(outcome.unwrap(), Outcome::Applied);
    }
    for user in users {
        assert_eq!(level(&ledger, user).await, "FREE");
    }
}

/// Nothing of money is lost where nobody has bought anything (yet).
pub(crate) async fn money_of_nobody_is_kept(on: &dyn TestLedger) {
    let ledger = on.ledger();
    let mut lane = ledger.lane();
    let of_nobody = commit_one(&mut *lane, refunded("evt_1", "pi_1", PRICE, 2)).await;
    assert_eq!((of_nobody.outcome, of_nobody.others), (Outcome::Applied, vec![]));
    assert_eq!(on.column("SELECT id FROM stripe_objects").await, ["pi_1"]);
    let bought = commit_one(&mut *lane, paid(user(), "evt_2", "cs_1", "pi_1")).await;
    assert_eq!(bought.outcome, Outcome::Applied);
    assert!(bought.entitlement.unwrap().level.is_free());
    assert_eq!(on.value("SELECT status FROM user_entitlements").await, "revoked");
}
