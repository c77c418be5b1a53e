//! The real binary as a process of its own, with the neighbours it needs: a database and a Redis of this test alone, and a
//! stand-in for Stripe.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::SecretString;
use serde_json::{Value, json};
use tollgate::{auth, config::SandboxKeys, domain::id::UserId, intake::signature};
use uuid::Uuid;

use super::{
    postgres::TestDatabase,
    redis::RedisServer,
    stripe::StandInStripe,
    supervised::{Kind, PATIENCE, StartError, Supervised},
    wait::until_ok,
};

const KIND: Kind = Kind { name: "server", last_signal: "KILL", never_as_root: false };

/// The secrets that every test server is started with.
pub(crate) const WEBHOOK_SECRET: &str = "whsec_test0123456789abcdef0123456789";
pub(crate) const JWT_SECRET: &str = "a-session-token-secret-for-tests-only-0001";
pub(crate) const SERVICE_TOKEN: &str = "a-service-token-for-tests-only-0001";
pub(crate) const STRIPE_KEY: &str = "sk_test_51TollgateTests";

/// How long Redis may take where it is the subject. Elsewhere it may take long: a busy machine is no outage.
pub(crate) const REDIS_DEADLINE_AS_SHIPPED: (&str, &str) = ("TOLLGATE_REDIS_DEADLINE_MS", "");

/// What a test needs around its servers.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) redis: RedisServer,
    pub(crate) stripe: StandInStripe,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self {
            database: TestDatabase::new().await,
            redis: RedisServer::start().await,
            stripe: StandInStripe::start().await,
        }
    }

    /// The settings of a server in this world.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("DATABASE_URL", self.database.url()),
            ("REDIS_URL", self.redis.url()),
            ("STRIPE_API_BASE", self.stripe.url().into()),
            ("STRIPE_SECRET_KEY", STRIPE_KEY.into()),
            ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.into()),
            ("SUPABASE_JWT_SECRET", JWT_SECRET.into()),
            ("TOLLGATE_SERVICE_TOKEN", SERVICE_TOKEN.into()),
            ("TOLLGATE_BIND", "127.0.0.1:0".into()),
            ("TOLLGATE_ADMIN_BIND", "127.0.0.1:0".into()),
            ("TOLLGATE_APP_URL", "https://app.example.com".into()),
            ("TOLLGATE_REDIS_DEADLINE_MS", "1000".into()),
            ("TOLLGATE_LOG_FORMAT", "json".into()),
            ("TOLLGATE_LOG", "info,tollgate=debug".into()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Starts a server with the usual settings.
    pub(crate) async fn serve(&self) -> TestServer {
        self.serve_with(&[]).await
    }

    /// Starts a server with some settings of its own; an empty value takes a setting away.
    pub(crate) async fn serve_with(&self, settings: &[(&str, &str)]) -> TestServer {
        let mut all = self.settings();
        for (name, value) in settings {
            all.insert((*name).to_owned(), (*value).to_owned());
        }
        TestServer::start(&all).await.unwrap_or_else(|log| panic!("the server does not start:\n{log}"))
    }
}

/// A running server, killed when dropped.
pub(crate) struct TestServer {
    process: Supervised,
    keys: Keys,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Where its sandbox answers, if it has one.
    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) sandbox: Option<SocketAddr>,
}

/// What signs for a server.
struct Keys {
    webhook_secret: SecretString,
    jwt_secret: SecretString,
}

impl Keys {
    /// Those that the settings name, or else the sandbox's own.
    fn of(settings: &BTreeMap<String, String>) -> Self {
        let own = settings.get("TOLLGATE_DATA").and_then(|data| SandboxKeys::load(Path::new(data)).ok());
        let key = |name: &str, own: Option<&SecretString>, usual: &str| match settings.get(name) {
            Some(key) if !key.is_empty() => key.as_str().into(),
            _ => own.cloned().unwrap_or_else(|| usual.into()),
        };
        Self {
            webhook_secret: key("STRIPE_WEBHOOK_SECRET", own.as_ref().map(|own| &own.webhook_secret), WEBHOOK_SECRET),
            jwt_secret: key("SUPABASE_JWT_SECRET", own.as_ref().map(|own| &own.jwt_secret), JWT_SECRET),
        }
    }
}

impl TestServer {
    /// Starts the binary; gives what it wrote if it does not come up.
    pub(crate) async fn start(settings: &BTreeMap<String, String>) -> Result<Self, String> {
        Self::start_through("exec \"$@\"", settings).await
    }

    /// Starts it with an output that is read until it listens, and then by nobody any more.
    pub(crate) async fn start_unread(settings: &BTreeMap<String, String>) -> Result<Self, String> {
        let reader = "sed -u '/\"listening\"/q'; exec sleep 600";
        Self::start_through(&format!("mkfifo out && {{ {{ {reader}; }} <out & }} && exec \"$@\" >out"), settings).await
    }

    /// `shell` runs what it is given.
    async fn start_through(shell: &str, settings: &BTreeMap<String, String>) -> Result<Self, String> {
        let process = Supervised::new(&KIND);
        let mut arguments: Vec<String> =
            vec!["-i".into(), format!("PATH={}", std::env::var("PATH").unwrap_or_default())];
        arguments.extend(
            settings.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={value}")),
        );
        // The working directory is the server's own, so no .env of a developer is read.
        arguments.extend(["sh".into(), "-c".into(), format!("cd \"$0\" && {shell}")]);
        arguments.push(process.directory().to_str().expect("a path in UTF-8").into());
        arguments.extend([env!("CARGO_BIN_EXE_tollgate"), "serve"].map(String::from));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let started = process
            .start(Path::new("/usr/bin/env"), &arguments, async |_| find_listening(&process.log()).is_some())
            .await;
        match started {
            Ok(()) => {
                let Addresses { public, admin, sandbox } =
                    find_listening(&process.log()).expect("it was there a moment ago");
                Ok(Self { process, keys: Keys::of(settings), public, admin, sandbox })
            }
            Err(StartError::PortInUse) => Err("a port is in use".into()),
            Err(StartError::Failed(log)) => Err(log),
        }
    }

    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// The log's lines, as JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// A metric without labels, as it is now; 0 before it has first been counted.
    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) async fn metric(&self, name: &str) -> usize {
        let metrics = Answer::of(client().get(self.admin_url("/metrics"))).await.text;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as usize)
    }

    /// How many log lines say exactly this about an event.
    pub(crate) fn count_logged(&self, message: &str, event: &str) -> usize {
        self.log_lines()
            .iter()
            .filter(|line| line["fields"]["message"] == message && line["fields"]["event.id"] == event)
            .count()
    }

    /// Sends a signal: `TERM`, `KILL`, `STOP`, `CONT`.
    pub(crate) async fn signal(&self, name: &str) {
        self.process.signal(name, &[self.process.pid()]).await;
    }

    /// Waits until the process has ended and gives its exit status.
    pub(crate) async fn ended(&self) -> i32 {
        self.process.ended().await;
        // The file is there a moment before its content is.
        until_ok(PATIENCE, "the exit status is written", || async {
            std::fs::read_to_string(self.process.directory().join("exited")).unwrap_or_default().trim().parse::<i32>()
        })
        .await
    }

    /// Delivers an event, signed now.
    pub(crate) async fn deliver(&self, event: &Value) -> Answer {
        let body = serde_json::to_vec(event).unwrap();
        self.deliver_bytes(&body).await
    }

    /// Delivers a body, signed now.
    pub(crate) async fn deliver_bytes(&self, body: &[u8]) -> Answer {
        self.post_webhook(body, Some(&self.sign(body))).await
    }

    /// Signs a body as this server's Stripe does now.
    pub(crate) fn sign(&self, body: &[u8]) -> String {
        self.sign_at(body, unix_now())
    }

    /// Signs a body as it does at a moment, in seconds since 1970.
    pub(crate) fn sign_at(&self, body: &[u8], at: i64) -> String {
        signature::sign(&self.keys.webhook_secret, at, body)
    }

    /// A session token that this server takes.
    pub(crate) fn token(&self, user: Uuid) -> String {
        session_token_by(&self.keys.jwt_secret, user)
    }

    /// Posts to the webhook with a given header, or none.
    pub(crate) async fn post_webhook(&self, body: &[u8], header: Option<&str>) -> Answer {
        let mut request = client().post(self.url("/api/webhooks/stripe")).body(body.to_vec());
        if let Some(header) = header {
            request = request.header("Stripe-Signature", header);
        }
        Answer::of(request).await
    }

    /// Reads a user's entitlement as an application server.
    pub(crate) async fn read(&self, user: Uuid) -> Answer {
        Answer::of(client().get(self.url(&format!("/api/entitlements/{user}"))).bearer_auth(SERVICE_TOKEN)).await
    }

    /// The same, never older than a version.
    pub(crate) async fn read_at_least(&self, user: Uuid, version: u64) -> Answer {
        let url = self.url(&format!("/api/entitlements/{user}?minVersion={version}"));
        Answer::of(client().get(url).bearer_auth(SERVICE_TOKEN)).await
    }

    /// Asks for a checkout as a user.
    pub(crate) async fn checkout(&self, user: Uuid, level: &str, key: Option<&str>) -> Answer {
        let mut request = self.checkout_request(user, level);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        Answer::of(request).await
    }

    /// What a user sends to ask for a checkout.
    pub(crate) fn checkout_request(&self, user: Uuid, level: &str) -> reqwest::RequestBuilder {
        let request = client().post(self.url("/api/checkout/session")).bearer_auth(self.token(user));
        request.json(&json!({ "entitlementLevel": level }))
    }
}

/// An HTTP answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    /// Null where the body is not JSON.
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Answer {
    /// Sends a request and reads the answer.
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.expect("an answer")
    }

    /// The same for servers that may die.
    pub(crate) async fn try_of(request: reqwest::RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Self { status, headers, json: serde_json::from_str(&text).unwrap_or(Value::Null), text })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Asserts that this is an error of the contract: status, code, and nothing else in the body.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.json["code"].as_str()), (status, Some(code)), "{}", self.text);
        let body = self.json.as_object().expect("an object");
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{}", self.text);
        let way_to_the_portal = usize::from(code == "ALREADY_ENTITLED");
        assert_eq!(body.len(), 2 + way_to_the_portal, "{}", self.text);
        assert!(self.header("x-request-id").is_some(), "every answer names its request");
    }
}

/// One client for all tests: with limits, so that a hanging server fails a test instead of the run.
pub(crate) fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        install_tls();
        reqwest::Client::builder()
            .timeout(PATIENCE)
            // Tests run on runtimes of their own: a pooled connection would belong to one that has ended.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .expect("a client")
    })
}

fn install_tls() {
    // Another test may have been quicker.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}

/// A session token as Supabase would issue it.
pub(crate) fn session_token(user: Uuid) -> String {
    session_token_by(&SecretString::from(JWT_SECRET), user)
}

fn session_token_by(key: &SecretString, user: Uuid) -> String {
    auth::issue(key, None, UserId::from(user), Duration::from_secs(3600), unix_now()).unwrap()
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Where a server answers.
struct Addresses {
    public: SocketAddr,
    admin: SocketAddr,
    sandbox: Option<SocketAddr>,
}

/// The addresses in the line that the server writes when it listens.
fn find_listening(log: &str) -> Option<Addresses> {
    log.lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let fields = &line["fields"];
        if fields["message"] != "listening" {
            return None;
        }
        let address = |name: &str| fields[name].as_str()?.parse().ok();
        Some(Addresses { public: address("public")?, admin: address("admin")?, sandbox: address("sandbox") })
    })
}
