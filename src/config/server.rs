//! Listeners, threads, limits of requests, and the log.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{
    parse::{duration_in, number_in, web_url},
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
    /// Threads that answer HTTP.
    pub http_workers: usize,
    /// How long the head of a request may take.
    pub head_timeout: Duration,
    /// How long the body may take.
    pub body_timeout: Duration,
    /// Most streams of entitlements open at once.
    pub streams_max: usize,
    /// How long a stop waits for what is under way.
    pub shutdown_timeout: Duration,
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
        let http_workers = reader.optional(&setting::HTTP_WORKERS, number_in(1..=256));
        let head_timeout = reader.value(&setting::HEAD_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let body_timeout = reader.value(&setting::BODY_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let streams_max = reader.value(&setting::STREAMS_MAX, number_in(1..=1_000_000));
        let shutdown_timeout =
            reader.value(&setting::SHUTDOWN_TIMEOUT, duration_in(Duration::from_secs(1)..=Duration::from_secs(600)));
        let log = LogConfig::read(reader);

        let (bind, admin_bind): (SocketAddr, SocketAddr) = (bind?, admin_bind?);
        if bind == admin_bind && bind.port() != 0 {
            reader.wrong(&setting::ADMIN_BIND, "");
        }
        Some(Self {
            bind,
            admin_bind,
            app_url: app_url?,
            http_workers: http_workers?.unwrap_or_else(cores),
            head_timeout: head_timeout?,
            body_timeout: body_timeout?,
            streams_max: streams_max?,
            shutdown_timeout: shutdown_timeout?,
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
