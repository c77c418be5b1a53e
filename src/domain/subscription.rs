//! A subscription as its events show it: which of several snapshots holds, and what it gives.
//!
//! Stripe's times are whole seconds, and events of one second are normal for a new subscription. So what is kept is the *set* of the
//! newest second's snapshots, and which of them is the latest is worked out of the set: the order of arrival has no say.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{grant::GrantStatus, known_word, level::Level};

/// Stripe's word for how a subscription stands. The order is that of richness: of two states of which nobody knows which is later,
/// the greater one is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    /// The first payment never came. For ever.
    IncompleteExpired,
    /// Ended. For ever.
    Canceled,
    /// The first payment has not come yet.
    Incomplete,
    /// A trial ended without a means of payment, or somebody paused it.
    Paused,
    /// Renewals failed until Stripe gave up.
    Unpaid,
    /// A renewal has not been paid yet.
    PastDue,
    /// Not paid yet by agreement.
    Trialing,
    /// Paid.
    Active,
}

impl SubscriptionStatus {
    /// Reads Stripe's word; `None` for one that did not exist when this was written.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        known_word(word)
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::IncompleteExpired | Self::Canceled)
    }

    /// Whether it gives a level: then the level must be known.
    #[must_use]
    pub const fn gives(self) -> bool {
        matches!(self, Self::PastDue | Self::Trialing | Self::Active)
    }

    /// Whether it was paid for, or was a trial, whatever became of it.
    #[must_use]
    pub const fn was_paid(self) -> bool {
        !matches!(self, Self::Incomplete | Self::IncompleteExpired)
    }

    const fn grant_status(self) -> GrantStatus {
        match self {
            Self::IncompleteExpired | Self::Canceled => GrantStatus::Revoked,
            Self::Incomplete => GrantStatus::Pending,
            Self::Paused | Self::Unpaid => GrantStatus::Suspended,
            Self::PastDue | Self::Trialing | Self::Active => GrantStatus::Active,
        }
    }
}

/// What decides when a subscription's access ends. The period is that of the item that gives the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How it stands.
    pub status: SubscriptionStatus,
    /// When the current period began, paid or not.
    pub period_start: Option<DateTime<Utc>>,
    /// When the current period ends.
    pub period_end: Option<DateTime<Utc>>,
    /// When the trial ends or ended.
    pub trial_end: Option<DateTime<Utc>>,
    /// When it is going to be cancelled.
    pub cancel_at: Option<DateTime<Utc>>,
    /// Whether it is going to be cancelled at the end of its period.
    pub cancels_at_period_end: bool,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Terms {
    /// When access ends, or ended; `None` if the times that say so are missing.
    ///
    /// The grace is for a renewal that is expected: a scheduled cancel ends exactly. Stripe moves the period on *before* it is paid,
    /// so what is past due counts from its start, and never beyond its end.
    #[must_use]
    pub fn ends_at(&self, grace: TimeDelta) -> Option<DateTime<Utc>> {
        if !self.status.gives() {
            return self.ended_at.or(self.period_end);
        }
        let trial_end = self.trial_end.filter(|_| self.status == SubscriptionStatus::Trialing);
        let period_end = trial_end.or(self.period_end)?;
        let with_grace = |time: DateTime<Utc>| time.checked_add_signed(grace).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let end = match self.status {
            SubscriptionStatus::PastDue => with_grace(self.period_start?).min(period_end),
            _ => with_grace(period_end),
        };
        let cancel = self.cancel_at.or(self.cancels_at_period_end.then_some(period_end));
        Some(cancel.map_or(end, |cancel| cancel.min(end)))
    }
}

/// Attributes of a subscription by name, each value as JSON text: enough to tell which of two snapshots came first.
pub type Attributes = BTreeMap<String, String>;

/// A subscription at the moment of one event. The order is that of richness.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Snapshot {
    /// How it stood.
    pub status: SubscriptionStatus,
    /// When access ends by what was known then.
    pub ends_at: DateTime<Utc>,
    /// The level; `None` where it was not known and did not matter, since nothing was given.
    pub level: Option<Level>,
    /// Stripe's time of the event, in whole seconds.
    pub created: DateTime<Utc>,
    /// When the subscription began.
    pub started_at: DateTime<Utc>,
    /// How it was.
    pub values: Attributes,
    /// What of it the event changed, as it was before.
    pub before: Attributes,
    /// How many were bought of the item that gives the level; absent where the event did not say, and in what was kept before this was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<u32>,
    /// When Stripe gave it, by Stripe's clock, if it was asked: `created` is then that of the newest event known before the question, whose
    /// second it is the last word of. Absent in what events say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<DateTime<Utc>>,
}

impl Snapshot {
    /// What the ledger keeps as the grant's status.
    #[must_use]
    pub const fn grant_status(&self) -> GrantStatus {
        self.status.grant_status()
    }

    /// How many were bought, at least 1.
    #[must_use]
    pub fn quantity(&self) -> u32 {
        self.quantity.unwrap_or(1).max(1)
    }

    /// Whether this may be what the other one became: it says that what it changed had been as the other has it.
    fn follows(&self, other: &Self) -> bool {
        !self.before.is_empty() && self.before.iter().all(|(name, value)| other.values.get(name) == Some(value))
    }

    /// A terminal state is for ever; else the newer one holds, and of one second what was asked for, the newer answer first.
    const fn precedence(&self) -> (bool, DateTime<Utc>, Option<DateTime<Utc>>) {
        (self.status.is_terminal(), self.created, self.fetched_at)
    }

    fn effect(&self) -> (GrantStatus, DateTime<Utc>, Option<&Level>, u32) {
        (self.grant_status(), self.ends_at, self.level.as_ref(), self.quantity())
    }
}

/// Snapshots of one second that are kept at most, the richest ones.
const SAME_SECOND_MAX: usize = 8;

/// What is known of a subscription: all snapshots of the newest second, mostly one. Without any there is only what its checkout said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshots(Vec<Snapshot>);

impl From<Snapshot> for Snapshots {
    fn from(snapshot: Snapshot) -> Self {
        Self(vec![snapshot])
    }
}

impl Snapshots {
    /// Whether no event of the subscription's own was seen yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one that holds: which no other one follows; of several, the richest.
    #[must_use]
    pub fn latest(&self) -> Option<&Snapshot> {
        self.last_ones().into_iter().max()
    }

    /// Whether nobody can tell from the events alone which of several different states is the latest.
    #[must_use]
    pub fn is_tied(&self) -> bool {
        let last = self.last_ones();
        last.iter().any(|one| last.first().is_some_and(|first| one.effect() != first.effect()))
    }

    /// Those that no other one follows; all, if they go round in a circle.
    fn last_ones(&self) -> Vec<&Snapshot> {
        let is_followed = |one: &Snapshot| self.0.iter().any(|other| other.follows(one) && !one.follows(other));
        let last: Vec<&Snapshot> = self.0.iter().filter(|one| !is_followed(one)).collect();
        if last.is_empty() { self.0.iter().collect() } else { last }
    }

    /// Joins what others saw. The union of sets of which only the greatest members are kept: associative, commutative and idempotent.
    pub(super) fn join(&mut self, other: &Self) {
        for snapshot in &other.0 {
            let known = self.0.first().map(Snapshot::precedence);
            if known < Some(snapshot.precedence()) {
                self.0 = vec![snapshot.clone()];
            } else if known == Some(snapshot.precedence()) && !self.0.contains(snapshot) {
                self.0.push(snapshot.clone());
                self.0.sort_unstable_by(|one, other| other.cmp(one));
                self.0.truncate(SAME_SECOND_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests;
