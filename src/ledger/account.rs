//! What the ledger's rows mean: a user's state and grants, as the databases give them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{KeyClaim, LedgerError, ParkedEvent, SessionRecord, history::HistoryRow};
use crate::domain::{
    change::Account,
    entitlement::{Entitlement, fold},
    grant::{Grant, GrantStatus, Source},
    id::{CustomerId, EventId, ObjectId, PaymentIntentId, SessionId},
    level::Level,
    money::{Facts, Hold, Object, Objects},
    plan::{Catalogue, Interval},
    subscription::Snapshots,
};

/// A parked event that has been taken for another try.
#[derive(diesel::QueryableByName)]
pub(super) struct ParkedRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    payload: String,
}

impl ParkedRow {
    pub(super) fn event(self) -> Option<ParkedEvent> {
        Some(ParkedEvent { id: EventId::parse(&self.id).ok()?, payload: self.payload.into_bytes().into() })
    }
}

/// One row per grant of a user, or one without: the user's place (from 1), the database's clock, whether `users` has the user;
/// level, end, version and quantity of the state; the grant's source (kind and id), level, status (what reports said and how it stands, if
/// that is not the same), end, time of report, event, session,
/// payment, customer and snapshots.
pub(super) type AccountRow = (
    i64,
    DateTime<Utc>,
    bool,
    Option<String>,
    Option<DateTime<Utc>>,
    (Option<i64>, Option<i32>),
    Option<String>,
    Option<String>,
    Option<String>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// A user's rows, read where nobody else can change them.
#[derive(Default)]
pub(super) struct Loaded {
    /// Whether `users` has the user.
    pub(super) exists: bool,
    /// State and grants.
    pub(super) account: Account,
    /// The database's clock at reading.
    pub(super) now: DateTime<Utc>,
    /// Places in `account.grants` to be written.
    pub(super) touched: Vec<usize>,
    /// Whether the state is to be written.
    pub(super) changed: bool,
    /// What is to be remembered of how the state changed.
    pub(super) history: Vec<HistoryRow>,
    /// A grant whose kind or status is a word of a newer version: what it gives is not known here.
    pub(super) unread: Option<String>,
}

impl Loaded {
    /// The state; where its time is over, or where the grants are older than Tollgate, what the grants give now. `Err` as of
    /// [`knows_what_is_held`](Self::knows_what_is_held).
    pub(super) fn entitlement(self, catalogue: &Catalogue) -> Result<Entitlement, LedgerError> {
        if self.account.entitlement.version > 0 && !self.account.entitlement.is_over(self.now) {
            return Ok(self.account.entitlement);
        }
        self.knows_what_is_held(catalogue)?;
        let (level, expires_at, quantity) = fold(&self.account.grants, catalogue, self.now);
        Ok(Entitlement { level, expires_at, quantity, version: self.account.entitlement.version })
    }

    /// `Err` if there is a grant that this replica cannot read, or a live one of a level that its catalogue does not have, as while a new
    /// version or a new catalogue reaches one replica after the other: folded here, its holder would be served `FREE`. Another replica can
    /// decide, or this one in a moment.
    pub(super) fn knows_what_is_held(&self, catalogue: &Catalogue) -> Result<(), LedgerError> {
        if let Some(source) = &self.unread {
            return Err(LedgerError::Unavailable(format!("the grant {source} is of a newer version")));
        }
        let is_unknown = |grant: &&Grant| grant.is_live(self.now) && catalogue.plan(&grant.level).is_none();
        self.account.grants.iter().find(is_unknown).map_or(Ok(()), |grant| {
            Err(LedgerError::Unavailable(format!("the catalogue does not have level {}, which is held", grant.level)))
        })
    }

    /// Marks the account, and the grants at these places, as to be written.
    pub(super) fn touch(&mut self, grants: &[usize]) {
        self.changed = true;
        for grant in grants {
            if !self.touched.contains(grant) {
                self.touched.push(*grant);
            }
        }
    }

    /// The grants to be written.
    pub(super) fn touched_grants(&self) -> impl Iterator<Item = &Grant> {
        self.touched.iter().filter_map(|place| self.account.grants.get(*place))
    }
}

/// Sorts rows to the users they are of.
pub(super) fn load(users: usize, rows: Vec<AccountRow>) -> Vec<Loaded> {
    let mut loaded: Vec<Loaded> = std::iter::repeat_with(Loaded::default).take(users).collect();
    for row in rows {
        let (place, now, exists, level, end, state, source, grant_level, status, period_end, reported_at, ..) = &row;
        let Some(user) = usize::try_from(*place - 1).ok().and_then(|place| loaded.get_mut(place)) else { continue };
        user.exists = *exists;
        user.now = *now;
        if let (Some(level), (Some(version), Some(quantity))) = (level, state) {
            user.account.entitlement = entitlement(level, *end, *version, *quantity);
        }
        if let (Some(source), Some(level), Some(status), Some(period_end), Some(reported_at)) =
            (source, grant_level, status, period_end, reported_at)
        {
            let Some(mut grant) = grant(source, level, status, *period_end, *reported_at) else {
                user.unread = Some(source.clone());
                continue;
            };
            let (.., event, session, payment_intent, customer, snapshots) = row;
            grant.event = event.and_then(|id| EventId::parse(&id).ok());
            grant.session = session.and_then(|id| SessionId::parse(&id).ok());
            grant.payment_intent = payment_intent.and_then(|id| PaymentIntentId::parse(&id).ok());
            grant.customer = customer.and_then(|id| CustomerId::parse(&id).ok());
            if let Some(snapshots) = snapshots {
                // A grant that cannot be read is none, never what its columns happen to say.
                let Ok(snapshots) = serde_json::from_str(&snapshots) else {
                    tracing::error!(source = %grant.source, "a subscription's snapshots cannot be read: its grant is left out");
                    continue;
                };
                grant.snapshots = snapshots;
                grant.settle();
            }
            user.account.grants.push(grant);
        }
    }
    loaded
}

/// A state as the ledger keeps it. A level that cannot be read is served as `FREE`, never as something better. A replica of the version
/// before leaves the quantity as it was, also that of a level that has ended.
pub(super) fn entitlement(level: &str, expires_at: Option<DateTime<Utc>>, version: i64, quantity: i32) -> Entitlement {
    let level = Level::parse(level).unwrap_or_else(|_| Level::free());
    let quantity = if level.is_free() { 1 } else { u32::try_from(quantity).unwrap_or(1).max(1) };
    Entitlement { level, expires_at, quantity, version: u64::try_from(version).unwrap_or(0) }
}

/// A state's version as the ledger keeps it.
pub(super) fn version(entitlement: &Entitlement) -> i64 {
    i64::try_from(entitlement.version).unwrap_or(i64::MAX)
}

/// A state's quantity as the ledger keeps it.
pub(super) fn quantity(entitlement: &Entitlement) -> i32 {
    i32::try_from(entitlement.quantity).unwrap_or(i32::MAX)
}

fn grant(
    source: &str,
    level: &str,
    status: &str,
    period_end: DateTime<Utc>,
    reported_at: DateTime<Utc>,
) -> Option<Grant> {
    let (reported, standing) = status.split_once(' ').unwrap_or((status, status));
    Some(Grant {
        source: Source::parse(source)?,
        level: Level::parse(level).ok()?,
        status: GrantStatus::from_word(reported)?,
        hold: match GrantStatus::from_word(standing)? {
            GrantStatus::Suspended if standing != reported => Some(Hold::Suspended),
            GrantStatus::Revoked if standing != reported => Some(Hold::Revoked),
            _ => None,
        },
        period_end,
        reported_at,
        event: None,
        session: None,
        payment_intent: None,
        customer: None,
        snapshots: Snapshots::default(),
    })
}

/// How a grant stands, and what reports said where that is something else.
pub(super) fn standing(grant: &Grant) -> (&'static str, Option<&'static str>) {
    let (standing, reported) = (grant.standing(), grant.status);
    (standing.as_str(), (standing != reported).then_some(reported.as_str()))
}

/// A grant's snapshots as they are kept; none if there are none.
pub(super) fn snapshots(grant: &Grant) -> Result<Option<String>, LedgerError> {
    if grant.snapshots.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(&grant.snapshots).map(Some).map_err(|_| unreadable("snapshots"))
}

/// What is known of an object: id, parent, end of the period it paid, facts.
pub(super) type ObjectRow = (String, Option<String>, Option<DateTime<Utc>>, String);

/// What is known, as the databases give it. Nothing is guessed of what cannot be read: a hold would be lost.
pub(super) fn objects(rows: impl IntoIterator<Item = ObjectRow>) -> Result<Objects, LedgerError> {
    let mut objects = Objects::default();
    for (id, parent, period_end, facts) in rows {
        let of = |text: &str| ObjectId::parse(text).map_err(|_| unreadable("id"));
        let parent = parent.as_deref().map(of).transpose()?;
        let facts: Facts = serde_json::from_str(&facts).map_err(|_| unreadable("facts"))?;
        objects.recall(of(&id)?, Object { parent, period_end, facts });
    }
    Ok(objects)
}

/// An object's facts as they are kept.
pub(super) fn facts(object: &Object) -> Result<String, LedgerError> {
    serde_json::to_string(&object.facts).map_err(|_| unreadable("facts"))
}

fn unreadable(what: &str) -> LedgerError {
    LedgerError::Refused { sqlstate: "-".into(), constraint: what.into() }
}

/// A session as the ledger keeps it, but for its page; none if its id or level cannot be read.
pub(super) fn session(
    id: &str,
    user: Uuid,
    level: &str,
    interval: Option<&str>,
    state: &str,
    expires_at: DateTime<Utc>,
) -> Option<SessionRecord> {
    Some(SessionRecord {
        id: SessionId::parse(id).ok()?,
        user: user.into(),
        level: Level::parse(level).ok()?,
        interval: interval.and_then(Interval::from_word),
        expired: state == "expired",
        expires_at,
        url: None,
        opened_by: None,
    })
}

/// An attempt as it is kept.
pub(super) fn attempt(attempt: u32) -> i32 {
    i32::try_from(attempt).unwrap_or(i32::MAX)
}

/// How a caller's idempotency key stands.
pub(super) fn key_claim(wish: String, attempt: i32) -> KeyClaim {
    KeyClaim { wish, attempt: u32::try_from(attempt).unwrap_or(1) }
}
