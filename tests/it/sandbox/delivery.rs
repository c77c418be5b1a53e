//! How events reach endpoints: signed, until 2xx, and badly where a switch says so.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::{
    activity::Step,
    sandbox::{Delivery, Pace, SandboxError, Switches},
};

use super::{
    CARD, PATIENCE, WEBHOOK_SECRET, World, fast, location,
    receiver::{Receiver, Reply},
    shape,
};
use crate::harness::{eventually, server::Answer, until_ok};

impl World {
    async fn customer(&self, name: &str) -> Value {
        self.post("/v1/customers", &[("name", name)]).await.json
    }

    /// How many deliveries of an event have not succeeded.
    async fn undelivered(&self, event: &str) -> i64 {
        self.get(&format!("/v1/events/{event}")).await.json["pending_webhooks"].as_i64().unwrap()
    }

    async fn until_delivered(&self, event: &str) {
        eventually(PATIENCE, "the event is delivered", || async { self.undelivered(event).await == 0 }).await;
    }
}

fn switches(copies: u8, reorder: bool, withhold: bool) -> Switches {
    Switches { copies, reorder, withhold }
}

#[tokio::test]
async fn events_come_as_stripes_do() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.sandbox.deliver_to(&receiver.url);
    let session = world.session("payment", "0", &[]).await;
    location(&world.pay(&session, &[("method", "free")]).await);
    let got = receiver.after(1).await.remove(0);
    got.assert_signed(WEBHOOK_SECRET);
    assert_eq!(got.headers["user-agent"], "Stripe/1.0 (+https://stripe.com/docs/webhooks)");
    assert_eq!(got.headers["content-type"], "application/json; charset=utf-8");
    let event = got.event();
    shape::assert_event(&event);
    assert_eq!((&event["livemode"], &event["pending_webhooks"]), (&false.into(), &1.into()));
    assert_eq!(event["data"]["object"]["id"], session["id"]);
    let id = event["id"].as_str().unwrap();
    world.until_delivered(id).await;
    assert_eq!(shape::data(&world.get("/v1/events?delivery_success=true").await.json)[0]["id"], id);
    let expected = Step::EventDelivered {
        event: id.to_owned(),
        kind: "checkout.session.completed".to_owned(),
        attempt: 1,
        status: 200,
        idempotent: false,
    };
    assert_eq!(world.told("delivered", |step| matches!(step, Step::EventDelivered { .. })).await, [expected]);
}

#[tokio::test]
async fn whatever_is_not_2xx_is_sent_again() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    receiver.reply(&[Reply::Status(500, ""), Reply::Redirect, Reply::Status(400, ""), Reply::Status(204, "")]);
    world.sandbox.deliver_to(&receiver.url);
    world.customer("a").await;
    let got = receiver.after(4).await;
    world.until_delivered(got[0].event()["id"].as_str().unwrap()).await;
    for delivery in &got {
        delivery.assert_signed(WEBHOOK_SECRET);
        assert_eq!(delivery.body, got[0].body, "the same bytes each time");
    }
    assert_eq!(receiver.got().len(), 4, "no redirect is followed, and no success repeated");
    let told = world.told("delivered", |step| matches!(step, Step::EventDelivered { status: 204, .. })).await;
    assert!(matches!(told[0], Step::EventDelivered { attempt: 4, .. }), "{told:?}");
}

#[tokio::test]
async fn what_never_succeeds_is_given_up_and_shows() {
    let pace = Pace { retries: vec![Duration::ZERO; 2], ..fast() };
    let (world, receiver) = (World::at(pace).await, Receiver::start().await);
    receiver.reply(&vec![Reply::Status(503, ""); 3]);
    world.sandbox.deliver_to(&receiver.url);
    world.customer("a").await;
    let event = receiver.after(3).await[0].event();
    let id = event["id"].as_str().unwrap();
    // The next event is delivered, so nothing of the first is still to come: a fourth attempt would be a 200.
    world.customer("b").await;
    let next = receiver.after(4).await[3].event();
    assert_ne!(next["id"], event["id"]);
    world.until_delivered(next["id"].as_str().unwrap()).await;
    assert_eq!(world.undelivered(id).await, 1);
    let failed = world.get("/v1/events?delivery_success=false").await.json;
    assert_eq!(shape::data(&failed)[0]["id"], id);
}

#[tokio::test]
async fn an_endpoint_that_hangs_holds_up_no_other() {
    let (world, stuck, receiver) = (World::new().await, Receiver::start().await, Receiver::start().await);
    stuck.reply(&vec![Reply::Hang; 40]);
    world.sandbox.deliver_to(&stuck.url);
    world.post("/v1/webhook_endpoints", &[("url", &receiver.url), ("enabled_events[]", "customer.created")]).await;
    for number in 0..20 {
        world.customer(&number.to_string()).await;
    }
    assert_eq!(receiver.after(20).await.len(), 20);
    assert_eq!(stuck.after(16).await.len(), 16, "no more than so many at once");
}

#[tokio::test]
async fn events_go_where_they_are_wanted() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    let form = [("url", receiver.url.as_str()), ("enabled_events[]", "customer.deleted")];
    let endpoint = world.post("/v1/webhook_endpoints", &form).await.json;
    let secret = endpoint["secret"].as_str().unwrap();
    let gone = async |name| {
        let customer = world.customer(name).await;
        world.delete(&format!("/v1/customers/{}", customer["id"].as_str().unwrap())).await;
        customer
    };
    let customer = gone("a").await;
    let got = receiver.after(1).await;
    got[0].assert_signed(secret);
    assert_eq!((got[0].kind().as_str(), &got[0].event()["data"]["object"]), ("customer.deleted", &customer));

    let path = format!("/v1/webhook_endpoints/{}", endpoint["id"].as_str().unwrap());
    world.post(&path, &[("disabled", "true")]).await;
    gone("b").await;
    world.post(&path, &[("disabled", "false")]).await;
    gone("c").await;
    assert_eq!(receiver.after(2).await[1].event()["data"]["object"]["name"], "c");
}

#[tokio::test]
async fn events_wait_until_the_service_is_there_and_over_a_restart() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.customer("a").await;
    let world = world.restarted().await;
    world.sandbox.deliver_to(&receiver.url);
    let event = receiver.after(1).await[0].event();
    assert_eq!(event["data"]["object"]["name"], "a");
    world.until_delivered(event["id"].as_str().unwrap()).await;
}

#[tokio::test]
async fn attempts_go_on_after_a_restart() {
    let pace = Pace { retries: vec![Duration::from_secs(1); 3], ..fast() };
    let (world, receiver) = (World::at(pace).await, Receiver::start().await);
    receiver.reply(&[Reply::Status(500, "")]);
    world.sandbox.deliver_to(&receiver.url);
    world.customer("a").await;
    let first = receiver.after(1).await.remove(0);
    world.told("answered", |step| matches!(step, Step::EventDelivered { status: 500, .. })).await;
    let world = world.restarted().await;
    world.sandbox.deliver_to(&receiver.url);
    assert_eq!(receiver.after(2).await[1].body, first.body);
    world.until_delivered(first.event()["id"].as_str().unwrap()).await;
}

#[tokio::test]
async fn events_that_were_to_be_overtaken_wait_for_the_service_too() {
    let (world, receiver) = (World::at(Pace { hold: Duration::ZERO, ..fast() }).await, Receiver::start().await);
    world.sandbox.set_switches(switches(2, true, false));
    world.customer("a").await;
    // Another endpoint has it: the time of overtaking is over.
    let form = [("url", receiver.url.as_str()), ("enabled_events[]", "customer.created")];
    world.post("/v1/webhook_endpoints", &form).await;
    world.customer("b").await;
    receiver.after(2).await;
    world.sandbox.deliver_to(&receiver.url);
    let names = receiver.after(6).await.into_iter().map(|got| got.event()["data"]["object"]["name"].clone());
    let names: Vec<Value> = names.collect();
    assert_eq!(names.iter().filter(|name| **name == "a").count(), 2, "{names:?}");
}

#[tokio::test]
async fn copies_are_the_same_event_to_the_byte() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.sandbox.deliver_to(&receiver.url);
    world.sandbox.set_switches(switches(9, false, false));
    assert_eq!(world.sandbox.switches().copies, 5, "the nearest");
    world.customer("a").await;
    let got = receiver.after(5).await;
    assert!(got.iter().all(|delivery| delivery.body == got[0].body));
    until_ok(PATIENCE, "five deliveries, each at the first attempt", || async {
        let first = |step: &Step| matches!(step, Step::EventDelivered { attempt: 1, .. });
        let told = world.steps().await;
        if told.iter().filter(|step| first(step)).count() == 5 { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test]
async fn newer_events_overtake_older_ones() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.sandbox.deliver_to(&receiver.url);
    world.sandbox.set_switches(switches(1, true, false));
    let session = world.session("subscription", "2900", &[]).await;
    location(&world.pay(&session, CARD).await);
    let kinds: Vec<String> = receiver.after(10).await.iter().map(super::receiver::Got::kind).collect();
    assert_eq!((&*kinds[0], &*kinds[9]), ("checkout.session.completed", "customer.created"));
    world.customer("alone").await;
    assert_eq!(receiver.after(11).await[10].event()["data"]["object"]["name"], "alone", "there need be no other");
}

#[tokio::test]
async fn withheld_events_go_out_when_the_switch_is_off() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.sandbox.deliver_to(&receiver.url);
    world.sandbox.set_switches(switches(1, false, true));
    world.customer("a").await;
    world.told("withheld", |step| matches!(step, Step::EventWithheld { .. })).await;
    let event = world.events("customer.created").await.remove(0);
    let id = event["id"].as_str().unwrap();
    // By hand it is delivered all the same, and alone.
    world.sandbox.redeliver(id).await.unwrap();
    assert_eq!(receiver.got().len(), 1);
    assert_eq!(world.undelivered(id).await, 1);
    world.sandbox.set_switches(Switches::default());
    world.until_delivered(id).await;
    assert_eq!(receiver.after(2).await.len(), 2);
}

#[tokio::test]
async fn a_delivery_by_hand_says_how_it_was_answered() {
    let (world, receiver) = (World::new().await, Receiver::start().await);
    world.customer("a").await;
    let event = world.events("customer.created").await.remove(0);
    let id = event["id"].as_str().unwrap();
    assert!(matches!(world.sandbox.redeliver(id).await, Err(SandboxError::Undelivered(_))), "nobody takes it yet");
    assert_eq!(world.sandbox.redeliver("evt_none").await, Err(SandboxError::UnknownEvent));

    world.sandbox.deliver_to(&receiver.url);
    world.until_delivered(id).await;
    receiver.reply(&[Reply::Status(200, r#"{"ok":true,"idempotent":true}"#), Reply::Status(503, "later")]);
    let told = Delivery { status: 200, body: r#"{"ok":true,"idempotent":true}"#.to_owned() };
    assert_eq!(world.sandbox.redeliver(id).await, Ok(told));
    world.told("known", |step| matches!(step, Step::EventDelivered { attempt: 1, idempotent: true, .. })).await;
    let path = format!("/sandbox/events/{id}/redeliver");
    let by_script = Answer::of(world.request(Method::POST, &path)).await;
    assert_eq!((by_script.status, &by_script.json), (200, &json!({ "status": 503, "body": "later" })));
    assert_eq!(Answer::of(world.request(Method::POST, "/sandbox/events/evt_none/redeliver")).await.status, 404);
}

#[tokio::test]
async fn scripts_set_the_switches() {
    let world = World::new().await;
    let set = |body: Value| Answer::of(world.request(Method::POST, "/sandbox/switches").json(&body));
    let wanted = json!({ "copies": 3, "reorder": true, "withhold": true });
    assert_eq!(set(wanted.clone()).await.json, wanted);
    assert_eq!(world.get("/sandbox/switches").await.json, wanted);
    assert_eq!(world.sandbox.switches(), switches(3, true, true));
    for wrong in [json!({}), json!({ "copies": 1, "reorder": true, "withhold": true, "more": 1 }), json!([])] {
        assert_eq!(set(wrong).await.status, 400);
    }
    assert_eq!(set(json!({ "copies": 0, "reorder": false, "withhold": false })).await.json["copies"], 1);
}
