//! Opening connections: limits of time on the session, which ledger it is, and what an error means.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use diesel::{
    ConnectionError, QueryResult,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Text,
};
use diesel_async::{
    AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
    pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, deadpool},
};
use futures::FutureExt;

use super::super::{Epoch, LedgerError};

/// How long anything may take, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To open a connection.
    pub connect: Duration,
    /// For one statement, enforced by the server.
    pub statement: Duration,
    /// For a lock, enforced by the server.
    pub lock: Duration,
    /// For a whole transaction, enforced here.
    pub transaction: Duration,
    /// To wait for a pooled connection.
    pub acquire: Duration,
    /// Connections for reads and upkeep.
    pub pool_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            statement: Duration::from_secs(2),
            lock: Duration::from_secs(1),
            transaction: Duration::from_secs(3),
            acquire: Duration::from_millis(500),
            pool_size: 8,
        }
    }
}

/// The epoch that the newest connection has shown.
#[derive(Clone)]
pub(super) struct EpochSeen(Arc<RwLock<Epoch>>);

impl EpochSeen {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self(Arc::new(RwLock::new(epoch)))
    }

    pub(super) fn get(&self) -> Epoch {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of the epoch a fresh connection shows.
    pub(super) fn observe(&self, seen: Epoch) {
        let mut epoch = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // A part that could be read before and cannot now (a limit of time, a privilege taken away) is no other ledger.
        if *epoch != seen && !seen.is_part_of(&epoch) {
            tracing::warn!(before = %epoch, now = %seen, "the ledger has another epoch: cached values and marks are void");
            *epoch = seen;
        }
    }
}

/// Opens connections to one database.
#[derive(Clone)]
pub(super) struct Connector {
    url: String,
    pub(super) limits: Limits,
}

impl Connector {
    pub(super) fn new(url: &str, limits: Limits) -> Self {
        Self { url: url.to_owned(), limits }
    }

    /// Opens a connection whose session enforces our limits, also when this process has died.
    pub(super) async fn connect(&self) -> Result<AsyncPgConnection, LedgerError> {
        tokio::time::timeout(self.limits.connect, establish(self.url.clone(), self.limits))
            .await
            .map_err(|_| LedgerError::Unavailable("connecting took too long".into()))?
            .map_err(|error| LedgerError::Unavailable(error.to_string()))
    }

    /// A pool whose connections show their epoch like those of the lanes: after a failover it may be they who meet the new
    /// primary first.
    pub(super) fn pool(&self, epoch: EpochSeen) -> Result<Pool, LedgerError> {
        let limits = self.limits;
        let mut config = ManagerConfig::default();
        // The default tests each connection with a statement of its own, which halves the throughput; `Fast` drops those
        // whose driver has noticed the end.
        config.recycling_method = RecyclingMethod::Fast;
        config.custom_setup = Box::new(move |url| {
            let (url, epoch) = (url.to_owned(), epoch.clone());
            async move {
                let connection = establish(url, limits).await?;
                let seen =
                    identity(&connection).await.map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
                epoch.observe(seen.0);
                Ok(connection)
            }
            .boxed()
        });
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new_with_config(&self.url, config);
        let connections = deadpool::Pool::builder(manager)
            .max_size(limits.pool_size)
            .wait_timeout(Some(limits.acquire))
            .create_timeout(Some(limits.connect))
            .runtime(::deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        Ok(Pool { connections, limit: limits.transaction })
    }
}

/// Connections for reads and upkeep.
pub(super) struct Pool {
    connections: deadpool::Pool<AsyncPgConnection>,
    limit: Duration,
}

impl Pool {
    /// Runs statements on a connection within the limits. The server enforces limits of its own, but a server that hangs, or that
    /// a broken network hides, enforces nothing. A connection that is in the middle of something, or whose prepared statements
    /// may have become useless, does not go back.
    pub(super) async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> QueryResult<T>,
    ) -> Result<T, LedgerError> {
        let connection = self.connections.get().await.map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let mut loan = Loan(Some(connection));
        let Some(connection) = loan.0.as_mut() else { return Err(LedgerError::Panicked) };
        let answer = tokio::time::timeout(self.limit, work(connection)).await;
        let result = match answer {
            Ok(answer) => answer.map_err(|error| match classify(&error) {
                // A limit of time, a shutdown, a deadlock: it may well pass, and there is no batch to find a culprit in.
                LedgerError::Refused { sqlstate, .. } if sqlstate == OTHER_STATE => {
                    LedgerError::Unavailable("the database gave up the statement".into())
                }
                other => other,
            }),
            Err(_) => Err(LedgerError::Unavailable("the database did not answer in time".into())),
        };
        if matches!(result, Ok(_) | Err(LedgerError::Refused { .. })) {
            drop(loan.0.take());
        }
        result
    }
}

/// A connection that is thrown away unless it is taken out: whoever drops the future leaves it in the middle of something.
struct Loan(Option<deadpool::Object<AsyncPgConnection>>);

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(deadpool::Object::take(connection));
        }
    }
}

async fn establish(url: String, limits: Limits) -> Result<AsyncPgConnection, ConnectionError> {
    let mut connection = AsyncPgConnection::establish(&url).await?;
    // Plans: the hot statements join arrays with indexed tables. A plan made while a table was empty would read all of it for as
    // long as the connection lives, by a scan or to build a hash, so both are priced out and index look-ups remain; and one
    // generic plan is kept instead of planning each call. A session that says nothing for longer than a whole transaction may take is that
    // of a process that stands still: whoever waits for its locks is let go on.
    let session = format!(
        "SET application_name = 'tollgate'; SET statement_timeout = {}; SET lock_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}; SET enable_seqscan = off; SET enable_hashjoin = off; \
         SET enable_mergejoin = off; SET jit = off; \
         SET plan_cache_mode = force_generic_plan",
        limits.statement.as_millis(),
        limits.lock.as_millis(),
        limits.transaction.as_millis(),
    );
    connection.batch_execute(&session).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

#[derive(diesel::QueryableByName)]
struct Identity {
    #[diesel(sql_type = Text)]
    epoch: String,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    owns_users: bool,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    may_hold_users: bool,
}

/// What this service may do with `users`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    /// The table is ours: whoever is new is written into it.
    pub(super) owns_users: bool,
    /// Its rows may be locked. Where not, whoever deletes a user may meet a deadlock with us, and is to try again.
    pub(super) may_hold_users: bool,
}

#[derive(diesel::QueryableByName)]
struct Word {
    #[diesel(sql_type = Text)]
    word: String,
}

/// The epoch of the ledger behind this connection, and what we may do with `users`.
///
/// Besides the migration's random id it carries, where they may be read, the cluster's identity (a dump restored elsewhere is
/// another ledger) and its timeline (which changes when a standby takes over, or a backup is rolled forward: both may have
/// lost what was acknowledged).
pub(super) async fn identity(connection: &AsyncPgConnection) -> Result<(Epoch, Rights), LedgerError> {
    identify(connection).await.map_err(|error| match classify(&error) {
        LedgerError::Refused { .. } => LedgerError::Unavailable(
            "the schema is missing: run `tollgate migrate`, or start with TOLLGATE_MIGRATE=true".into(),
        ),
        other => other,
    })
}

/// The same, as the driver says it.
pub(super) async fn identify(mut connection: &AsyncPgConnection) -> QueryResult<(Epoch, Rights)> {
    let found: Identity = diesel::sql_query(
        "SELECT epoch::text AS epoch, owns_users, \
         has_any_column_privilege('users', 'UPDATE') AS may_hold_users FROM tollgate_ledger",
    )
    .get_result(&mut connection)
    .await?;
    let mut epoch = found.epoch;
    for question in [
        "SELECT to_hex(s.system_identifier) || '.' || to_hex(d.oid::bigint) AS word \
         FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()",
        "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS word",
    ] {
        let answer: QueryResult<Word> = diesel::sql_query(question).get_result(&mut connection).await;
        match answer {
            Ok(Word { word }) => {
                epoch.push('-');
                epoch.push_str(&word);
            }
            Err(error) if matches!(classify(&error), LedgerError::Unavailable(_)) => return Err(error),
            Err(error) => tracing::debug!(%error, "a part of the epoch may not be read"),
        }
    }
    let Identity { owns_users, may_hold_users, .. } = found;
    Ok((Epoch::new(&epoch), Rights { owns_users, may_hold_users }))
}

/// Stands for all states that the driver does not tell.
pub(super) const OTHER_STATE: &str = "other";

/// What a driver's error means for work that had not been committed yet. By SQLSTATE class and constraint name, never by text.
pub(super) fn classify(error: &DieselError) -> LedgerError {
    match error {
        DieselError::DatabaseError(kind, info) => {
            let constraint = info.constraint_name().unwrap_or("-").to_owned();
            match kind {
                DatabaseErrorKind::UniqueViolation => LedgerError::Refused { sqlstate: "23505".into(), constraint },
                DatabaseErrorKind::ForeignKeyViolation => LedgerError::Refused { sqlstate: "23503".into(), constraint },
                DatabaseErrorKind::NotNullViolation => LedgerError::Refused { sqlstate: "23502".into(), constraint },
                DatabaseErrorKind::CheckViolation => LedgerError::Refused { sqlstate: "23514".into(), constraint },
                DatabaseErrorKind::ExclusionViolation => LedgerError::Refused { sqlstate: "23P01".into(), constraint },
                DatabaseErrorKind::SerializationFailure => LedgerError::Contended,
                DatabaseErrorKind::ReadOnlyTransaction => LedgerError::Unavailable("the database is read-only".into()),
                DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => {
                    LedgerError::Unavailable("the connection is closed".into())
                }
                // The driver tells the state of only those above. Among the others are limits of time, deadlocks, a server
                // that shuts down: they may pass. What does not pass is found by halving the batch, and answered 503.
                _ => LedgerError::Refused { sqlstate: OTHER_STATE.into(), constraint },
            }
        }
        DieselError::BrokenTransactionManager | DieselError::RollbackErrorOnCommit { .. } => {
            LedgerError::Unavailable("the connection is broken".into())
        }
        other => LedgerError::Refused { sqlstate: "-".into(), constraint: other.to_string() },
    }
}
