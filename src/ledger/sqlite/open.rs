//! Opening the file: whose it is, that nobody else writes it, that it is ours and of our version.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use diesel::{
    ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl,
    connection::SimpleConnection,
    sql_types::{BigInt, Text},
    sqlite::SqliteConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use uuid::Uuid;

use super::{
    super::{Epoch, MigrationReport},
    Limits, Purpose,
    connection::{FileId, Lock, LockedFile, Role, url},
    schema::tollgate_ledger,
};
use crate::fail_point::{self, Point};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Every SQLite file begins so.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Says in the file's header whose it is.
const APPLICATION_ID: i64 = 0x746f_6c6c; // "toll"

/// Why a file cannot be the ledger.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and the way out.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// One process at a time.
    #[error("another process has this ledger open (it holds the lock on {0}): stop it first, or choose another file")]
    Locked(PathBuf),
    /// The file, its directory or its lock cannot be made, read or written.
    #[error("cannot be opened for reading and writing ({0}): check the path and who may write there")]
    Inaccessible(#[from] io::Error),
    /// A directory, a device, a path that is not UTF-8.
    #[error("is not the path of a file: name one in UTF-8, which need not exist yet")]
    NotAFile,
    /// Something else is in the file.
    #[error("is not an SQLite database: choose another file, or move this one away")]
    NotADatabase,
    /// An SQLite database without a ledger.
    #[error("is the SQLite database of another program: choose another file")]
    AnotherPrograms,
    /// A name of its own would give it a lock and a log of its own.
    #[error(
        "has another name, a hard link, by which another process could open it: remove one of them, or copy it instead"
    )]
    Linked,
    /// Play money and real money never meet.
    #[error("was filled with {found}: it cannot be opened for {wanted}; choose another file")]
    WrongPurpose {
        /// What the file was made for.
        found: Purpose,
        /// What it was to be opened for.
        wanted: Purpose,
    },
    /// Migrations were applied that this version does not know.
    #[error("was migrated by a newer version of Tollgate ({0}): start that one, or restore the copy made before")]
    Newer(String),
    /// SQLite cannot work with it.
    #[error("SQLite cannot use it: {0}")]
    Unusable(String),
}

impl From<diesel::result::Error> for Problem {
    fn from(error: diesel::result::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// What opening gives.
pub(super) struct Opened {
    pub(super) file: Arc<LockedFile>,
    pub(super) writer: SqliteConnection,
    pub(super) epoch: Epoch,
    pub(super) report: MigrationReport,
}

/// Blocks. Makes the file, and the directories to it, where they are not there.
pub(super) fn open(path: &Path, purpose: Purpose, limits: Limits) -> Result<Opened, OpenError> {
    try_open(path, purpose, limits).map_err(|problem| OpenError { path: path.to_owned(), problem })
}

fn try_open(path: &Path, purpose: Purpose, limits: Limits) -> Result<Opened, Problem> {
    let is_file = path.metadata().map_or(true, |found| found.is_file());
    let Some(name) = path.file_name().filter(|_| is_file) else { return Err(Problem::NotAFile) };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directory(directory)?;
    // One file has one lock, by whatever links and relative paths it is named.
    let path = match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => directory.canonicalize()?.join(name),
        found => found?,
    };
    // Before the file itself is touched: when a process closes a file, by whatever handle, it loses all its locks on it (POSIX),
    // those of SQLite's connections too.
    let url = url(&path).ok_or(Problem::NotAFile)?;
    let lock = lock(&path)?;
    let id = check_content(&path)?;
    let locked = LockedFile::new(path, url, id, lock);
    let mut writer = locked.connect(limits.busy).map_err(Problem::Unusable)?;
    check_owner(&mut writer)?;
    writer.batch_execute("PRAGMA journal_mode = WAL")?;
    writer.batch_execute(&Role::Writer.pragmas(limits))?;
    let mode = text(&mut writer, "SELECT journal_mode AS text FROM pragma_journal_mode")?;
    if mode != "wal" {
        return Err(Problem::Unusable("its file system has no shared memory, which the write-ahead log needs".into()));
    }
    let (report, epoch) = writer.immediate_transaction(|writer| {
        let migrated = migrate(writer, purpose)?;
        fail_point::pass_now(Point::FileMigrate, String::new);
        Ok::<_, Problem>(migrated)
    })?;
    Ok(Opened { file: Arc::new(locked), writer, epoch, report })
}

/// It holds who bought what: nobody else's business.
fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Opens a file, or makes an empty one that only its owner may read. SQLite gives its write-ahead log the same rights.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes the file where it is not there; one that is must be empty or begin as SQLite's do.
fn check_content(path: &Path) -> Result<FileId, Problem> {
    // Before it is opened, which another process may have done by the other name.
    if path.metadata().is_ok_and(|found| found.nlink() > 1) {
        return Err(Problem::Linked);
    }
    let mut head = Vec::with_capacity(MAGIC.len());
    open_file(path)?.take(16).read_to_end(&mut head)?;
    if head.is_empty() || head == MAGIC { Ok(FileId::of(&path.metadata()?)) } else { Err(Problem::NotADatabase) }
}

/// The lock is on a file beside it, which stays: removing it would let two processes each lock a file of that name.
fn lock(path: &Path) -> Result<Lock, Problem> {
    let mut name = path.to_owned().into_os_string();
    name.push(".lock");
    let lock = open_file(Path::new(&name))?;
    match lock.try_lock() {
        Ok(()) => Ok(Lock::of(name.into(), lock)?),
        Err(TryLockError::WouldBlock) => Err(Problem::Locked(name.into())),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

#[derive(diesel::QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(diesel::QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn text(connection: &mut SqliteConnection, sql: &str) -> Result<String, Problem> {
    Ok(diesel::sql_query(sql).get_result::<TextRow>(connection)?.text)
}

fn number(connection: &mut SqliteConnection, sql: &str) -> Result<i64, Problem> {
    Ok(diesel::sql_query(sql).get_result::<NumberRow>(connection)?.number)
}

/// Before anything is written: an empty database is ours to take, another program's is not.
fn check_owner(connection: &mut SqliteConnection) -> Result<(), Problem> {
    let id = number(connection, "SELECT application_id AS number FROM pragma_application_id")?;
    let tables = number(connection, "SELECT count(*) AS number FROM sqlite_schema")?;
    let is_ours = id == APPLICATION_ID || (id == 0 && tables == 0);
    if is_ours { Ok(()) } else { Err(Problem::AnotherPrograms) }
}

/// All or nothing, in the caller's transaction.
fn migrate(connection: &mut SqliteConnection, purpose: Purpose) -> Result<(MigrationReport, Epoch), Problem> {
    let unusable = |error: Box<dyn std::error::Error + Send + Sync>| Problem::Unusable(error.to_string());
    let known: Vec<String> = diesel::migration::MigrationSource::<diesel::sqlite::Sqlite>::migrations(&MIGRATIONS)
        .map_err(unusable)?
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    let applied = connection.applied_migrations().map_err(unusable)?;
    if let Some(newer) = applied.iter().map(ToString::to_string).find(|version| !known.contains(version)) {
        return Err(Problem::Newer(newer));
    }
    let applied = connection.run_pending_migrations(MIGRATIONS).map_err(unusable)?;
    let applied = applied.iter().map(ToString::to_string).collect();

    let this = tollgate_ledger::table.select((tollgate_ledger::epoch, tollgate_ledger::purpose));
    let found: Option<(String, String)> = this.first(connection).optional()?;
    let epoch = match found {
        Some((epoch, found)) => {
            let found = Purpose::from_word(&found)
                .ok_or_else(|| Problem::Unusable(format!("it says that it is for {found:?}")))?;
            if found != purpose {
                return Err(Problem::WrongPurpose { found, wanted: purpose });
            }
            epoch
        }
        None => {
            let epoch = Uuid::new_v4().to_string();
            let row = (
                tollgate_ledger::singleton.eq(1),
                tollgate_ledger::epoch.eq(&epoch),
                tollgate_ledger::purpose.eq(purpose.as_str()),
            );
            diesel::insert_into(tollgate_ledger::table).values(row).execute(connection)?;
            connection.batch_execute(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
            epoch
        }
    };
    Ok((MigrationReport { applied, levels_added: Vec::new() }, Epoch::new(&epoch)))
}
