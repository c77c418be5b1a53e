//! How a user's entitlement came to be what it is: one row for each applied change that changed what the user may do, or that a person
//! made. Facts that changed nothing leave none: a million of them would hide the ten that matter.

use chrono::{DateTime, Utc};

use crate::domain::{
    by_hand::Remark,
    change::{Account, Cause},
    entitlement::Entitlement,
    grant::Source,
    id::EventId,
};

/// One change of what a user may do, and whose doing it was. Texts, since rows of a newer version may hold other words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The version that began with it.
    pub version: u64,
    /// The level since then.
    pub level: String,
    /// When that was to end; `None` for `FREE`.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many were bought.
    pub quantity: u32,
    /// When it happened, by the database's clock.
    pub changed_at: DateTime<Utc>,
    /// `delivery`, `retry`, `fetched`, `operator` or `time`.
    pub cause: String,
    /// The event that did it.
    pub event: Option<String>,
    /// The person who did it.
    pub operator: Option<String>,
    /// Why the person did it.
    pub reason: Option<String>,
    /// The grant that it gave, changed or took, such as `manual:7f6a3e2c-…`.
    pub source: Option<String>,
}

/// What is to be written.
pub(super) struct HistoryRow {
    pub(super) entitlement: Entitlement,
    pub(super) cause: &'static str,
    pub(super) event: Option<EventId>,
    pub(super) source: Option<Source>,
    remark: Option<Remark>,
}

impl HistoryRow {
    /// What there is to remember of a change that was applied and touched these grants; none if it changed nothing that anybody could
    /// notice. Of several grants, as of a customer who was deleted, the one is named that gave what the user had, or gives it now.
    pub(super) fn of(cause: &Cause, before: &Entitlement, after: &Account, grants: &[usize]) -> Option<Self> {
        let entitlement = &after.entitlement;
        let remark = match cause {
            Cause::Operator(remark) => Some(remark.clone()),
            Cause::Delivery(_) | Cause::Retry(_) | Cause::Fetched | Cause::Time => None,
        };
        let is_as_before = entitlement.level == before.level
            && entitlement.expires_at == before.expires_at
            && entitlement.quantity == before.quantity;
        if is_as_before && remark.is_none() {
            return None;
        }
        let touched = || grants.iter().filter_map(|place| after.grants.get(*place));
        let giver = |state: &Entitlement| {
            touched().find(|grant| grant.level == state.level && Some(grant.period_end) == state.expires_at)
        };
        let grant = giver(before).or_else(|| giver(entitlement)).or_else(|| touched().next_back());
        Some(Self {
            entitlement: entitlement.clone(),
            cause: cause.as_str(),
            event: cause.event().map(|event| event.id.clone()),
            source: grant.map(|grant| grant.source.clone()),
            remark,
        })
    }

    pub(super) fn operator(&self) -> Option<&str> {
        self.remark.as_ref().map(|remark| remark.operator.as_str())
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.remark.as_ref().map(|remark| remark.reason.as_str())
    }
}

/// A row as both databases give it: version, level, end, quantity, moment, cause, event, operator, reason, source.
pub(super) type Columns<Moment> =
    (i64, String, Option<Moment>, i32, Moment, String, Option<String>, Option<String>, Option<String>, Option<String>);

/// Reads a row.
pub(super) fn entry<Moment>(columns: Columns<Moment>, moment: impl Fn(Moment) -> DateTime<Utc>) -> HistoryEntry {
    let (version, level, expires_at, quantity, changed_at, cause, event, operator, reason, source) = columns;
    HistoryEntry {
        version: u64::try_from(version).unwrap_or(0),
        level,
        expires_at: expires_at.map(&moment),
        quantity: u32::try_from(quantity).unwrap_or(1),
        changed_at: moment(changed_at),
        cause,
        event,
        operator,
        reason,
        source,
    }
}

/// The first version that is not asked for, as the ledger keeps versions.
pub(super) fn bound(before: Option<u64>) -> i64 {
    before.and_then(|version| i64::try_from(version).ok()).unwrap_or(i64::MAX)
}
