//! The file: one table of objects, written by a thread of its own. Whatever waits is one transaction, so that many callers
//! share the cost of one commit.

use std::{
    path::Path,
    sync::mpsc::{self, Receiver},
    thread::JoinHandle,
};

use anyhow::Context;
use diesel::{connection::SimpleConnection, prelude::*};
use tokio::sync::oneshot;

diesel::table! {
    objects (kind, id) {
        kind -> Text,
        id -> Text,
        seq -> BigInt,
        json -> Text,
    }
}

/// The file is this process's alone while it runs. A commit survives a crash of the process; after a loss of power the last
/// ones may be missing, which harms nobody where no money is.
const SETUP: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS objects (
        kind TEXT NOT NULL, id TEXT NOT NULL, seq BIGINT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (kind, id)
    );
    BEGIN EXCLUSIVE;
    COMMIT;
";

/// Commits that may be made one: more of them only make the first wait longer.
const BATCH_MAX: usize = 256;

/// One object as it is kept.
#[derive(Debug, Clone, Queryable, Insertable)]
#[diesel(table_name = objects)]
pub(super) struct Row {
    pub(super) kind: String,
    pub(super) id: String,
    /// Its place among all objects.
    pub(super) seq: i64,
    pub(super) json: String,
}

/// A change of the file.
#[derive(Debug)]
pub(super) enum Write {
    Keep(Row),
    Forget { kind: &'static str, id: String },
}

/// Changes that belong together, and who waits for them.
struct Batch {
    writes: Vec<Write>,
    kept: oneshot::Sender<()>,
}

/// The file could not be written, or is closed.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox's file could not be written")]
pub(super) struct NotKept;

/// Changes that are on their way to the file.
#[must_use = "what is not kept must not be answered"]
pub(super) struct Receipt(Option<oneshot::Receiver<()>>);

impl Receipt {
    /// For when the file is closed.
    pub(super) const fn refused() -> Self {
        Self(None)
    }

    /// Waits until they are there, with all that came before.
    pub(super) async fn kept(self) -> Result<(), NotKept> {
        let Some(kept) = self.0 else { return Err(NotKept) };
        kept.await.map_err(|_| NotKept)
    }
}

/// The way to the file. Dropped, it lets the thread end when all is written.
pub(super) struct Disk(mpsc::Sender<Batch>);

impl Disk {
    /// Opens the file, or makes it, and reads what is in it, oldest first.
    ///
    /// # Errors
    /// It cannot be opened or read, or another process has it.
    pub(super) fn open(file: &Path) -> anyhow::Result<(Self, Vec<Row>, JoinHandle<()>)> {
        let opened = || format!("the sandbox's file {} cannot be opened; is another sandbox running?", file.display());
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(opened)?;
        }
        let path = file.to_str().with_context(opened)?;
        let mut connection = SqliteConnection::establish(path).with_context(opened)?;
        connection.batch_execute(SETUP).with_context(opened)?;
        let rows = objects::table.order(objects::seq).load(&mut connection).with_context(opened)?;
        let (batches, incoming) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sandbox-file".to_owned())
            .spawn(move || write_all(&mut connection, &incoming))
            .context("starting a thread")?;
        Ok((Self(batches), rows, thread))
    }

    /// Hands changes over. Their order is that of the calls.
    pub(super) fn write(&self, writes: Vec<Write>) -> Receipt {
        let (kept, receipt) = oneshot::channel();
        let taken = self.0.send(Batch { writes, kept }).is_ok();
        Receipt(taken.then_some(receipt))
    }
}

fn write_all(connection: &mut SqliteConnection, incoming: &Receiver<Batch>) {
    while let Ok(first) = incoming.recv() {
        let batches: Vec<Batch> = std::iter::once(first).chain(incoming.try_iter().take(BATCH_MAX - 1)).collect();
        let writes: Vec<&Write> = batches.iter().flat_map(|batch| &batch.writes).collect();
        match commit(connection, &writes) {
            Ok(()) => {
                for batch in batches {
                    // Who no longer waits does not want to know.
                    let _gone = batch.kept.send(());
                }
            }
            // Whoever waits sees his batch dropped.
            Err(error) => tracing::error!(error = %error, "the sandbox's file could not be written"),
        }
    }
}

fn commit(connection: &mut SqliteConnection, writes: &[&Write]) -> QueryResult<()> {
    if writes.is_empty() {
        return Ok(());
    }
    connection.transaction(|connection| {
        for write in writes {
            match write {
                Write::Keep(row) => diesel::replace_into(objects::table).values(row).execute(connection)?,
                Write::Forget { kind, id } => diesel::delete(objects::table.find((*kind, id))).execute(connection)?,
            };
        }
        Ok(())
    })
}
