//! `tollgate.toml`: what is sold. Read into the domain's [`Catalogue`]; every error names its line.
//!
//! ```toml
//! [[plan]]
//! level = "PRO"             # capital letters, digits and _
//! name = "Pro"              # what the buyer reads; the level where absent
//! rank = 20                 # a higher rank wins
//! mode = "subscription"     # or "payment"
//! price = "price_1AbC"      # or an inline price: amount = 2900 (cents), currency = "usd"
//! interval = "month"        # of a subscription: day, week, month, year; may be absent beside a price id
//! features = ["export"]     # strings that an application may ask for
//! grace = "3d"              # of a subscription: access while a renewal is late; 3 days where absent
//! lasts = "7d"              # of a payment: how long it lasts; 365 days where absent
//! once_per_user = false
//! ```

use std::{fmt, ops::Range, path::PathBuf, time::Duration};

use chrono::TimeDelta;
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{
    parse::{duration, has_stripe_shape},
    reader::Reader,
    setting,
};
use crate::domain::{
    level::Level,
    plan::{Catalogue, CatalogueError, Interval, Mode, Plan, Price},
};

/// What is sold where there is no file: a week's trial once for each user, and PRO by the month.
pub const BUILT_IN: &str = r#"
[[plan]]
level = "TRIAL"
name = "Trial"
rank = 10
mode = "payment"
amount = 0
currency = "usd"
lasts = "7d"
once_per_user = true

[[plan]]
level = "PRO"
name = "Pro"
rank = 20
mode = "subscription"
amount = 2900
currency = "usd"
interval = "month"
grace = "3d"
"#;

/// The file's name where no other is given.
const FILE: &str = "tollgate.toml";

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Reads a catalogue's text.
///
/// # Errors
/// All plans that contradict themselves, or the first thing that is no plan.
pub fn parse(text: &str) -> Result<Catalogue, Vec<Problem>> {
    let at = |span: Range<usize>, reason: String| Problem { line: line_of(text, span.start), reason };
    let file: File =
        toml::from_str(text).map_err(|error| vec![at(error.span().unwrap_or_default(), error.message().to_owned())])?;
    let mut problems = Vec::new();
    let mut plans = Vec::new();
    let mut spans = Vec::new();
    for entry in file.plan {
        let span = entry.span();
        match entry.into_inner().into_plan() {
            Ok(plan) => {
                spans.push((plan.level.clone(), span));
                plans.push(plan);
            }
            Err(reason) => problems.push(at(span, reason)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Catalogue::new(plans).map_err(|error| {
        let culprit = match &error {
            CatalogueError::LevelTwice(level) | CatalogueError::RankTwice(_, level) => level.clone(),
            CatalogueError::FreeForSale => Level::free(),
            CatalogueError::Empty => return vec![at(0..0, error.to_string())],
        };
        let span = spans.into_iter().rfind(|(level, _)| *level == culprit).map(|(_, span)| span);
        vec![at(span.unwrap_or_default(), error.to_string())]
    })
}

/// The catalogue that the settings name. `pro_price_id` takes the place of an inline price of PRO.
pub(super) fn read(reader: &Reader<'_>, pro_price_id: Option<&str>) -> Option<Catalogue> {
    let named = reader.text(setting::CATALOGUE.name);
    let path = named.clone().map_or_else(|| PathBuf::from(FILE), PathBuf::from);
    let (name, text) = match std::fs::read_to_string(&path) {
        Ok(text) => (path.display().to_string(), text),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            ("built-in catalogue".to_owned(), BUILT_IN.to_owned())
        }
        Err(error) => {
            reader.wrong(&setting::CATALOGUE, &format!("; reading it failed: {error}"));
            return None;
        }
    };
    let catalogue = parse(&text).map_err(|problems| {
        for problem in problems {
            reader.error(&name, problem.to_string());
        }
    });
    with_pro_price(catalogue.ok()?, pro_price_id, reader)
}

fn with_pro_price(catalogue: Catalogue, pro_price_id: Option<&str>, reader: &Reader<'_>) -> Option<Catalogue> {
    let Some(id) = pro_price_id else { return Some(catalogue) };
    let mut plans = catalogue.plans().to_vec();
    match plans.iter_mut().find(|plan| plan.level.as_str() == "PRO").map(|plan| &mut plan.price) {
        Some(price @ Price::Inline { .. }) => *price = Price::Id(id.to_owned()),
        Some(Price::Id(own)) if own == id => {}
        Some(Price::Id(_)) => reader.warn("STRIPE_PRO_PRICE_ID is not used: the catalogue gives PRO another price id"),
        None => reader.warn("STRIPE_PRO_PRICE_ID is not used: the catalogue has no level PRO"),
    }
    Catalogue::new(plans).ok()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plan: Vec<Spanned<PlanEntry>>,
}

/// `[[plan]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanEntry {
    #[serde(deserialize_with = "level")]
    level: Level,
    #[serde(default, deserialize_with = "some_text")]
    name: Option<String>,
    rank: u32,
    mode: ModeWord,
    #[serde(default, deserialize_with = "price_id")]
    price: Option<String>,
    #[serde(default, deserialize_with = "amount")]
    amount: Option<i64>,
    #[serde(default, deserialize_with = "currency")]
    currency: Option<String>,
    interval: Option<IntervalWord>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default, deserialize_with = "days")]
    grace: Option<TimeDelta>,
    #[serde(default, deserialize_with = "days")]
    lasts: Option<TimeDelta>,
    #[serde(default)]
    once_per_user: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeWord {
    Payment,
    Subscription,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum IntervalWord {
    Day,
    Week,
    Month,
    Year,
}

impl PlanEntry {
    /// What is wrong only together.
    fn into_plan(self) -> Result<Plan, String> {
        let level = self.level;
        let refuse = |reason: &str| Err(format!("plan {level}: {reason}"));
        let by_id = self.price.is_some();
        let price = match (self.price, self.amount, self.currency) {
            (Some(id), None, None) => Price::Id(id),
            (Some(_), _, _) => return refuse("a price id has its own amount and currency: remove either"),
            (None, Some(amount), currency) => {
                Price::Inline { amount, currency: currency.unwrap_or_else(|| "usd".to_owned()) }
            }
            (None, None, _) => {
                return refuse("a price is missing: price = \"price_…\", or amount = 2900 and currency = \"usd\"");
            }
        };
        let interval = self.interval.map(|word| match word {
            IntervalWord::Day => Interval::Day,
            IntervalWord::Week => Interval::Week,
            IntervalWord::Month => Interval::Month,
            IntervalWord::Year => Interval::Year,
        });
        let (mode, interval, grace) = match (self.mode, interval, self.grace) {
            (ModeWord::Payment, Some(_), _) => {
                return refuse("a payment has no interval: remove it, or say lasts = \"30d\"");
            }
            (ModeWord::Payment, None, Some(_)) => {
                return refuse("a payment has no grace: only a subscription is renewed");
            }
            (ModeWord::Payment, None, None) => (Mode::Payment, None, TimeDelta::zero()),
            (ModeWord::Subscription, None, _) if !by_id => {
                return refuse("an inline price of a subscription needs an interval: interval = \"month\"");
            }
            (ModeWord::Subscription, interval, grace) => {
                (Mode::Subscription, interval.or(Some(Interval::Month)), grace.unwrap_or(TimeDelta::days(3)))
            }
        };
        Ok(Plan {
            name: self.name.unwrap_or_else(|| level.to_string()),
            level,
            rank: self.rank,
            mode,
            price,
            interval,
            features: self.features,
            grace,
            lasts: self.lasts,
            once_per_user: self.once_per_user,
        })
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

fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let good = |text: &String| !text.trim().is_empty() && text.len() <= 250 && !text.contains(char::is_control);
    checked(deserializer, |text| Some(text).filter(good), "a name such as \"Pro\", at most 250 bytes").map(Some)
}

fn price_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let good = |text: &String| has_stripe_shape(text, "price_", 1);
    checked(deserializer, |text| Some(text).filter(good), "a price id such as \"price_1AbC\"").map(Some)
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let expected = "a whole number of cents from 0 to 99999999, such as 2900";
    checked(deserializer, |amount| Some(amount).filter(|amount| (0..=99_999_999).contains(amount)), expected).map(Some)
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let good = |text: &String| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_lowercase());
    checked(deserializer, |text| Some(text).filter(good), "three lower-case letters such as \"usd\"").map(Some)
}

/// Ten years are for ever.
const LONGEST: Duration = Duration::from_secs(3_660 * 86_400);

fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TimeDelta>, D::Error> {
    let parse = |text: String| TimeDelta::from_std(duration(&text).filter(|length| *length <= LONGEST)?).ok();
    checked(deserializer, parse, "a duration such as \"3d\" or \"12h\", ten years at most").map(Some)
}

#[cfg(test)]
mod tests {

    use super::*;

    fn first_problem(text: &str) -> String {
        parse(text).unwrap_err()[0].to_string()
    }

    #[test]
    fn the_built_in_catalogue() {
        let catalogue = parse(BUILT_IN).unwrap();
        let [trial, pro] = catalogue.plans() else { panic!("two plans") };
        assert_eq!(
            (trial.level.as_str(), trial.rank, trial.mode, trial.once_per_user),
            ("TRIAL", 10, Mode::Payment, true)
        );
        assert_eq!((trial.lasts, trial.grace, trial.interval), (Some(TimeDelta::days(7)), TimeDelta::zero(), None));
        assert_eq!(trial.price, Price::Inline { amount: 0, currency: "usd".into() });
        assert_eq!((pro.level.as_str(), pro.rank, pro.mode, pro.once_per_user), ("PRO", 20, Mode::Subscription, false));
        assert_eq!((pro.lasts, pro.grace, pro.interval), (None, TimeDelta::days(3), Some(Interval::Month)));
        assert_eq!(pro.price, Price::Inline { amount: 2_900, currency: "usd".into() });
    }

    #[test]
    fn what_may_be_left_out() {
        let text = "[[plan]]\nlevel='TEAM'\nrank=1\nmode='subscription'\nprice='price_1'\nfeatures=['a','b']\n\
                    [[plan]]\nlevel='DAY'\nrank=2\nmode='payment'\namount=5\n";
        let catalogue = parse(text).unwrap();
        let [team, day] = catalogue.plans() else { panic!("two plans") };
        assert_eq!(
            (team.name.as_str(), team.interval, team.grace),
            ("TEAM", Some(Interval::Month), TimeDelta::days(3))
        );
        assert_eq!((&team.price, team.features.len()), (&Price::Id("price_1".into()), 2));
        assert_eq!(day.price, Price::Inline { amount: 5, currency: "usd".into() });
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let plan =
            |level: &str, rank: u32, rest: &str| format!("[[plan]]\nlevel = \"{level}\"\nrank = {rank}\n{rest}\n");
        let payment = "mode = \"payment\"\namount = 1";
        for (text, line, reason) in [
            (plan("pro", 1, payment), 2, "expected a level such as"),
            (plan("FREE", 1, payment), 2, "not FREE"),
            (plan("PRO", 1, "mode = \"gift\""), 4, "expected `payment` or `subscription`"),
            (plan("PRO", 1, "mode = \"payment\"\namount = -1"), 5, "cents from 0"),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1.5"), 5, "invalid type"),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\ncurrency = \"USD\""), 6, "such as \"usd\""),
            (plan("PRO", 1, "mode = \"payment\"\nprice = \"prod_1\""), 5, "such as \"price_1AbC\""),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\nlasts = \"7 days\""), 6, "such as \"3d\""),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\ncolour = 1"), 6, "colour"),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\nname = \" \""), 6, "a name such as"),
            (plan("PRO", 1, "amount = 1"), 1, "mode"),
            (plan("PRO", 1, "mode = \"payment\""), 1, "plan PRO: a price is missing"),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\nprice = \"price_1\""), 1, "remove either"),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\ninterval = \"month\""), 1, "a payment has no interval"),
            (plan("PRO", 1, "mode = \"payment\"\namount = 1\ngrace = \"3d\""), 1, "a payment has no grace"),
            (plan("PRO", 1, "mode = \"subscription\"\namount = 1"), 1, "needs an interval"),
            (plan("PRO", 1, payment) + &plan("PRO", 2, payment), 6, "level PRO is sold by two plans"),
            (plan("PRO", 1, payment) + &plan("TEAM", 1, payment), 6, "have the same rank"),
            ("[plan".to_owned(), 1, ""),
            ("\n\nplans = 1".to_owned(), 3, "plans"),
            (String::new(), 1, "no plan at all"),
        ] {
            let problem = first_problem(&text);
            assert!(problem.starts_with(&format!("line {line}: ")) && problem.contains(reason), "{text}\n{problem}");
        }
    }

    #[test]
    fn every_contradicting_plan_is_told() {
        let plan = "[[plan]]\nlevel = \"PRO\"\nrank = 1\nmode = \"payment\"\n";
        assert_eq!(parse(&plan.repeat(3)).unwrap_err().len(), 3);
    }

    #[test]
    fn the_price_id_of_the_environment_replaces_an_inline_price() {
        let reader = Reader::new(&|_| None);
        let pro = |text: &str| {
            let catalogue = with_pro_price(parse(text).unwrap(), Some("price_env"), &reader).unwrap();
            catalogue.plans().iter().find(|plan| plan.level.as_str() == "PRO").map(|plan| plan.price.clone())
        };
        assert_eq!(pro(BUILT_IN), Some(Price::Id("price_env".into())));
        let own = "[[plan]]\nlevel='PRO'\nrank=1\nmode='subscription'\nprice='price_own'";
        assert_eq!(pro(own), Some(Price::Id("price_own".into())));
        assert_eq!(pro("[[plan]]\nlevel='DAY'\nrank=2\nmode='payment'\namount=5"), None);
        assert_eq!(reader.finish().warnings.len(), 2);
    }
}
