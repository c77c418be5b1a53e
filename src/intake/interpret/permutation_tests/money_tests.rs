//! Stories in which money goes back, or comes again: each amount and each link as Stripe tells it in either shape.

use serde_json::{Value, json};

use super::{
    super::subscription::tests::{sample, set},
    scripts_tests::{DAY, Life, ROBIN, SASHA, START, Script, buys, script, session},
};

const PAID: i64 = 1000;

/// An event about an object of which only what decides anything is there.
fn event(kind: &str, shape: &str, days: i64, object: Value) -> Value {
    let mut event = sample("created", shape);
    for (place, value) in
        [("/type", json!(kind)), ("/created", json!(START + days * DAY)), ("/data", json!({ "object": object }))]
    {
        set(&mut event, place, value);
    }
    event
}

fn purchase(shape: &str, user: &str, id: &str) -> Value {
    let fields = [
        buys(user, "TEAM"),
        ("payment_status", json!("paid")),
        ("payment_intent", json!(format!("pi_{id}"))),
        ("customer", json!(format!("cus_{id}"))),
    ];
    session("completed", shape, id, 0, &fields)
}

fn refund(shape: &str, kind: &str, id: &str, made: i64, days: i64, status: &str) -> Value {
    let object = json!({ "id": id, "object": "refund", "payment_intent": "pi_1", "amount": PAID / 2,
                         "status": status, "created": START + made * DAY });
    event(&format!("refund.{kind}"), shape, days, object)
}

fn charge(shape: &str, days: i64, refunded: i64) -> Value {
    let object = json!({ "id": "ch_1", "object": "charge", "payment_intent": "pi_1", "amount": PAID,
                         "amount_captured": PAID, "amount_refunded": refunded, "refunded": refunded == PAID });
    event("charge.refunded", shape, days, object)
}

fn dispute(shape: &str, kind: &str, id: &str, days: i64, status: &str) -> Value {
    let object = json!({ "id": id, "object": "dispute", "payment_intent": "pi_1", "charge": "ch_1", "status": status });
    event(&format!("charge.dispute.{kind}"), shape, days, object)
}

/// A paid invoice, with the payment that it names itself, or that an event of its own names.
fn paid(shape: &str, number: i64) -> Vec<Value> {
    let (days, end) = (30 * (number - 1), START + 30 * number * DAY);
    let (id, payment) = (format!("in_{number}"), format!("pi_{number}"));
    if shape == "acacia" {
        let line = json!({ "type": "subscription", "proration": false, "period": { "end": end } });
        let object = json!({ "id": id, "object": "invoice", "subscription": "sub_1", "payment_intent": payment,
                             "lines": { "data": [line] } });
        return vec![event("invoice.paid", shape, days, object)];
    }
    let line = json!({ "parent": { "subscription_item_details": { "proration": false } }, "period": { "end": end } });
    let object = json!({ "id": id, "object": "invoice", "lines": { "data": [line] },
                         "parent": { "subscription_details": { "subscription": "sub_1" } } });
    let link = json!({ "id": format!("inpay_{number}"), "object": "invoice_payment", "invoice": id, "status": "paid",
                       "payment": { "type": "payment_intent", "payment_intent": payment } });
    vec![event("invoice.paid", shape, days, object), event("invoice_payment.paid", shape, days, link)]
}

pub(super) fn of_shape(shape: &'static str) -> Vec<Script> {
    let bought = || purchase(shape, ROBIN, "1");
    let life = Life::of(shape, "sub_1", "cus_1", Some(ROBIN)).then("created", 0, 0, "active", &[]);
    let customer = |days| event("customer.deleted", shape, days, json!({ "id": "cus_1", "object": "customer" }));
    vec![
        script(
            "refunded by halves, of which one fails",
            shape,
            &[ROBIN],
            [
                bought(),
                refund(shape, "created", "re_1", 1, 1, "succeeded"),
                charge(shape, 1, PAID / 2),
                refund(shape, "created", "re_2", 2, 2, "pending"),
                charge(shape, 2, PAID),
                refund(shape, "failed", "re_2", 2, 5, "failed"),
            ],
        ),
        script(
            "asked about, disputed, won, disputed again, lost",
            shape,
            &[ROBIN],
            [
                bought(),
                dispute(shape, "created", "dp_1", 1, "warning_needs_response"),
                dispute(shape, "updated", "dp_1", 2, "needs_response"),
                dispute(shape, "closed", "dp_1", 3, "won"),
                dispute(shape, "created", "dp_2", 4, "needs_response"),
                dispute(shape, "closed", "dp_2", 5, "lost"),
            ],
        ),
        script(
            "a period refunded, the next one paid",
            shape,
            &[ROBIN],
            life.events.into_iter().chain(paid(shape, 1)).chain([charge(shape, 5, PAID)]).chain(paid(shape, 2)),
        ),
        script(
            "a customer deleted, who is not the only one",
            shape,
            &[ROBIN, SASHA],
            [bought(), purchase(shape, SASHA, "2"), customer(3), charge(shape, 4, PAID / 2)],
        ),
    ]
}
