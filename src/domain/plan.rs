//! The catalogue: which levels exist, how they rank, what is sold for them and for how long.

use std::sync::Arc;

use chrono::{DateTime, Days, Months, TimeDelta, Utc};

use super::level::Level;

/// How long a one-off purchase lasts where its plan says nothing.
const ONE_OFF_LASTS: TimeDelta = TimeDelta::days(365);

/// How often a subscription is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Every day.
    Day,
    /// Every week.
    Week,
    /// Every calendar month.
    Month,
    /// Every calendar year.
    Year,
}

impl Interval {
    /// The word Stripe and the catalogue use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// One interval after `start`; the end of the month is kept within the month (31 January → 28 February), as Stripe does
    /// (<https://docs.stripe.com/billing/subscriptions/billing-cycle>).
    #[must_use]
    pub fn after(self, start: DateTime<Utc>) -> DateTime<Utc> {
        let end = match self {
            Self::Day => start.checked_add_days(Days::new(1)),
            Self::Week => start.checked_add_days(Days::new(7)),
            Self::Month => start.checked_add_months(Months::new(1)),
            Self::Year => start.checked_add_months(Months::new(12)),
        };
        end.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// Whether a purchase is paid once or again and again: the `mode` of a Checkout Session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One payment.
    Payment,
    /// A subscription.
    Subscription,
}

/// What is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Price {
    /// A price kept at Stripe, `price_…`.
    Id(String),
    /// An amount given with each session.
    Inline {
        /// In the currency's smallest unit (cents).
        amount: i64,
        /// ISO 4217, lower case.
        currency: String,
    },
}

/// One level that is for sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is granted.
    pub level: Level,
    /// What the buyer reads on the pay page.
    pub name: String,
    /// Orders levels: a higher rank wins. Unique in a catalogue.
    pub rank: u32,
    /// Paid once or again and again.
    pub mode: Mode,
    /// What is charged.
    pub price: Price,
    /// How often, for a subscription.
    pub interval: Option<Interval>,
    /// Strings that an application may ask for.
    pub features: Vec<String>,
    /// How long after the end of a paid period access goes on while a renewal is expected.
    pub grace: TimeDelta,
    /// How long a one-off purchase lasts; 365 days where nothing is said.
    pub lasts: Option<TimeDelta>,
    /// Whether a user can have it only once, ever.
    pub once_per_user: bool,
}

impl Plan {
    /// When access bought at `paid_at` in a session of the given mode ends. A subscription gets one period and the grace:
    /// the subscription's own events refine it later.
    #[must_use]
    pub fn period_end(&self, mode: Mode, paid_at: DateTime<Utc>) -> DateTime<Utc> {
        let (end, more) = match mode {
            Mode::Payment => (paid_at, self.one_off_lasts()),
            Mode::Subscription => (self.interval.unwrap_or(Interval::Month).after(paid_at), self.grace),
        };
        end.checked_add_signed(more).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// How long one payment lasts.
    #[must_use]
    pub fn one_off_lasts(&self) -> TimeDelta {
        self.lasts.unwrap_or(ONE_OFF_LASTS)
    }
}

/// Why plans do not make a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// `FREE` is what everybody has.
    #[error("FREE is the level of everybody without a grant and cannot be sold: remove the plan")]
    FreeForSale,
    /// The same level twice.
    #[error("level {0} is sold by two plans: keep one")]
    LevelTwice(Level),
    /// Two levels of one rank could not be ordered.
    #[error("levels {0} and {1} have the same rank: give each its own, the better level the higher one")]
    RankTwice(Level, Level),
    /// Nothing to sell.
    #[error("no plan at all: add one, or remove the file to use the built-in plans")]
    Empty,
}

/// All plans, checked. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    plans: Arc<[Plan]>,
}

impl Catalogue {
    /// Checks the plans against each other.
    ///
    /// # Errors
    /// [`CatalogueError`] says which plan clashes with which.
    pub fn new(plans: Vec<Plan>) -> Result<Self, CatalogueError> {
        if plans.is_empty() {
            return Err(CatalogueError::Empty);
        }
        for (index, plan) in plans.iter().enumerate() {
            if plan.level.is_free() {
                return Err(CatalogueError::FreeForSale);
            }
            for other in plans.iter().take(index) {
                if other.level == plan.level {
                    return Err(CatalogueError::LevelTwice(plan.level.clone()));
                }
                if other.rank == plan.rank {
                    return Err(CatalogueError::RankTwice(other.level.clone(), plan.level.clone()));
                }
            }
        }
        Ok(Self { plans: plans.into() })
    }

    /// The plan that sells a level; `None` for `FREE` and for levels we do not know.
    #[must_use]
    pub fn plan(&self, level: &Level) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.level == *level)
    }

    /// All plans, in the file's order.
    #[must_use]
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The features of a level; none for `FREE`.
    #[must_use]
    pub fn features(&self, level: &Level) -> &[String] {
        self.plan(level).map_or(&[], |plan| &plan.features)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The built-in catalogue's shape, plus a level above it.
    pub(crate) fn catalogue() -> Catalogue {
        let plan = |level: &str, rank, mode, lasts, once_per_user| Plan {
            level: Level::parse(level).unwrap(),
            name: level.into(),
            rank,
            mode,
            price: Price::Inline { amount: 2900, currency: "usd".into() },
            interval: (mode == Mode::Subscription).then_some(Interval::Month),
            features: vec![],
            grace: if mode == Mode::Subscription { TimeDelta::days(3) } else { TimeDelta::zero() },
            lasts,
            once_per_user,
        };
        Catalogue::new(vec![
            plan("TRIAL", 10, Mode::Payment, Some(TimeDelta::days(7)), true),
            plan("PRO", 20, Mode::Subscription, None, false),
            plan("TEAM", 30, Mode::Payment, None, false),
        ])
        .unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_subscription_grants_one_period_and_the_grace() {
        let catalogue = catalogue();
        let pro = catalogue.plan(&Level::parse("PRO").unwrap()).unwrap();
        assert_eq!(pro.period_end(Mode::Subscription, at("2026-01-31T10:00:00Z")), at("2026-03-03T10:00:00Z"));
        assert_eq!(pro.period_end(Mode::Payment, at("2026-01-31T10:00:00Z")), at("2027-01-31T10:00:00Z"));
        let trial = catalogue.plan(&Level::parse("TRIAL").unwrap()).unwrap();
        assert_eq!(trial.period_end(Mode::Payment, at("2026-01-31T10:00:00Z")), at("2026-02-07T10:00:00Z"));
    }

    #[test]
    fn clashing_plans_are_refused() {
        let plans = catalogue().plans().to_vec();
        let mut twice = plans.clone();
        twice.push(plans[0].clone());
        assert_eq!(Catalogue::new(twice), Err(CatalogueError::LevelTwice(plans[0].level.clone())));
        let mut same_rank = plans.clone();
        same_rank[1].rank = 10;
        assert!(matches!(Catalogue::new(same_rank), Err(CatalogueError::RankTwice(..))));
        let mut free = plans;
        free[0].level = Level::free();
        assert_eq!(Catalogue::new(free), Err(CatalogueError::FreeForSale));
        assert_eq!(Catalogue::new(vec![]), Err(CatalogueError::Empty));
    }
}
