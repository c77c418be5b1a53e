//! The cache on Redis: a multiplexed connection per thread, the version script, the breaker.

use std::{
    cell::RefCell,
    sync::Arc,
    thread::{self, ThreadId},
    time::Duration,
};

use chrono::{DateTime, Utc};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, Script, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use thread_local::ThreadLocal;
use uuid::Uuid;

use super::{
    Announcements, CacheError, Publication, Published,
    breaker::{Breaker, BreakerState, Failures},
    budget::Budget,
    key,
};
use crate::domain::{
    entitlement::Entitlement,
    id::{EventId, UserId},
};

/// How Redis is reached.
#[derive(Debug, Clone, Copy)]
pub struct RedisSettings {
    /// To open the connection.
    pub connect: Duration,
    /// For one answer. Longer than any request's own allowance: it only ends what nobody waits for any more.
    pub response: Duration,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self { connect: Duration::from_millis(200), response: Duration::from_secs(1) }
    }
}

/// Redis, as this service uses it. Cheap to clone.
#[derive(Clone)]
pub struct RedisCache {
    /// One per thread that asks: a connection's driver runs where it was opened, and asking it from another thread would wake
    /// two threads for every question.
    connections: Arc<ThreadLocal<RefCell<Connection>>>,
    /// Opens them. Never asked itself.
    template: Arc<dyn Fn() -> Result<ConnectionManager, RedisError> + Send + Sync>,
    publish: Arc<Script>,
    breaker: Arc<Breaker>,
    /// Opens the connections that listen, and those that probe.
    client: Arc<Client>,
    settings: RedisSettings,
}

/// What a thread asks over.
#[derive(Clone)]
struct Connection {
    manager: ConnectionManager,
    failures: Arc<Failures>,
    /// Where its driver runs.
    thread: ThreadId,
}

impl RedisCache {
    /// Prepares the connection; it is opened by the first command, so that a service starts without Redis.
    ///
    /// # Errors
    /// [`CacheError::Failed`] if the URL cannot be read.
    pub fn new(url: &str, settings: RedisSettings) -> Result<Self, CacheError> {
        let client = Arc::new(Client::open(url).map_err(|error| failed(&error))?);
        // No retries: the default makes a command wait 9 s for a server that is gone. The breaker and the retries of the
        // unpublished set do what is needed.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(settings.connect))
            .set_response_timeout(Some(settings.response))
            .set_pipeline_buffer_size(1024);
        let opener = Arc::clone(&client);
        let template = move || ConnectionManager::new_lazy_with_config(Client::clone(&opener), config.clone());
        template().map_err(|error| failed(&error))?;
        let publish = Arc::new(Script::new(include_str!("publish.lua")));
        Ok(Self {
            connections: Arc::new(ThreadLocal::new()),
            template: Arc::new(template),
            publish,
            breaker: Arc::new(Breaker::default()),
            client,
            settings,
        })
    }

    /// This thread's connection. One from before an outage is replaced: where a firewall has forgotten it, or another machine has
    /// taken Redis' address, nothing ever comes back on it, not even an error. So is that of a thread that has ended: the next thread finds it in
    /// its place, without a driver.
    fn connection(&self) -> Result<Connection, RedisError> {
        let thread = thread::current().id();
        let open = || {
            let failures = Arc::new(self.breaker.failures());
            (self.template)().map(|manager| Connection { manager, failures, thread })
        };
        let mut own = self.connections.get_or_try(|| open().map(RefCell::new))?.borrow_mut();
        if self.breaker.has_outlived(&own.failures) || own.thread != thread {
            *own = open()?;
        }
        Ok(own.clone())
    }

    /// The breaker: its state, and the probe that closes it.
    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Whether an event is marked as done by this ledger.
    ///
    /// # Errors
    /// [`CacheError`]: ask the ledger.
    pub async fn is_marked(&self, event: &EventId, epoch: &str, budget: &mut Budget) -> Result<bool, CacheError> {
        let command = redis::Cmd::get(key::mark(event));
        let mark: Option<Vec<u8>> =
            self.ask(budget, async |mut connection| command.query_async(&mut connection).await).await?;
        Ok(mark.is_some_and(|mark| mark == epoch.as_bytes()))
    }

    /// A user's state, if it is there, ours, fresh and not over.
    ///
    /// # Errors
    /// [`CacheError`]: ask the ledger.
    pub async fn get(
        &self,
        user: UserId,
        epoch: &str,
        now: DateTime<Utc>,
        budget: &mut Budget,
    ) -> Result<Option<Entitlement>, CacheError> {
        let mut command = redis::cmd("HMGET");
        command.arg(key::meta(user)).arg(&key::META_FIELDS);
        let fields: Vec<Option<String>> =
            self.ask(budget, async |mut connection| command.query_async(&mut connection).await).await?;
        Ok(key::read_meta(&fields, epoch, now))
    }

    /// Writes a state, and the event's mark, in one round trip.
    ///
    /// # Errors
    /// [`CacheError`]: try again later.
    pub async fn publish(
        &self,
        publication: Publication<'_>,
        now: DateTime<Utc>,
        budget: &mut Budget,
    ) -> Result<Published, CacheError> {
        let written = self.publish_all(std::slice::from_ref(&publication), now, budget).await?;
        Ok(written.first().copied().unwrap_or(Published::NewerThere))
    }

    /// Writes many states in one round trip.
    ///
    /// # Errors
    /// [`CacheError`]: try all of them again later.
    pub async fn publish_all(
        &self,
        publications: &[Publication<'_>],
        now: DateTime<Utc>,
        budget: &mut Budget,
    ) -> Result<Vec<Published>, CacheError> {
        if publications.is_empty() {
            // An empty pipeline is an error, which would count against Redis.
            return Ok(Vec::new());
        }
        let pipeline = self.publish_pipeline(publications, now);
        let once =
            self.ask(budget, async |mut connection| pipeline.query_async::<Vec<i64>>(&mut connection).await).await;
        let written = match once {
            // Redis restarted, or its scripts were flushed: load the script and do it all again, which is harmless.
            Err(CacheError::Failed(word)) if word == NO_SCRIPT => {
                self.ask(budget, async |mut connection| {
                    self.publish.load_async(&mut connection).await?;
                    pipeline.query_async::<Vec<i64>>(&mut connection).await
                })
                .await?
            }
            other => other?,
        };
        Ok(written
            .into_iter()
            .map(|written| match written {
                2 => Published::Written,
                1 => Published::Again,
                _ => Published::NewerThere,
            })
            .collect())
    }

    fn publish_pipeline(&self, publications: &[Publication<'_>], now: DateTime<Utc>) -> redis::Pipeline {
        let mut pipeline = redis::pipe();
        for Publication { user, entitlement, epoch, mark } in publications {
            // A level that is over: the version still counts, the level's key goes.
            let jitter = rand::random_range(0..=1000);
            let fresh_until = key::fresh_until(entitlement, key::LEVEL_TTL, now, jitter).unwrap_or(now);
            let expires_at = entitlement.expires_at.map(|end| end.timestamp_micros().to_string()).unwrap_or_default();
            pipeline
                .cmd("EVALSHA")
                .arg(self.publish.get_hash())
                .arg(2)
                .arg(key::level(*user))
                .arg(key::meta(*user))
                .arg(epoch)
                .arg(entitlement.version)
                .arg(entitlement.level.as_str())
                .arg(expires_at)
                .arg(fresh_until.timestamp_millis())
                .arg(key::META_TTL.num_milliseconds())
                .arg(key::quantity(entitlement));
            if let Some(event) = mark {
                pipeline
                    .cmd("SET")
                    .arg(key::mark(event))
                    .arg(epoch)
                    .arg("PX")
                    .arg(key::META_TTL.num_milliseconds())
                    .ignore();
            }
        }
        pipeline
    }

    /// Listens to what replicas announce; past the breaker, since nobody waits for it.
    pub(super) async fn announcements(&self) -> Option<Announcements> {
        Announcements::open(&self.client, self.settings.response)
            .await
            .inspect_err(|error| tracing::debug!(%error, "other replicas cannot be heard"))
            .ok()
    }

    /// Asks for an answer of any kind, past the breaker.
    ///
    /// # Errors
    /// [`CacheError`] if there was none.
    pub async fn ping(&self) -> Result<(), CacheError> {
        let Connection { mut manager, .. } = self.connection().map_err(|error| failed(&error))?;
        redis::cmd("PING").query_async::<()>(&mut manager).await.map_err(|error| failed(&error))
    }

    /// Tries whether Redis takes writes, past the breaker, over a connection of its own: one that is full, or a replica, answers PING.
    ///
    /// # Errors
    /// [`CacheError`] if it does not.
    pub async fn probe(&self) -> Result<(), CacheError> {
        let RedisSettings { connect, response } = self.settings;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(connect)).set_response_timeout(Some(response));
        let mut write = redis::cmd("SET");
        write.arg(key::canary(Uuid::nil())).arg(0).arg("PX").arg(key::META_TTL.num_milliseconds());
        let written = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            write.query_async::<()>(&mut connection).await
        };
        written.await.map_err(|error: RedisError| failed(&error))
    }

    /// Reads this replica's canary and writes the next one. Gives what was read.
    ///
    /// # Errors
    /// [`CacheError`] if Redis gave no answer.
    pub async fn swap_canary(&self, instance: Uuid, next: u64, budget: &mut Budget) -> Result<Option<u64>, CacheError> {
        let mut command = redis::cmd("SET");
        command.arg(key::canary(instance)).arg(next).arg("PX").arg(key::META_TTL.num_milliseconds()).arg("GET");
        let before: Option<String> =
            self.ask(budget, async |mut connection| command.query_async(&mut connection).await).await?;
        Ok(before.and_then(|before| before.parse().ok()))
    }

    async fn ask<T>(
        &self,
        budget: &mut Budget,
        question: impl AsyncFnOnce(ConnectionManager) -> Result<T, RedisError>,
    ) -> Result<T, CacheError> {
        if self.breaker.state() == BreakerState::Open {
            return Err(CacheError::Open);
        }
        let Connection { manager, failures, .. } = self.connection().map_err(|error| failed(&error))?;
        match budget.spend(question(manager)).await {
            Ok(Ok(answer)) => {
                self.breaker.succeeded(&failures);
                Ok(answer)
            }
            Ok(Err(error)) if is_about_the_value(&error) => {
                self.breaker.succeeded(&failures);
                Err(failed(&error))
            }
            Ok(Err(error)) => {
                if word(&error).is_some_and(|word| OF_NO_USE.contains(&word.as_str())) {
                    self.breaker.open();
                } else {
                    self.breaker.failed(&failures);
                }
                metrics::counter!("tollgate_cache_failures_total").increment(1);
                tracing::debug!(%error, "the cache failed");
                Err(failed(&error))
            }
            Err(slow) => {
                self.breaker.failed(&failures);
                metrics::counter!("tollgate_cache_failures_total").increment(1);
                Err(slow)
            }
        }
    }
}

const NO_SCRIPT: &str = "NOSCRIPT";

/// A server that says one of these takes no writes, or has no data: full, a replica, unable to save, starting, without its master. What it
/// still reads would be older and older.
const OF_NO_USE: [&str; 7] = ["OOM", "READONLY", "MISCONF", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS"];

/// The server's own word for what is wrong; of a pipeline's first command that failed.
fn word(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// Errors that tell of a strange value or a flushed script, not of a sick server.
fn is_about_the_value(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::NoScript) | ErrorKind::UnexpectedReturnType | ErrorKind::Parse
    ) || error.code() == Some("WRONGTYPE")
}

/// By code, not by text: an error's text may repeat what was sent.
fn failed(error: &RedisError) -> CacheError {
    CacheError::Failed(word(error).unwrap_or_else(|| error.category().to_owned()))
}
