//! The file: one table of objects, written by a thread of its own. Whatever waits is one transaction, so that many callers
//! share the cost of one commit.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
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

impl Write {
    fn object(&self) -> (String, String) {
        match self {
            Self::Keep(row) => (row.kind.clone(), row.id.clone()),
            Self::Forget { kind, id } => ((*kind).to_owned(), id.clone()),
        }
    }
}

/// What the file is still to be given: the newest change of each object, by kind and id. What cannot be written stays here, or the file
/// would lack for ever what memory goes on from.
type Owed = HashMap<(String, String), Write>;

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
        let file = make_private(file).with_context(opened)?;
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

/// Makes the file where it is not there, for its owner's eyes only: secrets of endpoints are in it. SQLite gives its log the same
/// rights. Gives the whole path, which SQLite cannot take for a URL.
fn make_private(file: &Path) -> io::Result<PathBuf> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)?;
    file.canonicalize()
}

fn write_all(connection: &mut SqliteConnection, incoming: &Receiver<Batch>) {
    let mut owed = Owed::new();
    while let Ok(first) = incoming.recv() {
        let batches = std::iter::once(first).chain(incoming.try_iter().take(BATCH_MAX - 1));
        let (writes, waiting): (Vec<_>, Vec<_>) = batches.map(|batch| (batch.writes, batch.kept)).unzip();
        match keep(connection, &mut owed, writes.into_iter().flatten()) {
            Ok(()) => {
                for kept in waiting {
                    // Who no longer waits does not want to know.
                    let _gone = kept.send(());
                }
            }
            // Whoever waits sees his place dropped.
            Err(error) => tracing::error!(error = %error, "the sandbox's file could not be written"),
        }
    }
}

/// Writes these changes, and those owed from before.
fn keep(
    connection: &mut SqliteConnection,
    owed: &mut Owed,
    writes: impl IntoIterator<Item = Write>,
) -> QueryResult<()> {
    owed.extend(writes.into_iter().map(|write| (write.object(), write)));
    if owed.is_empty() {
        return Ok(());
    }
    connection.transaction(|connection| {
        for write in owed.values() {
            match write {
                Write::Keep(row) => diesel::replace_into(objects::table).values(row).execute(connection)?,
                Write::Forget { kind, id } => diesel::delete(objects::table.find((*kind, id))).execute(connection)?,
            };
        }
        QueryResult::Ok(())
    })?;
    owed.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn row(id: &str) -> Row {
        Row { kind: "session".to_owned(), id: id.to_owned(), seq: 1, json: "{}".to_owned() }
    }

    #[tokio::test]
    async fn nobody_else_may_read_the_file_or_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, _, _thread) = Disk::open(&folder.path().join("sandbox.sqlite3")).unwrap();
        disk.write(vec![Write::Keep(row("cs_1"))]).kept().await.unwrap();
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 2, "the file and its log");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.path().display());
        }
    }

    /// A folder called `file:data` was taken for a URL.
    #[test]
    fn sqlite_is_given_a_whole_path() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().canonicalize().unwrap();
        let to_the_root: PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
        let relative = to_the_root.join(folder.strip_prefix("/").unwrap()).join("sandbox.sqlite3");
        assert_eq!(make_private(&relative).unwrap(), folder.join("sandbox.sqlite3"));
    }

    /// It was lost: memory went on from it, an empty change after it was answered as kept, and the next start knew nothing of it.
    #[test]
    fn what_could_not_be_written_is_written_with_what_comes_next() {
        let mut file = SqliteConnection::establish(":memory:").unwrap();
        file.batch_execute(SETUP).unwrap();
        file.batch_execute("CREATE TRIGGER full BEFORE INSERT ON objects BEGIN SELECT RAISE(ABORT, 'full'); END")
            .unwrap();
        let mut owed = Owed::new();
        keep(&mut file, &mut owed, [Write::Keep(row("cs_1")), Write::Keep(row("cs_2"))]).unwrap_err();
        keep(&mut file, &mut owed, []).unwrap_err();
        file.batch_execute("DROP TRIGGER full").unwrap();
        keep(&mut file, &mut owed, [Write::Forget { kind: "session", id: "cs_2".to_owned() }]).unwrap();
        let kept: Vec<String> = objects::table.select(objects::id).load(&mut file).unwrap();
        assert_eq!(kept, ["cs_1"]);
        assert!(owed.is_empty());
    }
}
