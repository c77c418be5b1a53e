//! Triggered events mean what their arguments say, read by the same code that reads Stripe's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::Parser;

use super::*;
use crate::{
    domain::{
        change::{Change, Effect},
        event::{Note, Verdict},
        money::Fact,
        plan::tests::catalogue,
    },
    intake::{Interpreter, Meaning},
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn meaning(arguments: &str) -> (String, Meaning) {
    meaning_of(&format!("checkout.session.{arguments}"))
}

fn meaning_of(arguments: &str) -> (String, Meaning) {
    let line = format!("trigger {arguments} --user 3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5a");
    let args = Line::try_parse_from(line.split_whitespace()).unwrap().args;
    let (id, session) = (EventId::parse("evt_1").unwrap(), SessionId::parse("cs_test_7Ab").unwrap());
    let body = serde_json::to_vec(&event::json(&args, &id, &session, 1_790_000_000)).unwrap();
    let meaning = Interpreter::new(catalogue(), Some(false)).read_again(&body.into()).unwrap();
    let words = match &meaning {
        Meaning::Change(Change { effect: Effect::Purchase(grant), user, .. }) => {
            assert_eq!(*user, args.user);
            format!("{} {} {}", grant.level, grant.status.as_str(), grant.source)
        }
        Meaning::Change(Change { effect: Effect::SessionExpired(session), .. }) => format!("expired {session}"),
        Meaning::Unowned(unowned) => format!("of nobody: {unowned:?}"),
        Meaning::Report(report) => {
            let facts = report.facts.iter().map(|Fact { id, says }| {
                let parent = says.parent.as_ref().map(|parent| format!(" of {}", parent.as_str())).unwrap_or_default();
                let hold = says.facts.hold().map(|hold| format!(" {hold:?}")).unwrap_or_default();
                format!("{}{parent}{hold}", id.as_str())
            });
            facts.collect::<Vec<_>>().join(", ")
        }
        Meaning::Note(Note { verdict: Verdict::Parked(reason), .. }) => reason.to_string(),
        other => panic!("{other:?}"),
    };
    (words, meaning)
}

#[test]
fn each_type_means_what_it_says() {
    for (arguments, expected) in [
        ("completed", "PRO active checkout:cs_test_7Ab"),
        ("completed --mode subscription", "PRO active subscription:sub_7Ab"),
        ("completed --payment-status unpaid --level TEAM", "TEAM pending checkout:cs_test_7Ab"),
        ("completed --payment-status no_payment_required --level TRIAL", "TRIAL active checkout:cs_test_7Ab"),
        ("completed --payment-status in_kind", "unknown_status"),
        ("completed --level GOLD", "unknown_level"),
        ("async_payment_succeeded", "PRO active checkout:cs_test_7Ab"),
        ("async_payment_failed --mode subscription", "PRO revoked subscription:sub_7Ab"),
        ("expired", "expired cs_test_7Ab"),
    ] {
        assert_eq!(meaning(arguments).0, expected, "{arguments}");
    }
}

#[test]
fn what_comes_after_a_purchase_is_about_that_purchase() {
    for (arguments, expected) in [
        ("customer.subscription.created", "PRO active subscription:sub_7Ab"),
        ("customer.subscription.updated --status past_due", "PRO active subscription:sub_7Ab"),
        ("customer.subscription.updated --status unpaid", "PRO suspended subscription:sub_7Ab"),
        ("customer.subscription.updated --amount 4711", "unknown_price"),
        ("customer.subscription.paused", "PRO suspended subscription:sub_7Ab"),
        ("customer.subscription.resumed", "PRO active subscription:sub_7Ab"),
        ("customer.subscription.deleted", "PRO revoked subscription:sub_7Ab"),
        ("charge.refunded", "pi_7Ab Revoked"),
        ("refund.created", "pi_7Ab"),
        ("refund.failed", "pi_7Ab"),
        ("refund.created --status in_kind", "unknown_status"),
        ("charge.dispute.created", "pi_7Ab Suspended"),
        ("charge.dispute.closed", "pi_7Ab Revoked"),
        ("charge.dispute.closed --status won", "pi_7Ab"),
        ("invoice.paid", "in_7Ab of sub_7Ab"),
        ("invoice_payment.paid", "pi_7Ab of in_7Ab"),
        ("customer.deleted", "cus_3c2b1a908f7e4d6c9b5a0e1f2d3c4b5a Revoked"),
    ] {
        assert_eq!(meaning_of(arguments).0, expected, "{arguments}");
    }
}

#[test]
fn the_same_arguments_make_the_same_object() {
    let hash = |arguments| meaning(arguments).1.event().unwrap().object_hash;
    assert_eq!(hash("completed"), hash("completed"));
    assert_ne!(hash("completed"), hash("completed --level TEAM"));
}
