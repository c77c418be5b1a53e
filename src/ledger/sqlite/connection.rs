//! Connections to the file: one that writes, some that read, and what an error means.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    Connection as _, QueryResult,
    connection::SimpleConnection,
    result::{DatabaseErrorKind, Error as DieselError},
    sqlite::SqliteConnection,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{super::LedgerError, Limits};
use crate::clock;

/// Tells a file from another one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// How SQLite is told the path of a file: as a URI, which alone can say that a file that is gone must not be made anew, empty.
/// `path` is absolute; `None` if it is not in UTF-8.
pub(super) fn url(path: &Path) -> Option<String> {
    let name = path.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Some(format!("file:{name}?mode=rw"))
}

/// The file, and the lock on it that this process holds.
pub(super) struct LockedFile {
    path: PathBuf,
    url: String,
    id: FileId,
    lock: Lock,
}

/// The lock, which is on a file beside it.
pub(super) struct Lock {
    path: PathBuf,
    id: FileId,
    /// Given back by the operating system when the last connection's user has dropped this, or the process has died.
    _file: File,
}

impl Lock {
    /// Takes a file that this process has locked.
    pub(super) fn of(path: PathBuf, file: File) -> io::Result<Self> {
        Ok(Self { path, id: FileId::of(&file.metadata()?), _file: file })
    }

    /// Whether the path still leads to it. Where it was removed, another process may have locked another file of that name.
    fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.id)
    }
}

impl LockedFile {
    pub(super) const fn new(path: PathBuf, url: String, id: FileId, lock: Lock) -> Self {
        Self { path, url, id, lock }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the file, and nobody else can have locked it. SQLite goes on with one that was moved away, deleted
    /// or replaced: what it acknowledged would go with it, and new connections would read another ledger.
    fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.id) && self.lock.is_in_place()
    }

    /// How long the write-ahead log is.
    pub(super) fn wal_bytes(&self) -> u64 {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        std::fs::metadata(wal).map_or(0, |found| found.len())
    }

    /// Opens a connection that waits this long for other programs' locks.
    pub(super) fn connect(&self, busy: Duration) -> Result<SqliteConnection, String> {
        let mut connection = SqliteConnection::establish(&self.url).map_err(|error| error.to_string())?;
        connection
            .batch_execute(&format!("PRAGMA busy_timeout = {}", busy.as_millis()))
            .map_err(|error| error.to_string())?;
        Ok(connection)
    }
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// There is one.
    Writer,
    /// Sees what was committed before each of its statements, and holds nobody up.
    Reader,
}

impl Role {
    pub(super) fn pragmas(self, limits: Limits) -> String {
        match self {
            // FULL: what is committed is on the disk; with `fullfsync` also where the system says so too early (macOS). A log that
            // is begun anew keeps its length, if not told otherwise.
            Self::Writer => format!(
                "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = {}",
                limits.wal_max
            ),
            Self::Reader => "PRAGMA query_only = ON".to_owned(),
        }
    }
}

/// A connection on loan.
pub(super) struct Loan {
    pub(super) connection: SqliteConnection,
    /// In a state that is not known: not to be used again.
    pub(super) broken: bool,
}

impl Loan {
    /// Runs statements, and tells what their error means.
    pub(super) fn ask<T>(
        &mut self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> Result<T, LedgerError> {
        let answer = work(&mut self.connection).map_err(|error| classify(&error));
        self.broken |= matches!(answer, Err(LedgerError::Unavailable(_)));
        answer
    }
}

/// Connections of one role. Work on them runs on threads that may block, one hop for all its statements.
pub(super) struct Pool {
    /// Closed before the lock is given back.
    idle: Mutex<Vec<SqliteConnection>>,
    file: Arc<LockedFile>,
    role: Role,
    limits: Limits,
    permits: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn writer(file: &Arc<LockedFile>, connection: SqliteConnection, limits: Limits) -> Arc<Self> {
        Self::new(file, Role::Writer, vec![connection], 1, limits)
    }

    pub(super) fn readers(file: &Arc<LockedFile>, limits: Limits) -> Arc<Self> {
        Self::new(file, Role::Reader, Vec::new(), limits.readers.max(1), limits)
    }

    fn new(
        file: &Arc<LockedFile>,
        role: Role,
        idle: Vec<SqliteConnection>,
        connections: usize,
        limits: Limits,
    ) -> Arc<Self> {
        let (idle, permits) = (Mutex::new(idle), Arc::new(Semaphore::new(connections)));
        Arc::new(Self { idle, file: Arc::clone(file), role, limits, permits })
    }

    /// Runs work on a connection, in the order of asking, within the limit of time. Whoever drops the future cancels nothing that
    /// has begun.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Loan) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let deadline = Instant::now() + self.limits.transaction;
        let late = |_| LedgerError::Unavailable("the file was busy for too long".into());
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await.map_err(late)?;
        let pool = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut loan = Loan { connection: pool.connection()?, broken: false };
            // A panic drops the connection, which rolls back what was not committed.
            let done = work(&mut loan);
            if !loan.broken {
                pool.idle().push(loan.connection);
            }
            Ok(done)
        });
        match (timeout_at(deadline, task).await, self.role) {
            (Ok(Ok(result)), _) => result,
            (_, Role::Writer) => Err(LedgerError::InDoubt),
            (Ok(Err(_)), Role::Reader) => Err(LedgerError::Panicked),
            (Err(_), Role::Reader) => Err(LedgerError::Unavailable("the file did not answer in time".into())),
        }
    }

    /// Runs a few statements. A write that fails has written nothing.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.run(move |loan| loan.ask(work)).await?
    }

    fn connection(&self) -> Result<SqliteConnection, LedgerError> {
        if !self.file.is_in_place() {
            tracing::error!(path = %self.file.path().display(), "the ledger's file, or the .lock beside it, was moved, deleted or replaced: put it back, or start again");
            return Err(LedgerError::Unavailable("the file is not in its place".into()));
        }
        if let Some(connection) = self.idle().pop() {
            return Ok(connection);
        }
        let mut connection = self.file.connect(self.limits.busy).map_err(LedgerError::Unavailable)?;
        connection.batch_execute(&self.role.pragmas(self.limits)).map_err(|error| classify(&error))?;
        metrics::counter!("tollgate_ledger_connections_total").increment(1);
        Ok(connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the driver's error means for work that had not been committed. By the kind it gives, never by text: constraints are told
/// apart, and everything else (no room, no permission, an error of the disk, locked by another program) may pass.
pub(super) fn classify(error: &DieselError) -> LedgerError {
    let refused = |what: &str, text: String| LedgerError::Refused { sqlstate: what.into(), constraint: text };
    match error {
        DieselError::DatabaseError(kind, info) => {
            let text = info.message().to_owned();
            match kind {
                DatabaseErrorKind::UniqueViolation => refused("unique", text),
                DatabaseErrorKind::ForeignKeyViolation => refused("foreign key", text),
                DatabaseErrorKind::NotNullViolation => refused("not null", text),
                DatabaseErrorKind::CheckViolation => refused("check", text),
                _ => LedgerError::Unavailable(text),
            }
        }
        DieselError::BrokenTransactionManager | DieselError::RollbackErrorOnCommit { .. } => {
            LedgerError::Unavailable("the connection is broken".into())
        }
        other => refused("-", other.to_string()),
    }
}

/// A moment as the file has it.
pub(super) const fn micros(moment: DateTime<Utc>) -> i64 {
    moment.timestamp_micros()
}

/// The reverse of [`micros`]. What cannot be a moment is long over.
pub(super) fn moment(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

/// The clock, as exact as the file is. This machine's: there is no other.
pub(super) fn now() -> DateTime<Utc> {
    moment(micros(clock::now()))
}

#[cfg(test)]
mod tests;
