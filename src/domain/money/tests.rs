//! What was taken back, tested over all orders and repetitions against a model of another make: it keeps all events, sorts them by time, and
//! goes through them once.

use DisputeStatus::{Lost, NeedsResponse, UnderReview, WarningClosed, WarningNeedsResponse, Won};
use Event::{Bought, Charged, CustomerDeleted, Disputed, InvoiceOf, InvoicePaid, Refunded, Subscribed};
use RefundStatus::{Canceled, Failed, Pending, Succeeded};
use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::domain::{
    change::{Account, Effect},
    event::EventRecord,
    grant::{GrantStatus, Source},
    id::{CustomerId, EventId, PaymentIntentId},
    level::Level,
    plan::tests::catalogue,
    subscription::Snapshots,
    tests::{permutations, time},
};

const PRICE: i64 = 1500;

/// Something that happens in a script: to the purchase, or to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A one-off purchase by the payment.
    Bought(&'static str),
    /// The subscription's checkout.
    Subscribed,
    /// The subscription's invoice of the period that ends after so many days.
    InvoicePaid(&'static str, i64),
    /// The payment paid the invoice.
    InvoiceOf(&'static str, &'static str),
    /// Of a payment: the refund, its status, amount, and seconds since it was made.
    Refunded(&'static str, &'static str, RefundStatus, i64, i64),
    /// Of a payment: how much is refunded by now.
    Charged(&'static str, i64),
    Disputed(&'static str, &'static str, DisputeStatus),
    CustomerDeleted,
}

/// Events with Stripe's seconds.
type Script = Vec<(i64, Event)>;

fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

fn grant(kind: SourceKind, source: &str, payment: Option<&str>, at: DateTime<Utc>) -> Grant {
    Grant {
        source: Source { kind, id: source.into() },
        level: Level::parse("PRO").unwrap(),
        status: GrantStatus::Active,
        hold: None,
        period_end: at + TimeDelta::days(365),
        reported_at: at,
        event: EventId::parse(&format!("evt_{source}")).ok(),
        session: None,
        payment_intent: payment.map(|payment| PaymentIntentId::parse(payment).unwrap()),
        customer: CustomerId::parse("cus_1").ok(),
        snapshots: Snapshots::default(),
    }
}

fn report(name: &str, says: Object) -> Report {
    let event = EventRecord {
        id: EventId::parse("evt_1").unwrap(),
        kind: "refund.created".into(),
        object_id: None,
        created: time(0),
        livemode: false,
        api_version: None,
        object_hash: [0; 32],
        payload: bytes::Bytes::new(),
    };
    Report { cause: Cause::Delivery(event), facts: vec![Fact { id: id(name), says }] }
}

enum Step {
    Purchase(Effect),
    Report(Report),
}

fn step((seconds, event): (i64, Event)) -> Step {
    let reported_at = time(seconds);
    let buy = |kind, source, payment| Step::Purchase(Effect::Purchase(grant(kind, source, payment, reported_at)));
    let of = |payment, facts| Step::Report(report(payment, Object { facts, ..Object::default() }));
    match event {
        Bought(payment) => buy(SourceKind::Checkout, "cs_1", Some(payment)),
        Subscribed => buy(SourceKind::Subscription, "sub_1", None),
        InvoicePaid(invoice, days) => {
            let period_end = Some(time(0) + TimeDelta::days(days));
            Step::Report(report(invoice, Object { parent: Some(id("sub_1")), period_end, ..Object::default() }))
        }
        InvoiceOf(payment, invoice) => {
            Step::Report(report(payment, Object { parent: Some(id(invoice)), ..Object::default() }))
        }
        Refunded(payment, name, status, amount, age) => {
            let refund = Refund { reported_at, status, amount, made_at: time(seconds - age) };
            of(payment, Facts { refunds: [(id(name), refund)].into(), ..Facts::default() })
        }
        Charged(payment, refunded) => {
            let charge = Some(Charge { reported_at, refunded, captured: PRICE });
            of(payment, Facts { charge, ..Facts::default() })
        }
        Disputed(payment, name, status) => {
            let dispute = Dispute { reported_at, status };
            of(payment, Facts { disputes: [(id(name), dispute)].into(), ..Facts::default() })
        }
        CustomerDeleted => of("cus_1", Facts { deleted: true, ..Facts::default() }),
    }
}

/// What is held, and whether the user has something, after all events in this order.
fn run(script: &[(i64, Event)]) -> (Vec<Option<Hold>>, bool) {
    let (mut account, mut money) = (Account::default(), Objects::default());
    let now = time(100);
    for event in script {
        match step(*event) {
            Step::Purchase(effect) => {
                account.apply(&effect, &money, &catalogue(), now);
            }
            Step::Report(report) => {
                let is_new = report.facts.iter().filter(|fact| money.learn(fact)).count() > 0;
                let version = account.entitlement.version;
                if account.grants.iter().any(|grant| money.are_tied(&report, grant)) {
                    account.weigh(&money, &catalogue(), now);
                }
                assert!(is_new || account.entitlement.version == version, "nothing new changes nothing");
            }
        }
    }
    let mut grants = account.grants.clone();
    grants.sort_by(|one, other| one.source.cmp(&other.source));
    (grants.iter().map(|grant| grant.hold).collect(), !account.entitlement.level.is_free())
}

/// The model: events in the order of their times, each simply done. It knows nothing of joins.
fn model(script: &[(i64, Event)]) -> (Vec<Option<Hold>>, bool) {
    let mut story = script.to_vec();
    story.sort_by_key(|(seconds, _)| *seconds);
    let events = || story.iter().map(|(_, event)| *event);
    let is_deleted = events().any(|event| event == CustomerDeleted);
    let mut holds = Vec::new();
    for payment in events().filter_map(|event| if let Bought(payment) = event { Some(payment) } else { None }) {
        holds.push(if is_deleted { Some(Hold::Revoked) } else { fate(&story, payment) });
    }
    if events().any(|event| event == Subscribed) {
        let paid = events().filter_map(|event| if let InvoicePaid(it, days) = event { Some((days, it)) } else { None });
        let (_, newest) = paid.max().unwrap_or((0, "none"));
        let payments = events().filter_map(|event| match event {
            InvoiceOf(payment, invoice) if invoice == newest => Some(payment),
            _ => None,
        });
        let fate = payments.filter_map(|payment| fate(&story, payment)).max();
        holds.push(if is_deleted { Some(Hold::Revoked) } else { fate });
    }
    let has_something = holds.contains(&None);
    (holds, has_something)
}

/// What became of one payment, told from its beginning.
fn fate(story: &[(i64, Event)], payment: &str) -> Option<Hold> {
    let mut by_charge = None;
    let mut refunds: Vec<(&str, i64)> = Vec::new();
    let mut disputes: Vec<(&str, DisputeStatus)> = Vec::new();
    for (_, event) in story {
        match *event {
            Charged(of, refunded) if of == payment => by_charge = Some(refunded),
            Refunded(of, name, status, amount, _) if of == payment => {
                refunds.retain(|(known, _)| *known != name);
                if matches!(status, Failed | Canceled) {
                    by_charge = by_charge.map(|sum| sum - amount);
                } else {
                    refunds.push((name, amount));
                }
            }
            Disputed(of, name, status) if of == payment => {
                match disputes.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, Won | Lost)) => {}
                    Some((_, known)) => *known = status,
                    None => disputes.push((name, status)),
                }
            }
            _ => {}
        }
    }
    let back: i64 = refunds.iter().map(|(_, amount)| amount).sum();
    if by_charge.is_some_and(|sum| sum.max(back) >= PRICE) || disputes.iter().any(|(_, status)| *status == Lost) {
        return Some(Hold::Revoked);
    }
    let is_open = disputes.iter().any(|(_, status)| matches!(status, NeedsResponse | UnderReview));
    is_open.then_some(Hold::Suspended)
}

/// Each with what it must come to, so that a mistake that both share is found.
fn scripts() -> Vec<(Option<Hold>, Script)> {
    let refund = |id, status, amount, age| Refunded("pi_1", id, status, amount, age);
    let dispute = |id, status| Disputed("pi_1", id, status);
    let (bought, subscribed) = ((1, Bought("pi_1")), (1, Subscribed));
    let (paid, by) = ((1, InvoicePaid("in_1", 30)), (1, InvoiceOf("pi_1", "in_1")));
    let (paid_again, by_next) = ((3, InvoicePaid("in_2", 60)), (3, InvoiceOf("pi_2", "in_2")));
    let (revoked, suspended) = (Some(Hold::Revoked), Some(Hold::Suspended));
    let (part, part_sum) = ((2, refund("re_1", Succeeded, 500, 0)), (2, Charged("pi_1", 500)));
    let (rest, full_sum) = ((3, refund("re_2", Pending, 1000, 0)), (3, Charged("pi_1", PRICE)));
    vec![
        (None, vec![bought, part, part_sum]),
        (revoked, vec![bought, part, part_sum, rest, full_sum]),
        (revoked, vec![bought, part, rest, part_sum]),
        (None, vec![bought, part, rest, full_sum, (5, refund("re_2", Failed, 1000, 2))]),
        (None, vec![bought, part, part_sum, rest, full_sum, (5, refund("re_2", Canceled, 1000, 2))]),
        (
            revoked,
            vec![
                bought,
                rest,
                full_sum,
                (5, refund("re_2", Failed, 1000, 2)),
                (6, refund("re_3", Succeeded, 1000, 0)),
                (6, Charged("pi_1", PRICE)),
            ],
        ),
        (None, vec![bought, (2, refund("re_1", Succeeded, PRICE, 0))]),
        (suspended, vec![bought, (2, dispute("dp_1", WarningNeedsResponse)), (3, dispute("dp_1", NeedsResponse))]),
        (None, vec![bought, (2, dispute("dp_1", WarningNeedsResponse)), (3, dispute("dp_1", WarningClosed))]),
        (suspended, vec![bought, (2, dispute("dp_1", WarningClosed)), (3, dispute("dp_1", NeedsResponse))]),
        (
            revoked,
            vec![
                bought,
                (2, dispute("dp_1", NeedsResponse)),
                (3, dispute("dp_1", UnderReview)),
                (4, dispute("dp_1", Won)),
                (5, dispute("dp_2", NeedsResponse)),
                (6, dispute("dp_2", Lost)),
            ],
        ),
        (
            None,
            vec![
                bought,
                (2, dispute("dp_1", NeedsResponse)),
                (4, dispute("dp_1", Won)),
                (5, dispute("dp_1", NeedsResponse)),
                (6, dispute("dp_2", WarningClosed)),
            ],
        ),
        (revoked, vec![subscribed, paid, by, full_sum]),
        (None, vec![subscribed, paid, by, full_sum, paid_again, by_next]),
        (revoked, vec![subscribed, paid, by, paid_again, by_next, (4, Disputed("pi_2", "dp_1", Lost))]),
        (None, vec![subscribed, paid, by, paid_again, (4, dispute("dp_1", Lost))]),
        (revoked, vec![bought, (2, CustomerDeleted), (3, dispute("dp_1", Won))]),
    ]
}

#[test]
fn all_orders_of_what_can_happen_to_money_end_as_told_from_the_beginning() {
    for (expected, script) in scripts() {
        assert_eq!(model(&script).0, [expected], "the model: {script:?}");
        for order in permutations(&script) {
            assert_eq!(run(&order), model(&script), "{order:?}");
        }
    }
}

#[test]
fn a_repetition_at_any_place_changes_nothing() {
    for (_, script) in scripts() {
        for twice in 0..script.len() {
            for place in 0..=script.len() {
                let mut repeated = script.clone();
                repeated.insert(place, script[twice]);
                assert_eq!(run(&repeated), model(&script), "{repeated:?}");
            }
        }
    }
}

#[test]
fn purchases_do_not_suffer_for_each_other() {
    let script = [
        (1, Bought("pi_9")),
        (1, Subscribed),
        (2, InvoicePaid("in_1", 30)),
        (2, InvoiceOf("pi_1", "in_1")),
        (3, Disputed("pi_1", "dp_1", NeedsResponse)),
    ];
    for order in permutations(&script) {
        assert_eq!(run(&order), (vec![None, Some(Hold::Suspended)], true));
    }
}

#[test]
fn of_one_second_the_same_report_holds_in_any_order() {
    let refund = |status| Refunded("pi_1", "re_1", status, PRICE, 0);
    for (expected, pair) in [
        (Some(Hold::Revoked), [refund(Pending), refund(Succeeded)]),
        (None, [refund(Succeeded), refund(Failed)]),
        (Some(Hold::Suspended), [WarningNeedsResponse, NeedsResponse].map(|status| Disputed("pi_1", "dp_1", status))),
        (Some(Hold::Revoked), [Won, Lost].map(|status| Disputed("pi_1", "dp_1", status))),
        (Some(Hold::Revoked), [Charged("pi_1", 500), Charged("pi_1", PRICE)]),
    ] {
        let script = [(1, Bought("pi_1")), (2, Charged("pi_1", 0)), (3, pair[0]), (3, pair[1])];
        for order in permutations(&script) {
            assert_eq!(run(&order).0, [expected], "{order:?}");
        }
    }
}

#[test]
fn a_hold_is_for_what_was_paid_and_is_lifted_with_its_cause() {
    let mut grant = grant(SourceKind::Checkout, "cs_1", None, time(0));
    assert!(grant.weigh(Some(Hold::Suspended)) && !grant.is_live(time(1)));
    assert_eq!((grant.status, grant.standing()), (GrantStatus::Active, GrantStatus::Suspended));
    assert!(!grant.weigh(Some(Hold::Suspended)), "that was known");
    assert!(grant.weigh(None) && grant.is_live(time(1)));
    grant.status = GrantStatus::Pending;
    assert!(!grant.weigh(Some(Hold::Revoked)), "nothing was given");
    assert_eq!(grant.standing(), GrantStatus::Pending);
}

#[test]
fn facts_are_kept_as_they_are() {
    let facts = Facts {
        refunds: [(id("re_1"), Refund { reported_at: time(1), status: Pending, amount: 5, made_at: time(0) })].into(),
        disputes: [(id("dp_1"), Dispute { reported_at: time(2), status: WarningNeedsResponse })].into(),
        charge: Some(Charge { reported_at: time(3), refunded: 5, captured: PRICE }),
        deleted: true,
    };
    for facts in [facts, Facts::default()] {
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts, "{text}");
    }
    assert!(serde_json::from_str::<Facts>(r#"{"of_a_newer_version":1}"#).is_err(), "what is not read is not dropped");
}
