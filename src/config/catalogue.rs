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
//! trial_days = 14           # of a subscription: free at first, for who has not had the level
//! promotion_codes = true    # the pay page takes promotion codes
//! quantity = { min = 1, max = 50 } # how many may be bought; 1 where absent
//! tax = true                # Stripe works out the tax
//! billing_address = "required" # or "auto", as Stripe needs it
//! tax_id_collection = true  # a business may give its tax id
//!
//! [[plan.price]]            # instead of price, amount, currency, interval: one for each interval
//! id = "price_1DeF"         # or amount and currency
//! interval = "year"
//! default = true            # what is sold where no interval is asked for; the first where none says so
//! former = true             # instead: sold no longer; whoever subscribed at it keeps the level while it is paid
//! ```

mod entry;

use std::{fmt, io, ops::Range, path::PathBuf};

use self::entry::File;
use super::{reader::Reader, setting};
use crate::domain::{
    level::Level,
    plan::{Catalogue, CatalogueError, Charge},
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
features = ["projects"]

[[plan]]
level = "PRO"
name = "Pro"
rank = 20
mode = "subscription"
amount = 2900
currency = "usd"
interval = "month"
grace = "3d"
features = ["projects", "export"]
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
            Err((place, reason)) => problems.push(at(place.unwrap_or(span), reason)),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Catalogue::new(plans).map_err(|error| {
        let culprit = match &error {
            CatalogueError::LevelTwice(level)
            | CatalogueError::RankTwice(_, level)
            | CatalogueError::PriceTwice(_, level, _) => level.clone(),
            CatalogueError::FreeForSale => Level::free(),
            CatalogueError::Empty => return vec![at(0..0, error.to_string())],
        };
        let span = spans.into_iter().rfind(|(level, _)| *level == culprit).map(|(_, span)| span);
        vec![at(span.unwrap_or_default(), error.to_string())]
    })
}

/// Where the catalogue is read from, at the start and whenever it is read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    /// Whether a setting names the file: then it must be there.
    is_named: bool,
    /// Takes the place of an inline default price of PRO.
    pro_price_id: Option<String>,
}

/// Why there is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("reading {} failed: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is no catalogue.
    #[error("{file}: {}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Wrong {
        /// The file, or the built-in catalogue.
        file: String,
        /// Everything that is wrong in it.
        problems: Vec<Problem>,
    },
    /// The setting of PRO's price does not go with the rest.
    #[error("STRIPE_PRO_PRICE_ID: {0}")]
    ProPrice(CatalogueError),
}

impl Source {
    /// Reads the catalogue as it is now, and gives what is allowed in it but hardly meant.
    ///
    /// # Errors
    /// [`LoadError`], with the file's lines.
    pub fn load(&self) -> Result<(Catalogue, Option<&'static str>), LoadError> {
        let (file, text) = match std::fs::read_to_string(&self.path) {
            Ok(text) => (self.path.display().to_string(), text),
            Err(cause) if !self.is_named && cause.kind() == io::ErrorKind::NotFound => {
                ("built-in catalogue".to_owned(), BUILT_IN.to_owned())
            }
            Err(cause) => return Err(LoadError::Unreadable { path: self.path.clone(), cause }),
        };
        let catalogue = parse(&text).map_err(|problems| LoadError::Wrong { file, problems })?;
        match &self.pro_price_id {
            None => Ok((catalogue, None)),
            Some(id) => with_pro_price(&catalogue, id),
        }
    }
}

/// The catalogue that the settings name, and where it came from. `pro_price_id` takes the place of an inline price of PRO.
pub(super) fn read(reader: &Reader<'_>, pro_price_id: Option<&str>) -> Option<(Catalogue, Source)> {
    let named = reader.text(setting::CATALOGUE.name);
    let source = Source {
        is_named: named.is_some(),
        path: named.map_or_else(|| PathBuf::from(FILE), PathBuf::from),
        pro_price_id: pro_price_id.map(str::to_owned),
    };
    match source.load() {
        Ok((catalogue, warning)) => {
            if let Some(warning) = warning {
                reader.warn(warning);
            }
            return Some((catalogue, source));
        }
        Err(LoadError::Unreadable { cause, .. }) => {
            reader.wrong(&setting::CATALOGUE, &format!("; reading it failed: {cause}"));
        }
        Err(LoadError::Wrong { file, problems }) => {
            for problem in problems {
                reader.error(&file, problem.to_string());
            }
        }
        Err(LoadError::ProPrice(error)) => reader.error(setting::STRIPE_PRO_PRICE_ID.name, error.to_string()),
    }
    None
}

fn with_pro_price(catalogue: &Catalogue, id: &str) -> Result<(Catalogue, Option<&'static str>), LoadError> {
    let mut plans = catalogue.plans().to_vec();
    let warning = match plans.iter_mut().find(|plan| plan.level.as_str() == "PRO").map(|plan| &mut plan.price.charge) {
        Some(charge @ Charge::Inline { .. }) => {
            *charge = Charge::Id(id.to_owned());
            None
        }
        Some(Charge::Id(own)) if own == id => None,
        Some(Charge::Id(_)) => Some("STRIPE_PRO_PRICE_ID is not used: the catalogue gives PRO another price id"),
        None => Some("STRIPE_PRO_PRICE_ID is not used: the catalogue has no level PRO"),
    };
    Ok((Catalogue::new(plans).map_err(LoadError::ProPrice)?, warning))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
