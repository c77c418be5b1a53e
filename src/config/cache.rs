//! Redis: hints for applications, never the truth.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    parse::{is_loopback, number_in},
    reader::Reader,
    setting,
};

/// Redis and how long it may take.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// `redis://…` or `rediss://…`, with the password.
    pub redis_url: SecretString,
    /// What all steps of one request that touch Redis may take together.
    pub deadline: Duration,
}

/// Names that the original used for Upstash's REST interface.
const UPSTASH: [&str; 2] = ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"];

/// Upstash serves the same database over Redis' own protocol, too.
const UPSTASH_HINT: &str = "Upstash's REST interface is not supported yet; set REDIS_URL to the same database's address, \
     which Upstash shows on its Redis tab, for example rediss://default:password@eu1-example.upstash.io:6379";

impl CacheConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let deadline = reader.value(&setting::REDIS_DEADLINE_MS, number_in(1..=1_000)).map(Duration::from_millis);
        let upstash = UPSTASH.into_iter().find(|name| reader.text(name).is_some());
        if let Some(name) = upstash {
            if reader.text(setting::REDIS_URL.name).is_none() {
                reader.error(name, UPSTASH_HINT.to_owned());
                return None;
            }
            reader.warn(format!("{name} is not used: REDIS_URL is"));
        }
        let redis_url = reader.value(&setting::REDIS_URL, |text| {
            let url = Url::parse(text).ok()?;
            (matches!(url.scheme(), "redis" | "rediss") && url.has_host()).then(|| SecretString::from(text))
        });
        Some(Self { redis_url: redis_url?, deadline: deadline? })
    }

    /// Whether the password and all levels cross a network in the clear.
    pub(super) fn is_exposed(&self) -> bool {
        Url::parse(self.redis_url.expose_secret()).is_ok_and(|url| url.scheme() == "redis" && !is_loopback_server(&url))
    }
}

/// `url` parses hosts of schemes it does not know as plain names: read the name as a browser would.
pub(super) fn is_loopback_server(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    Url::parse(&format!("http://{host}")).is_ok_and(|url| is_loopback(&url))
}
