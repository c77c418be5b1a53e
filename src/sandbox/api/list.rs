//! Lists: newest first, by pages.

use serde_json::{Value, json};

use crate::sandbox::{
    collection::{Collection, Kept},
    params::Params,
    refusal::Refusal,
};

/// Stripe's.
const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 10;

/// Which part of a list is asked for.
pub(super) struct Page {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

impl Page {
    pub(super) fn read(params: &mut Params) -> Result<Self, Refusal> {
        let limit = params.integer("limit")?.unwrap_or(LIMIT_DEFAULT);
        let limit = usize::try_from(limit).ok().filter(|_| (1..=LIMIT_MAX).contains(&limit)).ok_or_else(|| {
            Refusal::invalid("parameter_invalid_integer", "limit", "Invalid limit: must be from 1 to 100")
        })?;
        let (starting_after, ending_before) = (params.text("starting_after")?, params.text("ending_before")?);
        if starting_after.is_some() && ending_before.is_some() {
            let message = "Only one of starting_after and ending_before can be given.";
            return Err(Refusal::invalid("parameters_exclusive", "ending_before", message));
        }
        Ok(Self { limit, starting_after, ending_before })
    }

    /// The page of those that `fit`, as Stripe's list object. A page before an object is the one next to it.
    pub(super) fn of<T: Kept>(
        self,
        all: &Collection<T>,
        url: &str,
        noun: &str,
        fits: impl Fn(&T) -> bool,
        show: impl Fn(&T) -> Value,
    ) -> Result<Value, Refusal> {
        let missing = |id: &str, param: &str| Refusal::no_such(noun, id, param);
        let one_more = self.limit.saturating_add(1);
        let mut found: Vec<&T> = match (&self.starting_after, &self.ending_before) {
            (Some(id), _) => {
                let older = all.older_than(id).ok_or_else(|| missing(id, "starting_after"))?;
                older.filter(|object| fits(object)).take(one_more).collect()
            }
            (_, Some(id)) => {
                let newer = all.newer_than(id).ok_or_else(|| missing(id, "ending_before"))?;
                newer.filter(|object| fits(object)).take(one_more).collect()
            }
            (None, None) => all.iter().rev().filter(|object| fits(object)).take(one_more).collect(),
        };
        let has_more = found.len() > self.limit;
        found.truncate(self.limit);
        if self.ending_before.is_some() {
            found.reverse();
        }
        let data: Vec<Value> = found.into_iter().map(show).collect();
        Ok(json!({ "object": "list", "data": data, "has_more": has_more, "url": url }))
    }
}

/// `created=…` or `created[gte]=…`: when an object was made, in Unix seconds.
#[derive(Default)]
pub(super) struct Created {
    at_least: Option<i64>,
    at_most: Option<i64>,
}

impl Created {
    pub(super) fn read(params: &mut Params) -> Result<Self, Refusal> {
        if params.is_text("created") {
            let at = params.integer("created")?;
            return Ok(Self { at_least: at, at_most: at });
        }
        let Some(mut range) = params.object("created")? else { return Ok(Self::default()) };
        let after = range.integer("gt")?.map(|at| at.saturating_add(1));
        let before = range.integer("lt")?.map(|at| at.saturating_sub(1));
        let created = Self {
            at_least: range.integer("gte")?.max(after),
            at_most: range.integer("lte")?.into_iter().chain(before).min(),
        };
        range.finish()?;
        Ok(created)
    }

    pub(super) fn fits(&self, created: i64) -> bool {
        self.at_least.is_none_or(|least| created >= least) && self.at_most.is_none_or(|most| created <= most)
    }
}

/// Whether a value is the one asked for, where one is.
pub(super) fn is(asked: &Option<String>, value: Option<&str>) -> bool {
    asked.is_none() || asked.as_deref() == value
}
