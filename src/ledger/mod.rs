//! ROOM 5: the truth. The only room that knows SQL.
//!
//! [`Ledger`] is the narrow seam: everything above it is the same for every database. Writes go through [`Lane`]s, each with
//! a connection of its own, in batches that commit as one transaction; the effects of an event and the mark of having had
//! them never part.

mod account;
mod batch;
mod decide;
mod error;
mod fetches;
mod halving;
mod history;
mod inbox;
pub mod postgres;
mod reach;
pub mod sqlite;
mod statement;
mod tries;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::{
    error::LedgerError,
    fetches::{Fetch, FetchCount, FetchEnd, FetchReason},
    history::HistoryEntry,
    inbox::{InboxEvent, InboxFilter, InboxPlace, ParkedCount, Standing, StoredEvent},
    tries::TryEnd,
};
pub use crate::domain::event::{Note, Verdict};
use crate::domain::{
    change::{Change, Owner, Subject},
    entitlement::Entitlement,
    event::{EventRecord, Outcome, ParkReason},
    grant::Grant,
    id::{CustomerId, EventId, SessionId, UserId},
    level::Level,
    money::Report,
    plan::Interval,
};

/// Identifies one ledger: marks and cached values of another epoch count for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Takes the ledger's word for it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// As written into Redis.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the other one with parts missing: parts are joined by hyphens, and each may be unreadable for a while.
    pub(crate) fn is_part_of(&self, other: &Self) -> bool {
        self.0.len() < other.0.len() && {
            let mut parts = other.0.split('-');
            self.0.split('-').all(|part| parts.any(|other| other == part))
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Something that happened to a user.
    Change(Change),
    /// What an event said of money, which concerns whoever depends on it.
    Report(Report),
    /// An event to be recorded only.
    Note(Note),
}

impl Entry {
    /// Whose change it is.
    #[must_use]
    pub const fn user(&self) -> Option<UserId> {
        match self {
            Self::Change(change) => Some(change.user),
            Self::Report(_) | Self::Note(_) => None,
        }
    }

    /// What entries are about, for whoever armed a fail point: each one's event, else its user, with spaces between.
    pub(crate) fn about<'a>(entries: impl IntoIterator<Item = &'a Self>) -> String {
        let about = entries.into_iter().map(|entry| match (entry.event(), entry.user()) {
            (Some(event), _) => event.id.to_string(),
            (None, user) => user.map(|user| user.to_string()).unwrap_or_default(),
        });
        about.collect::<Vec<_>>().join(" ")
    }

    /// The event behind it, if there is one.
    #[must_use]
    pub const fn event(&self) -> Option<&EventRecord> {
        match self {
            Self::Change(change) => change.cause.event(),
            Self::Report(report) => report.cause.event(),
            Self::Note(note) => Some(&note.event),
        }
    }
}

/// What was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// What became of the entry.
    pub outcome: Outcome,
    /// The user's state after it, if the entry names one.
    pub entitlement: Option<Entitlement>,
    /// The states of users whom it does not name and has changed.
    pub others: Vec<(UserId, Entitlement)>,
}

/// Called exactly once with an entry's result, as soon as it is certain. If it is dropped instead, the outcome is unknown.
pub type Reply = Box<dyn FnOnce(Result<Committed, LedgerError>) + Send>;

/// An entry on its way into the ledger.
pub struct Ticket {
    /// What is to be written.
    pub entry: Entry,
    /// Whom to tell.
    pub reply: Reply,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// A way into the ledger with a connection of its own. Batches of one lane are committed one after the other; lanes are
/// independent of each other.
#[async_trait]
pub trait Lane: Send {
    /// Commits the batch as one transaction. Returns when the lane can take the next batch; entries whose users are locked by
    /// somebody else may be answered later.
    async fn commit(&mut self, batch: Vec<Ticket>);
}

/// A user's state with the moment it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedState {
    /// Whose.
    pub user: UserId,
    /// The state.
    pub entitlement: Entitlement,
    /// By the database's clock.
    pub changed_at: DateTime<Utc>,
}

/// A user's level whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lapsed {
    /// Whose.
    pub user: UserId,
    /// The version that is over.
    pub version: u64,
    /// Since when.
    pub ended_at: DateTime<Utc>,
}

/// A parked event that is due for another try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedEvent {
    /// Its id.
    pub id: EventId,
    /// The raw body as Stripe sent it.
    pub payload: Bytes,
}

/// A Checkout Session that this service created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// `cs_…`
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// What is being bought.
    pub level: Level,
    /// How often it is paid, for a subscription.
    pub interval: Option<Interval>,
    /// Whether Stripe has said that it expired.
    pub expired: bool,
    /// When Stripe closes it.
    pub expires_at: DateTime<Utc>,
    /// Where to send the buyer; unknown of those that an older version opened.
    pub url: Option<String>,
    /// The key under which Stripe was asked for it; unknown of those that an older version opened.
    pub opened_by: Option<String>,
}

/// How an idempotency key of a caller stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClaim {
    /// What it was first used for.
    pub wish: String,
    /// Grows when a session is over, or Stripe's answer was a stored failure: the next call needs another key at Stripe.
    pub attempt: u32,
}

/// A replica and when it was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: Uuid,
    /// Its last heartbeat, by the database's clock.
    pub last_seen: DateTime<Utc>,
    /// Readers have been shown everything that it committed before this moment.
    pub shown_until: DateTime<Utc>,
}

/// What a migration run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// Versions applied by this run, oldest first. Empty if there was nothing to do.
    pub applied: Vec<String>,
    /// Levels of the catalogue added to the database's enum, where it has one.
    pub levels_added: Vec<String>,
}

/// The ledger. Every method has a limit of time; every error but [`LedgerError::InDoubt`] means that nothing happened.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The epoch as of the newest connection.
    fn epoch(&self) -> Epoch;

    /// Opens a lane. It connects with its first batch, on the runtime that drives it.
    fn lane(&self) -> Box<dyn Lane>;

    /// A user's state, from the primary. Where its time is over, what the grants give now.
    async fn entitlement(&self, user: UserId) -> Result<Entitlement, LedgerError>;

    /// A user's grants.
    async fn grants(&self, user: UserId) -> Result<Vec<Grant>, LedgerError>;

    /// How a user's entitlement changed, and whose doing it was: at most `limit` changes, the newest first, before version `before` where
    /// there is one.
    async fn history(&self, user: UserId, before: Option<u64>, limit: u32) -> Result<Vec<HistoryEntry>, LedgerError>;

    /// Whose something is that an event is about.
    async fn owner(&self, subject: &Subject) -> Result<Owner, LedgerError>;

    /// The versions of these users' states; who has none is left out. At most 1,000 users.
    async fn versions(&self, users: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError>;

    /// States changed at or before `until` and at or after `since`, newest first: a page of at most `limit`.
    async fn changed_between(
        &self,
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<ChangedState>, LedgerError>;

    /// Levels whose time is over, oldest first: at most `limit` of those that follow `after`, or of all.
    async fn lapsed(&self, after: Option<Lapsed>, limit: u32) -> Result<Vec<Lapsed>, LedgerError>;

    /// Parked events worth another try: the user is there now, or a while has passed. Each counts as tried by this call.
    async fn parked_due(&self, limit: u32) -> Result<Vec<ParkedEvent>, LedgerError>;

    /// Events of the inbox, newest first: at most `limit`.
    async fn events(&self, filter: &InboxFilter, limit: u32) -> Result<Vec<InboxEvent>, LedgerError>;

    /// One event of the inbox.
    async fn event(&self, id: &str) -> Result<Option<StoredEvent>, LedgerError>;

    /// How many events wait, by reason, in the order of the reasons' words.
    async fn parked(&self) -> Result<Vec<ParkedCount>, LedgerError>;

    /// How the events stand that were received since a moment, and how many.
    async fn received_since(&self, since: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError>;

    /// Levels that live grants have: the catalogue must know them all.
    async fn levels_in_use(&self) -> Result<Vec<Level>, LedgerError>;

    /// Those of the levels that no grant can have before a migration has added them.
    async fn levels_lacking(&self, levels: &[Level]) -> Result<Vec<Level>, LedgerError>;

    /// Makes all events that are parked for this reason due, and tells how many.
    async fn wake_parked(&self, reason: ParkReason) -> Result<usize, LedgerError>;

    /// Tells why a parked event waits from now on.
    async fn park_for(&self, event: &EventId, reason: ParkReason) -> Result<(), LedgerError>;

    /// Counts a try of an event before it is made, and tells how many have been counted with it, since the last that ended in order. The
    /// first one counts as the second: what is counted before may have ended a process when nobody counted yet. `None`, and nothing is
    /// counted, where the try has to be made with no other beside it and is not to be made `alone`; and where it is, but the next one
    /// before may be under way in another process.
    async fn begin_try(&self, event: &EventId, alone: bool) -> Result<Option<u32>, LedgerError>;

    /// Ends a try that was counted before it was made.
    async fn end_try(&self, event: &EventId, end: TryEnd) -> Result<(), LedgerError>;

    /// Counts a try that has panicked and was not counted before. Gives how many have been counted.
    async fn count_panic(&self, event: &EventId) -> Result<u32, LedgerError>;

    /// Records a session we created.
    async fn record_session(&self, session: &SessionRecord) -> Result<(), LedgerError>;

    /// A session we created, if it is this user's.
    async fn session(&self, user: UserId, id: &SessionId) -> Result<Option<SessionRecord>, LedgerError>;

    /// The session that Stripe was asked for under this key, if it is this user's.
    async fn session_opened_by(&self, user: UserId, key: &str) -> Result<Option<SessionRecord>, LedgerError>;

    /// As whom Stripe knows the user: the customer of the newest purchase, that of a live one first. One that several users share is
    /// nobody's.
    async fn customer(&self, user: UserId) -> Result<Option<CustomerId>, LedgerError>;

    /// Claims an idempotency key for a wish, or tells what it was claimed for. The first use begins with this attempt.
    async fn claim_key(
        &self,
        user: UserId,
        key_hash: [u8; 32],
        wish: &str,
        attempt: u32,
    ) -> Result<KeyClaim, LedgerError>;

    /// Moves a key on to another attempt; nothing if it is not at `from` any more.
    async fn move_key(&self, user: UserId, key_hash: [u8; 32], from: u32, to: u32) -> Result<(), LedgerError>;

    /// Tells that this replica is alive and for how long the oldest state has waited that readers have not been shown, and lists
    /// all replicas, this one included.
    async fn beat(&self, instance: Uuid, behind: Duration) -> Result<Vec<Instance>, LedgerError>;

    /// All replicas that are known, dead ones until their left-overs are done.
    async fn instances(&self) -> Result<Vec<Instance>, LedgerError>;

    /// Forgets a replica that stopped, or whose left-over cache writes have been done.
    async fn forget_instance(&self, instance: Uuid) -> Result<(), LedgerError>;

    /// Takes questions to Stripe that are due, each leased for so long: at most `limit`. One that is not ended by then is due again.
    async fn fetches_due(&self, limit: u32, lease: Duration) -> Result<Vec<Fetch>, LedgerError>;

    /// Ends a question's lease; nothing if it is over, or an event has asked anew since.
    async fn end_fetch(&self, fetch: &Fetch, end: FetchEnd) -> Result<(), LedgerError>;

    /// Finds subscriptions that are about to lapse, from an hour before their end until five days after it, and has Stripe asked about
    /// them: at most `limit`. Forgets questions that an event has answered, and those given up long ago.
    async fn find_lapsing(&self, limit: u32) -> Result<(), LedgerError>;

    /// How many questions wait, by reason, in the order of the reasons' words.
    async fn fetches(&self) -> Result<Vec<FetchCount>, LedgerError>;

    /// The database's clock, which proves that it can be reached.
    async fn now(&self) -> Result<DateTime<Utc>, LedgerError>;
}

#[cfg(test)]
mod tests {
    use super::Epoch;

    #[test]
    fn an_epoch_with_parts_missing_is_the_same_ledger() {
        let whole = Epoch::new("1b4e28ba-2fa1-11d2-883f-0016d3cca427-6fc.4001-00000001");
        for part in [
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427-00000001",
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427-6fc.4001",
        ] {
            assert!(Epoch::new(part).is_part_of(&whole), "{part}");
        }
        for other in [
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427-6fc.4001-00000002",
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427-00000002",
            "2b4e28ba-2fa1-11d2-883f-0016d3cca427",
        ] {
            assert!(!Epoch::new(other).is_part_of(&whole), "{other}");
        }
        assert!(!whole.is_part_of(&whole), "the same is no part");
    }
}
