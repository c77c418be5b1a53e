//! Listeners, threads, limits of requests, and the log.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{
    parse::{duration_in, list, network, number_in, web_origin, web_url},
    reader::Reader,
    setting,
};

/// The public listener and the operators' one.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where the public listener answers; port 0 takes any.
    pub bind: SocketAddr,
    /// Where metrics and operators are answered.
    pub admin_bind: SocketAddr,
    /// Where buyers come back to. `None`: the public listener itself.
    pub app_url: Option<Url>,
    /// The sites whose pages may call the API, as browsers name them.
    pub cors_origins: Vec<String>,
    /// The proxies whose word about addresses is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Checkout sessions that one address may ask for in a minute.
    pub checkouts_per_address_per_minute: NonZeroU32,
    /// Threads that answer HTTP.
    pub http_workers: usize,
    /// How long the head of a request may take.
    pub head_timeout: Duration,
    /// How long the body may take.
    pub body_timeout: Duration,
    /// How many bytes all bodies under way may take.
    pub bodies_bytes_max: usize,
    /// How long a client may take nothing of what it is sent.
    pub unread_timeout: Duration,
    /// Most connections of the public listener, streams among them.
    pub connections_max: usize,
    /// Most streams of entitlements open at once.
    pub streams_max: usize,
    /// How long a stop waits for what is under way, the delay before it included.
    pub shutdown_timeout: Duration,
    /// How long a stop goes on answering as if nothing were, but for its readiness.
    pub drain_delay: Duration,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `tracing`'s filter syntax; known to be valid.
    pub filter: String,
    /// `None`: by whether standard output is a terminal.
    pub format: Option<LogFormat>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info,actix_server=warn".to_owned(), format: None }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// One coloured line, for people.
    Pretty,
}

impl ServerConfig {
    /// Longest body that is taken, in bytes: Stripe's events are far below.
    pub const BODY_BYTES_MAX: usize = 1024 * 1024;

    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let bind = reader.value(&setting::BIND, |text| text.parse().ok());
        let admin_bind = reader.value(&setting::ADMIN_BIND, |text| text.parse().ok());
        let app_url = reader.optional(&setting::APP_URL, web_url);
        let cors_origins = reader.optional(&setting::CORS_ORIGINS, list(web_origin));
        let trusted_proxies = reader.optional(&setting::TRUSTED_PROXIES, list(network));
        let checkouts =
            reader.value(&setting::CHECKOUT_PER_ADDRESS, |text| number_in(1..=10_000)(text).and_then(NonZeroU32::new));
        let http_workers = reader.optional(&setting::HTTP_WORKERS, number_in(1..=256));
        let head_timeout = reader.value(&setting::HEAD_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let body_timeout = reader.value(&setting::BODY_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let bodies_mib = reader.value(&setting::BODIES_MIB, number_in(4..=65_536_usize));
        let unread_timeout = reader.value(&setting::UNREAD_TIMEOUT, duration_in(SHORTEST..=Duration::from_secs(600)));
        let connections_max = reader.value(&setting::CONNECTIONS_MAX, number_in(1..=1_000_000));
        let streams_max = reader.value(&setting::STREAMS_MAX, number_in(1..=1_000_000));
        let shutdown_timeout =
            reader.value(&setting::SHUTDOWN_TIMEOUT, duration_in(Duration::from_secs(1)..=Duration::from_secs(600)));
        let drain_delay = reader.value(&setting::DRAIN_DELAY, duration_in(Duration::ZERO..=Duration::from_secs(300)));
        let log = LogConfig::read(reader);

        let (bind, admin_bind): (SocketAddr, SocketAddr) = (bind?, admin_bind?);
        if bind == admin_bind && bind.port() != 0 {
            reader.wrong(&setting::ADMIN_BIND, "");
        }
        let (shutdown_timeout, drain_delay): (Duration, Duration) = (shutdown_timeout?, drain_delay?);
        if drain_delay + Duration::from_secs(1) > shutdown_timeout {
            reader.wrong(&setting::DRAIN_DELAY, "");
        }
        let app_url = app_url?;
        let app_origin = || app_url.iter().map(|url| url.origin().ascii_serialization()).collect();
        Some(Self {
            bind,
            admin_bind,
            cors_origins: cors_origins?.unwrap_or_else(app_origin),
            trusted_proxies: trusted_proxies?.unwrap_or_default(),
            checkouts_per_address_per_minute: checkouts?,
            app_url,
            http_workers: http_workers?.unwrap_or_else(cores),
            head_timeout: head_timeout?,
            body_timeout: body_timeout?,
            bodies_bytes_max: bodies_mib? * 1024 * 1024,
            unread_timeout: unread_timeout?,
            connections_max: connections_max?,
            streams_max: streams_max?,
            shutdown_timeout,
            drain_delay,
            log: log?,
        })
    }
}

impl LogConfig {
    fn read(reader: &Reader<'_>) -> Option<Self> {
        let filter = reader.value(&setting::LOG, |text| EnvFilter::try_new(text).ok().map(|_| text.to_owned()));
        let format = reader.optional(&setting::LOG_FORMAT, |text| match text {
            "json" => Some(LogFormat::Json),
            "pretty" => Some(LogFormat::Pretty),
            _ => None,
        });
        Some(Self { filter: filter?, format: format? })
    }
}

/// The least that a wait may be limited to.
pub(super) const SHORTEST: Duration = Duration::from_millis(100);
/// The most that one request may be kept waiting for anything.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// One thread per core, where settings say nothing.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
