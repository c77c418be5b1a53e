//! A headless Chromium of a test's own, driven over WebDriver the way a person would: by what is to be read on the page.

use std::{collections::BTreeMap, path::PathBuf};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, KeyAction, KeyActions},
    elements::Element,
    key::Key,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};

use super::{
    programs,
    server::client,
    supervised::{Kind, PATIENCE, StartError, Supervised},
    wait::until_ok,
};

const KIND: Kind = Kind { name: "browser", last_signal: "KILL", never_as_root: false };

const ARGUMENTS: &[&str] = &[
    "--headless=new",
    // Containers forbid what the browser's own sandbox needs; the pages are ours.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
];

/// A browser with one window. Dropping it ends driver and browser.
pub(crate) struct Browser {
    client: Client,
    driver: Supervised,
    port: u16,
    session: String,
}

/// How the browser shows pages.
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) is_dark: bool,
    pub(crate) is_phone: bool,
}

impl Screen {
    pub(crate) const DESKTOP: Self = Self { width: 1280, height: 860, is_dark: false, is_phone: false };
    pub(crate) const PHONE: Self = Self { width: 390, height: 844, is_dark: false, is_phone: true };

    pub(crate) const fn dark(self) -> Self {
        Self { is_dark: true, ..self }
    }

    pub(crate) const fn high(self, height: u32) -> Self {
        Self { height, ..self }
    }
}

impl Browser {
    /// Starts driver and browser, with a fresh profile.
    pub(crate) async fn start() -> Self {
        let driver = Supervised::new(&KIND);
        let program = programs::find("chromedriver");
        match driver.start(&program, &["--port=0"], async |_| find_port(&driver.log()).is_some()).await {
            Ok(()) => {}
            Err(StartError::PortInUse) => panic!("port 0 is never in use"),
            Err(StartError::Failed(log)) => panic!("chromedriver does not start:\n{log}"),
        }
        let port = find_port(&driver.log()).expect("it was there a moment ago");
        let profile = format!("--user-data-dir={}", driver.directory().join("profile").display());
        let mut arguments = ARGUMENTS.to_vec();
        arguments.push(&profile);
        let mut options = Map::new();
        options.insert("args".into(), json!(arguments));
        // Beside a Chrome of another version the driver would choose that.
        if let Some(chromium) = programs::find_any(&["chromium", "chromium-browser"]) {
            options.insert("binary".into(), json!(chromium));
        }
        let capabilities = json!({
            "goog:chromeOptions": options,
            // In milliseconds; WebDriver's own limit for a page is five minutes.
            "timeouts": { "pageLoad": PATIENCE.as_millis() as u64 },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(serde_json::from_value(capabilities).expect("an object"))
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap_or_else(|error| panic!("no browser: {error}\n{}", driver.log()));
        let session = client.session_id().await.expect("the driver answers").expect("a session");
        let browser = Self { client, driver, port, session };
        browser.show_on(&Screen::DESKTOP).await;
        browser
    }

    /// For what has no helper here.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Where profile, logs and driver live; gone when the browser is dropped.
    pub(crate) fn directory(&self) -> PathBuf {
        self.driver.directory().to_owned()
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn goto(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Clicks the link, button or label with this text.
    pub(crate) async fn click(&self, text: &str) {
        let text = quoted(text);
        let path = format!(
            "//*[self::a or self::button or self::label or self::summary][contains(normalize-space(.), {text})]"
        );
        self.find(&path).await.click().await.unwrap_or_else(|error| panic!("click on {text}: {error}"));
    }

    /// Types into the empty field with this label.
    pub(crate) async fn fill(&self, label: &str, text: &str) {
        let field = self.field(label).await;
        field.clear().await.expect("a field");
        field.send_keys(text).await.unwrap_or_else(|error| panic!("type into {label}: {error}"));
    }

    /// What is in the field with this label.
    pub(crate) async fn value(&self, label: &str) -> String {
        self.field(label).await.prop("value").await.expect("the driver answers").expect("a field has a value")
    }

    /// The field that a label belongs to.
    pub(crate) async fn field(&self, label: &str) -> Element {
        let label = quoted(label);
        self.find(&format!("//*[@id = //label[contains(normalize-space(.), {label})]/@for]")).await
    }

    /// The first visible element of an XPath, once there is one.
    async fn find(&self, path: &str) -> Element {
        until_ok(PATIENCE, &format!("{path} is on the page"), || async {
            for element in self.client.find_all(Locator::XPath(path)).await.map_err(|error| error.to_string())? {
                if element.is_displayed().await.map_err(|error| error.to_string())? {
                    return Ok(element);
                }
            }
            Err(format!("the page reads\n{}", self.text().await))
        })
        .await
    }

    /// What is to be read on the page.
    pub(crate) async fn text(&self) -> String {
        match self.client.execute("return document.body.innerText", vec![]).await {
            Ok(text) => text.as_str().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// Waits until this is to be read on the page.
    pub(crate) async fn reads(&self, text: &str) {
        until_ok(PATIENCE, &format!("the page reads {text:?}"), || async {
            let page = self.text().await;
            if page.contains(text) { Ok(()) } else { Err(page) }
        })
        .await;
    }

    /// Waits until an expression is true on the page.
    pub(crate) async fn holds(&self, expression: &str) {
        until_ok(PATIENCE, expression, || async {
            let held = self.client.execute(&format!("return {expression}"), vec![]).await;
            match held {
                Ok(Value::Bool(true)) => Ok(()),
                Ok(other) => Err(other.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// What an expression is on the page.
    pub(crate) async fn evaluate(&self, expression: &str) -> Value {
        let value = self.client.execute(&format!("return {expression}"), vec![]).await;
        value.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Presses a key, wherever the focus is.
    pub(crate) async fn press(&self, key: Key) {
        self.type_keys(&char::from(key).to_string()).await;
    }

    /// Types, wherever the focus is.
    pub(crate) async fn type_keys(&self, keys: &str) {
        let keyboard = KeyActions::new("keyboard".into());
        let keys = keys.chars().flat_map(|value| [KeyAction::Down { value }, KeyAction::Up { value }]);
        self.client.perform_actions(keys.fold(keyboard, KeyActions::then)).await.expect("a keyboard");
    }

    /// Asserts that every text stands out from its ground, and that nothing is wider than the screen.
    pub(crate) async fn assert_legible(&self, page: &str) {
        let faint = self.client.execute(include_str!("faint.js"), vec![]).await.expect("a list");
        assert_eq!(faint, json!([]), "{page}: text that is too faint");
        self.holds("document.documentElement.scrollWidth <= innerWidth").await;
    }

    /// Shows pages on another screen from now on. Nothing moves there: a picture shows how things end.
    pub(crate) async fn show_on(&self, screen: &Screen) {
        let Screen { width, height, is_dark, is_phone } = *screen;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": is_phone });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if is_dark { "dark" } else { "light" };
        let features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]
            .map(|(name, value)| json!({ "name": name, "value": value }));
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Calls the browser's DevTools, for what WebDriver has no word for.
    pub(crate) async fn devtools(&self, method: &str, parameters: Value) -> Value {
        self.ask("goog/cdp/execute", &json!({ "cmd": method, "params": parameters })).await
    }

    /// Writes what the window shows to `screenshots/<name>.png` in the target directory.
    pub(crate) async fn screenshot(&self, name: &str) {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        let image = self.client.screenshot().await.expect("a picture");
        std::fs::create_dir_all(&directory).expect("the target directory is ours");
        std::fs::write(directory.join(format!("{name}.png")), image).expect("the target directory is ours");
    }

    /// Asserts that the browser has complained about nothing since it was last asked: no error of a script, nothing that failed to load,
    /// nothing that a policy has blocked.
    pub(crate) async fn assert_no_complaints(&self) {
        assert_eq!(self.complaints().await, [""; 0]);
    }

    /// What the browser has complained about since it was last asked.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.ask("se/log", &json!({ "type": "browser" })).await;
        log.as_array()
            .expect("a list")
            .iter()
            .filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")))
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    async fn ask(&self, command: &str, body: &Value) -> Value {
        let url = format!("http://127.0.0.1:{}/session/{}/{command}", self.port, self.session);
        let response = client().post(url).json(body).send().await.expect("the driver answers");
        let is_success = response.status().is_success();
        let mut answer: BTreeMap<String, Value> = response.json().await.expect("JSON");
        let value = answer.remove("value").expect("an answer has a value");
        assert!(is_success, "{command} {body}: {value}");
        value
    }
}

/// Where the driver says that it listens.
fn find_port(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once("started successfully on port ")?;
    rest.split_once('.')?.0.parse().ok()
}

/// A text as XPath writes it, which knows no escapes.
fn quoted(text: &str) -> String {
    assert!(!text.contains('"'), "{text} cannot be quoted");
    format!("\"{text}\"")
}
