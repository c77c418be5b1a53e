//! What events leave open is asked of Stripe, beside the webhooks: against a stand-in that says how things stand.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{Answer, TestServer, World, client, unix_now},
};

const PATIENCE: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400;

/// A subscription to PRO as Stripe has it.
fn subscription(id: &str, user: Uuid, status: &str, ends: i64) -> Value {
    let price = json!({
        "id": "price_Inline", "unit_amount": 2900, "currency": "usd", "recurring": { "interval": "month", "interval_count": 1 },
    });
    json!({
        "id": id, "object": "subscription", "status": status, "customer": "cus_Test", "livemode": false,
        "created": ends - 60 * DAY, "metadata": { "userId": user, "entitlementLevel": "PRO" },
        "items": { "data": [{
            "id": "si_1", "price": price, "quantity": 1, "current_period_start": ends - 30 * DAY, "current_period_end": ends,
        }] },
    })
}

fn event(kind: &str, created: i64, object: &Value) -> Value {
    json!({
        "id": format!("evt_{}", Uuid::new_v4().simple()), "object": "event", "type": kind, "created": created,
        "livemode": false, "api_version": "2026-10-28.endive", "data": { "object": object },
    })
}

fn refund(payment: &str, amount: i64) -> Value {
    let id = format!("re_{}", Uuid::new_v4().simple());
    let refund = json!({
        "id": id, "object": "refund", "status": "succeeded", "payment_intent": payment, "amount": amount, "created": unix_now(),
    });
    event("refund.created", unix_now(), &refund)
}

/// A payment with its charge.
fn payment(id: &str, captured: i64, refunded: i64) -> Value {
    json!({ "id": id, "object": "payment_intent", "latest_charge": {
        "id": "ch_1", "object": "charge", "payment_intent": id, "amount_captured": captured, "amount_refunded": refunded,
    } })
}

fn invoice(id: &str, subscription: &str, period_end: i64) -> Value {
    let line = json!({
        "parent": { "subscription_item_details": { "subscription": subscription, "proration": false } },
        "period": { "start": period_end - 30 * DAY, "end": period_end },
    });
    json!({
        "id": id, "object": "invoice", "status": "paid",
        "parent": { "subscription_details": { "subscription": subscription } }, "lines": { "data": [line] },
    })
}

fn list(objects: &[Value]) -> Value {
    json!({ "object": "list", "has_more": false, "data": objects })
}

/// A user with two states of one second, of which events do not tell the later one: PRO holds till Stripe is asked.
pub(crate) struct Tied {
    pub(crate) user: Uuid,
    pub(crate) id: String,
    second: i64,
}

impl Tied {
    pub(crate) async fn on(server: &TestServer) -> Self {
        let tied =
            Self { user: Uuid::new_v4(), id: format!("sub_{}", Uuid::new_v4().simple()), second: unix_now() - 60 };
        for status in ["active", "unpaid"] {
            tied.told(server, status, tied.second).await;
        }
        tied
    }

    pub(crate) fn as_stripe_has_it(&self, status: &str) -> Value {
        subscription(&self.id, self.user, status, self.second + 30 * DAY)
    }

    async fn told(&self, server: &TestServer, status: &str, created: i64) {
        let told = event("customer.subscription.updated", created, &self.as_stripe_has_it(status));
        let answer = server.deliver(&told).await;
        assert_eq!((answer.status, &answer.json["processed"]), (200, &json!(true)), "{}", answer.text);
    }

    pub(crate) fn path(&self) -> String {
        format!("subscriptions/{}", self.id)
    }
}

async fn becomes(server: &TestServer, user: Uuid, level: &str) {
    eventually(PATIENCE, level, || async { server.read(user).await.json["entitlementLevel"] == level }).await;
}

async fn stays(server: &TestServer, user: Uuid, level: &str) {
    assert_eq!(server.read(user).await.json["entitlementLevel"], level);
}

/// Waits until nothing is to be asked any more.
async fn all_is_answered(world: &World) {
    let waiting = "SELECT count(*)::text FROM stripe_fetches WHERE given_up_at IS NULL";
    eventually(PATIENCE, "nothing waits", || async { world.database.value(waiting).await == "0" }).await;
}

#[tokio::test]
async fn a_tie_is_settled_by_asking_once_on_however_many_replicas() {
    let world = World::new().await;
    let (server, _other) = (world.serve().await, world.serve().await);
    let tied = Tied::on(&server).await;
    world.stripe.have(&tied.path(), &tied.as_stripe_has_it("unpaid"));
    stays(&server, tied.user, "PRO").await;
    becomes(&server, tied.user, "FREE").await;
    all_is_answered(&world).await;
    assert_eq!(world.stripe.asked(&tied.path()), 1);
    assert_eq!(world.database.value("SELECT count(*)::text FROM stripe_events").await, "2", "it is no event");
    let cause =
        format!("SELECT cause FROM entitlement_history WHERE user_id = '{}' ORDER BY version DESC LIMIT 1", tied.user);
    assert_eq!(world.database.value(&cause).await, "fetched");

    tied.told(&server, "active", tied.second + 1).await;
    stays(&server, tied.user, "PRO").await;
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn an_event_that_settles_a_tie_leaves_nothing_to_ask() {
    let world = World::new().await;
    // Without a key nobody asks, and what is open waits.
    let server = world.serve_with(&[("STRIPE_SECRET_KEY", "")]).await;
    let tied = Tied::on(&server).await;
    let rows = "SELECT object_id || ' ' || reason FROM stripe_fetches";
    assert_eq!(world.database.value(rows).await, format!("{} tied", tied.id));
    tied.told(&server, "active", tied.second + 1).await;
    assert_eq!(world.database.value("SELECT count(*)::text FROM stripe_fetches").await, "0");
}

#[tokio::test]
async fn a_refund_whose_charge_nobody_told_of_takes_access_once_stripe_was_asked() {
    let world = World::new().await;
    let server = world.serve().await;
    let (whole, part) = (SessionEvent::paid(Uuid::new_v4()), SessionEvent::paid(Uuid::new_v4()));
    for (bought, refunded) in [(&whole, 2900), (&part, 900)] {
        let id = bought.session.replace("cs_test_", "pi_");
        world.stripe.have(&format!("payment_intents/{id}"), &payment(&id, 2900, refunded));
        assert_eq!(server.deliver(&bought.json()).await.status, 200);
        assert_eq!(server.deliver(&refund(&id, refunded)).await.status, 200);
        stays(&server, bought.user, "PRO").await;
    }
    becomes(&server, whole.user, "FREE").await;
    all_is_answered(&world).await;
    stays(&server, part.user, "PRO").await;
    assert_eq!(world.stripe.asked("invoice_payments"), 0, "who bought with it is known");
}

#[tokio::test]
async fn a_refund_of_a_subscriptions_payment_finds_its_period_by_asking() {
    let world = World::new().await;
    let server = world.serve().await;
    let bought = SessionEvent::subscribed(Uuid::new_v4());
    let id = bought.subscription.clone().unwrap();
    assert_eq!(server.deliver(&bought.json()).await.status, 200);
    let now = unix_now();
    let invoices = [invoice("in_2", &id, now + 30 * DAY), invoice("in_1", &id, now)];
    world.stripe.have("invoices", &list(&invoices));
    for (number, invoice) in [(2, &invoices[0]), (1, &invoices[1])] {
        let paid = format!("pi_{number}");
        world.stripe.have(&format!("invoices/in_{number}"), invoice);
        world.stripe.have(&format!("payment_intents/{paid}"), &payment(&paid, 2900, 2900));
    }
    // Of the period before: takes nothing, and not because the newer one is not known.
    for (number, level) in [(1, "PRO"), (2, "FREE")] {
        let paid = format!("pi_{number}");
        let tie = json!({ "invoice": format!("in_{number}"), "payment": { "type": "payment_intent", "payment_intent": paid } });
        world.stripe.have("invoice_payments", &list(&[tie]));
        assert_eq!(server.deliver(&refund(&paid, 2900)).await.status, 200);
        all_is_answered(&world).await;
        becomes(&server, bought.user, level).await;
    }
}

#[tokio::test]
async fn renewals_and_ends_are_followed_with_no_event_but_the_checkouts() {
    let world = World::new().await;
    let server = world.serve().await;
    let begun = unix_now() - 34 * DAY;
    let renewed = SessionEvent { created: begun, ..SessionEvent::subscribed(Uuid::new_v4()) };
    let ended = SessionEvent { created: begun, ..SessionEvent::subscribed(Uuid::new_v4()) };
    for (bought, status) in [(&renewed, "active"), (&ended, "canceled")] {
        let id = bought.subscription.as_deref().unwrap();
        let has = subscription(id, bought.user, status, begun + 60 * DAY);
        world.stripe.have(&format!("subscriptions/{id}"), &has);
        assert_eq!(server.deliver(&bought.json()).await.status, 200);
    }
    becomes(&server, renewed.user, "PRO").await;
    let status = format!("SELECT status FROM user_entitlements WHERE user_id = '{}'", ended.user);
    eventually(PATIENCE, "it has ended", || async { world.database.value(&status).await == "revoked" }).await;
    all_is_answered(&world).await;
    stays(&server, ended.user, "FREE").await;
}

#[tokio::test]
async fn what_stripe_cannot_answer_yet_is_asked_again() {
    let world = World::new().await;
    let server = world.serve().await;
    for (status, times) in [(503, 3), (429, 1)] {
        world.stripe.fail_next(status, r#"{"error":{"type":"api_error"}}"#, times);
        let tied = Tied::on(&server).await;
        world.stripe.have(&tied.path(), &tied.as_stripe_has_it("unpaid"));
        becomes(&server, tied.user, "FREE").await;
        assert!(world.stripe.asked(&tied.path()) > times, "{status}");
    }
}

#[tokio::test]
async fn what_stripe_does_not_know_takes_nothing_and_is_shown_to_operators() {
    let world = World::new().await;
    let server = world.serve().await;
    let tied = Tied::on(&server).await;
    let given_up = "SELECT count(*)::text FROM stripe_fetches WHERE given_up_at IS NOT NULL";
    eventually(PATIENCE, "it is given up", || async { world.database.value(given_up).await == "1" }).await;
    stays(&server, tied.user, "PRO").await;
    let summary = Answer::of(client().get(server.admin_url("/api/admin/summary"))).await;
    let shown = json!([{ "reason": "tied", "waiting": 0, "givenUp": 1, "oldest": null }]);
    assert_eq!(summary.json["fetches"], shown, "{}", summary.text);
}

#[tokio::test]
async fn a_stripe_that_hangs_holds_up_no_webhook_and_a_killed_replicas_question_is_asked_by_another() {
    let world = World::new().await;
    let server = world.serve().await;
    world.stripe.hang_next(100);
    let tied = Tied::on(&server).await;
    eventually(PATIENCE, "it is being asked", || async { world.stripe.asked(&tied.path()) > 0 }).await;
    for _ in 0..20 {
        let bought = SessionEvent::paid(Uuid::new_v4());
        assert_eq!(server.deliver(&bought.json()).await.status, 200);
        stays(&server, bought.user, "PRO").await;
    }
    server.signal("KILL").await;
    drop(server);

    let world = World { stripe: crate::harness::stripe::StandInStripe::start().await, ..world };
    world.stripe.have(&tied.path(), &tied.as_stripe_has_it("unpaid"));
    let other = world.serve().await;
    // Its lease is over.
    world.database.execute("UPDATE stripe_fetches SET due_at = now()").await;
    becomes(&other, tied.user, "FREE").await;
    all_is_answered(&world).await;
    assert_eq!(world.stripe.asked(&tied.path()), 1);
}

/// Asked about a subscription that lapses while the second of its newest event was not over, Stripe answered with a state of that second that was
/// not the last one, and yet counted as its last word: the event that told of the last one changed nothing.
#[tokio::test]
async fn an_answer_given_within_the_second_of_an_event_hid_the_next_event_of_that_second() {
    let world = World::new().await;
    let server = world.serve().await;
    let (user, id) = (Uuid::new_v4(), format!("sub_{}", Uuid::new_v4().simple()));
    // With the grace, in half an hour; and a second that lasts for as long as the test.
    let (ends, second) = (unix_now() - 3 * DAY + 1800, unix_now() + 600);
    let told = |status| event("customer.subscription.updated", second, &subscription(&id, user, status, ends));
    world.stripe.have(&format!("subscriptions/{id}"), &subscription(&id, user, "active", ends));
    assert_eq!(server.deliver(&told("active")).await.json["processed"], true);
    world
        .database
        .execute(&format!("INSERT INTO stripe_fetches (object_id, reason, due_at) VALUES ('{id}', 'lapsing', now()) ON CONFLICT DO NOTHING"))
        .await;
    eventually(PATIENCE, "it has been asked", || async {
        Answer::of(client().get(server.admin_url("/metrics"))).await.text.contains("\ntollgate_fetches_total{")
    })
    .await;
    let mut last = told("unpaid");
    last["data"]["previous_attributes"] = json!({ "status": "active" });
    assert_eq!(server.deliver(&last).await.json["processed"], true);
    stays(&server, user, "FREE").await;
}
