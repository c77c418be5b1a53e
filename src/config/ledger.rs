//! The ledger: the database that decides.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    cache::is_loopback_server,
    parse::{duration_in, flag, number_in},
    reader::Reader,
    sandbox::Choice,
    server::{MINUTE, SHORTEST},
    setting,
};

/// Where the ledger is kept.
#[derive(Debug, Clone)]
pub enum LedgerStore {
    /// `postgres://…`, with the password.
    Postgres(SecretString),
    /// A SQLite file that this process alone opens.
    Sqlite(PathBuf),
}

/// The file of the embedded ledger, in the data folder.
const EMBEDDED_FILE: &str = "ledger.sqlite3";

impl LedgerStore {
    /// `data` is the folder of an embedded ledger, where nothing else has been chosen.
    pub(super) fn read(reader: &Reader<'_>, data: Option<&Path>) -> Option<(Self, Choice)> {
        let file = reader.optional(&setting::LEDGER, |text| {
            text.strip_prefix("sqlite:").filter(|path| !path.is_empty()).map(PathBuf::from)
        })?;
        let sqlite = |path: &Path| format!("SQLite, {}", path.display());
        match (file, reader.is_set(&setting::DATABASE_URL), data) {
            (Some(_), true, _) => {
                reader.wrong(&setting::LEDGER, "");
                None
            }
            (Some(path), false, _) => {
                let choice = Choice::by(&setting::LEDGER, sqlite(&path));
                Some((Self::Sqlite(path), choice))
            }
            // A Supabase project has a database: whoever names the one means the other.
            (None, false, Some(data)) if !reader.is_set(&setting::SUPABASE_URL) => {
                let path = data.join(EMBEDDED_FILE);
                let choice = Choice::without(&setting::DATABASE_URL, sqlite(&path));
                Some((Self::Sqlite(path), choice))
            }
            (None, _, _) => {
                let url = Self::read_url(reader)?;
                Some((Self::Postgres(url), Choice::by(&setting::DATABASE_URL, "PostgreSQL")))
            }
        }
    }

    fn read_url(reader: &Reader<'_>) -> Option<SecretString> {
        let setting = &setting::DATABASE_URL;
        if !reader.is_set(setting) {
            let hint = if reader.is_set(&setting::SUPABASE_URL) {
                "; Supabase shows it in the project's dashboard under Connect, Connection string: take \"Direct connection\" \
                 or \"Session pooler\", and put the database's password in"
            } else {
                "; any PostgreSQL will do, a local one too. A small service of one process can do without: \
                 TOLLGATE_LEDGER=sqlite:/var/lib/tollgate/ledger.sqlite3; a shop to try, too: TOLLGATE_SANDBOX=true"
            };
            reader.wrong(setting, hint);
            return None;
        }
        let (url, port) = reader.value(setting, |text| {
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "postgres" | "postgresql"))?;
            Some((SecretString::from(text), url.port()))
        })?;
        if Url::parse(url.expose_secret()).is_ok_and(|url| !is_loopback_server(&url)) {
            reader.warn(
                "DATABASE_URL: this release connects without TLS; keep the database on a network you trust".to_owned(),
            );
        }
        if port == Some(6543) {
            reader.warn(
                "DATABASE_URL: port 6543 is usually Supabase's transaction pooler, which cannot keep prepared statements; \
                 take the session pooler (port 5432)",
            );
        }
        Some(url)
    }
}

/// The ledger and how it is used.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// Where it is kept.
    pub store: LedgerStore,
    /// Why there.
    pub choice: Choice,
    /// Whether the start migrates.
    pub migrate_on_start: bool,
    /// Batches committed side by side; `None`: one per actor thread.
    pub lanes: Option<usize>,
    /// Most changes in a batch.
    pub batch_max: usize,
    /// Connections for reading.
    pub pool_size: usize,
    /// The database's limit for one statement.
    pub statement_timeout: Duration,
    /// The database's limit for waiting for a lock.
    pub lock_timeout: Duration,
    /// Our limit for a whole batch; past it the outcome is unknown.
    pub commit_timeout: Duration,
}

impl LedgerConfig {
    pub(super) fn read(reader: &Reader<'_>, data: Option<&Path>) -> Option<Self> {
        let statement = Duration::from_millis(10)..=MINUTE;
        let store = LedgerStore::read(reader, data);
        let migrate_on_start = reader.value(&setting::MIGRATE, flag);
        let lanes = reader.optional(&setting::LEDGER_LANES, number_in(1..=64));
        let batch_max = reader.value(&setting::LEDGER_BATCH_MAX, number_in(1..=10_000));
        let pool_size = reader.value(&setting::LEDGER_POOL, number_in(1..=1_000));
        let statement_timeout = reader.value(&setting::LEDGER_STATEMENT_TIMEOUT, duration_in(statement.clone()));
        let lock_timeout = reader.value(&setting::LEDGER_LOCK_TIMEOUT, duration_in(statement));
        let commit_timeout = reader.value(&setting::LEDGER_COMMIT_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let (store, choice) = store?;
        Some(Self {
            store,
            choice,
            migrate_on_start: migrate_on_start?,
            lanes: lanes?,
            batch_max: batch_max?,
            pool_size: pool_size?,
            statement_timeout: statement_timeout?,
            lock_timeout: lock_timeout?,
            commit_timeout: commit_timeout?,
        })
    }
}
