//! The ledger in a file, for one process: SQLite in WAL mode, built in.
//!
//! Durable as PostgreSQL is: a commit that was acknowledged is on the disk (`synchronous=FULL`). One connection writes, whole
//! batches at a time; others read, and neither waits for the other. A lock keeps a second process out, so that nothing here
//! has to be asked twice: the epoch is that of opening. A copy put in the file's place before it is opened is not told from it (docs/OPERATIONS.md,
//! Backup and restore).
//!
//! `open` makes the file ready, `connection` lends connections, `statements` holds the hot SQL, `apply` is the one write transaction,
//! `money` reads and writes what it knows of payments, `lane` takes batches, `read` and `upkeep` are everything else.

mod apply;
mod connection;
mod fetches;
mod history;
mod inbox;
mod lane;
mod money;
mod open;
mod read;
mod schema;
mod statements;
mod tries;
mod upkeep;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use uuid::Uuid;

pub use self::open::{OpenError, Problem};
use self::{connection::Pool, lane::SqliteLane};
use super::{
    ChangedState, Epoch, Fetch, FetchCount, FetchEnd, HistoryEntry, InboxEvent, InboxFilter, Instance, KeyClaim, Lane,
    Lapsed, Ledger, LedgerError, MigrationReport, ParkedCount, ParkedEvent, SessionRecord, Standing, StoredEvent,
    TryEnd,
};
use crate::domain::{
    change::{Owner, Subject},
    entitlement::Entitlement,
    event::ParkReason,
    grant::Grant,
    id::{CustomerId, EventId, SessionId, UserId},
    level::Level,
    live::LiveCatalogue,
};

/// Whose purchases a file holds. It is decided when the file is made, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The built-in sandbox's: nobody has paid.
    Sandbox,
    /// Stripe's.
    Stripe,
}

impl Purpose {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Stripe => "stripe",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Sandbox, Self::Stripe].into_iter().find(|purpose| purpose.as_str() == word)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "purchases of the built-in sandbox",
            Self::Stripe => "purchases at Stripe",
        })
    }
}

/// How long anything may take, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a lock that another program (a backup, a shell) holds on the file.
    pub busy: Duration,
    /// For anything that is asked, waiting for its turn included.
    pub transaction: Duration,
    /// Connections for reads.
    pub readers: usize,
    /// Bytes of the write-ahead log above which it is written back and cut, even if readers have to be waited for. SQLite writes it
    /// back every 4 MiB by itself while none is in the way.
    pub wal_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            busy: Duration::from_secs(1),
            transaction: Duration::from_secs(3),
            readers: 4,
            wal_max: 64 * 1024 * 1024,
        }
    }
}

/// The ledger in a file: one writer, some readers, and as many lanes as are asked for.
pub struct SqliteLedger {
    shared: Arc<Shared>,
}

/// What lanes and reads have in common. Readers are closed before the writer, which then writes the log back.
struct Shared {
    readers: Arc<Pool>,
    writer: Arc<Pool>,
    file: Arc<connection::LockedFile>,
    catalogue: LiveCatalogue,
    epoch: Epoch,
    limits: Limits,
    /// The length of the log that is cut next.
    wal_bound: AtomicU64,
}

impl Shared {
    /// Cuts the log where it has become too long: readers that follow each other without a pause keep SQLite from beginning it anew.
    async fn bound_wal(&self, length: u64) {
        if length <= self.limits.wal_max {
            self.wal_bound.store(self.limits.wal_max, Ordering::Relaxed);
            return;
        }
        if length <= self.wal_bound.load(Ordering::Relaxed) {
            return;
        }
        let file = Arc::clone(&self.file);
        let cut = self.writer.run(move |loan| {
            let cut = loan.ask(|connection| connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)"));
            (cut, file.wal_bytes())
        });
        // Where that was not to be known in time, it is as long as it was.
        let (cut, left) = cut.await.unwrap_or_else(|error| (Err(error), length));
        // A reader of another program's that stays for long is not waited for with every commit.
        let is_cut = left <= self.limits.wal_max;
        let bound = if is_cut { self.limits.wal_max } else { left + self.limits.wal_max };
        self.wal_bound.store(bound, Ordering::Relaxed);
        if !is_cut {
            let path = self.file.path().display();
            tracing::warn!(%path, bytes = left, ?cut, "the write-ahead log cannot be cut: another program reads the file");
        }
    }
}

impl SqliteLedger {
    /// Locks the file, making it where it is not there, brings its schema up to date, and opens it.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the file, and the way out.
    pub async fn open(
        path: &Path,
        purpose: Purpose,
        limits: Limits,
        catalogue: impl Into<LiveCatalogue>,
    ) -> Result<(Self, MigrationReport), OpenError> {
        let owned = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open::open(&owned, purpose, limits)).await;
        let opened = opened.map_err(|_| OpenError {
            path: path.to_owned(),
            problem: Problem::Unusable("opening it panicked".into()),
        })??;
        let shared = Shared {
            readers: Pool::readers(&opened.file, limits),
            writer: Pool::writer(&opened.file, opened.writer, limits),
            file: opened.file,
            catalogue: catalogue.into(),
            epoch: opened.epoch,
            limits,
            wal_bound: AtomicU64::new(limits.wal_max),
        };
        Ok((Self { shared: Arc::new(shared) }, opened.report))
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn epoch(&self) -> Epoch {
        self.shared.epoch.clone()
    }

    fn lane(&self) -> Box<dyn Lane> {
        Box::new(SqliteLane(Arc::clone(&self.shared)))
    }

    async fn entitlement(&self, user: UserId) -> Result<Entitlement, LedgerError> {
        read::account(&self.shared.readers, user).await?.entitlement(&self.shared.catalogue.get())
    }

    async fn grants(&self, user: UserId) -> Result<Vec<Grant>, LedgerError> {
        read::account(&self.shared.readers, user).await.map(|loaded| loaded.account.grants)
    }

    async fn history(&self, user: UserId, before: Option<u64>, limit: u32) -> Result<Vec<HistoryEntry>, LedgerError> {
        history::entries(&self.shared.readers, user, before, limit).await
    }

    async fn owner(&self, subject: &Subject) -> Result<Owner, LedgerError> {
        read::owner(&self.shared.readers, subject).await
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
        read::versions(&self.shared.readers, users).await
    }

    async fn changed_between(
        &self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<ChangedState>, LedgerError> {
        read::changed_between(&self.shared.readers, since, until, limit).await
    }

    async fn lapsed(&self, after: Option<Lapsed>, limit: u32) -> Result<Vec<Lapsed>, LedgerError> {
        read::lapsed(&self.shared.readers, after, limit).await
    }

    async fn parked_due(&self, limit: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
        upkeep::parked_due(&self.shared.writer, limit).await
    }

    async fn events(&self, filter: &InboxFilter, limit: u32) -> Result<Vec<InboxEvent>, LedgerError> {
        inbox::events(&self.shared.readers, filter, limit).await
    }

    async fn event(&self, id: &str) -> Result<Option<StoredEvent>, LedgerError> {
        inbox::event(&self.shared.readers, id).await
    }

    async fn parked(&self) -> Result<Vec<ParkedCount>, LedgerError> {
        inbox::parked(&self.shared.readers).await
    }

    async fn received_since(&self, since: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError> {
        inbox::received_since(&self.shared.readers, since).await
    }

    async fn levels_in_use(&self) -> Result<Vec<Level>, LedgerError> {
        read::levels_in_use(&self.shared.readers).await
    }

    /// A level is a text here.
    async fn levels_lacking(&self, _: &[Level]) -> Result<Vec<Level>, LedgerError> {
        Ok(vec![])
    }

    async fn wake_parked(&self, reason: ParkReason) -> Result<usize, LedgerError> {
        upkeep::wake_parked(&self.shared.writer, reason).await
    }

    async fn park_for(&self, event: &EventId, reason: ParkReason) -> Result<(), LedgerError> {
        tries::park_for(&self.shared.writer, event, reason).await
    }

    async fn begin_try(&self, event: &EventId, alone: bool) -> Result<Option<u32>, LedgerError> {
        tries::begin(&self.shared.writer, event, alone).await
    }

    async fn end_try(&self, event: &EventId, end: TryEnd) -> Result<(), LedgerError> {
        tries::end(&self.shared.writer, event, end).await
    }

    async fn count_panic(&self, event: &EventId) -> Result<u32, LedgerError> {
        tries::count_panic(&self.shared.writer, event).await
    }

    async fn record_session(&self, session: &SessionRecord) -> Result<(), LedgerError> {
        upkeep::record_session(&self.shared.writer, session).await
    }

    async fn session(&self, user: UserId, id: &SessionId) -> Result<Option<SessionRecord>, LedgerError> {
        upkeep::session(&self.shared.readers, user, id).await
    }

    async fn session_opened_by(&self, user: UserId, key: &str) -> Result<Option<SessionRecord>, LedgerError> {
        upkeep::session_opened_by(&self.shared.readers, user, key).await
    }

    async fn customer(&self, user: UserId) -> Result<Option<CustomerId>, LedgerError> {
        upkeep::customer(&self.shared.readers, user).await
    }

    async fn claim_key(
        &self,
        user: UserId,
        key_hash: [u8; 32],
        wish: &str,
        attempt: u32,
    ) -> Result<KeyClaim, LedgerError> {
        upkeep::claim_key(&self.shared.writer, user, key_hash, wish, attempt).await
    }

    async fn move_key(&self, user: UserId, key_hash: [u8; 32], from: u32, to: u32) -> Result<(), LedgerError> {
        upkeep::move_key(&self.shared.writer, user, key_hash, from, to).await
    }

    async fn beat(&self, instance: Uuid, behind: Duration) -> Result<Vec<Instance>, LedgerError> {
        upkeep::beat(&self.shared.writer, instance, behind).await
    }

    async fn instances(&self) -> Result<Vec<Instance>, LedgerError> {
        upkeep::instances(&self.shared.readers).await
    }

    async fn forget_instance(&self, instance: Uuid) -> Result<(), LedgerError> {
        upkeep::forget_instance(&self.shared.writer, instance).await
    }

    async fn fetches_due(&self, limit: u32, lease: Duration) -> Result<Vec<Fetch>, LedgerError> {
        fetches::due(&self.shared.writer, limit, lease).await
    }

    async fn end_fetch(&self, fetch: &Fetch, end: FetchEnd) -> Result<(), LedgerError> {
        fetches::end(&self.shared.writer, fetch, end).await
    }

    async fn find_lapsing(&self, limit: u32) -> Result<(), LedgerError> {
        fetches::find_lapsing(&self.shared.writer, limit).await
    }

    async fn fetches(&self) -> Result<Vec<FetchCount>, LedgerError> {
        fetches::counts(&self.shared.readers).await
    }

    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        read::clock(&self.shared.readers).await
    }
}
