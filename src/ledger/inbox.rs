//! What operators are shown of the inbox: events as they stand, in both databases alike.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::domain::id::UserId;

/// How an event stands in the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has had its effect.
    Applied,
    /// A better-informed event about the same object was there before.
    Superseded,
    /// Acknowledged only.
    Ignored,
    /// Kept with its payload, waiting.
    Parked,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Applied, Self::Superseded, Self::Ignored, Self::Parked];

    /// The word in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Superseded => "superseded",
            Self::Ignored => "ignored",
            Self::Parked => "parked",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|standing| standing.as_str() == word)
    }

    /// As a condition that databases know to be met by an index of what was not applied: its words are part of the statement.
    pub(super) const fn condition(self) -> &'static str {
        match self {
            Self::Applied => "outcome = 'applied'",
            Self::Superseded => "outcome = 'superseded' AND outcome <> 'applied'",
            Self::Ignored => "outcome = 'ignored' AND outcome <> 'applied'",
            Self::Parked => "outcome = 'parked' AND outcome <> 'applied'",
        }
    }
}

/// An event as it stands, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxEvent {
    /// `evt_…`; text, since rows older than Tollgate may hold anything.
    pub id: String,
    /// For example `checkout.session.completed`.
    pub kind: String,
    /// The id of the object it is about.
    pub object_id: Option<String>,
    /// Whose it is, as far as that is known.
    pub user: Option<UserId>,
    /// How it stands.
    pub standing: Standing,
    /// Why it was parked or ignored.
    pub reason: Option<String>,
    /// The delivery, and the tries of the sweep since.
    pub attempts: u32,
    /// Stripe's time of it.
    pub created: Option<DateTime<Utc>>,
    /// When it was first delivered, by the database's clock.
    pub received_at: DateTime<Utc>,
    /// When it was last tried; none for one that is to be tried at once.
    pub processed_at: Option<DateTime<Utc>>,
}

impl InboxEvent {
    /// Where it stands in a list.
    #[must_use]
    pub fn place(&self) -> InboxPlace {
        InboxPlace { received_at: self.received_at, id: self.id.clone() }
    }
}

/// A place in a list that is newest first: what follows was received before, or at the same moment and has a smaller id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxPlace {
    /// When the event was received.
    pub received_at: DateTime<Utc>,
    /// Its id.
    pub id: String,
}

/// Which events are to be listed. What is not named is not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InboxFilter {
    /// How they stand.
    pub standing: Option<Standing>,
    /// Their type.
    pub kind: Option<String>,
    /// Whose.
    pub user: Option<UserId>,
    /// Why they are parked or ignored.
    pub reason: Option<String>,
    /// Received at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// Behind this place.
    pub after: Option<InboxPlace>,
}

/// An event with what is kept of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub event: InboxEvent,
    /// The raw body as Stripe sent it; kept for parked ones.
    pub payload: Option<Bytes>,
}

/// Parked events of one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedCount {
    /// The reason's word.
    pub reason: String,
    /// How many wait for it.
    pub count: u64,
    /// When the oldest was received.
    pub oldest: DateTime<Utc>,
}

/// A row as both databases give it: id, type, object, user, outcome, reason, attempts, created, received, processed.
pub(super) type Columns<User, Moment> =
    (String, String, Option<String>, Option<User>, String, Option<String>, i32, Option<Moment>, Moment, Option<Moment>);

/// Reads a row; none where the outcome is a word of a newer version.
pub(super) fn event<User, Moment>(
    columns: Columns<User, Moment>,
    user_id: impl Fn(User) -> Option<UserId>,
    moment: impl Fn(Moment) -> DateTime<Utc>,
) -> Option<InboxEvent> {
    let (id, kind, object_id, user, outcome, reason, attempts, created, received_at, processed_at) = columns;
    Some(InboxEvent {
        id,
        kind,
        object_id,
        user: user.and_then(user_id),
        standing: Standing::from_word(&outcome)?,
        reason,
        attempts: u32::try_from(attempts).unwrap_or(0),
        created: created.map(&moment),
        received_at: moment(received_at),
        processed_at: processed_at.map(moment),
    })
}

/// What is parked for one reason: the reason, how many, and since when the oldest.
pub(super) type ParkedColumns<Moment> = (Option<String>, i64, Option<Moment>);

/// Counts of what is parked, as both databases give them.
pub(super) fn parked<Moment>(
    rows: Vec<ParkedColumns<Moment>>,
    moment: impl Fn(Moment) -> DateTime<Utc>,
) -> Vec<ParkedCount> {
    let read = |(reason, count, oldest): ParkedColumns<Moment>| {
        let count = u64::try_from(count).ok()?;
        Some(ParkedCount { reason: reason.unwrap_or_default(), count, oldest: oldest.map(&moment)? })
    };
    rows.into_iter().filter_map(read).collect()
}

/// An event with what is kept of its body.
pub(super) fn stored(event: InboxEvent, payload: Option<String>) -> StoredEvent {
    StoredEvent { event, payload: payload.map(|text| Bytes::from(text.into_bytes())) }
}

/// Counts as databases give them.
pub(super) fn standings(rows: Vec<(String, i64)>) -> Vec<(Standing, u64)> {
    let known = |(outcome, count): (String, i64)| Some((Standing::from_word(&outcome)?, u64::try_from(count).ok()?));
    rows.into_iter().filter_map(known).collect()
}
