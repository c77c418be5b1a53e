//! Money over the wire: Stripe's own samples, delivered to running servers, and what readers are shown.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    server::{TestServer, World, unix_now},
};

macro_rules! sample {
    ($name:literal) => {
        [
            include_str!(concat!("../fixtures/stripe/events/", $name, ".acacia.json")),
            include_str!(concat!("../fixtures/stripe/events/", $name, ".endive.json")),
        ]
    };
}

const SHAPES: std::ops::Range<usize> = 0..2;
const REFUND_FAILED: [&str; 2] = sample!("refund.failed");
const PARTIAL: [&str; 2] = sample!("charge.refunded.partial");
const FULL: [&str; 2] = sample!("charge.refunded.full");
const DISPUTED: [&str; 2] = sample!("charge.dispute.created");
const WON: [&str; 2] = sample!("charge.dispute.closed.won");
const LOST: [&str; 2] = sample!("charge.dispute.closed.lost");
const INVOICE: [&str; 2] = sample!("invoice.paid.subscription_create");
const NEXT_INVOICE: [&str; 2] = sample!("invoice.paid.subscription_cycle");
const CUSTOMER_DELETED: [&str; 2] = sample!("customer.deleted");

/// A sample as an event of its own, so many seconds from now, with these fields of its object set.
fn event(sample: &str, after: i64, fields: &[(&str, Value)]) -> Value {
    let mut event: Value = serde_json::from_str(sample).unwrap();
    event["id"] = json!(format!("evt_{}", Uuid::new_v4().simple()));
    event["created"] = json!(unix_now() + after);
    for (name, value) in fields {
        event["data"]["object"][*name] = value.clone();
    }
    event
}

/// About this payment.
fn of(payment: &str, sample: &str, after: i64) -> Value {
    event(sample, after, &[("payment_intent", json!(payment))])
}

fn payment_of(bought: &SessionEvent) -> String {
    bought.session.replace("cs_test_", "pi_")
}

async fn processed(server: &TestServer, event: &Value) {
    let answer = server.deliver(event).await;
    assert_eq!((answer.status, &answer.json["processed"]), (200, &json!(true)), "{}", answer.text);
}

async fn level(server: &TestServer, user: Uuid) -> String {
    server.read(user).await.json["entitlementLevel"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_refund_and_disputes_take_access_away_and_give_it_back_on_every_replica() {
    let world = World::new().await;
    let (server, other) = (world.serve().await, world.serve().await);
    for shape in SHAPES {
        let user = Uuid::new_v4();
        let bought = SessionEvent::paid(user);
        let payment = payment_of(&bought);
        let cached = format!("entitlements:{user}");
        processed(&server, &bought.json()).await;
        assert_eq!(level(&other, user).await, "PRO");

        for (n, (sample, expected)) in
            [(PARTIAL, "PRO"), (FULL, "FREE"), (REFUND_FAILED, "PRO"), (DISPUTED, "FREE"), (WON, "PRO")]
                .into_iter()
                .enumerate()
        {
            let mut event = of(&payment, sample[shape], 10 * i64::try_from(n).unwrap());
            if sample == REFUND_FAILED {
                // It was made before the charge was told of.
                event["data"]["object"]["created"] = json!(unix_now());
            }
            processed(&server, &event).await;
            assert_eq!(world.redis.get(&cached).await.as_deref(), Some(expected), "{shape} {n}");
            assert_eq!((level(&server, user).await, level(&other, user).await), (expected.into(), expected.into()));
            assert_eq!(server.deliver(&event).await.json["idempotent"], true);
            assert_eq!(other.deliver(&event).await.json["idempotent"], true, "known to every replica");
        }
        let rows = format!("SELECT count(*) FROM stripe_events WHERE user_id = '{user}'");
        assert_eq!(world.database.value(&rows).await, "6", "operators see all of it beside the user");
    }
}

#[tokio::test]
async fn money_that_is_taken_back_before_the_purchase_is_told_of_is_not_forgotten() {
    let world = World::new().await;
    let server = world.serve().await;
    for shape in SHAPES {
        let user = Uuid::new_v4();
        let bought = SessionEvent::paid(user);
        processed(&server, &of(&payment_of(&bought), LOST[shape], 0)).await;
        processed(&server, &bought.json()).await;
        assert_eq!(level(&server, user).await, "FREE");
        let row = format!("SELECT status FROM user_entitlements WHERE user_id = '{user}' AND expires_at <= now()");
        assert_eq!(world.database.value(&row).await, "revoked", "whoever reads the table sees it, too");
    }
}

#[tokio::test]
async fn of_a_subscription_the_payment_of_its_newest_period_counts() {
    let world = World::new().await;
    let server = world.serve().await;
    for shape in SHAPES {
        let user = Uuid::new_v4();
        let bought = SessionEvent::subscribed(user);
        let subscription = bought.subscription.clone().unwrap();
        let unique = &subscription["sub_".len()..];
        let invoice = async |sample: &str, n: u32| {
            let (id, payment) = (format!("in_{n}{unique}"), format!("pi_{n}{unique}"));
            let mut paid = event(sample, 0, &[("id", json!(id))]);
            let object = &mut paid["data"]["object"];
            if shape == 0 {
                object["subscription"] = json!(subscription);
                object["payment_intent"] = json!(payment);
            } else {
                object["parent"]["subscription_details"]["subscription"] = json!(subscription);
                let payment = json!({ "type": "payment_intent", "payment_intent": payment });
                let mut tie = event(sample, 0, &[]);
                tie["type"] = json!("invoice_payment.paid");
                tie["data"]["object"] = json!({ "id": format!("inpay_{n}{unique}"), "object": "invoice_payment",
                    "invoice": id, "payment": payment, "status": "paid" });
                processed(&server, &tie).await;
            }
            processed(&server, &paid).await;
            payment
        };
        let first = invoice(INVOICE[shape], 1).await;
        processed(&server, &bought.json()).await;
        assert_eq!(level(&server, user).await, "PRO");
        processed(&server, &of(&first, FULL[shape], 10)).await;
        assert_eq!(level(&server, user).await, "FREE");
        let second = invoice(NEXT_INVOICE[shape], 2).await;
        assert_eq!(level(&server, user).await, "PRO", "the next period is paid");
        processed(&server, &of(&first, LOST[shape], 20)).await;
        assert_eq!(level(&server, user).await, "PRO", "an older one takes nothing");
        processed(&server, &of(&second, DISPUTED[shape], 20)).await;
        assert_eq!(level(&server, user).await, "FREE");
    }
}

#[tokio::test]
async fn a_deleted_customer_takes_from_all_its_users() {
    let world = World::new().await;
    let server = world.serve().await;
    for shape in SHAPES {
        let customer = format!("cus_{}", Uuid::new_v4().simple());
        let users = [Uuid::new_v4(), Uuid::new_v4()];
        for user in users {
            let mut bought = SessionEvent::paid(user).json();
            bought["data"]["object"]["customer"] = json!(customer);
            processed(&server, &bought).await;
        }
        processed(&server, &event(CUSTOMER_DELETED[shape], 0, &[("id", json!(customer))])).await;
        for user in users {
            assert_eq!(level(&server, user).await, "FREE");
            assert_eq!(world.redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("FREE"));
        }
    }
}

#[tokio::test]
async fn a_word_that_nobody_knows_yet_waits() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let bought = SessionEvent::paid(user);
    processed(&server, &bought.json()).await;
    let payment = json!(payment_of(&bought));
    let odd = event(DISPUTED[1], 0, &[("payment_intent", payment), ("status", json!("of_tomorrow"))]);
    let answer = server.deliver(&odd).await;
    assert_eq!((answer.status, &answer.json["parked"]), (200, &json!(true)), "{}", answer.text);
    let reason = "SELECT reason FROM stripe_events WHERE outcome = 'parked'";
    assert_eq!(world.database.value(reason).await, "unknown_status");
    assert_eq!(level(&server, user).await, "PRO");
}
