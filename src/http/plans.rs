//! What is for sale, for a page of prices. Open to everybody: it is what the catalogue says, nobody's own.

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderValue},
    },
    web::Data,
};
use chrono::TimeDelta;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Shared, body};
use crate::domain::plan::{Catalogue, Charge, Interval, Mode, Plan, Price};

/// Everything that is for sale.
#[derive(Serialize, ToSchema)]
pub(super) struct PlansAnswer<'a> {
    /// The lowest rank first.
    plans: Vec<PlanAnswer<'a>>,
}

/// One level that is for sale.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanAnswer<'a> {
    /// What a checkout session is asked for.
    #[schema(example = "PRO")]
    level: &'a str,
    /// What the buyer reads on the pay page.
    #[schema(example = "Pro")]
    name: &'a str,
    /// Orders levels: a higher rank wins.
    #[schema(example = 20)]
    rank: u32,
    /// `payment` (once) or `subscription`.
    #[schema(example = "subscription")]
    mode: &'static str,
    /// What is charged where nothing else is asked for; `null` where that price is kept at Stripe.
    #[schema(required)]
    price: Option<PriceAnswer<'a>>,
    /// Everything that may be asked for, the default first.
    prices: Vec<OfferAnswer<'a>>,
    /// How long one payment lasts, such as `7d` or `12h`; `null` for a subscription, which lasts while it is paid.
    #[schema(required, example = "7d")]
    lasts: Option<String>,
    /// Strings that an application may ask for.
    features: &'a [String],
    /// Whether a user can have it only once, ever.
    once_per_user: bool,
    /// Days that are free before a subscription is first paid, for who has not had the level; `null` where there are none.
    #[schema(required, example = 14)]
    trial_days: Option<u16>,
}

/// One way to pay.
#[derive(Serialize, ToSchema)]
pub(super) struct OfferAnswer<'a> {
    /// What a checkout session may be asked for: `day`, `week`, `month` or `year`; `null` for what is paid once.
    #[schema(required, example = "month")]
    interval: Option<&'static str>,
    /// In the currency's smallest unit (cents); `null` where the price is kept at Stripe.
    #[schema(required, example = 2900)]
    amount: Option<i64>,
    /// ISO 4217, lower case; `null` where the price is kept at Stripe.
    #[schema(required, example = "usd")]
    currency: Option<&'a str>,
}

/// What is charged.
#[derive(Serialize, ToSchema)]
pub(super) struct PriceAnswer<'a> {
    /// In the currency's smallest unit (cents).
    #[schema(example = 2900)]
    amount: i64,
    /// ISO 4217, lower case.
    #[schema(example = "usd")]
    currency: &'a str,
    /// How often: `day`, `week`, `month` or `year`; `null` for what is paid once.
    #[schema(required, example = "month")]
    interval: Option<&'static str>,
}

/// Tells what is for sale
#[utoipa::path(
    get, path = "/api/plans", tag = "plans",
    responses((status = 200, description = "All plans; `FREE` is what everybody has, and not among them", body = PlansAnswer)),
)]
pub(super) async fn all(state: Data<Shared>) -> HttpResponse {
    let mut response = body::json(StatusCode::OK, &PlansAnswer::of(&state.catalogue.get()));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response
}

impl<'a> PlansAnswer<'a> {
    fn of(catalogue: &'a Catalogue) -> Self {
        let mut plans: Vec<_> = catalogue.plans().iter().map(PlanAnswer::of).collect();
        plans.sort_by_key(|plan| plan.rank);
        Self { plans }
    }
}

impl<'a> PlanAnswer<'a> {
    fn of(plan: &'a Plan) -> Self {
        let (mode, lasts) = match plan.mode {
            Mode::Payment => ("payment", Some(length(plan.one_off_lasts()))),
            Mode::Subscription => ("subscription", None),
        };
        let prices: Vec<_> = plan.prices().map(OfferAnswer::of).collect();
        let price = match &plan.price.charge {
            Charge::Id(_) => None,
            Charge::Inline { amount, currency } => {
                Some(PriceAnswer { amount: *amount, currency, interval: plan.price.interval.map(Interval::as_str) })
            }
        };
        Self {
            level: plan.level.as_str(),
            name: &plan.name,
            rank: plan.rank,
            mode,
            price,
            prices,
            lasts,
            features: &plan.features,
            once_per_user: plan.once_per_user,
            trial_days: plan.checkout.trial_days,
        }
    }
}

impl<'a> OfferAnswer<'a> {
    fn of(price: &'a Price) -> Self {
        let (amount, currency) = match &price.charge {
            Charge::Id(_) => (None, None),
            Charge::Inline { amount, currency } => (Some(*amount), Some(currency.as_str())),
        };
        Self { interval: price.interval.map(Interval::as_str), amount, currency }
    }
}

/// As the catalogue writes it, in the largest unit that needs no fraction.
fn length(length: TimeDelta) -> String {
    let millis = length.num_milliseconds();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis % size == 0 {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{catalogue, duration};

    #[test]
    fn the_built_in_plans() {
        let catalogue = catalogue::parse(catalogue::BUILT_IN).unwrap();
        let expected = json!({ "plans": [
            {
                "level": "TRIAL", "name": "Trial", "rank": 10, "mode": "payment", "lasts": "7d", "features": ["projects"],
                "price": { "amount": 0, "currency": "usd", "interval": null }, "oncePerUser": true, "trialDays": null,
                "prices": [{ "amount": 0, "currency": "usd", "interval": null }],
            },
            {
                "level": "PRO", "name": "Pro", "rank": 20, "mode": "subscription", "lasts": null,
                "features": ["projects", "export"], "oncePerUser": false, "trialDays": null,
                "price": { "amount": 2900, "currency": "usd", "interval": "month" },
                "prices": [{ "amount": 2900, "currency": "usd", "interval": "month" }],
            },
        ]});
        assert_eq!(serde_json::to_value(PlansAnswer::of(&catalogue)).unwrap(), expected);
    }

    #[test]
    fn the_lowest_rank_is_first_and_a_price_at_stripe_is_not_told() {
        let text = "[[plan]]\nlevel='TEAM'\nrank=9\nmode='subscription'\nprice='price_1'\nfeatures=['export']\n\
                    [[plan]]\nlevel='YEAR'\nrank=3\nmode='payment'\namount=5\n";
        let catalogue = catalogue::parse(text).unwrap();
        let answer = serde_json::to_value(PlansAnswer::of(&catalogue)).unwrap();
        let [year, team] = answer["plans"].as_array().unwrap().as_slice() else { panic!("two plans") };
        assert_eq!((&year["level"], &year["lasts"]), (&json!("YEAR"), &json!("365d")));
        assert_eq!(
            (&team["level"], &team["price"], &team["features"]),
            (&json!("TEAM"), &json!(null), &json!(["export"]))
        );
    }

    #[test]
    fn lengths_are_written_as_the_catalogue_reads_them() {
        for text in ["7d", "25h", "90m", "61s", "1500ms"] {
            assert_eq!(length(TimeDelta::from_std(duration(text).unwrap()).unwrap()), text);
        }
    }
}
