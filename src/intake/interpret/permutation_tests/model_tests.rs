//! What somebody may do after a history, told by the history itself: events in the order in which things happened, as JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Months};
use serde_json::Value;

const DAY: i64 = 86_400;
const GRACE: i64 = 3 * DAY;

/// Level and end, `FREE` without one.
pub(super) fn state(history: &[Value], user: &str, now: i64) -> (String, Option<i64>) {
    let mut best = ("FREE".to_owned(), None);
    let mut best_rank = 0;
    let claims = bought_once(history, user).into_iter().chain(subscribed(history, user));
    for (level, end) in claims.filter(|(_, end)| now < *end) {
        let rank = match level.as_str() {
            "TRIAL" => 1,
            "PRO" => 2,
            "TEAM" => 3,
            _ => continue,
        };
        if (rank, Some(end)) > (best_rank, best.1) {
            best = (level, Some(end));
            best_rank = rank;
        }
    }
    best
}

fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_session(event: &Value) -> bool {
    text(event, "/data/object/object") == "checkout.session"
}

fn shows_paid(event: &Value) -> bool {
    is_session(event)
        && matches!(text(event, "/type").rsplit('.').next(), Some("completed" | "async_payment_succeeded"))
        && text(event, "/data/object/payment_status") != "unpaid"
}

/// Of each session the first moment that shows it paid counts; of trials only the first of all.
fn bought_once(history: &[Value], user: &str) -> Vec<(String, i64)> {
    let mut paid: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
    for event in history.iter().filter(|event| shows_paid(event) && text(event, "/data/object/mode") == "payment") {
        if text(event, "/data/object/metadata/userId") != user {
            continue;
        }
        if is_taken_back(history, text(event, "/data/object/payment_intent"))
            || is_deleted(history, text(event, "/data/object/customer"))
        {
            continue;
        }
        let created = event["created"].as_i64().unwrap();
        let first = paid
            .entry(text(event, "/data/object/id"))
            .or_insert((created, text(event, "/data/object/metadata/entitlementLevel")));
        first.0 = first.0.min(created);
    }
    let mut claims = Vec::new();
    let mut trials: Vec<i64> = Vec::new();
    for (created, level) in paid.into_values() {
        if level == "TRIAL" { trials.push(created) } else { claims.push((level.to_owned(), created + 365 * DAY)) }
    }
    claims.extend(trials.into_iter().min().map(|created| ("TRIAL".to_owned(), created + 7 * DAY)));
    claims
}

/// A subscription is as it was left; where only its checkout is known, it has one month and the grace.
fn subscribed(history: &[Value], user: &str) -> Vec<(String, i64)> {
    let mut claims = Vec::new();
    let mut ids: Vec<&str> = history.iter().map(subscription_of).filter(|id| !id.is_empty()).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let own: Vec<&Value> = history.iter().filter(|event| subscription_of(event) == id).collect();
        let named: Vec<&str> = own
            .iter()
            .map(|event| text(event, "/data/object/metadata/userId"))
            .filter(|user| !user.is_empty())
            .collect();
        if named.first().copied().or_else(|| only_user_of_customer(history, own[0])) != Some(user) {
            continue;
        }
        let snapshots: Vec<&Value> =
            own.iter().filter(|event| !is_session(event)).map(|event| &event["data"]["object"]).collect();
        if newest_payment(history, id).is_some_and(|payment| is_taken_back(history, payment)) {
            continue;
        }
        let has_ended =
            snapshots.iter().any(|it| matches!(it["status"].as_str(), Some("canceled" | "incomplete_expired")));
        match snapshots.last() {
            _ if has_ended => {}
            Some(last) => claims.extend(end_of(last).map(|end| ("PRO".to_owned(), end))),
            None => {
                let paid =
                    own.iter().filter(|event| shows_paid(event)).map(|event| event["created"].as_i64().unwrap()).min();
                claims.extend(paid.map(|paid| {
                    let month = DateTime::from_timestamp(paid, 0).unwrap() + Months::new(1);
                    ("PRO".to_owned(), month.timestamp() + GRACE)
                }));
            }
        }
    }
    claims
}

fn subscription_of(event: &Value) -> &str {
    match text(event, "/data/object/object") {
        "checkout.session" => text(event, "/data/object/subscription"),
        "subscription" => text(event, "/data/object/id"),
        _ => "",
    }
}

/// Whether all of a payment went back, or is being fought over, or was lost.
fn is_taken_back(history: &[Value], payment: &str) -> bool {
    let of_payment = |event: &&Value| text(event, "/data/object/payment_intent") == payment && !payment.is_empty();
    let (mut returned, mut charge, mut captured) = (BTreeMap::new(), 0, None);
    let mut disputes = BTreeMap::new();
    for event in history.iter().filter(of_payment) {
        let object = &event["data"]["object"];
        let id = text(event, "/data/object/id");
        match text(event, "/data/object/object") {
            "refund" if object["status"] == "failed" => {
                returned.remove(id);
                charge = 0;
            }
            "refund" => {
                returned.insert(id, object["amount"].as_i64().unwrap());
            }
            "charge" => {
                captured = object["amount_captured"].as_i64();
                charge = object["amount_refunded"].as_i64().unwrap();
            }
            "dispute" => {
                disputes.insert(id, text(event, "/data/object/status"));
            }
            _ => {}
        }
    }
    let returned = returned.values().sum::<i64>().max(charge);
    captured.is_some_and(|captured| returned >= captured)
        || disputes.values().any(|status| matches!(*status, "needs_response" | "lost"))
}

fn is_deleted(history: &[Value], customer: &str) -> bool {
    history.iter().any(|event| text(event, "/type") == "customer.deleted" && text(event, "/data/object/id") == customer)
}

/// What paid the invoice that was paid last.
fn newest_payment<'a>(history: &'a [Value], subscription: &str) -> Option<&'a str> {
    let invoice = history.iter().rfind(|event| {
        let of = ["/data/object/subscription", "/data/object/parent/subscription_details/subscription"];
        text(event, "/type") == "invoice.paid" && of.iter().any(|place| text(event, place) == subscription)
    })?;
    let own = text(invoice, "/data/object/payment_intent");
    let link = history.iter().find(|event| text(event, "/data/object/invoice") == text(invoice, "/data/object/id"));
    let linked = link.map(|link| text(link, "/data/object/payment/payment_intent"));
    Some(own).filter(|own| !own.is_empty()).or(linked)
}

fn only_user_of_customer<'a>(history: &'a [Value], event: &Value) -> Option<&'a str> {
    let customer = text(event, "/data/object/customer");
    let mut users: Vec<&str> = history
        .iter()
        .filter(|other| text(other, "/data/object/customer") == customer)
        .map(|other| text(other, "/data/object/metadata/userId"))
        .filter(|user| !user.is_empty())
        .collect();
    users.sort_unstable();
    users.dedup();
    (users.len() == 1).then(|| users[0])
}

/// When what the subscription gives ends; `None` if it gives nothing.
fn end_of(subscription: &Value) -> Option<i64> {
    let moved = |name: &str| {
        subscription[name].as_i64().or_else(|| subscription.pointer(&format!("/items/data/0/{name}"))?.as_i64())
    };
    let period_end = moved("current_period_end").unwrap();
    let is_to_end = subscription["cancel_at_period_end"] == true;
    match subscription["status"].as_str().unwrap() {
        "active" if is_to_end => Some(period_end),
        "active" => {
            let end = period_end + GRACE;
            Some(subscription["cancel_at"].as_i64().map_or(end, |cancel| end.min(cancel)))
        }
        "trialing" => {
            let end = subscription["trial_end"].as_i64().unwrap();
            Some(if is_to_end { end } else { end + GRACE })
        }
        "past_due" => Some(period_end.min(moved("current_period_start").unwrap() + GRACE)),
        _ => None,
    }
}
