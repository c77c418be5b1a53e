//! `[[plan]]` as it is written, and what is wrong with it only together.

use std::{fmt, ops::Range, time::Duration};

use chrono::TimeDelta;
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use toml::Spanned;

use super::super::parse::{duration, has_stripe_shape};
use crate::domain::{
    level::Level,
    plan::{Charge, CheckoutOptions, Interval, Mode, Plan, Price, Quantity},
};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) plan: Vec<Spanned<PlanEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanEntry {
    #[serde(deserialize_with = "level")]
    level: Level,
    #[serde(default, deserialize_with = "some_text")]
    name: Option<String>,
    rank: u32,
    mode: ModeWord,
    price: Option<PriceField>,
    #[serde(default, deserialize_with = "amount")]
    amount: Option<i64>,
    #[serde(default, deserialize_with = "currency")]
    currency: Option<String>,
    #[serde(default, deserialize_with = "interval")]
    interval: Option<Interval>,
    #[serde(default, deserialize_with = "features")]
    features: Vec<String>,
    #[serde(default, deserialize_with = "days")]
    grace: Option<TimeDelta>,
    #[serde(default, deserialize_with = "days")]
    lasts: Option<TimeDelta>,
    #[serde(default)]
    once_per_user: bool,
    #[serde(default)]
    promotion_codes: bool,
    #[serde(default, deserialize_with = "quantity")]
    quantity: Option<Quantity>,
    #[serde(default)]
    tax: bool,
    #[serde(default, deserialize_with = "billing_address")]
    billing_address: bool,
    #[serde(default)]
    tax_id_collection: bool,
    #[serde(default, deserialize_with = "trial_days")]
    trial_days: Option<u16>,
}

/// One of several prices, `[[plan.price]]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceEntry {
    #[serde(default, deserialize_with = "price_id")]
    id: Option<String>,
    #[serde(default, deserialize_with = "amount")]
    amount: Option<i64>,
    #[serde(default, deserialize_with = "currency")]
    currency: Option<String>,
    #[serde(default, deserialize_with = "interval")]
    interval: Option<Interval>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    former: bool,
}

/// All prices of a plan.
struct Prices {
    default: Price,
    others: Vec<Price>,
    former: Vec<Price>,
}

/// `price = "price_…"`, or `[[plan.price]]`.
enum PriceField {
    Id(String),
    Several(Vec<Spanned<PriceEntry>>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeWord {
    Payment,
    Subscription,
}

/// What is wrong, and where the price stands if it is one's own fault.
pub(super) type Wrong<Reason = String> = (Option<Range<usize>>, Reason);

impl PlanEntry {
    pub(super) fn into_plan(mut self) -> Result<Plan, Wrong> {
        let mode = match self.mode {
            ModeWord::Payment => Mode::Payment,
            ModeWord::Subscription => Mode::Subscription,
        };
        let prices = self.take_prices(mode);
        let level = self.level;
        let refuse = |(place, reason): Wrong<&str>| (place, format!("plan {level}: {reason}"));
        let prices = prices.map_err(refuse)?;
        let reason = match mode {
            Mode::Payment if self.grace.is_some() => Some("a payment has no grace: only a subscription is renewed"),
            Mode::Payment if self.trial_days.is_some() => {
                Some("a payment has no trial: say mode = \"subscription\", or remove trial_days")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(refuse((None, reason)));
        }
        let grace = match mode {
            Mode::Payment => TimeDelta::zero(),
            Mode::Subscription => self.grace.unwrap_or(TimeDelta::days(3)),
        };
        Ok(Plan {
            name: self.name.unwrap_or_else(|| level.to_string()),
            level,
            rank: self.rank,
            mode,
            price: prices.default,
            other_prices: prices.others,
            former_prices: prices.former,
            features: self.features,
            grace,
            lasts: self.lasts,
            once_per_user: self.once_per_user,
            checkout: CheckoutOptions {
                promotion_codes: self.promotion_codes,
                quantity: self.quantity,
                tax: self.tax,
                billing_address: self.billing_address,
                tax_id_collection: self.tax_id_collection,
                trial_days: self.trial_days,
            },
        })
    }

    fn take_prices(&mut self, mode: Mode) -> Result<Prices, Wrong<&'static str>> {
        let (amount, currency, interval) = (self.amount.take(), self.currency.take(), self.interval.take());
        let entries = match self.price.take() {
            Some(PriceField::Several(entries)) if amount.is_none() && currency.is_none() && interval.is_none() => {
                entries
            }
            Some(PriceField::Several(_)) => {
                return Err((None, "each [[plan.price]] has its own amount, currency and interval: remove the plan's"));
            }
            one => {
                let id = one.and_then(|field| match field {
                    PriceField::Id(id) => Some(id),
                    PriceField::Several(_) => None,
                });
                let only = PriceEntry { id, amount, currency, interval, default: true, former: false };
                let default = only.into_price(mode).map_err(|reason| (None, reason))?;
                return Ok(Prices { default, others: vec![], former: vec![] });
            }
        };
        let mut default = None;
        let mut prices: Vec<Price> = Vec::with_capacity(entries.len());
        let mut former = Vec::new();
        for entry in entries {
            let refuse = |reason| (Some(entry.span()), reason);
            if entry.get_ref().former {
                if entry.get_ref().default {
                    return Err(refuse("a former price cannot be the default: it is sold no longer"));
                }
                former.push(entry.get_ref().clone().into_price(mode).map_err(refuse)?);
                continue;
            }
            if entry.get_ref().default && default.replace(prices.len()).is_some() {
                return Err(refuse("two prices are the default: keep default = true at one"));
            }
            let price = entry.get_ref().clone().into_price(mode).map_err(refuse)?;
            if prices.iter().any(|other| other.interval == price.interval) {
                return Err(refuse("two prices have the same interval: a buyer could not choose between them"));
            }
            prices.push(price);
        }
        if prices.is_empty() {
            return Err((None, NO_PRICE));
        }
        let default = prices.remove(default.unwrap_or(0));
        Ok(Prices { default, others: prices, former })
    }
}

const NO_PRICE: &str = "a price is missing: price = \"price_…\", or amount = 2900 and currency = \"usd\"";

impl PriceEntry {
    fn into_price(self, mode: Mode) -> Result<Price, &'static str> {
        let by_id = self.id.is_some();
        let charge = match (self.id, self.amount, self.currency) {
            (Some(id), None, None) => Charge::Id(id),
            (Some(_), _, _) => return Err("a price id has its own amount and currency: remove either"),
            (None, Some(amount), currency) => {
                Charge::Inline { amount, currency: currency.unwrap_or_else(|| "usd".to_owned()) }
            }
            (None, None, _) => return Err(NO_PRICE),
        };
        let interval = match (mode, self.interval) {
            (Mode::Payment, Some(_)) => return Err("a payment has no interval: remove it, or say lasts = \"30d\""),
            (Mode::Payment, None) => None,
            (Mode::Subscription, None) if !by_id => {
                return Err("an inline price of a subscription needs an interval: interval = \"month\"");
            }
            (Mode::Subscription, interval) => interval.or(Some(Interval::Month)),
        };
        Ok(Price { charge, interval })
    }
}

impl<'de> Deserialize<'de> for PriceField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PriceField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a price id such as \"price_1AbC\", or [[plan.price]] tables")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PriceField, E> {
                if is_price_id(text) {
                    return Ok(PriceField::Id(text.to_owned()));
                }
                Err(E::custom(format_args!("expected {PRICE_ID}")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<PriceField, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(tables)).map(PriceField::Several)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Reads a value and turns it into another; what is wrong gets the value's place in the file.
fn checked<'de, D: Deserializer<'de>, V: Deserialize<'de>, T>(
    deserializer: D,
    check: impl Fn(V) -> Option<T>,
    expected: &str,
) -> Result<T, D::Error> {
    check(V::deserialize(deserializer)?).ok_or_else(|| D::Error::custom(format_args!("expected {expected}")))
}

fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Level, D::Error> {
    let expected = "a level such as \"PRO\": capital letters, digits and _, at most 40, not FREE";
    checked(deserializer, |text: String| Level::parse(&text).ok().filter(|level| !level.is_free()), expected)
}

fn is_text(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= 250 && !text.contains(char::is_control)
}

fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(
        deserializer,
        |text: String| Some(text).filter(|text| is_text(text)),
        "a name such as \"Pro\", at most 250 bytes",
    )
    .map(Some)
}

fn features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let distinct = |features: &Vec<String>| {
        features
            .iter()
            .enumerate()
            .all(|(index, feature)| is_text(feature) && !features.iter().take(index).any(|other| other == feature))
    };
    let expected = "features such as [\"export\"], each once, at most 250 bytes";
    checked(deserializer, |features| Some(features).filter(distinct), expected)
}

const PRICE_ID: &str = "a price id such as \"price_1AbC\"";

fn is_price_id(text: &str) -> bool {
    has_stripe_shape(text, "price_", 1)
}

fn price_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(deserializer, |text: String| Some(text).filter(|text| is_price_id(text)), PRICE_ID).map(Some)
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let expected = "a whole number of cents from 0 to 99999999, such as 2900";
    checked(deserializer, |amount| Some(amount).filter(|amount| (0..=99_999_999).contains(amount)), expected).map(Some)
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let good = |text: &String| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_lowercase());
    checked(deserializer, |text| Some(text).filter(good), "three lower-case letters such as \"usd\"").map(Some)
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Interval>, D::Error> {
    let expected = "an interval: \"day\", \"week\", \"month\" or \"year\"";
    checked(deserializer, |text: String| Interval::from_word(&text), expected).map(Some)
}

/// Ten years are for ever.
const LONGEST: Duration = Duration::from_secs(3_660 * 86_400);

fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TimeDelta>, D::Error> {
    let parse = |text: String| TimeDelta::from_std(duration(&text).filter(|length| *length <= LONGEST)?).ok();
    checked(deserializer, parse, "a duration such as \"3d\" or \"12h\", ten years at most").map(Some)
}

/// Stripe's limit of a line's quantity.
const QUANTITY_MAX: u32 = 999_999;

fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quantity>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, expecting = "a quantity such as { min = 1, max = 50 }")]
    struct Entry {
        min: u32,
        max: u32,
    }
    let good = |Entry { min, max }| (1 <= min && min <= max && max <= QUANTITY_MAX).then_some(Quantity { min, max });
    checked(deserializer, good, "a quantity such as { min = 1, max = 50 }, from 1 to 999999").map(Some)
}

fn billing_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let read = |text: String| match text.as_str() {
        "required" => Some(true),
        "auto" => Some(false),
        _ => None,
    };
    checked(deserializer, read, "\"required\" or \"auto\"")
}

/// Stripe's limit of a trial: two years.
fn trial_days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    checked(deserializer, |days| Some(days).filter(|days| (1..=730).contains(days)), "days from 1 to 730, such as 14")
        .map(Some)
}
