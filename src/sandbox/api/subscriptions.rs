//! `/v1/subscriptions`.

use serde_json::Value;

use super::{
    Call, customers, expand,
    list::{Created, Page, is},
    sessions::recurring,
};
use crate::sandbox::{
    DAY,
    billing::{self, Wanted},
    changes::{self, End, NewItem, Proration},
    objects::{Metadata, Pause, Price, Standing, Subscription, new_id},
    params::Params,
    refusal::Refusal,
    state::State,
};

const NOUN: &str = "subscription";
const EXPANDABLE: &[&str] = &["customer", "latest_invoice"];
const STATUSES: &[&str] = &[
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
];

pub(super) fn create(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    let customer = customers::living(state, &params.required("customer")?)?;
    let now = state.time_of(Some(&customer.id), call.now);
    let items = items(state, None, params, now)?;
    if items.is_empty() {
        return Err(Refusal::missing("items"));
    }
    let mut metadata = Metadata::new();
    params.update_metadata(&mut metadata)?;
    let trial_end = match (params.integer("trial_period_days")?, params.integer("trial_end")?) {
        (Some(days), _) => Some(now.saturating_add(days.saturating_mul(DAY))),
        (None, end) => end,
    };
    let pauses_without_card = pauses_without_card(params)? == Some(true);
    params.word("payment_behavior", &["allow_incomplete", "default_incomplete"])?;
    params.finish()?;
    let wanted = Wanted {
        customer: customer.id,
        items: items.into_iter().map(|item| (item.price, item.quantity)).collect(),
        once: Vec::new(),
        method: customer.method,
        metadata,
        trial_end: trial_end.filter(|end| *end > now),
        pauses_without_card,
    };
    let id = billing::subscribe(state, wanted, &call.cause(now));
    shown(state, &id, &expand)
}

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let (customer, status) = (params.text("customer")?, params.word("status", STATUSES)?);
    params.finish()?;
    let fits = |subscription: &Subscription| {
        let stands = match status {
            None => subscription.status != Standing::Canceled,
            Some("all") => true,
            Some("ended") => subscription.is_over(),
            Some(status) => serde_json::json!(subscription.status) == status,
        };
        stands && created.fits(subscription.created) && is(&customer, Some(&subscription.customer))
    };
    page.of(&state.subscriptions, "/v1/subscriptions", NOUN, fits, Subscription::shown)
}

pub(super) fn retrieve(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    params.finish()?;
    shown(state, id, &expand)
}

pub(super) fn update(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    let mut subscription = living(state, id)?;
    let now = state.time_of(Some(&subscription.customer), call.now);
    let items = items(state, Some(&subscription), params, now)?;
    let proration = match params.word("proration_behavior", &["always_invoice", "create_prorations", "none"])? {
        Some("always_invoice") => Proration::AtOnce,
        Some("none") => Proration::None,
        _ => Proration::NextInvoice,
    };
    params.update_metadata(&mut subscription.metadata)?;
    let trial_ends = trial(&mut subscription, params, now)?;
    if let Some(pauses) = pauses_without_card(params)? {
        subscription.pauses_without_card = pauses;
    }
    pause(&mut subscription, params)?;
    if let Some(end) = end(&subscription, params, now)? {
        changes::set_end(&mut subscription, end, now);
    }
    params.finish()?;
    changes::apply(state, subscription, items, proration, trial_ends, &call.cause(now));
    shown(state, id, &expand)
}

pub(super) fn cancel(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    params.boolean("invoice_now")?;
    params.boolean("prorate")?;
    params.finish()?;
    let subscription = living(state, id)?;
    let now = state.time_of(Some(&subscription.customer), call.now);
    billing::cancel(state, subscription, "cancellation_requested", &call.cause(now));
    shown(state, id, &expand)
}

pub(super) fn resume(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    params.word("billing_cycle_anchor", &["now"])?;
    params.finish()?;
    let subscription = living(state, id)?;
    if subscription.status != Standing::Paused {
        return Err(Refusal::invalid_request("Only a paused subscription can be resumed."));
    }
    let now = state.time_of(Some(&subscription.customer), call.now);
    changes::resume(state, subscription, &call.cause(now));
    shown(state, id, &expand)
}

/// A subscription that is not over.
fn living(state: &State, id: &str) -> Result<Subscription, Refusal> {
    let found = state.subscriptions.get(id).filter(|subscription| !subscription.is_over());
    found.cloned().ok_or_else(|| Refusal::no_such(NOUN, id, "id"))
}

fn shown(state: &State, id: &str, fields: &[String]) -> Result<Value, Refusal> {
    let found = state.subscriptions.get(id).ok_or_else(|| Refusal::no_such(NOUN, id, "id"))?;
    Ok(expand(state, found.shown(), fields))
}

/// Whether a trial ends now; another end is taken at once.
fn trial(subscription: &mut Subscription, params: &mut Params, now: i64) -> Result<bool, Refusal> {
    let Some(end) = params.text("trial_end")? else { return Ok(false) };
    if end == "now" {
        return Ok(true);
    }
    let end = end.parse().ok().filter(|end| *end > now && subscription.status == Standing::Trialing);
    let end: i64 = end.ok_or_else(|| {
        let message = "Invalid trial_end: now, or of a trial that goes on a moment to come, in Unix seconds";
        Refusal::invalid("parameter_invalid_integer", "trial_end", message)
    })?;
    (subscription.trial_end, subscription.anchor, subscription.period_end) = (Some(end), end, end);
    Ok(false)
}

fn pause(subscription: &mut Subscription, params: &mut Params) -> Result<(), Refusal> {
    if params.is_text("pause_collection") {
        params.given("pause_collection")?;
        subscription.pause = None;
        return Ok(());
    }
    let Some(mut pause) = params.object("pause_collection")? else { return Ok(()) };
    let behavior = pause.word("behavior", &["keep_as_draft", "mark_uncollectible", "void"])?;
    let behavior = behavior.ok_or_else(|| Refusal::missing(pause.name("behavior")))?.to_owned();
    subscription.pause = Some(Pause { behavior, resumes_at: pause.integer("resumes_at")? });
    pause.finish()
}

fn end(subscription: &Subscription, params: &mut Params, now: i64) -> Result<Option<End>, Refusal> {
    let at_period_end = params.boolean("cancel_at_period_end")?;
    let Some(at) = params.given("cancel_at")? else {
        return Ok(at_period_end.map(|at_end| if at_end { End::Period } else { End::Never }));
    };
    if at_period_end == Some(true) {
        let message = "Only one of cancel_at and cancel_at_period_end can be given.";
        return Err(Refusal::invalid("parameters_exclusive", "cancel_at", message));
    }
    match at.as_str() {
        "" => Ok(Some(End::Never)),
        "min_period_end" | "max_period_end" => Ok(Some(End::At(subscription.period_end))),
        at => at.parse().ok().filter(|at| *at > now).map(|at| Some(End::At(at))).ok_or_else(|| {
            let message = "Invalid cancel_at: a moment to come, in Unix seconds";
            Refusal::invalid("parameter_invalid_integer", "cancel_at", message)
        }),
    }
}

fn pauses_without_card(params: &mut Params) -> Result<Option<bool>, Refusal> {
    let Some(mut settings) = params.object("trial_settings")? else { return Ok(None) };
    let mut behavior = None;
    if let Some(mut end) = settings.object("end_behavior")? {
        behavior = end.word("missing_payment_method", &["cancel", "create_invoice", "pause"])?;
        end.finish()?;
    }
    settings.finish()?;
    match behavior {
        Some("cancel") => {
            let message = "The sandbox pauses or invoices when a trial ends without a card.";
            Err(Refusal::invalid("parameter_invalid", "trial_settings", message))
        }
        behavior => Ok(behavior.map(|behavior| behavior == "pause")),
    }
}

/// The items that are added or changed.
fn items(
    state: &State,
    subscription: Option<&Subscription>,
    params: &mut Params,
    now: i64,
) -> Result<Vec<NewItem>, Refusal> {
    let known = changes::prices(state);
    let mut items = Vec::new();
    for mut item in params.objects("items")? {
        let id = item.text("id")?;
        let before = subscription.into_iter().flat_map(|of| &of.items).find(|known| Some(&known.id) == id.as_ref());
        if id.is_some() && before.is_none() {
            return Err(Refusal::no_such("subscription_item", &id.unwrap_or_default(), &item.name("id")));
        }
        let told = match (item.text("price")?, item.object("price_data")?) {
            (Some(id), _) => Some(
                changes::all_prices(state)
                    .find(|price| price.id == id)
                    .ok_or_else(|| Refusal::no_such("price", &id, &item.name("price")))?,
            ),
            (None, Some(data)) => Some(inline(&known, data, now)?),
            (None, None) => None,
        };
        let price = told.or_else(|| before.map(|item| item.price.clone()));
        let price = price.ok_or_else(|| Refusal::missing(item.name("price")))?;
        let quantity = item.integer("quantity")?.or_else(|| before.map(|item| item.quantity)).unwrap_or(1);
        item.finish()?;
        items.push(NewItem { id, price, quantity });
    }
    Ok(items)
}

/// A price made for one subscription. Of a product that the sandbox knows it takes the name.
fn inline(known: &[Price], mut data: Params, now: i64) -> Result<Price, Refusal> {
    let (currency, product) = (data.required("currency")?, data.required("product")?);
    let unit_amount = data.integer("unit_amount")?.filter(|amount| *amount >= 0);
    let unit_amount = unit_amount.ok_or_else(|| Refusal::missing(data.name("unit_amount")))?;
    let told = data.object("recurring")?.ok_or_else(|| Refusal::missing(data.name("recurring")))?;
    let recurring = Some(recurring(told)?);
    data.finish()?;
    let name =
        known.iter().find(|price| price.product == product).map_or_else(|| product.clone(), |of| of.name.clone());
    Ok(Price { id: new_id("price_1", 24), product, name, currency, unit_amount, recurring, created: now })
}
