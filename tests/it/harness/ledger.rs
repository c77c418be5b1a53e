//! A fresh ledger on each of the databases, and a look into its tables: one suite runs over all of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use diesel::connection::SimpleConnection;
use diesel::{Connection, RunQueryDsl, SqliteConnection};
use tokio_postgres::Client;
use tollgate::config::catalogue;
use tollgate::domain::{id::UserId, plan::Catalogue};
use tollgate::ledger::Ledger;
use tollgate::ledger::postgres::{self, PostgresLedger};
use tollgate::ledger::sqlite::{Limits, OpenError, Purpose, SqliteLedger};

use super::TestDatabase;

pub(crate) fn built_in() -> Catalogue {
    catalogue::parse(catalogue::BUILT_IN).unwrap()
}

/// What a test of the seam needs to know of a database.
#[async_trait]
pub(crate) trait TestLedger: Send + Sync {
    fn ledger(&self) -> Arc<dyn Ledger>;

    /// The only column of all rows as text, NULL as `-`. The SQL is to be one that every database understands.
    async fn column(&self, sql: &str) -> Vec<String>;

    /// Runs a statement that must succeed. The SQL is to be one that every database understands.
    async fn execute(&self, sql: &str);

    /// Makes it so that a parked event was tried last that long ago.
    async fn last_tried(&self, event: &str, ago: Duration);

    /// Deletes a user, as an application that owns them does.
    async fn delete_user(&self, user: UserId);

    /// The only value of the only row.
    async fn value(&self, sql: &str) -> String {
        let [value] = <[String; 1]>::try_from(self.column(sql).await).expect("one row");
        value
    }
}

pub(crate) async fn ledger_on(database: &TestDatabase) -> Arc<PostgresLedger> {
    PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    let limits = postgres::Limits::default();
    Arc::new(PostgresLedger::connect(&database.url(), limits, built_in()).await.unwrap())
}

/// A ledger on PostgreSQL.
pub(crate) struct OnPostgres {
    database: TestDatabase,
    ledger: Arc<PostgresLedger>,
    application: Client,
}

impl OnPostgres {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::new().await;
        let ledger = ledger_on(&database).await;
        let application = database.connect().await.unwrap();
        Self { database, ledger, application }
    }
}

#[async_trait]
impl TestLedger for OnPostgres {
    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::<PostgresLedger>::clone(&self.ledger)
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.database.query(sql).await;
        rows.into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_else(|| "-".into())).collect()
    }

    async fn execute(&self, sql: &str) {
        self.database.execute(sql).await;
    }

    async fn last_tried(&self, event: &str, ago: Duration) {
        let seconds = ago.as_secs();
        let moment = format!("now() - interval '{seconds} seconds'");
        self.database.execute(&format!("UPDATE stripe_events SET processed_at = {moment} WHERE id = '{event}'")).await;
    }

    async fn delete_user(&self, user: UserId) {
        self.application.batch_execute(&format!("DELETE FROM users WHERE id = '{user}'")).await.unwrap();
    }
}

/// Where a ledger's file may be, for one test.
pub(crate) struct TestFile {
    directory: tempfile::TempDir,
}

impl TestFile {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    /// A file beside it that has its name and more, such as `-wal`.
    pub(crate) fn beside(&self, more: &str) -> PathBuf {
        self.directory.path().join(format!("ledger.db{more}"))
    }

    pub(crate) async fn try_open(&self, purpose: Purpose) -> Result<SqliteLedger, OpenError> {
        SqliteLedger::open(&self.path(), purpose, Limits::default(), built_in()).await.map(|(ledger, _)| ledger)
    }

    pub(crate) async fn open(&self) -> Arc<SqliteLedger> {
        self.open_with(Limits::default()).await
    }

    pub(crate) async fn open_with(&self, limits: Limits) -> Arc<SqliteLedger> {
        match SqliteLedger::open(&self.path(), Purpose::Stripe, limits, built_in()).await {
            Ok((ledger, _)) => Arc::new(ledger),
            Err(error) => panic!("{error}"),
        }
    }

    /// A connection of another program's, as a shell or a backup has one.
    pub(crate) fn connect(&self) -> SqliteConnection {
        connect(&self.path())
    }

    /// Runs statements that must succeed.
    pub(crate) fn execute(&self, sql: &str) {
        if let Err(error) = self.connect().batch_execute(sql) {
            panic!("{sql}\n{error}");
        }
    }

    /// The only column of all rows as text, NULL as `-`.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        let sql = format!("WITH t(v) AS ({sql}) SELECT coalesce(CAST(v AS TEXT), '-') AS text FROM t");
        match diesel::sql_query(&sql).load::<TextRow>(&mut self.connect()) {
            Ok(rows) => rows.into_iter().map(|row| row.text).collect(),
            Err(error) => panic!("{sql}\n{error}"),
        }
    }
}

fn connect(path: &Path) -> SqliteConnection {
    SqliteConnection::establish(path.to_str().expect("a path in UTF-8")).expect("a connection")
}

#[derive(diesel::QueryableByName)]
struct TextRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

/// A ledger in a file.
pub(crate) struct InAFile {
    file: TestFile,
    ledger: Arc<SqliteLedger>,
}

impl InAFile {
    pub(crate) async fn new() -> Self {
        let file = TestFile::new();
        let ledger = file.open().await;
        Self { file, ledger }
    }
}

#[async_trait]
impl TestLedger for InAFile {
    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::<SqliteLedger>::clone(&self.ledger)
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        self.file.column(sql)
    }

    async fn execute(&self, sql: &str) {
        self.file.execute(sql);
    }

    async fn last_tried(&self, event: &str, ago: Duration) {
        let moment = (Utc::now() - ago).timestamp_micros();
        self.file.execute(&format!("UPDATE stripe_events SET processed_at = {moment} WHERE id = '{event}'"));
    }

    async fn delete_user(&self, user: UserId) {
        let file = self.file.path();
        let delete =
            format!("PRAGMA busy_timeout = 5000; PRAGMA foreign_keys = ON; DELETE FROM users WHERE id = '{user}'");
        let deleted = tokio::task::spawn_blocking(move || connect(&file).batch_execute(&delete)).await;
        deleted.unwrap().unwrap();
    }
}
