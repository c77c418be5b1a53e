//! The sandbox's Stripe, over real HTTP: its API, its pay page, its deliveries.

mod api;
mod delivery;
mod life;
mod pay;
mod receiver;
mod shape;

use std::{net::TcpListener, sync::LazyLock, time::Duration};

use reqwest::{Method, RequestBuilder, redirect::Policy};
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;
use tollgate::{
    activity::{Activity, Step},
    sandbox::{Pace, Sandbox, SandboxSettings},
};
use uuid::Uuid;

use crate::harness::{
    server::{Answer, client},
    until_ok,
};

const KEY: &str = "sk_test_sandbox";
const WEBHOOK_SECRET: &str = "whsec_sandbox";
const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox with a folder of its own.
struct World {
    sandbox: Sandbox,
    activity: Activity,
    folder: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::at(fast()).await
    }

    async fn at(pace: Pace) -> Self {
        let folder = TempDir::new().unwrap();
        let activity = Activity::watched();
        let sandbox = start(&folder, pace, activity.clone()).await.unwrap();
        Self { sandbox, activity, folder }
    }

    /// The same file in another sandbox, after this one has stopped.
    async fn restarted(self) -> Self {
        self.sandbox.stop().await;
        let sandbox = start(&self.folder, fast(), self.activity.clone()).await.unwrap();
        Self { sandbox, ..self }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.address())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        client().request(method, self.url(path)).bearer_auth(KEY)
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        Answer::of(self.form(path, form)).await
    }

    fn form(&self, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
        self.request(Method::POST, path)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(serde_urlencoded::to_string(form).unwrap())
    }

    /// A session, by the parameters that differ from a plain purchase.
    async fn session(&self, mode: &str, amount: &str, more: &[(&str, &str)]) -> Value {
        let user = user().to_string();
        let mut form = vec![
            ("mode", mode),
            ("success_url", "https://app.test/ok?session_id={CHECKOUT_SESSION_ID}"),
            ("cancel_url", "https://app.test/pricing"),
            ("client_reference_id", &user),
            ("metadata[userId]", &user),
            ("metadata[entitlementLevel]", "PRO"),
            ("line_items[0][quantity]", "1"),
            ("line_items[0][price_data][currency]", "usd"),
            ("line_items[0][price_data][unit_amount]", amount),
            ("line_items[0][price_data][product_data][name]", "PRO"),
        ];
        if mode == "subscription" {
            form.push(("line_items[0][price_data][recurring][interval]", "month"));
        }
        form.extend(more);
        let answer = self.post("/v1/checkout/sessions", &form).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json
    }

    /// Sends the pay page's form, as a browser that does not follow.
    async fn pay(&self, session: &Value, form: &[(&str, &str)]) -> Answer {
        let path = format!("/c/pay/{}", session["id"].as_str().unwrap());
        self.submit(&path, form).await
    }

    async fn submit(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let body = serde_urlencoded::to_string(form).unwrap();
        let own = format!("http://{}", self.sandbox.address());
        Answer::of(browser().post(self.url(path)).header("Origin", own).body(body)).await
    }

    async fn page(&self, session: &Value) -> Answer {
        Answer::of(browser().get(self.url(&format!("/c/pay/{}", session["id"].as_str().unwrap())))).await
    }

    /// The session as it is now.
    async fn look(&self, session: &Value) -> Value {
        self.get(&format!("/v1/checkout/sessions/{}", session["id"].as_str().unwrap())).await.json
    }

    /// All events of a type, newest first.
    async fn events(&self, kind: &str) -> Vec<Value> {
        self.get(&format!("/v1/events?limit=100&type={kind}")).await.json["data"].as_array().unwrap().clone()
    }

    /// What has been told so far.
    async fn steps(&self) -> Vec<Step> {
        if self.activity.newest() == 0 {
            return Vec::new();
        }
        self.activity.after(0).await.into_iter().map(|happened| happened.step).collect()
    }

    /// Waits for a step, and gives all of its kind.
    async fn told(&self, what: &str, is: impl Fn(&Step) -> bool) -> Vec<Step> {
        until_ok(PATIENCE, what, || async {
            let steps: Vec<Step> = self.steps().await.into_iter().filter(|step| is(step)).collect();
            if steps.is_empty() { Err("not told") } else { Ok(steps) }
        })
        .await
    }
}

async fn start(folder: &TempDir, pace: Pace, activity: Activity) -> anyhow::Result<Sandbox> {
    // Installs what TLS is made with, as the program does at its start.
    client();
    Sandbox::start_at(pace, settings(folder), activity).await
}

fn settings(folder: &TempDir) -> SandboxSettings {
    SandboxSettings {
        tell_ahead: |_| {},
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        file: folder.path().join("stripe").join("sandbox.db"),
        secret_key: SecretString::from(KEY),
        webhook_secret: SecretString::from(WEBHOOK_SECRET),
    }
}

/// Retries at once, five times.
fn fast() -> Pace {
    Pace { retries: vec![Duration::from_millis(5); 5], hold: Duration::from_millis(300) }
}

fn user() -> Uuid {
    Uuid::from_u128(0x7f6a_3e2c_5d1b_4c8e_9a60_2f1d_0c9b_8a71)
}

/// Follows no redirect. One for all tests: to make one takes long.
fn browser() -> &'static reqwest::Client {
    static BROWSER: LazyLock<reqwest::Client> = LazyLock::new(|| {
        reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap()
    });
    &BROWSER
}

/// A form that pays.
const CARD: &[(&str, &str)] = &[
    ("method", "card"),
    ("email", "robin@example.com"),
    ("card_number", "4242 4242 4242 4242"),
    ("expiry", "12 / 40"),
    ("cvc", "123"),
    ("name", "Robin Peeters"),
];

/// The same with another card.
fn card(number: &'static str) -> Vec<(&'static str, &'static str)> {
    let with =
        |(name, value): &(&'static str, &'static str)| (*name, if *name == "card_number" { number } else { value });
    CARD.iter().map(with).collect()
}

fn location(answer: &Answer) -> &str {
    assert_eq!(answer.status, 303, "{}", answer.text);
    answer.header("location").unwrap()
}
