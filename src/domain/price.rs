//! What a plan costs: how much, how often, and which subscription item is one of our prices.

use chrono::{DateTime, Days, Months, Utc};

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
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Year];

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

    /// Reads [`Self::as_str`]'s words, exactly.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|interval| interval.as_str() == word)
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

/// What is charged each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Charge {
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

/// One way to pay for a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// How much.
    pub charge: Charge,
    /// How often, for a subscription.
    pub interval: Option<Interval>,
}

impl Price {
    /// Whether it is the one kept at Stripe under this id.
    #[must_use]
    pub fn has_id(&self, id: &str) -> bool {
        matches!(&self.charge, Charge::Id(own) if own == id)
    }

    /// Whether an item that was sold at a price made for its session was sold at this one.
    fn is_inline_of(&self, item: &ItemPrice<'_>) -> bool {
        match &self.charge {
            Charge::Id(_) => false,
            Charge::Inline { amount, currency } => {
                item.amount == Some(*amount)
                    && item.currency.is_some_and(|other| other.eq_ignore_ascii_case(currency))
                    && item.interval == self.interval
            }
        }
    }
}

/// The price of a subscription's item, as Stripe tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ItemPrice<'a> {
    /// `price_…`
    pub id: Option<&'a str>,
    /// Of one, in the currency's smallest unit.
    pub amount: Option<i64>,
    /// ISO 4217.
    pub currency: Option<&'a str>,
    /// How often; `None` also for what no plan is sold by, such as every three months.
    pub interval: Option<Interval>,
}

impl ItemPrice<'_> {
    /// Whether the item was sold at this price.
    pub(super) fn is(&self, price: &Price) -> bool {
        self.id.is_some_and(|id| price.has_id(id)) || price.is_inline_of(self)
    }
}
