//! Entries and accounts as columns: what the hot statements take.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::{
    Entry, LedgerError,
    account::{Loaded, quantity, snapshots, version},
    batch::EventRow,
};
use crate::domain::{
    event::EventRecord,
    id::{CustomerId, EventId, PaymentIntentId, SessionId},
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
    pub(super) fn push(&mut self, place: i64, entry: &'a Entry, event: &'a EventRecord) {
        let row = EventRow::of(entry, event);
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
            self.statuses.push(grant.status.as_str());
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
