//! The cache: hints, never the truth.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    ledger::LedgerStore,
    parse::{is_loopback, number_in},
    reader::Reader,
    sandbox::Choice,
    setting,
};

/// Where levels are kept for readers.
#[derive(Debug, Clone)]
pub enum CacheStore {
    /// `redis://…` or `rediss://…`, with the password.
    Redis(SecretString),
    /// In this process.
    Memory {
        /// The longest that a level is served without asking the ledger again, where another process may write to it.
        life_max: Option<Duration>,
    },
}

/// What another replica has changed may go unnoticed for so long (design: a replica may answer from memory for at most 1 s).
const MEMORY_LIFE_BESIDE_REPLICAS: Duration = Duration::from_secs(1);

/// The cache and how long it may take.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Where it is.
    pub store: CacheStore,
    /// Why there.
    pub choice: Choice,
    /// What all steps of one request that touch Redis may take together.
    pub deadline: Duration,
}

/// Names that the original used for Upstash's REST interface.
const UPSTASH: [&str; 2] = ["UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"];

/// Upstash serves the same database over Redis' own protocol, too.
const UPSTASH_HINT: &str = "Upstash's REST interface is not supported yet; set REDIS_URL to the same database's address, \
     which Upstash shows on its Redis tab, for example rediss://default:password@eu1-example.upstash.io:6379";

impl CacheStore {
    /// `ledger` is `None` where it is wrong itself.
    fn read(reader: &Reader<'_>, ledger: Option<&LedgerStore>, sandbox: bool) -> Option<(Self, Choice)> {
        let asked_for = reader.optional(&setting::CACHE, |text| (text == "memory").then_some(()))?;
        let has_redis = reader.is_set(&setting::REDIS_URL);
        if let Some(name) = UPSTASH.into_iter().find(|name| reader.text(name).is_some()) {
            if !has_redis && asked_for.is_none() {
                reader.error(name, UPSTASH_HINT.to_owned());
                return None;
            }
            let used = if has_redis { "REDIS_URL" } else { "TOLLGATE_CACHE" };
            reader.warn(format!("{name} is not used: {used} is"));
        }
        let alone = matches!(ledger, Some(LedgerStore::Sqlite(_)));
        let memory = Self::Memory { life_max: (!alone).then_some(MEMORY_LIFE_BESIDE_REPLICAS) };
        match asked_for {
            Some(()) if has_redis => {
                reader.wrong(&setting::CACHE, "");
                None
            }
            Some(()) => Some((memory, Choice::by(&setting::CACHE, "in this process"))),
            None if has_redis => {
                let url = Self::read_url(reader)?;
                Some((Self::Redis(url), Choice::by(&setting::REDIS_URL, "Redis")))
            }
            None if alone || sandbox => Some((memory, Choice::without(&setting::REDIS_URL, "in this process"))),
            None => {
                reader.wrong(
                    &setting::REDIS_URL,
                    "; where no application reads levels from Redis, TOLLGATE_CACHE=memory does without",
                );
                None
            }
        }
    }

    fn read_url(reader: &Reader<'_>) -> Option<SecretString> {
        reader.value(&setting::REDIS_URL, |text| {
            let url = Url::parse(text).ok()?;
            (matches!(url.scheme(), "redis" | "rediss") && url.has_host()).then(|| SecretString::from(text))
        })
    }
}

impl CacheConfig {
    pub(super) fn read(reader: &Reader<'_>, ledger: Option<&LedgerStore>, sandbox: bool) -> Option<Self> {
        let deadline = reader.value(&setting::REDIS_DEADLINE_MS, number_in(1..=1_000)).map(Duration::from_millis);
        let (store, choice) = CacheStore::read(reader, ledger, sandbox)?;
        Some(Self { store, choice, deadline: deadline? })
    }

    /// Whether the password and all levels cross a network in the clear.
    pub(super) fn is_exposed(&self) -> bool {
        let CacheStore::Redis(url) = &self.store else { return false };
        Url::parse(url.expose_secret()).is_ok_and(|url| url.scheme() == "redis" && !is_loopback_server(&url))
    }
}

/// `url` parses hosts of schemes it does not know as plain names: read the name as a browser would.
pub(super) fn is_loopback_server(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    Url::parse(&format!("http://{host}")).is_ok_and(|url| is_loopback(&url))
}
