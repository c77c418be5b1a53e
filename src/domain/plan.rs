//! The catalogue: which levels exist, how they rank, what is sold for them and for how long.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::level::Level;
pub use super::price::{Charge, Interval, ItemPrice, Price};

/// How long a one-off purchase lasts where its plan says nothing.
const ONE_OFF_LASTS: TimeDelta = TimeDelta::days(365);

/// Whether a purchase is paid once or again and again: the `mode` of a Checkout Session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One payment.
    Payment,
    /// A subscription.
    Subscription,
}

/// How many of a plan a buyer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    /// At least; also what the page begins with.
    pub min: u32,
    /// At most.
    pub max: u32,
}

/// What Stripe's page asks the buyer, and offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckoutOptions {
    /// Whether promotion codes are taken.
    pub promotion_codes: bool,
    /// How many may be bought; one where nothing is said.
    pub quantity: Option<Quantity>,
    /// Whether Stripe works out the tax.
    pub tax: bool,
    /// Whether a billing address is asked for in any case.
    pub billing_address: bool,
    /// Whether a business may give its tax id.
    pub tax_id_collection: bool,
    /// Days that a subscription is free before it is first paid, for who has not had the level.
    pub trial_days: Option<u16>,
}

/// What a subscription was sold on, as its session says. What it does not say is as the plan is sold by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// How often it is paid.
    pub interval: Option<Interval>,
    /// Days before it is first paid.
    pub trial_days: Option<u16>,
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
    /// What is charged where nothing else is asked for.
    pub price: Price,
    /// What may be asked for instead, each with an interval of its own.
    pub other_prices: Vec<Price>,
    /// What is sold no longer, and still paid by whoever subscribed at it.
    pub former_prices: Vec<Price>,
    /// Strings that an application may ask for.
    pub features: Vec<String>,
    /// How long after the end of a paid period access goes on while a renewal is expected.
    pub grace: TimeDelta,
    /// How long a one-off purchase lasts; 365 days where nothing is said.
    pub lasts: Option<TimeDelta>,
    /// Whether a user can have it only once, ever.
    pub once_per_user: bool,
    /// What the pay page asks and offers.
    pub checkout: CheckoutOptions,
}

impl Plan {
    /// All prices that are sold, the default one first.
    pub fn prices(&self) -> impl Iterator<Item = &Price> {
        std::iter::once(&self.price).chain(&self.other_prices)
    }

    /// All prices that somebody may pay.
    fn paid_prices(&self) -> impl Iterator<Item = &Price> {
        self.prices().chain(&self.former_prices)
    }

    /// The price paid that often; the default one where nothing is asked for.
    #[must_use]
    pub fn price_by(&self, interval: Option<Interval>) -> Option<&Price> {
        self.prices().find(|price| interval.is_none() || price.interval == interval)
    }

    /// When access bought at `paid_at` in a session of the given mode ends. A subscription gets its first period, or its
    /// trial, and the grace: the subscription's own events refine it later.
    #[must_use]
    pub fn period_end(&self, mode: Mode, terms: Terms, paid_at: DateTime<Utc>) -> DateTime<Utc> {
        let (end, more) = match (mode, terms.trial_days) {
            (Mode::Payment, _) => (paid_at, self.one_off_lasts()),
            (Mode::Subscription, Some(days)) => (paid_at, TimeDelta::days(days.into()) + self.grace),
            (Mode::Subscription, None) => {
                let interval = terms.interval.or(self.price.interval).unwrap_or(Interval::Month);
                (interval.after(paid_at), self.grace)
            }
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
    /// A subscription item at that price would be of two levels.
    #[error("plans {0} and {1} have the same price id {2}: give each its own")]
    PriceTwice(Level, Level, String),
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
                if let Some(id) = shared_price(other, plan) {
                    return Err(CatalogueError::PriceTwice(other.level.clone(), plan.level.clone(), id.to_owned()));
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

    /// The plan that sells at a price kept at Stripe.
    #[must_use]
    pub fn plan_of_price(&self, id: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.paid_prices().any(|price| price.has_id(id)))
    }

    /// The plan that a subscription's item is of: by its price's id, or else the one of the level that the subscription's
    /// metadata names, if one of its inline prices is the item's: an inline price gets a new id in every session.
    #[must_use]
    pub fn plan_of_item(&self, item: &ItemPrice<'_>, named: Option<&Level>) -> Option<&Plan> {
        item.id
            .and_then(|id| self.plan_of_price(id))
            .or_else(|| self.plan(named?).filter(|plan| plan.paid_prices().any(|price| item.is(price))))
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

    /// Whether anything is sold at a price kept at Stripe.
    #[must_use]
    pub fn has_prices_at_stripe(&self) -> bool {
        self.plans.iter().flat_map(Plan::prices).any(|price| matches!(price.charge, Charge::Id(_)))
    }

    /// Whether any plan has the feature.
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.plans.iter().any(|plan| plan.features.iter().any(|own| own == feature))
    }
}

/// The price id that two plans have in common.
fn shared_price<'a>(one: &'a Plan, other: &Plan) -> Option<&'a str> {
    let ids = one.paid_prices().filter_map(|price| match &price.charge {
        Charge::Id(id) => Some(id.as_str()),
        Charge::Inline { .. } => None,
    });
    ids.into_iter().find(|id| other.paid_prices().any(|price| price.has_id(id)))
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
            price: Price {
                charge: Charge::Inline { amount: 2900, currency: "usd".into() },
                interval: (mode == Mode::Subscription).then_some(Interval::Month),
            },
            other_prices: vec![],
            former_prices: vec![],
            features: vec![],
            grace: if mode == Mode::Subscription { TimeDelta::days(3) } else { TimeDelta::zero() },
            lasts,
            once_per_user,
            checkout: CheckoutOptions::default(),
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
        let trial = catalogue.plan(&Level::parse("TRIAL").unwrap()).unwrap();
        let default = Terms::default();
        let yearly = Terms { interval: Some(Interval::Year), ..default };
        let fortnight = Terms { trial_days: Some(14), ..yearly };
        for (plan, mode, terms, end) in [
            (pro, Mode::Subscription, default, "2026-03-03T10:00:00Z"),
            (pro, Mode::Subscription, yearly, "2027-02-03T10:00:00Z"),
            (pro, Mode::Subscription, fortnight, "2026-02-17T10:00:00Z"),
            (pro, Mode::Payment, fortnight, "2027-01-31T10:00:00Z"),
            (trial, Mode::Payment, default, "2026-02-07T10:00:00Z"),
        ] {
            assert_eq!(plan.period_end(mode, terms, at("2026-01-31T10:00:00Z")), at(end), "{mode:?} {terms:?}");
        }
    }

    #[test]
    fn an_item_is_of_the_plan_of_its_price_id_or_of_the_named_level_at_its_own_amount() {
        let mut plans = catalogue().plans().to_vec();
        plans[2].price = Price { charge: Charge::Id("price_team".into()), interval: Some(Interval::Month) };
        let yearly = Charge::Inline { amount: 29_000, currency: "usd".into() };
        plans[1].other_prices.push(Price { charge: yearly, interval: Some(Interval::Year) });
        let catalogue = Catalogue::new(plans).unwrap();
        assert_eq!(catalogue.plan_of_price("price_team").unwrap().level.as_str(), "TEAM");
        assert_eq!(catalogue.plan_of_price("price_other"), None);

        let level = |item: ItemPrice<'_>, named: Option<&str>| {
            let named = named.map(|level| Level::parse(level).unwrap());
            catalogue.plan_of_item(&item, named.as_ref()).map(|plan| plan.level.as_str().to_owned())
        };
        let by_id = ItemPrice { id: Some("price_team"), ..ItemPrice::default() };
        assert_eq!(level(by_id, Some("PRO")).as_deref(), Some("TEAM"), "what is paid decides, not what is said");
        let inline = |amount, currency, interval| ItemPrice {
            id: Some("price_of_one_session"),
            amount: Some(amount),
            currency: Some(currency),
            interval: Some(interval),
        };
        let (month, year) = (inline(2_900, "usd", Interval::Month), inline(29_000, "USD", Interval::Year));
        assert_eq!(level(month, Some("PRO")).as_deref(), Some("PRO"));
        assert_eq!(level(year, Some("PRO")).as_deref(), Some("PRO"));
        for (item, named) in [
            (month, None),
            (month, Some("TEAM")),
            (month, Some("GOLD")),
            (inline(2_900, "usd", Interval::Year), Some("PRO")),
            (inline(29_000, "usd", Interval::Month), Some("PRO")),
            (inline(2_900, "eur", Interval::Month), Some("PRO")),
            (inline(1, "usd", Interval::Month), Some("PRO")),
            (ItemPrice { amount: None, ..month }, Some("PRO")),
            (ItemPrice::default(), Some("PRO")),
        ] {
            assert_eq!(level(item, named), None, "{item:?} {named:?}");
        }
    }

    #[test]
    fn who_subscribed_at_a_former_price_lost_the_level_when_it_became_dearer() {
        let mut plans = catalogue().plans().to_vec();
        let item = ItemPrice {
            amount: Some(2_900),
            currency: Some("usd"),
            interval: Some(Interval::Month),
            id: Some("price_old"),
        };
        let pro = Level::parse("PRO").unwrap();
        let level = |plans: &[Plan]| Catalogue::new(plans.to_vec()).unwrap().plan_of_item(&item, Some(&pro)).is_some();
        let (former, by_id) = (plans[1].price.clone(), Charge::Id("price_old".into()));
        plans[1].price.charge = Charge::Id("price_new".into());
        assert!(!level(&plans));
        for charge in [former.charge, by_id] {
            plans[1].former_prices = vec![Price { charge, interval: former.interval }];
            assert!(level(&plans));
            assert_eq!(plans[1].prices().count(), 1, "it is not sold");
        }
    }

    #[test]
    fn a_price_is_found_by_its_interval() {
        let mut plan = catalogue().plans()[1].clone();
        plan.other_prices.push(Price { charge: Charge::Id("price_y".into()), interval: Some(Interval::Year) });
        assert_eq!(plan.price_by(None), Some(&plan.price));
        assert_eq!(plan.price_by(Some(Interval::Month)), Some(&plan.price));
        assert_eq!(plan.price_by(Some(Interval::Year)), plan.other_prices.first());
        assert_eq!(plan.price_by(Some(Interval::Week)), None);
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
        let mut same_price = plans.clone();
        same_price[0].price.charge = Charge::Id("price_1".into());
        same_price[2].other_prices = vec![same_price[0].price.clone()];
        assert!(matches!(Catalogue::new(same_price), Err(CatalogueError::PriceTwice(_, _, id)) if id == "price_1"));
        let mut free = plans;
        free[0].level = Level::free();
        assert_eq!(Catalogue::new(free), Err(CatalogueError::FreeForSale));
        assert_eq!(Catalogue::new(vec![]), Err(CatalogueError::Empty));
    }
}
