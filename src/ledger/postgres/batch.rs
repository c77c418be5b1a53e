//! Entries and accounts as columns: what the hot statements take.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::{
    Entry, LedgerError,
    account::{Loaded, facts, quantity, snapshots, standing, version},
    batch::{EventRow, lock_key},
    reach::{Reaches, purchase_of, report_of, subscription_of},
};
use crate::domain::{
    event::EventRecord,
    id::{CustomerId, EventId, ObjectId, PaymentIntentId, SessionId},
    money::Objects,
};

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
    pub(super) fn push(&mut self, place: i64, entry: &'a Entry, event: &'a EventRecord, reached: Option<Uuid>) {
        let row = EventRow::of(entry, event, reached);
        self.places.push(place);
        self.ids.push(row.id);
        self.kinds.push(row.kind);
        self.object_ids.push(row.object_id);
        self.created.push(row.created);
        self.livemodes.push(row.livemode);
        self.api_versions.push(row.api_version);
        self.hashes.push(row.object_hash);
        self.users.push(row.user);
        self.outcomes.push(row.outcome);
        self.reasons.push(row.reason);
        self.payloads.push(row.payload);
    }
}

/// The locks of a batch, sorted by key: with the place of the entry (from 1) that needs it, and whether it may be shared.
#[derive(Default)]
pub(super) struct LockColumns {
    pub(super) places: Vec<i64>,
    pub(super) keys: Vec<i64>,
    pub(super) shared: Vec<bool>,
}

impl LockColumns {
    /// A change locks its user, and of a purchase what ties it to money; users of one customer do not exclude each other. A report locks all
    /// that it reaches. Everybody who waits, waits in the order of the keys.
    pub(super) fn of(entries: &[&Entry], reaches: &Reaches) -> Self {
        let mut locks: Vec<(i64, bool, i64)> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let place = place(index);
            locks.extend(entry.user().map(|user| (lock_key(user), false, place)));
            if let Some(grant) = purchase_of(entry) {
                let payment = grant.payment_intent.as_ref().map(PaymentIntentId::as_str);
                let exclusive = subscription_of(grant).into_iter().chain(payment);
                locks.extend(exclusive.map(|id| (object_key(id), false, place)));
                locks.extend(grant.customer.iter().map(|id| (object_key(id.as_str()), true, place)));
            }
            if let Some(reach) = reaches.get(index) {
                locks.extend(reach.objects.iter().map(|id| (object_key(id), false, place)));
                locks.extend(reach.users.iter().map(|user| (lock_key((*user).into()), false, place)));
            }
        }
        locks.sort_unstable();
        locks.dedup();
        let mut columns = Self::default();
        for (key, shared, place) in locks {
            columns.keys.push(key);
            columns.shared.push(shared);
            columns.places.push(place);
        }
        columns
    }
}

/// Where an entry stands in its batch, as SQL counts.
fn place(index: usize) -> i64 {
    i64::try_from(index + 1).unwrap_or(i64::MAX)
}

/// The place under which an entry's rows go; 0 if it needs no lock.
pub(super) fn held_place(entry: &Entry, index: usize) -> i64 {
    if matches!(entry, Entry::Note(_)) { 0 } else { place(index) }
}

/// The advisory lock that stands for one of Stripe's objects: FNV-1a, which all replicas of all versions work out alike. Two objects may share
/// one, or one with a user, which costs a little waiting.
fn object_key(id: &str) -> i64 {
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    i64::from_ne_bytes(hash.to_ne_bytes())
}

/// What reports name, with their places.
pub(super) fn names<'a>(entries: &[&'a Entry]) -> (Vec<i64>, Vec<&'a str>) {
    let reports = entries.iter().enumerate().filter_map(|(index, entry)| Some((place(index), report_of(entry)?)));
    reports.flat_map(|(place, report)| report.names().into_iter().map(move |name| (place, name.as_str()))).unzip()
}

/// Objects to be written.
#[derive(Default)]
pub(super) struct ObjectColumns<'a> {
    pub(super) ids: Vec<&'a str>,
    pub(super) parents: Vec<Option<&'a str>>,
    pub(super) period_ends: Vec<Option<DateTime<Utc>>>,
    pub(super) facts: Vec<String>,
}

impl<'a> ObjectColumns<'a> {
    pub(super) fn of(money: &'a Objects) -> Result<Self, LedgerError> {
        let mut columns = Self::default();
        for (id, object) in money.learnt() {
            columns.ids.push(id.as_str());
            columns.parents.push(object.parent.as_ref().map(ObjectId::as_str));
            columns.period_ends.push(object.period_end);
            columns.facts.push(facts(object)?);
        }
        Ok(columns)
    }
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
    pub(super) reported_statuses: Vec<Option<&'a str>>,
    pub(super) period_ends: Vec<DateTime<Utc>>,
    pub(super) reported_ats: Vec<DateTime<Utc>>,
    pub(super) sessions: Vec<Option<&'a str>>,
    pub(super) payment_intents: Vec<Option<&'a str>>,
    pub(super) customers: Vec<Option<&'a str>>,
    pub(super) snapshots: Vec<Option<String>>,
    pub(super) state_users: Vec<Uuid>,
    pub(super) state_levels: Vec<&'a str>,
    pub(super) state_ends: Vec<Option<DateTime<Utc>>>,
    pub(super) state_versions: Vec<i64>,
    pub(super) state_quantities: Vec<i32>,
    pub(super) past_users: Vec<Uuid>,
    pub(super) past_versions: Vec<i64>,
    pub(super) past_levels: Vec<&'a str>,
    pub(super) past_ends: Vec<Option<DateTime<Utc>>>,
    pub(super) past_quantities: Vec<i32>,
    pub(super) past_causes: Vec<&'a str>,
    pub(super) past_events: Vec<Option<&'a str>>,
    pub(super) past_operators: Vec<Option<&'a str>>,
    pub(super) past_reasons: Vec<Option<&'a str>>,
    pub(super) past_sources: Vec<Option<String>>,
    pub(super) expired_sessions: Vec<&'a str>,
}

impl<'a> WriteColumns<'a> {
    pub(super) fn push(&mut self, user: Uuid, loaded: &'a Loaded) -> Result<(), LedgerError> {
        if !loaded.changed {
            return Ok(());
        }
        if !loaded.exists {
            self.new_users.push(user);
        }
        let entitlement = &loaded.account.entitlement;
        self.state_users.push(user);
        self.state_levels.push(entitlement.level.as_str());
        self.state_ends.push(entitlement.expires_at);
        self.state_versions.push(version(entitlement));
        self.state_quantities.push(quantity(entitlement));
        for row in &loaded.history {
            self.past_users.push(user);
            self.past_versions.push(version(&row.entitlement));
            self.past_levels.push(row.entitlement.level.as_str());
            self.past_ends.push(row.entitlement.expires_at);
            self.past_quantities.push(quantity(&row.entitlement));
            self.past_causes.push(row.cause);
            self.past_events.push(row.event.as_ref().map(EventId::as_str));
            self.past_operators.push(row.operator());
            self.past_reasons.push(row.reason());
            self.past_sources.push(row.source.as_ref().map(ToString::to_string));
        }
        for grant in loaded.touched_grants() {
            self.grant_users.push(user);
            self.levels.push(grant.level.as_str());
            self.events.push(grant.event.as_ref().map(EventId::as_str));
            self.source_kinds.push(grant.source.kind.as_str());
            self.source_ids.push(&grant.source.id);
            let (standing, reported) = standing(grant);
            self.statuses.push(standing);
            self.reported_statuses.push(reported);
            self.period_ends.push(grant.period_end);
            self.reported_ats.push(grant.reported_at);
            self.sessions.push(grant.session.as_ref().map(SessionId::as_str));
            self.payment_intents.push(grant.payment_intent.as_ref().map(PaymentIntentId::as_str));
            self.customers.push(grant.customer.as_ref().map(CustomerId::as_str));
            self.snapshots.push(snapshots(grant)?);
        }
        Ok(())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.state_users.is_empty()
    }
}
