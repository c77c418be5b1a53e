//! A price: what one thing costs, once or each time.

use chrono::{DateTime, Months};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Recurring;
use crate::sandbox::DAY;

/// A price as it was made for one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Price {
    pub(in crate::sandbox) id: String,
    pub(in crate::sandbox) product: String,
    /// What is sold.
    pub(in crate::sandbox) name: String,
    /// Three lower-case letters.
    pub(in crate::sandbox) currency: String,
    /// In the currency's minor unit.
    pub(in crate::sandbox) unit_amount: i64,
    pub(in crate::sandbox) recurring: Option<Recurring>,
    /// Unix seconds.
    pub(in crate::sandbox) created: i64,
}

impl Price {
    /// As the API shows it.
    pub(in crate::sandbox) fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "object": "price",
            // Made for one session, as Stripe's inline prices: nobody can buy at it again.
            "active": false,
            "billing_scheme": "per_unit",
            "created": self.created,
            "currency": self.currency,
            "custom_unit_amount": null,
            "livemode": false,
            "lookup_key": null,
            "metadata": {},
            "nickname": null,
            "product": self.product,
            "recurring": self.recurring.as_ref().map(|recurring| json!({
                "interval": recurring.interval,
                "interval_count": recurring.interval_count,
                "meter": null,
                "trial_period_days": null,
                "usage_type": "licensed",
            })),
            "tax_behavior": "unspecified",
            "tiers_mode": null,
            "transform_quantity": null,
            "type": if self.recurring.is_some() { "recurring" } else { "one_time" },
            "unit_amount": self.unit_amount,
            "unit_amount_decimal": self.unit_amount.to_string(),
        })
    }

    /// The same as a plan, which older clients read.
    pub(in crate::sandbox) fn shown_as_plan(&self) -> Value {
        let recurring = self.recurring.clone().unwrap_or_default();
        json!({
            "id": self.id,
            "object": "plan",
            "active": false,
            "amount": self.unit_amount,
            "amount_decimal": self.unit_amount.to_string(),
            "billing_scheme": "per_unit",
            "created": self.created,
            "currency": self.currency,
            "interval": recurring.interval,
            "interval_count": recurring.interval_count,
            "livemode": false,
            "metadata": {},
            "meter": null,
            "nickname": null,
            "product": self.product,
            "tiers_mode": null,
            "transform_usage": null,
            "trial_period_days": null,
            "usage_type": "licensed",
        })
    }
}

impl Default for Recurring {
    fn default() -> Self {
        Self { interval: "month".to_owned(), interval_count: 1 }
    }
}

impl Recurring {
    /// The first end of a period after `start`, in Unix seconds: months are counted from `anchor`, so that the 31st comes back after
    /// a February.
    pub(in crate::sandbox) fn end(&self, anchor: i64, start: i64) -> i64 {
        let months = match self.interval.as_str() {
            "day" => return next(anchor, start, DAY.saturating_mul(self.interval_count)),
            "week" => return next(anchor, start, (7 * DAY).saturating_mul(self.interval_count)),
            "year" => self.interval_count.saturating_mul(12),
            _ => self.interval_count,
        };
        let after = |periods: i64| {
            let months = u32::try_from(periods.saturating_mul(months)).ok()?;
            Some(DateTime::from_timestamp(anchor, 0)?.checked_add_months(Months::new(months))?.timestamp())
        };
        // No period is longer than this many days a month, so none is passed over.
        let first = start.saturating_sub(anchor) / (31 * DAY).saturating_mul(months.max(1));
        let ends = (first.max(0)..).map_while(after);
        // Beyond the calendar's end nothing is due any more.
        ends.into_iter().find(|end| *end > start).unwrap_or(i64::MAX)
    }
}

fn next(anchor: i64, start: i64, length: i64) -> i64 {
    let periods = start.saturating_sub(anchor).div_euclid(length.max(1)).saturating_add(1);
    anchor.saturating_add(periods.saturating_mul(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(&format!("{text}T12:00:00Z")).unwrap().timestamp()
    }

    #[test]
    fn a_month_ends_on_its_day_or_on_its_last() {
        for (interval, interval_count, anchor, start, end) in [
            ("month", 1, "2027-01-31", "2027-01-31", "2027-02-28"),
            ("month", 1, "2027-01-31", "2027-02-28", "2027-03-31"),
            ("month", 3, "2027-01-31", "2027-01-31", "2027-04-30"),
            ("year", 1, "2028-02-29", "2028-02-29", "2029-02-28"),
            ("year", 1, "2028-02-29", "2031-02-28", "2032-02-29"),
            ("week", 2, "2027-01-01", "2027-01-15", "2027-01-29"),
            ("day", 1, "2027-01-01", "2027-03-01", "2027-03-02"),
        ] {
            let recurring = Recurring { interval: interval.to_owned(), interval_count };
            assert_eq!(recurring.end(at(anchor), at(start)), at(end), "{interval_count} {interval} after {start}");
        }
    }
}
