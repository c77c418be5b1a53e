//! A year by the sandbox's clock, lived with the real binary: what a user may do at each turn of a subscription's life, as the picture in the
//! README tells it, and the service's own time, which goes with the sandbox's.

use std::process::Command;

use chrono::{DateTime, SecondsFormat};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tollgate::config::SandboxKeys;
use uuid::Uuid;

use crate::{
    harness::{
        PATIENCE, eventually,
        server::{Answer, TestServer, client},
        shop::Shop,
        until_ok,
    },
    stream::Stream,
};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
const GRACE: i64 = 3 * DAY;

const CATALOGUE: &str = r#"
[[plan]]
level = "TRIAL"
rank = 10
mode = "payment"
amount = 0
currency = "usd"
lasts = "7d"

[[plan]]
level = "PRO"
rank = 20
mode = "subscription"
amount = 2900
currency = "usd"
interval = "month"
trial_days = 14
grace = "3d"

[[plan]]
level = "TEAM"
rank = 30
mode = "subscription"
amount = 9900
currency = "usd"
interval = "month"
grace = "3d"
"#;

/// What a buyer without a price to pay sends from the pay page, and one with.
const FREE: &str = "method=free&email=robin%40example.com";
const CARD: &str =
    "method=card&email=robin%40example.com&card_number=4242424242424242&expiry=12+%2F+40&cvc=123&name=Robin";

/// A shop that can go ahead in time, and somebody who buys there.
struct Life {
    shop: Shop,
    server: TestServer,
    user: Uuid,
    subscription: String,
    /// Level and end as they were read last, and in which version.
    known: Value,
    version: u64,
    /// Whether events are held back: then the service knows of nothing yet.
    is_withheld: bool,
}

impl Life {
    async fn begin() -> Self {
        let shop = Shop::new();
        std::fs::write(shop.data().join("tollgate.toml"), CATALOGUE).unwrap();
        let server = open(&shop).await;
        let user = Uuid::new_v4();
        Self { shop, server, user, subscription: String::new(), known: Value::Null, version: 0, is_withheld: false }
    }

    /// Stops the server and starts it again.
    async fn restart(&mut self) {
        self.server.signal("TERM").await;
        assert_eq!(self.server.ended().await, 0, "{}", self.server.log());
        self.server = open(&self.shop).await;
    }

    /// Asks the sandbox, as whoever holds its key.
    async fn ask(&self, method: Method, path: &str, body: impl Into<reqwest::Body>, kind: &str) -> Value {
        let key = SandboxKeys::load(self.shop.data()).unwrap().stripe_key;
        let request = client()
            .request(method, format!("http://{}{path}", self.server.sandbox.unwrap()))
            .bearer_auth(key.expose_secret())
            .header("Content-Type", kind)
            .body(body);
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, "", "application/json").await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let form = serde_urlencoded::to_string(form).unwrap();
        self.ask(Method::POST, path, form, "application/x-www-form-urlencoded").await
    }

    async fn control(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, &format!("/sandbox/{path}"), body.to_string(), "application/json").await
    }

    /// How events are delivered from now on.
    async fn deliver(&mut self, copies: u8, reorder: bool, withhold: bool) {
        self.control("switches", json!({ "copies": copies, "reorder": reorder, "withhold": withhold })).await;
        self.is_withheld = withhold;
    }

    /// The sandbox's time, in Unix seconds.
    async fn now(&self) -> i64 {
        number(&self.get("/sandbox/clock").await["now"])
    }

    /// Lets time pass until a moment, in Unix seconds.
    async fn goes_on_to(&self, moment: i64) {
        let told = self.control("clock", json!({ "to": moment })).await;
        assert_eq!(told["advancing"], false, "{told}");
    }

    /// Buys a level at the pay page. Gives the session's id.
    async fn buy(&self, level: &str, form: &'static str) -> String {
        let session = self.server.checkout(self.user, level, None).await;
        assert_eq!(session.status, 200, "{}", session.text);
        let browser =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        let page = session.json["url"].as_str().unwrap();
        let paid = browser.post(page).header("Content-Type", "application/x-www-form-urlencoded").body(form);
        assert_eq!(paid.send().await.unwrap().status(), 303);
        text(&session.json["sessionId"]).to_owned()
    }

    /// Buys a subscription.
    async fn subscribe(&mut self, level: &str, form: &'static str) -> String {
        let session = self.buy(level, form).await;
        let bought = self.get(&format!("/v1/checkout/sessions/{session}")).await;
        self.subscription = text(&bought["subscription"]).to_owned();
        session
    }

    async fn subscribed(&self) -> Value {
        self.get(&format!("/v1/subscriptions/{}", self.subscription)).await
    }

    async fn change(&self, form: &[(&str, &str)]) {
        self.post(&format!("/v1/subscriptions/{}", self.subscription), form).await;
    }

    /// When the subscription's present period begins and ends, in Unix seconds.
    async fn period(&self) -> (i64, i64) {
        let item = &self.subscribed().await["items"]["data"][0];
        (number(&item["current_period_start"]), number(&item["current_period_end"]))
    }

    /// Time passes until the next period has begun and was charged for.
    async fn renews(&self) {
        self.goes_on_to(self.period().await.1 + 2 * HOUR).await;
    }

    /// The customer's card from now on.
    async fn pays_with(&self, card: &str) {
        let customer = text(&self.subscribed().await["customer"]).to_owned();
        self.post(&format!("/v1/customers/{customer}"), &[("invoice_settings[default_payment_method]", card)]).await;
    }

    /// The newest payment.
    async fn charge(&self) -> String {
        text(&self.get("/v1/charges?limit=1").await["data"][0]["id"]).to_owned()
    }

    /// Waits until the service says this level and this end, in Unix seconds: in a newer version, if that is another level or end.
    async fn is(&mut self, level: &str, end: Option<i64>) {
        if self.is_withheld {
            return;
        }
        let expected = json!([level, end.map(shown)]);
        let version = self.version + u64::from(self.known != expected);
        let version = until_ok(PATIENCE, &format!("the user is {expected}"), || async {
            let read = self.server.read_at_least(self.user, version).await;
            let found = json!([read.json["entitlementLevel"], read.json["expiresAt"]]);
            if found == expected { Ok(number(&read.json["version"])) } else { Err(read.text) }
        })
        .await;
        (self.known, self.version) = (expected, u64::try_from(version).unwrap());
    }

    /// Waits until each event was delivered as often as it is to be.
    async fn all_are_delivered(&self) {
        eventually(PATIENCE, "all events are delivered", || async {
            self.events().await.iter().all(|event| event["pending_webhooks"] == 0)
        })
        .await;
    }

    /// All that Stripe told, oldest first.
    async fn events(&self) -> Vec<Value> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/events?limit=100{after}")).await;
            all.extend(page["data"].as_array().unwrap().clone());
            if page["has_more"] == false {
                all.reverse();
                return all;
            }
            after = format!("&starting_after={}", text(&all.last().unwrap()["id"]));
        }
    }

    fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["entitlements", arguments[0], "--user", &self.user.to_string()])
            .args(&arguments[1..])
            .env_clear()
            .env("TOLLGATE_ADMIN_BIND", self.server.admin.to_string())
            .current_dir(self.shop.data())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every change that the ledger remembers, oldest first.
    fn history(&self) -> Vec<Value> {
        let told: Value = serde_json::from_str(&self.command(&["history", "--json", "--limit", "1000"])).unwrap();
        let mut history = told["history"].as_array().unwrap().clone();
        history.reverse();
        history
    }

    /// From the checkout until the end is fixed, with `interlude` in the middle of the spring without a level.
    async fn until_november(&mut self, interlude: impl AsyncFnOnce(&mut Self)) {
        // January: a trial of 14 days, and a card for what comes after it.
        self.subscribe("PRO", FREE).await;
        let trial_end = self.period().await.1;
        self.is("PRO", Some(trial_end + GRACE)).await;
        self.pays_with("pm_card_visa").await;
        // The first payment, and two renewals.
        for _ in 0..3 {
            self.renews().await;
            self.is("PRO", Some(self.period().await.1 + GRACE)).await;
        }
        // April: the payment fails; grace, then nothing.
        self.pays_with("pm_card_chargeCustomerFail").await;
        self.renews().await;
        let unpaid = self.period().await.0;
        self.is("PRO", Some(unpaid + GRACE)).await;
        self.goes_on_to(unpaid + GRACE + 1).await;
        self.is("FREE", None).await;
        interlude(self).await;
        self.goes_on_to(unpaid + 6 * DAY).await;
        self.is("FREE", None).await;
        // Paid at last, and renewed in May.
        self.pays_with("pm_card_visa").await;
        let open = self.get(&format!("/v1/invoices?status=open&subscription={}", self.subscription)).await;
        self.post(&format!("/v1/invoices/{}/pay", text(&open["data"][0]["id"])), &[]).await;
        self.is("PRO", Some(self.period().await.1 + GRACE)).await;
        self.renews().await;
        self.is("PRO", Some(self.period().await.1 + GRACE)).await;
        // June: upgraded, and renewed twice.
        self.goes_on_to(self.period().await.0 + 17 * DAY).await;
        self.upgrade().await;
        self.is("TEAM", Some(self.period().await.1 + GRACE)).await;
        for _ in 0..2 {
            self.renews().await;
            self.is("TEAM", Some(self.period().await.1 + GRACE)).await;
        }
        // July: refunded in full, and a gift until September.
        let (july, august) = self.period().await;
        self.goes_on_to(july + 9 * DAY).await;
        self.post("/v1/refunds", &[("charge", &self.charge().await)]).await;
        self.is("FREE", None).await;
        let gift = august + 24 * DAY;
        let lasts = ["--until", &shown(gift)];
        self.command(&["grant", "--level", "PRO", lasts[0], lasts[1], "--reason", "a bridge", "--operator", "robin"]);
        self.is("PRO", Some(gift)).await;
        self.renews().await;
        self.is("TEAM", Some(self.period().await.1 + GRACE)).await;
        // September: disputed; the gift holds, and ends; the dispute is won.
        self.goes_on_to(gift - 2 * DAY).await;
        self.control(&format!("charges/{}/dispute", self.charge().await), json!({})).await;
        self.is("PRO", Some(gift)).await;
        self.goes_on_to(gift + 1).await;
        self.is("FREE", None).await;
        self.goes_on_to(gift + 2 * DAY).await;
        let dispute = text(&self.get("/v1/disputes").await["data"][0]["id"]).to_owned();
        let evidence = [("evidence[uncategorized_text]", "winning_evidence")];
        self.post(&format!("/v1/disputes/{dispute}"), &evidence).await;
        self.is("TEAM", Some(self.period().await.1 + GRACE)).await;
        for _ in 0..2 {
            self.renews().await;
            self.is("TEAM", Some(self.period().await.1 + GRACE)).await;
        }
        // November: cancelled, as of the period's end.
        self.goes_on_to(self.period().await.0 + 21 * DAY).await;
        self.change(&[("cancel_at_period_end", "true")]).await;
        self.is("TEAM", Some(self.period().await.1)).await;
    }

    /// To what costs as much as TEAM, at once.
    async fn upgrade(&self) {
        let item = self.subscribed().await["items"]["data"][0].clone();
        let team = [
            ("items[0][id]", text(&item["id"])),
            ("items[0][price_data][currency]", "usd"),
            ("items[0][price_data][product]", text(&item["price"]["product"])),
            ("items[0][price_data][unit_amount]", "9900"),
            ("items[0][price_data][recurring][interval]", "month"),
            ("metadata[entitlementLevel]", "TEAM"),
            ("proration_behavior", "always_invoice"),
        ];
        self.change(&team).await;
    }

    async fn until_december(&mut self) {
        let (_, end) = self.period().await;
        self.goes_on_to(end + 1).await;
        self.is("FREE", None).await;
        assert_eq!(self.subscribed().await["status"], "canceled");
    }
}

async fn open(shop: &Shop) -> TestServer {
    let catalogue = shop.data().join("tollgate.toml");
    let settings = [("TOLLGATE_CATALOGUE", catalogue.to_str().unwrap())];
    shop.serve_with(&settings).await.unwrap_or_else(|log| panic!("the shop does not open:\n{log}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// A moment as the service shows it.
fn shown(moment: i64) -> String {
    DateTime::from_timestamp(moment, 0).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// When a level ends by an answer, in Unix seconds.
fn end(answer: &Value) -> i64 {
    DateTime::parse_from_rfc3339(text(&answer["expiresAt"])).unwrap().timestamp()
}

fn levels(history: &[Value]) -> Vec<&str> {
    let mut levels: Vec<&str> = history.iter().map(|entry| text(&entry["entitlementLevel"])).collect();
    levels.dedup();
    levels
}

#[tokio::test]
async fn a_year_is_lived_and_told_again_changes_nothing() {
    let mut life = Life::begin().await;
    life.until_november(async |life: &mut Life| {
        // By the machine's clock the level would be there again for months.
        let before = life.history();
        let now = life.now().await;
        life.restart().await;
        assert!(life.now().await >= now, "time is kept");
        life.is("FREE", None).await;
        // Not the version: Stripe may have been asked meanwhile how a subscription that lapsed stands.
        assert_eq!(life.history(), before, "a restart is no change");
    })
    .await;
    life.until_december().await;

    let history = life.history();
    let expected = ["PRO", "FREE", "PRO", "TEAM", "FREE", "PRO", "TEAM", "PRO", "FREE", "TEAM", "FREE"];
    assert_eq!(levels(&history), expected, "nothing flickered: {history:#?}");
    assert!(history.is_sorted_by_key(|entry| entry["version"].as_u64()), "{history:#?}");

    life.all_are_delivered().await;
    life.restart().await;
    let events = life.events().await;
    for kind in ["invoice.payment_failed", "charge.refunded", "charge.dispute.closed", "customer.subscription.deleted"]
    {
        assert!(events.iter().any(|event| event["type"] == kind), "{kind}");
    }
    for event in &events {
        let told = life.control(&format!("events/{}/redeliver", text(&event["id"])), json!({})).await;
        let answer: Value = serde_json::from_str(text(&told["body"])).unwrap();
        let is_nothing = answer["idempotent"] == true || answer["processed"] == false;
        assert!(told["status"] == 200 && is_nothing, "{}: {told}", event["type"]);
    }
    life.is("FREE", None).await;
    assert_eq!(life.history(), history);
}

#[tokio::test]
async fn a_year_told_backwards_and_three_times_ends_alike() {
    let mut life = Life::begin().await;
    life.deliver(3, true, true).await;
    life.until_november(async |_: &mut Life| {}).await;
    life.deliver(3, true, false).await;
    life.all_are_delivered().await;
    let end = life.period().await.1;
    life.is("TEAM", Some(end)).await;
    life.until_december().await;
}

#[tokio::test]
async fn what_is_bought_in_months_to_come_and_asked_for_ends_when_it_should() {
    let mut life = Life::begin().await;
    life.goes_on_to(life.now().await + 100 * DAY).await;
    life.deliver(1, false, true).await;
    let session = life.subscribe("TEAM", CARD).await;
    let page = client().get(life.server.url(&format!("/api/checkout/session/{session}")));
    let page = Answer::of(page.bearer_auth(life.server.token(life.user))).await;
    assert_eq!((&page.json["state"], &page.json["granted"]), (&json!("complete"), &json!(true)), "{}", page.text);
    let fetched = life.server.read(life.user).await;
    assert_eq!(fetched.json["entitlementLevel"], "TEAM", "{}", fetched.text);
    let due = life.period().await.1 + GRACE;
    // It counts from the answer, which came after the payment.
    assert!((due..due + DAY).contains(&end(&fetched.json)), "{} for {}", fetched.text, shown(due));

    life.deliver(1, false, false).await;
    life.is("TEAM", Some(due)).await;
    life.all_are_delivered().await;
    assert_eq!(levels(&life.history()), ["TEAM"]);
}

#[tokio::test]
async fn who_watches_a_level_that_ends_in_a_week_is_told_when_the_week_is_jumped_over() {
    let life = Life::begin().await;
    life.buy("TRIAL", FREE).await;
    eventually(PATIENCE, "it is bought", || async {
        life.server.read(life.user).await.json["entitlementLevel"] == "TRIAL"
    })
    .await;
    let mut stream = Stream::open(&life.server, life.user).await;
    let first = stream.next().await.unwrap();
    let (Some(version), "TRIAL") = first.version_and_level() else { panic!("{first:?}") };
    life.goes_on_to(life.now().await + 8 * DAY).await;
    let told = stream.next().await.unwrap();
    assert_eq!(told.version_and_level(), (Some(version + 1), "FREE"));
}

#[tokio::test]
async fn a_year_that_passes_at_once_ends_no_level_that_is_renewed() {
    let mut life = Life::begin().await;
    life.subscribe("TEAM", CARD).await;
    life.goes_on_to(life.now().await + 366 * DAY).await;
    life.is("TEAM", Some(life.period().await.1 + GRACE)).await;
    let history = life.history();
    assert_eq!(levels(&history), ["TEAM"], "{history:#?}");
}
