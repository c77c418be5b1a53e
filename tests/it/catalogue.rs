//! What the catalogue's file decides: what Stripe is asked for, what buyers get of it, which features levels have, and that
//! another file takes its place at SIGHUP, or not at all.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{Answer, SERVICE_TOKEN, TestServer, World, client},
    shop::Shop,
};

const PATIENCE: Duration = Duration::from_secs(30);

const TRIAL: &str = "[[plan]]\nlevel = \"TRIAL\"\nrank = 10\nmode = \"payment\"\namount = 0\n";

/// PRO by the month and by the year, with all that its page can ask and offer.
const PRO: &str = r#"
[[plan]]
level = "PRO"
rank = 20
mode = "subscription"
features = ["projects", "export"]
promotion_codes = true
quantity = { min = 2, max = 50 }
tax = true
billing_address = "required"
tax_id_collection = true
trial_days = 14

[[plan.price]]
amount = 2900
interval = "month"

[[plan.price]]
id = "price_1Yearly"
interval = "year"
"#;

const TEAM: &str = "[[plan]]\nlevel = \"TEAM\"\nrank = 30\nmode = \"payment\"\namount = 100\n";

/// A catalogue's file that a test may write again.
struct File(tempfile::NamedTempFile);

impl File {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::NamedTempFile::new().unwrap());
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(self.0.path(), text).unwrap();
    }

    fn setting(&self) -> (&str, &str) {
        ("TOLLGATE_CATALOGUE", self.0.path().to_str().unwrap())
    }
}

async fn buy(server: &TestServer, user: Uuid, wish: Value, key: Option<&str>) -> Answer {
    let mut request = client().post(server.url("/api/checkout/session")).bearer_auth(server.token(user)).json(&wish);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    Answer::of(request).await
}

async fn plans(server: &TestServer) -> Value {
    Answer::of(client().get(server.url("/api/plans"))).await.json["plans"].take()
}

#[tokio::test]
async fn a_level_is_sold_by_the_interval_that_is_asked_for() {
    let (world, file) = (World::new().await, File::new(&format!("{TRIAL}{PRO}")));
    let server = world.serve_with(&[file.setting()]).await;
    let user = Uuid::new_v4();
    let monthly = json!({ "entitlementLevel": "PRO" });
    let yearly = json!({ "entitlementLevel": "PRO", "interval": "year" });
    let price = |wish: &Value| {
        let (server, wish) = (&server, wish.clone());
        let stripe = &world.stripe;
        async move {
            let answer = buy(server, Uuid::new_v4(), wish, None).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            stripe.requests().pop().unwrap().params
        }
    };
    let params = price(&monthly).await;
    assert_eq!(params["line_items"][0]["price_data"]["recurring"]["interval"], "month");
    assert_eq!(params["metadata"]["interval"], "month");
    let params = price(&yearly).await;
    assert_eq!(params["line_items"][0]["price"], "price_1Yearly");
    assert_eq!(params["subscription_data"]["metadata"]["interval"], "year");
    assert_eq!(
        price(&json!({ "entitlementLevel": "PRO", "interval": "month" })).await["metadata"]["interval"],
        "month"
    );

    for (level, interval) in [("PRO", "week"), ("PRO", "decade"), ("PRO", ""), ("TRIAL", "month")] {
        let answer = buy(&server, user, json!({ "entitlementLevel": level, "interval": interval }), None).await;
        answer.assert_error(400, "INVALID_REQUEST");
        assert!(answer.json["error"].as_str().unwrap().contains("not sold by that interval"), "{}", answer.text);
    }

    let first = buy(&server, user, yearly.clone(), Some("click")).await;
    let again = buy(&server, user, yearly, Some("click")).await;
    assert_eq!((first.status, &first.json["sessionId"]), (200, &again.json["sessionId"]));
    buy(&server, user, monthly, Some("click")).await.assert_error(409, "IDEMPOTENCY_CONFLICT");
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn the_page_asks_and_offers_what_the_plan_says() {
    let (world, file) = (World::new().await, File::new(PRO));
    let server = world.serve_with(&[file.setting()]).await;
    let user = Uuid::new_v4();
    server.checkout(user, "PRO", None).await;
    let asked = world.stripe.requests().pop().unwrap().params;
    assert_eq!(world.stripe.violations(), Vec::<String>::new());
    for (field, value) in [
        ("/allow_promotion_codes", "true"),
        ("/automatic_tax/enabled", "true"),
        ("/billing_address_collection", "required"),
        ("/tax_id_collection/enabled", "true"),
        ("/line_items/0/quantity", "2"),
        ("/line_items/0/adjustable_quantity/enabled", "true"),
        ("/line_items/0/adjustable_quantity/minimum", "2"),
        ("/line_items/0/adjustable_quantity/maximum", "50"),
        ("/subscription_data/trial_period_days", "14"),
        ("/metadata/trialDays", "14"),
    ] {
        let said = asked.pointer(field).map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
        assert_eq!(said.as_deref(), Some(value), "{field} in {asked}");
    }

    // Who had the level gets no second trial.
    let ended = SessionEvent { created: 1_700_000_000, ..SessionEvent::subscribed(user) };
    server.deliver(&ended.json()).await;
    let answer = server.checkout(user, "PRO", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let asked = world.stripe.requests().pop().unwrap().params;
    assert_eq!(asked.pointer("/subscription_data/trial_period_days"), None, "{asked}");
    assert_eq!(asked.pointer("/metadata/trialDays"), None, "{asked}");
}

#[tokio::test]
async fn what_a_subscription_was_sold_on_decides_how_long_it_is_granted() {
    let (world, file) = (World::new().await, File::new(PRO));
    let server = world.serve_with(&[file.setting()]).await;
    let days = |interval: Option<&'static str>, trial: Option<&'static str>| {
        let server = &server;
        async move {
            let event = SessionEvent::subscribed(Uuid::new_v4());
            let mut json = event.json();
            for (key, value) in [("interval", interval), ("trialDays", trial)] {
                if let Some(value) = value {
                    json["data"]["object"]["metadata"][key] = value.into();
                }
            }
            server.deliver(&json).await;
            let ends = server.read(event.user).await.json["expiresAt"].as_str().unwrap().to_owned();
            let ends = chrono::DateTime::parse_from_rfc3339(&ends).unwrap().timestamp();
            (ends - event.created) / 86_400
        }
    };
    assert!((31..=34).contains(&days(None, None).await), "the default, and the grace");
    assert!((368..=369).contains(&days(Some("year"), None).await));
    assert_eq!(days(Some("year"), Some("14")).await, 17);
    assert!((31..=34).contains(&days(Some("decade"), Some("x")).await), "what nobody understands is as if not said");
}

#[tokio::test]
async fn a_feature_is_allowed_or_not_and_a_misspelt_one_is_neither() {
    let (world, file) = (World::new().await, File::new(&format!("{TRIAL}{PRO}")));
    let server = world.serve_with(&[file.setting()]).await;
    let event = SessionEvent::paid(Uuid::new_v4());
    let path = |query: &str| server.url(&format!("/api/entitlements/{}?{query}", event.user));
    let ask = |query: &str| Answer::of(client().get(path(query)).bearer_auth(SERVICE_TOKEN));
    assert_eq!(ask("feature=export").await.json, json!({ "allowed": false }), "FREE has no features");
    server.deliver(&event.json()).await;
    let answer = ask("feature=export&minVersion=1").await;
    assert_eq!((answer.status, &answer.json), (200, &json!({ "allowed": true })));
    assert_eq!(answer.header("cache-control"), Some("private, no-store"));
    ask("feature=export&minVersion=2").await.assert_error(503, "UNAVAILABLE");
    for wrong in ["feature=exports", "feature=", "feature=Export", "feature=export&feature=export", "Feature=export"] {
        ask(wrong).await.assert_error(400, "INVALID_REQUEST");
    }
    let own = server.url("/api/entitlements?feature=export");
    assert_eq!(
        Answer::of(client().get(own).bearer_auth(server.token(event.user))).await.json,
        json!({ "allowed": true })
    );
}

/// Writes the file anew, sends SIGHUP and waits for what comes of it.
async fn reload(server: &TestServer, file: &File, text: &str, outcome: &str) {
    let metric = format!("tollgate_catalogue_reloads_total{{outcome=\"{outcome}\"}}");
    let count = || async {
        let metrics = client().get(server.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&metric).map(str::trim));
        line.map_or(0, |count| count.parse::<u32>().unwrap())
    };
    let before = count().await;
    file.write(text);
    server.signal("HUP").await;
    eventually(PATIENCE, "the catalogue is read again", || async { count().await == before + 1 }).await;
}

/// Lines are written by a thread of their own.
async fn is_logged(server: &TestServer, reason: &str) {
    eventually(PATIENCE, reason, || async { server.log().contains(reason) }).await;
}

#[tokio::test]
async fn a_new_catalogue_takes_the_place_of_the_old_one_or_is_refused() {
    let file = File::new(&format!("{TRIAL}{PRO}"));
    let shop = Shop::new();
    let server = shop.serve_with(&[file.setting()]).await.unwrap();

    // An event of a level that is not sold yet waits for the catalogue.
    let early = SessionEvent { level: "TEAM".into(), ..SessionEvent::paid(Uuid::new_v4()) };
    assert_eq!(server.deliver(&early.json()).await.json["parked"], true);
    let dearer = PRO.replace("2900", "3900").replace("\"export\"", "\"api\"");
    reload(&server, &file, &format!("{TRIAL}{dearer}{TEAM}"), "applied").await;
    eventually(PATIENCE, "the event is applied", || async {
        server.read(early.user).await.json["entitlementLevel"] == "TEAM"
    })
    .await;
    let told = plans(&server).await;
    assert_eq!((&told[1]["price"]["amount"], &told[1]["features"]), (&json!(3900), &json!(["projects", "api"])));
    assert_eq!(told[2]["level"], "TEAM");
    let bought = server.checkout(Uuid::new_v4(), "TEAM", None).await;
    assert_eq!(bought.status, 200, "it is sold at once: {}", bought.text);

    // Nothing of a catalogue that is refused takes effect.
    for (text, reason) in [
        (format!("{TRIAL}{dearer}"), "there are live grants of TEAM"),
        (
            format!("{TRIAL}{dearer}{TEAM}").replace("rank = 30", "rank = 15"),
            "level TEAM has rank 30 and would have 15",
        ),
        (format!("{TRIAL}{dearer}{TEAM}colour = 1\n"), "line 31: unknown field `colour`"),
        (format!("{TRIAL}{dearer}{TEAM}[plan"), "line 31: unclosed table"),
        (String::new(), "no plan at all"),
    ] {
        reload(&server, &file, &text, "refused").await;
        is_logged(&server, reason).await;
        assert_eq!(plans(&server).await, told, "{reason}");
        assert_eq!(server.read(early.user).await.json["entitlementLevel"], "TEAM");
    }
    // A level that nobody holds may go.
    reload(&server, &file, &format!("{dearer}{TEAM}"), "applied").await;
    assert_eq!(plans(&server).await.as_array().unwrap().len(), 2);
    server.checkout(Uuid::new_v4(), "TRIAL", None).await.assert_error(400, "INVALID_ENTITLEMENT_LEVEL");
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0, "{}", server.log());
}

#[tokio::test]
async fn a_level_that_the_database_cannot_hold_waits_for_its_migration() {
    let (world, file) = (World::new().await, File::new(&format!("{TRIAL}{PRO}")));
    let server = world.serve_with(&[file.setting()]).await;
    let event = SessionEvent { level: "TEAM".into(), ..SessionEvent::paid(Uuid::new_v4()) };
    assert_eq!(server.deliver(&event.json()).await.json["parked"], true);
    let with_team = format!("{TRIAL}{PRO}{TEAM}");
    reload(&server, &file, &with_team, "refused").await;
    is_logged(&server, "the database has no level TEAM: run tollgate migrate").await;

    world.database.execute("ALTER TYPE user_entitlement_level ADD VALUE 'TEAM'").await;
    reload(&server, &file, &with_team, "applied").await;
    eventually(PATIENCE, "the event is applied", || async {
        server.read(event.user).await.json["entitlementLevel"] == "TEAM"
    })
    .await;
}
