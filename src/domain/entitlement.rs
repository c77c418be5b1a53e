//! The fold: from the *set* of a user's grants to what the user may do now. The only place that knows how.

use chrono::{DateTime, Utc};

use super::{grant::Grant, level::Level, plan::Catalogue};

/// What a user may do, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    /// `FREE` without a live grant.
    pub level: Level,
    /// When the level ends; `None` for `FREE`.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many were bought of what gives the level, at least 1; 1 for `FREE`.
    pub quantity: u32,
    /// Grows by one with every change applied for this user; 0 before the first. Orders all copies of this state.
    pub version: u64,
}

impl Entitlement {
    /// Nobody has granted anything yet.
    #[must_use]
    pub fn none() -> Self {
        Self { level: Level::free(), expires_at: None, quantity: 1, version: 0 }
    }

    /// Whether the level's time is over at `now`: such a state must not be served any more.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// Folds grants into level, end and quantity: those of the live grant with the highest rank, then the latest end, then the greatest
/// quantity. Quantities are never summed: two subscriptions are no bigger one. A `once_per_user` level counts only by its earliest
/// purchase, or where a person gave it. Independent of the grants' order.
#[must_use]
pub fn fold(grants: &[Grant], catalogue: &Catalogue, now: DateTime<Utc>) -> (Level, Option<DateTime<Utc>>, u32) {
    grants
        .iter()
        .filter(|grant| grant.is_live(now))
        .filter_map(|grant| catalogue.plan(&grant.level).map(|plan| (plan, grant)))
        .filter(|(plan, grant)| !plan.once_per_user || grant.is_by_hand() || is_first_of_its_level(grant, grants))
        .max_by_key(|(plan, grant)| (plan.rank, grant.period_end, grant.quantity()))
        .map_or_else(
            || (Level::free(), None, 1),
            |(_, grant)| (grant.level.clone(), Some(grant.period_end), grant.quantity()),
        )
}

/// Whether no other paid purchase of the same level came earlier, by Stripe's times, then by business key.
fn is_first_of_its_level(grant: &Grant, grants: &[Grant]) -> bool {
    grants
        .iter()
        .filter(|other| other.level == grant.level && other.was_paid())
        .all(|other| (grant.began_at(), &grant.source) <= (other.began_at(), &other.source))
}
