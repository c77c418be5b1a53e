//! The life of a subscription: bought on the pay page, renewed by the clock, refunded, disputed, changed and ended.

use serde_json::{Value, json};

use tollgate::sandbox::Switches;

use super::{
    CARD, World, card, location,
    receiver::{Receiver, Reply},
    shape,
};
use crate::harness::{eventually, server::Answer};

const DAY: i64 = 24 * 60 * 60;

impl World {
    /// A subscription that somebody bought on the pay page.
    async fn subscription(&self, form: &[(&str, &str)], more: &[(&str, &str)]) -> Value {
        let user = super::user().to_string();
        let mut all = vec![
            ("subscription_data[metadata][userId]", user.as_str()),
            ("subscription_data[metadata][entitlementLevel]", "PRO"),
        ];
        all.extend(more);
        let session = self.session("subscription", "2900", &all).await;
        location(&self.pay(&session, form).await);
        let session = self.look(&session).await;
        self.get(&format!("/v1/subscriptions/{}", text(&session["subscription"]))).await.json
    }

    /// Lets the sandbox's own time go on.
    async fn advance(&self, seconds: i64) {
        let answer =
            Answer::of(self.request(reqwest::Method::POST, "/sandbox/clock").json(&json!({ "by": seconds }))).await;
        assert_eq!((answer.status, &answer.json["advancing"]), (200, &json!(false)), "{}", answer.text);
    }

    async fn again(&self, object: &Value) -> Value {
        let folder = match text(&object["object"]) {
            "test_helpers.test_clock" => "test_helpers/test_clocks".to_owned(),
            kind => format!("{kind}s"),
        };
        self.get(&format!("/v1/{folder}/{}", text(&object["id"]))).await.json
    }

    /// All events, oldest first.
    async fn all_events(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("/v1/events?limit=100{after}")).await.json;
            all.extend(page["data"].as_array().unwrap().clone());
            if page["has_more"] == false {
                all.reverse();
                return all;
            }
            after = format!("&starting_after={}", text(&all.last().unwrap()["id"]));
        }
    }

    async fn kinds(&self) -> Vec<String> {
        self.all_events().await.iter().map(|event| text(&event["type"]).to_owned()).collect()
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        shape::data(&self.get(path).await.json).clone()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn count(kinds: &[String], kind: &str) -> usize {
    kinds.iter().filter(|found| *found == kind).count()
}

#[tokio::test]
async fn a_purchase_makes_all_that_stripe_makes_of_it() {
    let world = World::new().await;
    let subscription = world.subscription(CARD, &[]).await;
    shape::assert_object(&subscription);
    assert_eq!(
        (&subscription["status"], &subscription["metadata"]["entitlementLevel"]),
        (&json!("active"), &json!("PRO"))
    );
    let item = &subscription["items"]["data"][0];
    assert_eq!(item["current_period_start"], subscription["created"]);
    let invoice = world.get(&format!("/v1/invoices/{}", text(&subscription["latest_invoice"]))).await.json;
    shape::assert_object(&invoice);
    assert_eq!((&invoice["status"], &invoice["billing_reason"]), (&json!("paid"), &json!("subscription_create")));
    assert_eq!(invoice["parent"]["subscription_details"]["metadata"]["userId"], super::user().to_string());
    let payments = world.list(&format!("/v1/invoice_payments?invoice={}", text(&invoice["id"]))).await;
    shape::assert_object(&payments[0]);
    let intent = text(&payments[0]["payment"]["payment_intent"]);
    let found = format!("/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]={intent}");
    assert_eq!(world.list(&found).await, payments);
    let intent = world.get(&format!("/v1/payment_intents/{intent}?expand[]=latest_charge")).await.json;
    assert_eq!((&intent["status"], &intent["latest_charge"]["paid"]), (&json!("succeeded"), &json!(true)));
    for event in world.all_events().await {
        shape::assert_event(&event);
    }
    let kinds = world.kinds().await;
    assert_eq!(
        kinds,
        [
            "customer.created",
            "customer.subscription.created",
            "invoice.created",
            "invoice.finalized",
            "charge.succeeded",
            "payment_intent.succeeded",
            "invoice_payment.paid",
            "invoice.paid",
            "invoice.payment_succeeded",
            "checkout.session.completed"
        ]
    );
}

#[tokio::test]
async fn a_payment_has_a_charge_with_its_metadata() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[("payment_intent_data[metadata][userId]", "u")]).await;
    location(&world.pay(&session, CARD).await);
    let intent = text(&world.look(&session).await["payment_intent"]).to_owned();
    let charges = world.list(&format!("/v1/charges?payment_intent={intent}")).await;
    shape::assert_object(&charges[0]);
    assert_eq!((&charges[0]["metadata"]["userId"], &charges[0]["amount"]), (&json!("u"), &json!(2900)));
    assert_eq!(world.again(&charges[0]).await, charges[0]);
}

#[tokio::test]
async fn a_year_passes_in_a_moment() {
    let world = World::new().await;
    let receiver = Receiver::start().await;
    world.sandbox.deliver_to(&receiver.url);
    let subscription = world.subscription(CARD, &[]).await;
    world.advance(366 * DAY).await;
    let after = world.again(&subscription).await;
    let (begun, item) = (subscription["created"].as_i64().unwrap(), &after["items"]["data"][0]);
    assert!(item["current_period_start"].as_i64().unwrap() - begun >= 365 * DAY, "{after}");
    let events = world.all_events().await;
    let kinds: Vec<String> = events.iter().map(|event| text(&event["type"]).to_owned()).collect();
    assert_eq!((count(&kinds, "invoice.paid"), count(&kinds, "charge.succeeded")), (13, 13));
    let created: Vec<i64> = events.iter().map(|event| event["created"].as_i64().unwrap()).collect();
    assert!(created.is_sorted(), "in the order of time");
    for event in events.iter().skip(10).take(12) {
        shape::assert_event(event);
    }
    let updated = &world.events("customer.subscription.updated").await[0];
    assert!(updated["data"]["previous_attributes"]["items"]["data"].is_array(), "{updated}");
    // The clock of the signature is the real one, or nobody would take it.
    for delivery in receiver.after(kinds.len()).await {
        delivery.assert_signed(super::WEBHOOK_SECRET);
    }
}

#[tokio::test]
async fn time_ran_ahead_of_the_events_that_renew_a_level() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    receiver.reply(&[Reply::Hang]);
    world.sandbox.deliver_to(&receiver.url);
    world.subscription(CARD, &[]).await;
    receiver.after(1).await;
    let clock = async || world.get("/sandbox/clock").await.json;
    let now = |clock: &Value| clock["now"].as_i64().unwrap();
    let begun = now(&clock().await);
    let looks = async {
        eventually(super::PATIENCE, "time is to go on", || async { clock().await["advancing"] == true }).await;
        let waiting = clock().await;
        assert!(waiting["advancing"] == true && now(&waiting) < begun + DAY, "{waiting}");
        // What is held back is not waited for.
        world.sandbox.set_switches(Switches { withhold: true, ..Switches::default() });
    };
    tokio::join!(world.advance(366 * DAY), looks);
    assert!(now(&clock().await) >= begun + 366 * DAY);
}

#[tokio::test]
async fn an_advance_goes_on_after_a_restart_where_it_was() {
    let world = World::new().await;
    let clock =
        world.post("/v1/test_helpers/test_clocks", &[("frozen_time", "1800000000"), ("name", "year")]).await.json;
    let form = [("test_clock", text(&clock["id"])), ("payment_method", "pm_card_visa")];
    let customer = world.post("/v1/customers", &form).await.json;
    shape::assert_object(&customer);
    let session = world.session("subscription", "2900", &[("customer", text(&customer["id"]))]).await;
    location(&world.pay(&session, CARD).await);
    let goal = (1_800_000_000 + 366 * DAY).to_string();
    let path = format!("/v1/test_helpers/test_clocks/{}/advance", text(&clock["id"]));
    let told = world.post(&path, &[("frozen_time", &goal)]).await.json;
    assert_eq!((&told["status"], &told["frozen_time"]), (&json!("advancing"), &json!(1_800_000_000)));

    let world = world.restarted().await;
    eventually(super::PATIENCE, "the clock is there", || async { world.again(&clock).await["status"] == "ready" })
        .await;
    assert_eq!(world.again(&clock).await["frozen_time"].to_string(), goal);
    let kinds = world.kinds().await;
    assert_eq!((count(&kinds, "invoice.created"), count(&kinds, "invoice.paid")), (13, 13));
    assert_eq!(world.post(&path, &[("frozen_time", "1700000000")]).await.status, 400, "time goes forwards");
    let other = world.get("/sandbox/clock").await.json["now"].as_i64().unwrap();
    assert!((other - crate::harness::server::unix_now()).abs() < 60, "others live in real time: {other}");
}

#[tokio::test]
async fn a_card_that_fails_is_tried_again_until_it_pays_or_all_is_over() {
    let world = World::new().await;
    let subscription = world.subscription(CARD, &[]).await;
    let customer = format!("/v1/customers/{}", text(&subscription["customer"]));
    let fails = [("invoice_settings[default_payment_method]", "pm_card_chargeCustomerFail")];
    assert_eq!(world.post(&customer, &fails).await.status, 200);
    world.advance(32 * DAY).await;
    assert_eq!(world.again(&subscription).await["status"], "past_due");
    let open = &world.list(&format!("/v1/invoices?status=open&subscription={}", text(&subscription["id"]))).await[0];
    shape::assert_object(open);
    assert!(open["next_payment_attempt"].is_i64(), "{open}");
    let failed = &world.events("invoice.payment_failed").await[0];
    shape::assert_event(failed);
    assert_eq!(failed["data"]["object"]["attempt_count"], 1);
    let pay = format!("/v1/invoices/{}/pay", text(&open["id"]));
    assert_eq!(world.post(&pay, &[]).await.status, 402);

    world.post(&customer, &[("payment_method", "pm_card_visa")]).await;
    world.advance(8 * DAY).await;
    assert_eq!(world.again(&subscription).await["status"], "active");
    assert_eq!(world.again(open).await["status"], "paid");

    world.post(&customer, &fails).await;
    world.advance(60 * DAY).await;
    let over = world.again(&subscription).await;
    assert_eq!(
        (&over["status"], &over["cancellation_details"]["reason"]),
        (&json!("canceled"), &json!("payment_failed"))
    );
    for event in world.all_events().await {
        shape::assert_event(&event);
    }
}

#[tokio::test]
async fn a_refund_is_partial_then_full_and_may_fail_later() {
    let world = World::new().await;
    let session = world.session("payment", "2900", &[]).await;
    location(&world.pay(&session, &card("4000 0000 0000 5126")).await);
    let intent = text(&world.look(&session).await["payment_intent"]).to_owned();
    let partial = [("payment_intent", intent.as_str()), ("amount", "900")];
    let request = || world.form("/v1/refunds", &partial).header("Idempotency-Key", "once");
    let refund = Answer::of(request()).await.json;
    shape::assert_object(&refund);
    assert_eq!(Answer::of(request()).await.json, refund, "one key, one refund");
    let charge = format!("/v1/charges/{}", text(&refund["charge"]));
    let after = world.get(&charge).await.json;
    assert_eq!((&after["amount_refunded"], &after["refunded"]), (&json!(900), &json!(false)));
    let refunded = &world.events("charge.refunded").await[0];
    assert_eq!(refunded["data"]["previous_attributes"]["amount_refunded"], 0);
    assert_eq!(world.post("/v1/refunds", &[("payment_intent", &intent), ("amount", "2001")]).await.status, 400);
    world.post("/v1/refunds", &[("charge", text(&refund["charge"]))]).await;
    assert_eq!(world.get(&charge).await.json["refunded"], true);
    assert_eq!(
        world.post("/v1/refunds", &[("payment_intent", &intent)]).await.json["error"]["code"],
        "charge_already_refunded"
    );

    world.advance(DAY).await;
    assert_eq!(world.events("refund.failed").await.len(), 2);
    assert_eq!(world.get(&charge).await.json["amount_refunded"], 0, "the money came back");
    assert_eq!(world.again(&refund).await["status"], "failed");
    assert_eq!(world.list(&format!("/v1/refunds?payment_intent={intent}")).await.len(), 2);
    for event in world.all_events().await {
        shape::assert_event(&event);
    }
}

#[tokio::test]
async fn a_dispute_is_won_or_lost_by_what_is_said() {
    for (number, evidence, standings) in [
        ("4000 0000 0000 0259", "winning_evidence", ["needs_response", "won"]),
        ("4000 0000 0000 0259", "losing_evidence", ["needs_response", "lost"]),
        ("4000 0000 0000 1976", "winning_evidence", ["warning_needs_response", "warning_closed"]),
    ] {
        let world = World::new().await;
        let session = world.session("payment", "2900", &[]).await;
        location(&world.pay(&session, &card(number)).await);
        let dispute = world.list("/v1/disputes").await.remove(0);
        shape::assert_object(&dispute);
        assert_eq!(dispute["status"], standings[0]);
        let is_inquiry = standings[0].starts_with("warning");
        assert_eq!(world.events("charge.dispute.funds_withdrawn").await.len(), usize::from(!is_inquiry));
        let path = format!("/v1/disputes/{}", text(&dispute["id"]));
        let answered = world.post(&path, &[("evidence[uncategorized_text]", evidence)]).await.json;
        assert_eq!(answered["status"], standings[1]);
        let given_back = usize::from(standings[1] == "won");
        assert_eq!(world.events("charge.dispute.funds_reinstated").await.len(), given_back);
        assert_eq!(world.events("charge.dispute.closed").await.len(), 1);
        assert_eq!(world.post(&format!("{path}/close"), &[]).await.status, 400, "once");
        for event in world.all_events().await {
            shape::assert_event(&event);
        }
    }
}

#[tokio::test]
async fn a_dispute_is_closed_by_giving_in_or_by_saying_nothing() {
    let world = World::new().await;
    for _ in 0..2 {
        let session = world.session("payment", "2900", &[]).await;
        location(&world.pay(&session, CARD).await);
    }
    for charge in world.list("/v1/charges").await {
        let path = format!("/sandbox/charges/{}/dispute", text(&charge["id"]));
        assert_eq!(world.post(&path, &[]).await.json["status"], "needs_response");
    }
    let disputes = world.list("/v1/disputes").await;
    let path = format!("/v1/disputes/{}/close", text(&disputes[0]["id"]));
    assert_eq!(world.post(&path, &[]).await.json["status"], "lost");
    world.advance(8 * DAY).await;
    assert_eq!(world.again(&disputes[1]).await["status"], "lost");
}

#[tokio::test]
async fn a_subscription_is_changed_ended_and_kept() {
    let world = World::new().await;
    let subscription = world.subscription(CARD, &[]).await;
    let path = format!("/v1/subscriptions/{}", text(&subscription["id"]));
    let scheduled = world.post(&path, &[("cancel_at_period_end", "true")]).await.json;
    assert_eq!(scheduled["cancel_at"], subscription["items"]["data"][0]["current_period_end"]);
    let event = &world.events("customer.subscription.updated").await[0];
    assert_eq!(event["data"]["previous_attributes"]["cancel_at_period_end"], false);
    assert_eq!(world.post(&path, &[("cancel_at_period_end", "false")]).await.json["cancel_at"], Value::Null);

    let item = text(&subscription["items"]["data"][0]["id"]).to_owned();
    let product = text(&subscription["items"]["data"][0]["price"]["product"]).to_owned();
    world.advance(10 * DAY).await;
    let form = [
        ("items[0][id]", item.as_str()),
        ("items[0][price_data][currency]", "usd"),
        ("items[0][price_data][product]", &product),
        ("items[0][price_data][unit_amount]", "5800"),
        ("items[0][price_data][recurring][interval]", "month"),
        ("proration_behavior", "always_invoice"),
        ("metadata[entitlementLevel]", "TEAM"),
        ("expand[]", "latest_invoice"),
    ];
    let changed = world.post(&path, &form).await.json;
    let invoice = &changed["latest_invoice"];
    shape::assert_object(invoice);
    assert_eq!(invoice["billing_reason"], "subscription_update");
    let lines = invoice["lines"]["data"].as_array().unwrap();
    assert!(lines.iter().all(|line| line["parent"]["subscription_item_details"]["proration"] == true), "{invoice}");
    assert!(lines[0]["amount"].as_i64().unwrap() < 0 && lines[1]["amount"].as_i64().unwrap() > 0, "{invoice}");

    let paused = world.post(&path, &[("pause_collection[behavior]", "void")]).await.json;
    assert_eq!(paused["pause_collection"]["behavior"], "void");
    world.advance(31 * DAY).await;
    assert_eq!(world.list("/v1/invoices?status=void").await.len(), 1);
    assert_eq!(world.post(&path, &[("pause_collection", "")]).await.json["pause_collection"], Value::Null);
    assert_eq!(world.delete(&path).await.json["status"], "canceled");
    assert_eq!(world.delete(&path).await.status, 404);
    let customer = text(&subscription["customer"]);
    assert!(world.list(&format!("/v1/subscriptions?customer={customer}")).await.is_empty());
    assert_eq!(world.list(&format!("/v1/subscriptions?status=all&customer={customer}")).await.len(), 1);
    for event in world.all_events().await {
        shape::assert_event(&event);
    }
}

#[tokio::test]
async fn a_trial_costs_nothing_is_announced_and_can_be_cut_short() {
    let world = World::new().await;
    let free: &[(&str, &str)] = &[("method", "free"), ("email", "robin@example.com")];
    let subscription = world.subscription(free, &[("subscription_data[trial_period_days]", "14")]).await;
    shape::assert_object(&subscription);
    assert_eq!(subscription["status"], "trialing");
    let first = world.get(&format!("/v1/invoices/{}", text(&subscription["latest_invoice"]))).await.json;
    assert_eq!((&first["total"], &first["status"]), (&json!(0), &json!("paid")));
    world.advance(12 * DAY).await;
    let told = &world.events("customer.subscription.trial_will_end").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["created"].as_i64().unwrap(), subscription["trial_end"].as_i64().unwrap() - 3 * DAY);
    let path = format!("/v1/subscriptions/{}", text(&subscription["id"]));
    assert_eq!(world.post(&path, &[("trial_end", "now")]).await.json["status"], "active");
    assert_eq!(world.events("charge.succeeded").await.len(), 1);
}

#[tokio::test]
async fn a_customer_who_is_deleted_takes_his_subscriptions_along() {
    let world = World::new().await;
    let subscription = world.subscription(CARD, &[]).await;
    world.delete(&format!("/v1/customers/{}", text(&subscription["customer"]))).await;
    assert_eq!(world.again(&subscription).await["status"], "canceled");
    let kinds = world.kinds().await;
    assert_eq!(kinds[kinds.len() - 2..], ["customer.subscription.deleted", "customer.deleted"]);
}

#[tokio::test]
async fn the_portal_ends_keeps_and_changes_cards_for_its_own_customer() {
    let world = World::new().await;
    let subscription = world.subscription(CARD, &[]).await;
    let form = [("customer", text(&subscription["customer"])), ("return_url", "https://app.test/account")];
    let portal = world.post("/v1/billing_portal/sessions", &form).await.json;
    let path = format!("/p/session/{}", text(&portal["id"]));
    assert_eq!(text(&portal["url"]), world.url(&path));
    let page = Answer::of(super::browser().get(world.url(&path))).await;
    assert!(page.text.contains("https://app.test/account") && page.text.contains("$29.00 per month"), "{}", page.text);
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));

    let id = text(&subscription["id"]);
    let wish = async |wish: &str| world.submit(&path, &[("wish", wish), ("subscription", id)]).await;
    assert_eq!(location(&wish("cancel").await), path);
    assert_eq!(world.again(&subscription).await["cancel_at_period_end"], true);
    location(&wish("keep").await);
    assert_eq!(world.again(&subscription).await["cancel_at_period_end"], false);
    location(&wish("pay_with_failing_card").await);
    world.advance(32 * DAY).await;
    assert_eq!(world.again(&subscription).await["status"], "past_due");
    assert_eq!(wish("anything").await.status, 400);

    let body = serde_urlencoded::to_string([("wish", "cancel"), ("subscription", id)]).unwrap();
    let foreign = super::browser().post(world.url(&path)).header("Origin", "https://evil.example").body(body);
    assert_eq!(Answer::of(foreign).await.status, 403);
    let other = world.post("/v1/customers", &[("name", "other")]).await.json;
    let others = world.post("/v1/billing_portal/sessions", &[("customer", text(&other["id"]))]).await.json;
    let others = format!("/p/session/{}", text(&others["id"]));
    assert_eq!(world.submit(&others, &[("wish", "cancel"), ("subscription", id)]).await.status, 400, "not his");
    assert_eq!(world.again(&subscription).await["cancel_at_period_end"], false);
    assert_eq!(world.submit("/p/session/bps_none", &[("wish", "cancel")]).await.status, 404);
}

#[tokio::test]
async fn the_clock_is_for_who_has_the_key_and_goes_forwards() {
    let world = World::new().await;
    for wrong in [json!({ "by": -1 }), json!({ "to": 5 }), json!({ "by": i64::MAX }), json!({}), json!("x")] {
        let request = world.request(reqwest::Method::POST, "/sandbox/clock").json(&wrong);
        assert_eq!(Answer::of(request).await.status, 400, "{wrong}");
    }
    for path in ["/sandbox/clock", "/sandbox/after-retries", "/sandbox/charges/ch_1/dispute"] {
        let request = super::browser().post(world.url(path)).json(&json!({ "by": 5 }));
        assert_eq!(Answer::of(request).await.status, 401, "{path}");
    }
}
