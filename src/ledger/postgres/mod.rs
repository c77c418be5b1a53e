//! The ledger on PostgreSQL.
//!
//! `connection` opens connections and pools, `batch` turns entries and accounts into columns, `statements` holds the hot SQL, `apply` is
//! the one write transaction, `lane` decides what to do when it fails, `read` and `upkeep` are everything else, `migrate`
//! makes the schema.

mod apply;
mod batch;
mod connection;
mod fetches;
mod history;
mod inbox;
mod lane;
mod migrate;
mod read;
mod schema;
mod statements;
mod tries;
mod upkeep;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::connection::Limits;
use self::{
    connection::{Connector, EpochSeen, Rights},
    lane::PostgresLane,
};
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
    plan::Catalogue,
};

/// The ledger on PostgreSQL: a pool for reads and upkeep, and as many lanes as are asked for.
pub struct PostgresLedger {
    shared: Arc<Shared>,
    pool: connection::Pool,
}

/// What lanes and reads have in common.
struct Shared {
    connector: Connector,
    catalogue: LiveCatalogue,
    epoch: EpochSeen,
    rights: Rights,
}

impl PostgresLedger {
    /// Brings the schema up to date. Safe while other replicas do the same.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be reached or refuses.
    pub async fn migrate(url: &str, catalogue: &Catalogue) -> Result<MigrationReport, LedgerError> {
        migrate::run(url, catalogue).await
    }

    /// Connects and reads which ledger this is.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be reached, or has not been migrated.
    pub async fn connect(url: &str, limits: Limits, catalogue: impl Into<LiveCatalogue>) -> Result<Self, LedgerError> {
        let connector = Connector::new(url, limits);
        let connection = connector.connect().await?;
        let (epoch, rights) = tokio::time::timeout(limits.transaction, connection::identity(&connection))
            .await
            .map_err(|_| LedgerError::Unavailable("the database did not answer in time".into()))??;
        let epoch = EpochSeen::new(epoch);
        let pool = connector.pool(epoch.clone())?;
        let shared = Arc::new(Shared { connector, catalogue: catalogue.into(), epoch, rights });
        Ok(Self { shared, pool })
    }

    /// Whether the database keeps what it has acknowledged.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be asked.
    pub async fn durability(&self) -> Result<Durability, LedgerError> {
        read::durability(&self.pool).await
    }
}

/// Settings of the database that decide whether an acknowledged commit survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durability {
    /// Whether a commit waits for the log to be written.
    pub synchronous_commit: bool,
    /// Whether writing means reaching the disk.
    pub fsync: bool,
}

#[async_trait]
impl Ledger for PostgresLedger {
    fn epoch(&self) -> Epoch {
        self.shared.epoch.get()
    }

    fn lane(&self) -> Box<dyn Lane> {
        Box::new(PostgresLane::new(Arc::clone(&self.shared)))
    }

    async fn entitlement(&self, user: UserId) -> Result<Entitlement, LedgerError> {
        read::entitlement(&self.pool, &self.shared.catalogue.get(), user).await
    }

    async fn grants(&self, user: UserId) -> Result<Vec<Grant>, LedgerError> {
        read::grants(&self.pool, user).await
    }

    async fn history(&self, user: UserId, before: Option<u64>, limit: u32) -> Result<Vec<HistoryEntry>, LedgerError> {
        history::entries(&self.pool, user, before, limit).await
    }

    async fn owner(&self, subject: &Subject) -> Result<Owner, LedgerError> {
        read::owner(&self.pool, subject).await
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
        read::versions(&self.pool, users).await
    }

    async fn changed_between(
        &self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<ChangedState>, LedgerError> {
        read::changed_between(&self.pool, since, until, limit).await
    }

    async fn lapsed(&self, after: Option<Lapsed>, limit: u32) -> Result<Vec<Lapsed>, LedgerError> {
        read::lapsed(&self.pool, after, limit).await
    }

    async fn parked_due(&self, limit: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
        upkeep::parked_due(&self.pool, limit).await
    }

    async fn events(&self, filter: &InboxFilter, limit: u32) -> Result<Vec<InboxEvent>, LedgerError> {
        inbox::events(&self.pool, filter, limit).await
    }

    async fn event(&self, id: &str) -> Result<Option<StoredEvent>, LedgerError> {
        inbox::event(&self.pool, id).await
    }

    async fn parked(&self) -> Result<Vec<ParkedCount>, LedgerError> {
        inbox::parked(&self.pool).await
    }

    async fn received_since(&self, since: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError> {
        inbox::received_since(&self.pool, since).await
    }

    async fn levels_in_use(&self) -> Result<Vec<Level>, LedgerError> {
        read::levels_in_use(&self.pool).await
    }

    async fn levels_lacking(&self, levels: &[Level]) -> Result<Vec<Level>, LedgerError> {
        let known = read::levels_known(&self.pool).await?;
        Ok(levels.iter().filter(|level| !known.contains(level)).cloned().collect())
    }

    async fn wake_parked(&self, reason: ParkReason) -> Result<usize, LedgerError> {
        upkeep::wake_parked(&self.pool, reason).await
    }

    async fn park_for(&self, event: &EventId, reason: ParkReason) -> Result<(), LedgerError> {
        tries::park_for(&self.pool, event, reason).await
    }

    async fn begin_try(&self, event: &EventId, alone: bool) -> Result<Option<u32>, LedgerError> {
        tries::begin(&self.pool, event, alone).await
    }

    async fn end_try(&self, event: &EventId, end: TryEnd) -> Result<(), LedgerError> {
        tries::end(&self.pool, event, end).await
    }

    async fn count_panic(&self, event: &EventId) -> Result<u32, LedgerError> {
        tries::count_panic(&self.pool, event).await
    }

    async fn record_session(&self, session: &SessionRecord) -> Result<(), LedgerError> {
        upkeep::record_session(&self.pool, session).await
    }

    async fn session(&self, user: UserId, id: &SessionId) -> Result<Option<SessionRecord>, LedgerError> {
        upkeep::session(&self.pool, user, id).await
    }

    async fn session_opened_by(&self, user: UserId, key: &str) -> Result<Option<SessionRecord>, LedgerError> {
        upkeep::session_opened_by(&self.pool, user, key).await
    }

    async fn customer(&self, user: UserId) -> Result<Option<CustomerId>, LedgerError> {
        upkeep::customer(&self.pool, user).await
    }

    async fn claim_key(
        &self,
        user: UserId,
        key_hash: [u8; 32],
        wish: &str,
        attempt: u32,
    ) -> Result<KeyClaim, LedgerError> {
        upkeep::claim_key(&self.pool, user, key_hash, wish, attempt).await
    }

    async fn move_key(&self, user: UserId, key_hash: [u8; 32], from: u32, to: u32) -> Result<(), LedgerError> {
        upkeep::move_key(&self.pool, user, key_hash, from, to).await
    }

    async fn beat(&self, instance: Uuid, behind: Duration) -> Result<Vec<Instance>, LedgerError> {
        let (epoch, instances) = upkeep::beat(&self.pool, instance, behind).await?;
        self.shared.epoch.observe(epoch);
        Ok(instances)
    }

    async fn instances(&self) -> Result<Vec<Instance>, LedgerError> {
        upkeep::instances(&self.pool).await
    }

    async fn forget_instance(&self, instance: Uuid) -> Result<(), LedgerError> {
        upkeep::forget_instance(&self.pool, instance).await
    }

    async fn fetches_due(&self, limit: u32, lease: Duration) -> Result<Vec<Fetch>, LedgerError> {
        fetches::due(&self.pool, limit, lease).await
    }

    async fn end_fetch(&self, fetch: &Fetch, end: FetchEnd) -> Result<(), LedgerError> {
        fetches::end(&self.pool, fetch, end).await
    }

    async fn find_lapsing(&self, limit: u32) -> Result<(), LedgerError> {
        fetches::find_lapsing(&self.pool, limit).await
    }

    async fn fetches(&self) -> Result<Vec<FetchCount>, LedgerError> {
        fetches::counts(&self.pool).await
    }

    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        read::now(&self.pool).await
    }
}
