//! Entries as columns: what the hot statements take, and what their rows mean.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    super::{Entry, Verdict},
    statements::AccountRow,
};
use crate::domain::{
    change::{Account, Cause},
    entitlement::Entitlement,
    event::EventRecord,
    grant::{Grant, GrantStatus, Source, SourceKind},
    id::{CustomerId, EventId, PaymentIntentId, SessionId, UserId},
    level::Level,
};

/// The users of a batch, sorted by lock key; their places (counted from 1, as SQL does) are how rows refer to them.
pub(super) struct Users {
    pub(super) ids: Vec<Uuid>,
    pub(super) keys: Vec<i64>,
}

impl Users {
    pub(super) fn of(entries: &[&Entry]) -> Self {
        let mut users: Vec<(i64, Uuid)> =
            entries.iter().filter_map(|entry| entry.user()).map(|user| (lock_key(user), user.uuid())).collect();
        users.sort_unstable();
        users.dedup();
        let (keys, ids) = users.into_iter().unzip();
        Self { ids, keys }
    }

    /// Where a user stands; 0 for none.
    pub(super) fn place(&self, user: Option<UserId>) -> i64 {
        user.and_then(|user| {
            let key = lock_key(user);
            let first = self.keys.partition_point(|other| *other < key);
            self.ids.iter().skip(first).position(|id| *id == user.uuid()).map(|offset| first + offset + 1)
        })
        .and_then(|place| i64::try_from(place).ok())
        .unwrap_or(0)
    }
}

/// The advisory lock that stands for a user. Two users may share one, which costs a little waiting and nothing else; other
/// programs' advisory locks live in the same 64 bits, hence the salt.
fn lock_key(user: UserId) -> i64 {
    const SALT: u64 = 0x746f_6c6c_6761_7465; // "tollgate"
    let (high, low) = user.uuid().as_u64_pair();
    i64::from_ne_bytes((high ^ low.rotate_left(29) ^ SALT).to_ne_bytes())
}

/// The inbox rows of the entries that bring an event, each as it will stand unless the decision says otherwise.
#[derive(Default)]
pub(super) struct EventColumns<'a> {
    pub(super) places: Vec<i64>,
    pub(super) ids: Vec<&'a str>,
    pub(super) kinds: Vec<&'a str>,
    pub(super) object_ids: Vec<Option<&'a str>>,
    pub(super) created: Vec<Option<DateTime<Utc>>>,
    pub(super) livemodes: Vec<Option<bool>>,
    pub(super) api_versions: Vec<Option<&'a str>>,
    pub(super) hashes: Vec<Option<&'a [u8]>>,
    pub(super) users: Vec<Option<Uuid>>,
    pub(super) outcomes: Vec<&'a str>,
    pub(super) reasons: Vec<Option<&'a str>>,
    pub(super) payloads: Vec<Option<&'a str>>,
}

impl<'a> EventColumns<'a> {
    pub(super) fn push(&mut self, place: i64, entry: &'a Entry, event: &'a EventRecord) {
        let verdict = match entry {
            Entry::Change(_) => None,
            Entry::Note(note) => Some((note.verdict, note.user)),
        };
        // An ignored event keeps id and type only.
        let keep = !matches!(verdict, Some((Verdict::Ignored(_), _)));
        let (outcome, reason, payload) = match verdict {
            None => ("applied", None, None),
            Some((Verdict::Ignored(reason), _)) => ("ignored", Some(reason.as_str()), None),
            Some((Verdict::Parked(reason), _)) => ("parked", Some(reason.as_str()), text(event)),
        };
        let user = entry.user().or(verdict.and_then(|(_, user)| user));
        self.places.push(place);
        self.ids.push(event.id.as_str());
        self.kinds.push(&event.kind);
        self.object_ids.push(event.object_id.as_deref().filter(|_| keep));
        self.created.push(keep.then_some(event.created));
        self.livemodes.push(keep.then_some(event.livemode));
        self.api_versions.push(event.api_version.as_deref().filter(|_| keep));
        self.hashes.push(keep.then_some(event.object_hash.as_slice()));
        self.users.push(user.map(UserId::uuid).filter(|_| keep));
        self.outcomes.push(outcome);
        self.reasons.push(reason);
        self.payloads.push(payload);
    }
}

/// The raw body as the inbox keeps it. JSON is UTF-8 (RFC 8259, 8.1), and intake has parsed it.
pub(super) fn text(event: &EventRecord) -> Option<&str> {
    std::str::from_utf8(&event.payload).ok()
}

/// Whether an entry tries an event again that waits in the inbox.
pub(super) const fn is_retry(entry: &Entry) -> bool {
    matches!(entry, Entry::Change(change) if matches!(change.cause, Cause::Retry(_)))
}

/// A user's rows, read under the lock.
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
}

/// Sorts rows to the users they are of.
pub(super) fn load(users: usize, rows: Vec<AccountRow>) -> Vec<Loaded> {
    let mut loaded: Vec<Loaded> = std::iter::repeat_with(Loaded::default).take(users).collect();
    for row in rows {
        let (
            place,
            now,
            exists,
            level,
            expires_at,
            version,
            kind,
            id,
            grant_level,
            status,
            period_end,
            reported_at,
            ..,
        ) = &row;
        let Some(user) = usize::try_from(*place - 1).ok().and_then(|place| loaded.get_mut(place)) else { continue };
        user.exists = *exists;
        user.now = *now;
        if let (Some(level), Some(version)) = (level, version) {
            user.account.entitlement = entitlement(level, *expires_at, *version);
        }
        if let (Some(kind), Some(id), Some(level), Some(status), Some(period_end), Some(reported_at)) =
            (kind, id, grant_level, status, period_end, reported_at)
            && let Some(mut grant) = grant(kind, id, level, status, *period_end, *reported_at)
        {
            let (.., event, session, payment_intent, customer) = row;
            grant.event = event.and_then(|id| EventId::parse(&id).ok());
            grant.session = session.and_then(|id| SessionId::parse(&id).ok());
            grant.payment_intent = payment_intent.and_then(|id| PaymentIntentId::parse(&id).ok());
            grant.customer = customer.and_then(|id| CustomerId::parse(&id).ok());
            user.account.grants.push(grant);
        }
    }
    loaded
}

/// A state as the ledger keeps it. A level that cannot be read is served as `FREE`, never as something better.
pub(super) fn entitlement(level: &str, expires_at: Option<DateTime<Utc>>, version: i64) -> Entitlement {
    Entitlement {
        level: Level::parse(level).unwrap_or_else(|_| Level::free()),
        expires_at,
        version: u64::try_from(version).unwrap_or(0),
    }
}

fn grant(
    kind: &str,
    id: &str,
    level: &str,
    status: &str,
    period_end: DateTime<Utc>,
    reported_at: DateTime<Utc>,
) -> Option<Grant> {
    Some(Grant {
        source: Source { kind: SourceKind::from_word(kind)?, id: id.into() },
        level: Level::parse(level).ok()?,
        status: GrantStatus::from_word(status)?,
        period_end,
        reported_at,
        event: None,
        session: None,
        payment_intent: None,
        customer: None,
    })
}

/// Grants and states to be written.
#[derive(Default)]
pub(super) struct WriteColumns<'a> {
    pub(super) new_users: Vec<Uuid>,
    pub(super) grant_users: Vec<Uuid>,
    pub(super) levels: Vec<&'a str>,
    pub(super) events: Vec<Option<&'a str>>,
    pub(super) source_kinds: Vec<&'a str>,
    pub(super) source_ids: Vec<&'a str>,
    pub(super) statuses: Vec<&'a str>,
    pub(super) period_ends: Vec<DateTime<Utc>>,
    pub(super) reported_ats: Vec<DateTime<Utc>>,
    pub(super) sessions: Vec<Option<&'a str>>,
    pub(super) payment_intents: Vec<Option<&'a str>>,
    pub(super) customers: Vec<Option<&'a str>>,
    pub(super) state_users: Vec<Uuid>,
    pub(super) state_levels: Vec<&'a str>,
    pub(super) state_ends: Vec<Option<DateTime<Utc>>>,
    pub(super) state_versions: Vec<i64>,
    pub(super) expired_sessions: Vec<&'a str>,
}

impl<'a> WriteColumns<'a> {
    pub(super) fn push(&mut self, user: Uuid, loaded: &'a Loaded) {
        if !loaded.changed {
            return;
        }
        if !loaded.exists {
            self.new_users.push(user);
        }
        let entitlement = &loaded.account.entitlement;
        self.state_users.push(user);
        self.state_levels.push(entitlement.level.as_str());
        self.state_ends.push(entitlement.expires_at);
        self.state_versions.push(i64::try_from(entitlement.version).unwrap_or(i64::MAX));
        for grant in loaded.touched.iter().filter_map(|place| loaded.account.grants.get(*place)) {
            self.grant_users.push(user);
            self.levels.push(grant.level.as_str());
            self.events.push(grant.event.as_ref().map(EventId::as_str));
            self.source_kinds.push(grant.source.kind.as_str());
            self.source_ids.push(&grant.source.id);
            self.statuses.push(grant.status.as_str());
            self.period_ends.push(grant.period_end);
            self.reported_ats.push(grant.reported_at);
            self.sessions.push(grant.session.as_ref().map(SessionId::as_str));
            self.payment_intents.push(grant.payment_intent.as_ref().map(PaymentIntentId::as_str));
            self.customers.push(grant.customer.as_ref().map(CustomerId::as_str));
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.state_users.is_empty()
    }
}
