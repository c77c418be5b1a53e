//! A subscription's life over the wire: Stripe's own samples, delivered to a running server.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{TestServer, World, unix_now},
};

const PATIENCE: Duration = Duration::from_secs(30);
const DAY: i64 = 86_400;

/// One subscription, whose events these are.
struct Subscription {
    id: String,
    customer: String,
    metadata: Value,
    began: i64,
}

impl Subscription {
    /// Of a user whom the events name.
    fn of(user: Uuid) -> Self {
        let unique = Uuid::new_v4().simple();
        Self {
            id: format!("sub_{unique}"),
            customer: format!("cus_{unique}"),
            metadata: json!({ "userId": user, "entitlementLevel": "PRO" }),
            began: unix_now() - DAY,
        }
    }

    /// A sample with this subscription in it, that happened this long after it began. The price is the catalogue's.
    fn event(&self, sample: &str, after: i64) -> Value {
        let mut event: Value = serde_json::from_str(sample).unwrap();
        event["id"] = json!(format!("evt_{}", Uuid::new_v4().simple()));
        event["created"] = json!(self.began + after);
        let object = &mut event["data"]["object"];
        object["id"] = json!(self.id);
        object["customer"] = json!(self.customer);
        object["metadata"] = self.metadata.clone();
        object["created"] = json!(self.began);
        let item = &mut object["items"]["data"][0];
        item["price"]["unit_amount"] = json!(2900);
        let (start, end) = (json!(self.began), json!(self.began + 30 * DAY));
        let times = if item["current_period_end"].is_null() { object } else { item };
        (times["current_period_start"], times["current_period_end"]) = (start, end);
        event
    }
}

const ACACIA: [&str; 3] = [
    include_str!("../fixtures/stripe/events/customer.subscription.created.acacia.json"),
    include_str!("../fixtures/stripe/events/customer.subscription.updated.past_due.acacia.json"),
    include_str!("../fixtures/stripe/events/customer.subscription.deleted.acacia.json"),
];
const ENDIVE: [&str; 3] = [
    include_str!("../fixtures/stripe/events/customer.subscription.created.endive.json"),
    include_str!("../fixtures/stripe/events/customer.subscription.updated.past_due.endive.json"),
    include_str!("../fixtures/stripe/events/customer.subscription.deleted.endive.json"),
];

async fn level(server: &TestServer, user: Uuid) -> (String, Value) {
    let answer = server.read(user).await.json;
    (answer["entitlementLevel"].as_str().unwrap().to_owned(), answer["expiresAt"].clone())
}

fn rfc3339(seconds: i64) -> Value {
    let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap();
    json!(time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

#[tokio::test]
async fn a_subscription_is_bought_is_not_paid_and_ends() {
    let world = World::new().await;
    let server = world.serve().await;
    for [created, past_due, deleted] in [ACACIA, ENDIVE] {
        let user = Uuid::new_v4();
        let subscription = Subscription::of(user);
        let bought = SessionEvent { subscription: Some(subscription.id.clone()), ..SessionEvent::subscribed(user) };
        assert_eq!(server.deliver(&bought.json()).await.json["processed"], true);
        assert_eq!(level(&server, user).await.0, "PRO");

        assert_eq!(server.deliver(&subscription.event(created, 0)).await.json["processed"], true);
        let until = rfc3339(subscription.began + 33 * DAY);
        assert_eq!(level(&server, user).await, ("PRO".into(), until), "to the end of its period, and the grace");
        assert_eq!(server.deliver(&subscription.event(past_due, 10)).await.json["processed"], true);
        let until = rfc3339(subscription.began + 3 * DAY);
        assert_eq!(level(&server, user).await, ("PRO".into(), until), "its period began, and is not paid");
        assert_eq!(server.deliver(&subscription.event(created, 5)).await.json["processed"], false, "superseded");

        let end = subscription.event(deleted, 20);
        assert_eq!(server.deliver(&end).await.json["processed"], true);
        assert_eq!(level(&server, user).await, ("FREE".into(), Value::Null));
        assert_eq!(server.deliver(&end).await.json["idempotent"], true);
    }
}

#[tokio::test]
async fn an_event_that_names_nobody_finds_its_user_as_soon_as_one_is_known() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let nameless = Subscription { metadata: json!({}), ..Subscription::of(user) };
    let end = nameless.event(ENDIVE[2], 20);
    let answer = server.deliver(&end).await;
    assert_eq!((answer.status, answer.json["parked"].as_bool()), (200, Some(true)), "{}", answer.text);
    let reason = "SELECT reason FROM stripe_events WHERE outcome = 'parked'";
    assert_eq!(world.database.value(reason).await, "unknown_owner");

    let bought = SessionEvent { subscription: Some(nameless.id.clone()), ..SessionEvent::subscribed(user) };
    server.deliver(&bought.json()).await;
    assert_eq!(level(&server, user).await.0, "PRO");
    assert_eq!(server.deliver(&end).await.json["idempotent"], true, "it waits, and is made due");
    eventually(PATIENCE, "the end is applied", async || level(&server, user).await.0 == "FREE").await;
}

/// Its own events, which named nobody, came before its checkout: it went to the other user of the customer, and the buyer's checkout was
/// parked for good.
#[tokio::test]
async fn a_subscription_was_given_to_another_user_of_its_customer_before_its_buyer_could_claim_it() {
    let world = World::new().await;
    let server = world.serve().await;
    let (other, buyer) = (Uuid::new_v4(), Uuid::new_v4());
    let first = Subscription::of(other);
    server.deliver(&first.event(ENDIVE[2], 0)).await;
    let unnamed = Subscription {
        customer: first.customer,
        metadata: json!({ "entitlementLevel": "PRO" }),
        ..Subscription::of(buyer)
    };
    server.deliver(&unnamed.event(ENDIVE[0], 0)).await;
    assert_eq!(level(&server, other).await.0, "FREE");

    let bought = SessionEvent { subscription: Some(unnamed.id.clone()), ..SessionEvent::subscribed(buyer) };
    assert_eq!(server.deliver(&bought.json()).await.json["processed"], true);
    let applied =
        format!("SELECT count(*) FROM user_entitlements WHERE source_id = '{}' AND snapshots IS NOT NULL", unnamed.id);
    eventually(PATIENCE, "what waited is the buyer's", async || world.database.value(&applied).await == "1").await;
    assert_eq!([level(&server, other).await.0, level(&server, buyer).await.0], ["FREE", "PRO"]);
}

#[tokio::test]
async fn of_a_customer_whom_users_share_nothing_is_guessed() {
    let world = World::new().await;
    let server = world.serve().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let first = Subscription::of(one);
    let of_customer = |user: Uuid, metadata: Value| Subscription {
        customer: first.customer.clone(),
        metadata,
        ..Subscription::of(user)
    };
    server.deliver(&first.event(ENDIVE[0], 0)).await;
    let unnamed = of_customer(one, Value::Null);
    let end = unnamed.event(ENDIVE[2], 0);
    assert_eq!(server.deliver(&end).await.json["parked"], true, "its checkout may say whose it is");
    assert_eq!(server.deliver(&end).await.json["idempotent"], true, "it is made due");
    let owner =
        format!("SELECT count(*) FROM user_entitlements WHERE source_id = '{}' AND user_id = '{one}'", unnamed.id);
    eventually(PATIENCE, "the only one it can be", async || world.database.value(&owner).await == "1").await;
    let second = of_customer(other, json!({ "userId": other, "entitlementLevel": "PRO" }));
    server.deliver(&second.event(ENDIVE[0], 0)).await;
    let answer = server.deliver(&of_customer(one, Value::Null).event(ENDIVE[2], 0)).await;
    assert_eq!(answer.json["parked"], true, "{}", answer.text);
    let reason = "SELECT reason FROM stripe_events WHERE outcome = 'parked'";
    assert_eq!(world.database.value(reason).await, "several_owners");
    assert_eq!((level(&server, one).await.0, level(&server, other).await.0), ("PRO".into(), "PRO".into()));
}

/// Seats: from the subscription's item to whoever asks, and into the hash that replicas share, but not into the plain value that
/// applications read.
#[tokio::test]
async fn how_many_were_bought_reaches_whoever_asks() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let subscription = Subscription::of(user);
    let mut created = subscription.event(ENDIVE[0], 0);
    created["data"]["object"]["items"]["data"][0]["quantity"] = json!(5);
    assert_eq!(server.deliver(&created).await.json["processed"], true);

    let read = async || server.read(user).await.json;
    let found = |answer: &Value| ["entitlementLevel", "quantity", "source"].map(|name| answer[name].clone());
    let [pro, five, cache, database] = [json!("PRO"), json!(5), json!("cache"), json!("database")];
    assert_eq!(found(&read().await), [pro.clone(), five.clone(), cache]);
    let meta = format!("{{entitlements:{user}}}:meta");
    assert_eq!(world.redis.hgetall(&meta).await["quantity"], "5@1");
    assert_eq!(world.redis.get(&format!("entitlements:{user}")).await.as_deref(), Some("PRO"));
    // A replica of the version before writes what it knows, and leaves the rest as it was.
    world.redis.command::<i64>(&["HSET", &meta, "version", "2"]).await;
    assert_eq!(found(&read().await), [pro.clone(), five.clone(), database]);
    world.redis.flushall().await;
    assert_eq!(found(&read().await)[..2], [pro, five]);

    assert_eq!(server.deliver(&subscription.event(ENDIVE[2], 2 * DAY)).await.json["processed"], true);
    assert_eq!(found(&read().await)[..2], [json!("FREE"), json!(1)]);
}
