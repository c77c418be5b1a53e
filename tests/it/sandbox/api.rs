//! Stripe's API as the sandbox has it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use stripe_gateway::{
    GatewayConfig, GatewayError, Interval, Mode, NewCheckoutSession, PageOptions, Price, StripeGateway,
};
use tempfile::TempDir;
use tollgate::{
    activity::Activity,
    sandbox::{Sandbox, SandboxSettings, Switches},
};

use super::{CARD, KEY, PATIENCE, World, fast, location, settings, shape, start, user};
use crate::harness::{
    server::{Answer, client},
    until_ok,
};

fn gateway(world: &World) -> StripeGateway {
    StripeGateway::new(GatewayConfig {
        api_base: world.url(""),
        timeout: Duration::from_secs(5),
        ..GatewayConfig::new(KEY.into())
    })
    .unwrap()
}

fn wish(mode: Mode, price: Price) -> NewCheckoutSession {
    NewCheckoutSession {
        customer: None,
        user_id: user().to_string(),
        level: "PRO".into(),
        mode,
        price,
        success_url: "https://app.test/ok?session_id={CHECKOUT_SESSION_ID}".into(),
        cancel_url: "https://app.test/pricing?a=b&c=d".into(),
        page: PageOptions::default(),
        more_metadata: vec![],
    }
}

fn inline(amount: i64, interval: Option<Interval>) -> Price {
    Price::Inline {
        amount,
        currency: "usd".into(),
        product_name: "PRO, \"for teams\" & friends: 100 %".into(),
        interval,
    }
}

/// Status, type, code and param of an error in Stripe's shape.
fn error(answer: &Answer) -> (u16, Value) {
    let error = &answer.json["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", answer.text);
    (answer.status, json!([error["type"], error["code"], error["param"]]))
}

#[tokio::test]
async fn the_services_own_client_opens_sessions_of_every_kind() {
    let world = World::new().await;
    let gateway = gateway(&world);
    let intervals = [Interval::Day, Interval::Week, Interval::Month, Interval::Year];
    let wishes = [wish(Mode::Payment, inline(0, None)), wish(Mode::Payment, inline(2900, None))]
        .into_iter()
        .chain(intervals.map(|interval| wish(Mode::Subscription, inline(2900, Some(interval)))));
    for (number, wish) in wishes.enumerate() {
        let key = format!("wish-{number}");
        let created = gateway.create_checkout_session(wish.clone(), &key).await.unwrap();
        assert!(created.id.starts_with("cs_test_"));
        assert_eq!(created.url, world.url(&format!("/c/pay/{}", created.id)));
        assert_eq!(gateway.create_checkout_session(wish, &key).await.unwrap(), created, "one key, one session");
        let path = format!("/v1/checkout/sessions/{}?expand[]=line_items", created.id);
        let session = world.get(&path).await.json;
        shape::assert_object(&session);
        shape::assert_object(&shape::data(&session["line_items"])[0]);
        assert_eq!(session["metadata"], json!({ "userId": user(), "entitlementLevel": "PRO" }));
        assert_eq!(session["client_reference_id"], user().to_string());
        assert_eq!(session["expires_at"].as_i64().unwrap() - session["created"].as_i64().unwrap(), 86_400);
    }
    assert_eq!(shape::data(&world.get("/v1/checkout/sessions?limit=100").await.json).len(), 6);
}

#[tokio::test]
async fn a_session_shows_what_its_page_was_asked_to_offer() {
    let world = World::new().await;
    let mut wish = wish(Mode::Subscription, inline(2900, Some(Interval::Month)));
    wish.page = PageOptions {
        promotion_codes: true,
        quantity: Some((2, 50)),
        automatic_tax: true,
        billing_address: true,
        tax_id_collection: true,
        trial_days: Some(14),
    };
    let created = gateway(&world).create_checkout_session(wish, "key").await.unwrap();
    let session = world.get(&format!("/v1/checkout/sessions/{}?expand[]=line_items", created.id)).await.json;
    shape::assert_object(&session);
    let line = &shape::data(&session["line_items"])[0];
    shape::assert_object(line);
    assert_eq!(line["adjustable_quantity"], json!({ "enabled": true, "minimum": 2, "maximum": 50 }));
    assert_eq!((&line["quantity"], &line["amount_total"]), (&json!(2), &json!(5800)));
    assert_eq!(session["amount_total"], 0, "nothing is paid before the trial is over");
    assert_eq!((&session["allow_promotion_codes"], &session["automatic_tax"]["enabled"]), (&json!(true), &json!(true)));
    assert_eq!(session["tax_id_collection"], json!({ "enabled": true, "required": "never" }));
    assert_eq!(session["billing_address_collection"], "required");
    let page = Answer::of(client().get(&created.url)).await;
    assert!(
        page.text.contains("2 × PRO") && page.text.contains("14 days free, then $58.00 per month"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn the_services_own_client_understands_refusals() {
    let world = World::new().await;
    let gateway = gateway(&world);
    let by_id = wish(Mode::Subscription, Price::Id("price_1STc6rB7WZ01zgkWNy0Cn5nw".into()));
    let refused = |status, code: &str| GatewayError::Refused { status, code: Some(code.into()) };
    assert_eq!(gateway.create_checkout_session(by_id, "a").await.unwrap_err(), refused(400, "resource_missing"));
    gateway.create_checkout_session(wish(Mode::Payment, inline(100, None)), "b").await.unwrap();
    let other = gateway.create_checkout_session(wish(Mode::Payment, inline(200, None)), "b").await;
    assert_eq!(other.unwrap_err(), refused(400, "idempotency_error"));
}

#[tokio::test]
async fn what_stripe_would_not_take_is_refused_by_name() {
    let world = World::new().await;
    let plain: &[(&str, &str)] = &[
        ("mode", "payment"),
        ("success_url", "https://app.test/ok"),
        ("line_items[0][quantity]", "1"),
        ("line_items[0][price_data][currency]", "usd"),
        ("line_items[0][price_data][unit_amount]", "100"),
        ("line_items[0][price_data][product_data][name]", "PRO"),
    ];
    let with = |name: &'static str, value: &'static str| {
        let mut form: Vec<(&str, &str)> = plain.iter().filter(|(other, _)| *other != name).copied().collect();
        form.push((name, value));
        form
    };
    assert_eq!(world.post("/v1/checkout/sessions", plain).await.status, 200);
    for (form, code, param) in [
        (with("colour", "red"), "parameter_unknown", "colour"),
        (with("line_items[0][price_data][size]", "1"), "parameter_unknown", "line_items[0][price_data][size]"),
        (with("success_url", ""), "parameter_missing", "success_url"),
        (with("success_url", "javascript:alert(1)"), "url_invalid", "success_url"),
        (with("mode", "paymentt"), "parameter_invalid_enum", "mode"),
        (with("mode", "setup"), "parameter_invalid", "mode"),
        (with("mode", "subscription"), "parameter_invalid", "line_items"),
        (with("line_items[0][quantity]", "one"), "parameter_invalid_integer", "line_items[0][quantity]"),
        (
            with("line_items[0][price_data][unit_amount]", "-1"),
            "parameter_invalid_integer",
            "line_items[0][price_data][unit_amount]",
        ),
        (
            with("line_items[0][price_data][recurring][interval]", "month"),
            "parameter_invalid",
            "line_items[0][price_data][recurring]",
        ),
        (with("line_items[0][price]", "price_1"), "resource_missing", "line_items[0][price]"),
        (
            with("line_items[0][adjustable_quantity][minimum]", "1"),
            "parameter_missing",
            "line_items[0][adjustable_quantity][enabled]",
        ),
        (with("automatic_tax[enabled]", "maybe"), "parameter_invalid_boolean", "automatic_tax[enabled]"),
        (with("tax_id_collection[required]", "never"), "parameter_missing", "tax_id_collection[enabled]"),
        (
            with("payment_intent_data[trial_period_days]", "7"),
            "parameter_unknown",
            "payment_intent_data[trial_period_days]",
        ),
        (with("customer", "cus_none"), "resource_missing", "customer"),
        (with("subscription_data[metadata][a]", "b"), "parameter_invalid", "subscription_data"),
        (with("expires_at", "5"), "parameter_invalid_integer", "expires_at"),
        (with("metadata[a][b]", "c"), "parameter_invalid_hash", "metadata[a]"),
        (with("expand[]", "everything"), "parameter_invalid", "expand"),
    ] {
        let (status, told) = error(&world.post("/v1/checkout/sessions", &form).await);
        assert_eq!(told, json!(["invalid_request_error", code, param]));
        assert!([400, 404].contains(&status), "{status}");
    }
    let missing = error(&world.get("/v1/checkout/sessions/cs_test_none").await);
    assert_eq!(missing, (404, json!(["invalid_request_error", "resource_missing", "session"])));
    assert_eq!(world.get("/v1/coupons").await.status, 404);
    assert_eq!(shape::data(&world.get("/v1/checkout/sessions").await.json).len(), 1);
}

#[tokio::test]
async fn nobody_gets_in_without_the_key() {
    let world = World::new().await;
    let url = world.url("/v1/events");
    assert_eq!(Answer::of(client().get(&url).basic_auth(KEY, Some(""))).await.status, 200);
    for request in [
        client().get(&url),
        client().get(&url).bearer_auth("sk_test_other"),
        client().get(&url).basic_auth("", Some(KEY)),
        client().get(&url).header("Authorization", KEY),
        client().get(world.url("/sandbox/switches")),
        client().post(world.url("/sandbox/switches")).json(&Switches::default()),
        client().post(world.url("/sandbox/events/evt_1/redeliver")),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(error(&answer), (401, json!(["invalid_request_error", null, null])));
        assert!(!answer.text.contains(KEY) && !answer.text.contains("other"), "{}", answer.text);
    }
}

#[tokio::test]
async fn only_this_machine_is_answered() {
    let world = World::new().await;
    let with = |name: &str, value: &str| Answer::of(world.request(Method::GET, "/v1/events").header(name, value));
    for host in ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:80"] {
        assert_eq!(with("Host", host).await.status, 200, "{host}");
    }
    for (name, value) in [
        ("Host", "evil.example"),
        ("Host", "127.0.0.1.evil.example"),
        ("Host", "localhost@evil.example"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "1.2.3.4"),
        ("Via", "1.1 proxy"),
    ] {
        assert_eq!(with(name, value).await.status, 403, "{name}: {value}");
    }
    let world_wide =
        SandboxSettings { listener: std::net::TcpListener::bind("0.0.0.0:0").unwrap(), ..settings(&world.folder) };
    let refused = Sandbox::start(world_wide, Activity::unwatched()).await.unwrap_err();
    assert!(refused.to_string().contains("this machine only"), "{refused}");
}

#[tokio::test]
async fn every_answer_names_its_request_and_is_stored_nowhere() {
    let world = World::new().await;
    let answer = Answer::of(world.request(Method::GET, "/v1/events").header("Stripe-Version", "2024-06-20")).await;
    assert!(answer.header("request-id").unwrap().starts_with("req_"));
    assert_eq!(answer.header("stripe-version"), Some("2024-06-20"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let long = "x".repeat(70_000);
    assert_eq!(world.post("/v1/customers", &[("name", &long)]).await.status, 413);
    let json = world.request(Method::POST, "/v1/customers").json(&json!({ "name": "a" }));
    assert_eq!(Answer::of(json).await.status, 400, "Stripe takes forms");
}

#[tokio::test]
async fn one_idempotency_key_is_one_request() {
    let world = World::new().await;
    let with_key =
        |name: &str, key: &str| world.form("/v1/customers", &[("name", name)]).header("Idempotency-Key", key);
    let all = futures::future::join_all((0..16).map(|_| Answer::of(with_key("Robin", "k")))).await;
    assert!(all.iter().all(|answer| answer.status == 200 && answer.json == all[0].json));
    let replayed = all.iter().filter(|answer| answer.header("idempotent-replayed") == Some("true")).count();
    assert_eq!(replayed, 15);
    assert_eq!(world.events("customer.created").await.len(), 1);
    assert_eq!(world.events("customer.created").await[0]["request"]["idempotency_key"], "k");

    let other = error(&Answer::of(with_key("Kim", "k")).await);
    assert_eq!(other, (400, json!(["idempotency_error", null, null])));
    let elsewhere = world.form("/v1/webhook_endpoints", &[("name", "Robin")]).header("Idempotency-Key", "k");
    assert_eq!(Answer::of(elsewhere).await.json["error"]["type"], "idempotency_error");
    let refused = world.form("/v1/customers", &[("nam", "Robin")]).header("Idempotency-Key", "r");
    assert_eq!(Answer::of(refused).await.status, 400);
    assert_eq!(Answer::of(with_key("Robin", "r")).await.status, 200, "a refusal is not remembered");
    assert_eq!(Answer::of(with_key("Robin", &"k".repeat(256))).await.status, 400);
}

#[tokio::test]
async fn a_customer_lives_and_is_told_of() {
    let world = World::new().await;
    let user = user().to_string();
    let customer = world.post("/v1/customers", &[("email", "a@example.com"), ("metadata[userId]", &user)]).await.json;
    shape::assert_object(&customer);
    let path = format!("/v1/customers/{}", customer["id"].as_str().unwrap());
    let numbered = world.post("/v1/customers", &[("metadata[0]", "a"), ("metadata[1]", "b")]).await.json;
    assert_eq!(numbered["metadata"], json!({ "0": "a", "1": "b" }), "keys like a list's");
    world.delete(&format!("/v1/customers/{}", numbered["id"].as_str().unwrap())).await;
    let changed = world.post(&path, &[("email", "b@example.com"), ("metadata[userId]", ""), ("name", "B")]).await.json;
    assert_eq!((&changed["email"], &changed["metadata"]), (&"b@example.com".into(), &json!({})));
    assert_eq!(world.post(&path, &[("name", "B")]).await.json, changed);
    let updates = world.events("customer.updated").await;
    assert_eq!(updates.len(), 1, "what changes nothing is no event");
    let previous = json!({ "email": "a@example.com", "name": null, "metadata": { "userId": user } });
    assert_eq!(updates[0]["data"]["previous_attributes"], previous);

    assert_eq!(world.delete(&path).await.json, json!({ "id": customer["id"], "object": "customer", "deleted": true }));
    assert_eq!(world.get(&path).await.json["deleted"], true);
    assert_eq!(world.delete(&path).await.status, 404);
    assert_eq!(world.post(&path, &[("name", "C")]).await.status, 404);
    assert!(shape::data(&world.get("/v1/customers").await.json).is_empty());
    for event in world.events("customer.*").await {
        shape::assert_event(&event);
    }
    assert_eq!(world.events("customer.*").await.len(), 5);
}

#[tokio::test]
async fn a_session_is_paid_by_the_customer_it_names() {
    let world = World::new().await;
    let customer = world.post("/v1/customers", &[("email", "a@example.com")]).await.json;
    let id = customer["id"].as_str().unwrap();
    let session = world.session("subscription", "2900", &[("customer", id), ("expand[]", "customer")]).await;
    assert_eq!(session["customer"], customer);
    location(&world.pay(&session, CARD).await);
    assert_eq!(world.look(&session).await["customer"], *id);
    assert_eq!(world.events("customer.created").await.len(), 1);
}

#[tokio::test]
async fn lists_are_read_page_by_page_in_both_directions() {
    let world = World::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.post("/v1/customers", &[("name", name)]).await;
    }
    let page = async |query: &str| {
        let list = world.get(&format!("/v1/customers?{query}")).await.json;
        let data = shape::data(&list);
        let names: String = data.iter().map(|customer| customer["name"].as_str().unwrap()).collect();
        let at = |index: usize| data.get(index).map(|customer| customer["id"].as_str().unwrap().to_owned());
        (names, list["has_more"].as_bool().unwrap(), at(0), at(data.len().wrapping_sub(1)))
    };
    let (names, more, _, last) = page("limit=2").await;
    assert_eq!((names.as_str(), more), ("ed", true));
    let (names, more, first, last) = page(&format!("limit=2&starting_after={}", last.unwrap())).await;
    assert_eq!((names.as_str(), more), ("cb", true));
    let (names, more, ..) = page(&format!("limit=2&starting_after={}", last.unwrap())).await;
    assert_eq!((names.as_str(), more), ("a", false));
    let (names, more, ..) = page(&format!("limit=1&ending_before={}", first.unwrap())).await;
    assert_eq!((names.as_str(), more), ("d", true));
    assert_eq!(page("").await.0, "edcba");
    for wrong in ["limit=0", "limit=101", "limit=x", "starting_after=cus_none", "starting_after=a&ending_before=b"] {
        assert!([400, 404].contains(&world.get(&format!("/v1/customers?{wrong}")).await.status), "{wrong}");
    }
}

#[tokio::test]
async fn sessions_are_found_by_how_they_stand() {
    let world = World::new().await;
    let open = world.session("payment", "2900", &[]).await;
    let paid = world.session("payment", "2900", &[]).await;
    location(&world.pay(&paid, CARD).await);
    let paid = world.look(&paid).await;
    let found =
        async |query: &str| shape::data(&world.get(&format!("/v1/checkout/sessions?{query}")).await.json).clone();
    assert_eq!(found("status=open").await, [open]);
    assert_eq!(found("status=complete").await, std::slice::from_ref(&paid));
    let by_payment = format!("payment_intent={}", paid["payment_intent"].as_str().unwrap());
    assert_eq!(found(&by_payment).await, std::slice::from_ref(&paid));
    assert_eq!(found("subscription=sub_none").await, Vec::<Value>::new());
    let lines = world.get(&format!("/v1/checkout/sessions/{}/line_items", paid["id"].as_str().unwrap())).await.json;
    assert_eq!(shape::data(&lines)[0]["amount_total"], 2900);
}

#[tokio::test]
async fn events_are_found_by_type_time_and_delivery() {
    let world = World::new().await;
    let session = world.session("subscription", "2900", &[]).await;
    location(&world.pay(&session, CARD).await);
    let count = async |query: &str| shape::data(&world.get(&format!("/v1/events?{query}")).await.json).len();
    assert_eq!(count("").await, 2);
    assert_eq!(count("type=customer.created").await, 1);
    assert_eq!(count("type=checkout.*").await, 1);
    assert_eq!(count("types[]=customer.created&types[]=checkout.session.completed").await, 2);
    assert_eq!(count("created[gt]=4000000000").await, 0);
    assert_eq!(count("created[gte]=1000000000&created[lt]=4000000000").await, 2);
    assert_eq!(count("created=1000000000").await, 0);
    assert_eq!(count("delivery_success=false").await, 2, "the service has not said where it is");
    let event = &world.events("customer.created").await[0];
    let path = format!("/v1/events/{}", event["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.json, *event);
    assert_eq!(error(&world.get("/v1/events/evt_none").await).0, 404);
    assert_eq!(error(&world.get("/v1/events?type=a&types[]=b").await).0, 400);
}

#[tokio::test]
async fn endpoints_show_their_secret_once() {
    let world = World::new().await;
    let form = [("url", "http://127.0.0.1:9/hook"), ("enabled_events[]", "customer.created")];
    let made = world.post("/v1/webhook_endpoints", &form).await.json;
    shape::assert_endpoint(&made);
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let path = format!("/v1/webhook_endpoints/{}", made["id"].as_str().unwrap());
    assert!(world.get(&path).await.json.get("secret").is_none());
    let off = world.post(&path, &[("disabled", "true"), ("enabled_events[]", "*"), ("description", "d")]).await.json;
    assert_eq!(json!([off["status"], off["enabled_events"], off["description"]]), json!(["disabled", ["*"], "d"]));
    assert_eq!(shape::data(&world.get("/v1/webhook_endpoints").await.json).len(), 1);

    world.sandbox.deliver_to("http://127.0.0.1:9/own");
    let list = world.get("/v1/webhook_endpoints").await.json;
    let own = shape::data(&list).iter().find(|endpoint| endpoint["url"] == "http://127.0.0.1:9/own").unwrap();
    assert_eq!(world.delete(&format!("/v1/webhook_endpoints/{}", own["id"].as_str().unwrap())).await.status, 400);
    assert_eq!(world.delete(&path).await.json["deleted"], true);
    assert_eq!(world.get(&path).await.status, 404);
    for wrong in [
        vec![("url", "nowhere"), ("enabled_events[]", "*")],
        vec![("url", "http://127.0.0.1:9/hook")],
        vec![("url", "http://127.0.0.1:9/hook"), ("enabled_events[]", "Everything!")],
    ] {
        assert_eq!(error(&world.post("/v1/webhook_endpoints", &wrong).await).0, 400);
    }
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let world = World::new().await;
    let open = world.session("payment", "2900", &[]).await;
    let paid = world.session("subscription", "2900", &[]).await;
    location(&world.pay(&paid, CARD).await);
    let keyed = || [("name", "Robin")];
    let customer = Answer::of(world.form("/v1/customers", &keyed()).header("Idempotency-Key", "k")).await.json;
    let events = world.get("/v1/events").await.json;
    let paid = world.look(&paid).await;

    let world = world.restarted().await;
    assert_eq!(world.look(&paid).await, paid);
    assert_eq!(world.get("/v1/events").await.json, events);
    let again = Answer::of(world.form("/v1/customers", &keyed()).header("Idempotency-Key", "k")).await;
    assert_eq!((&again.json, again.header("idempotent-replayed")), (&customer, Some("true")));
    location(&world.pay(&open, CARD).await);
    assert_eq!(shape::data(&world.get("/v1/events").await.json).len(), shape::data(&events).len() + 1);
}

#[tokio::test]
async fn a_file_belongs_to_one_sandbox() {
    let folder = TempDir::new().unwrap();
    let first = start(&folder, fast(), Activity::unwatched()).await.unwrap();
    let second = start(&folder, fast(), Activity::unwatched()).await.unwrap_err();
    assert!(second.to_string().contains("is another sandbox running?"), "{second}");
    first.stop().await;
    let third = start(&folder, fast(), Activity::unwatched()).await.unwrap();
    drop(third);
    until_ok(PATIENCE, "the last one has let go of it", || start(&folder, fast(), Activity::unwatched())).await;
}
