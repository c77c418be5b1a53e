//! `/v1/checkout/sessions`.

use serde_json::{Map, Value, json};
use url::Url;

use super::{
    Call, customers,
    list::{Created, Page, is},
};
use crate::{
    activity::Step,
    sandbox::{
        checkout,
        objects::{Line, Metadata, Mode, PaymentStatus, Recurring, Session, Status, new_id, user_of},
        params::Params,
        refusal::Refusal,
        state::State,
    },
};

const NOUN: &str = "checkout.session";
/// Stripe's: the highest amount of a charge.
const AMOUNT_MAX: i64 = 99_999_999;
/// Stripe's: how many of one thing a session sells.
const QUANTITY_MAX: i64 = 999_999;
/// Stripe's: how long a trial is, in days.
const TRIAL_DAYS_MAX: i64 = 730;
/// Stripe's: how many things one session sells.
const LINES_MAX: usize = 100;
/// Stripe's: how long a session is open, in seconds.
const LASTS_DEFAULT: i64 = 24 * 60 * 60;
const LASTS_MIN: i64 = 30 * 60;
/// Between the caller's clock and ours.
const CLOCKS_DIFFER: i64 = 60;
/// What the page does not do, and is taken all the same, and shown.
const INERT_WORDS: &[(&str, &[&str])] = &[
    ("submit_type", &["auto", "book", "donate", "pay", "subscribe"]),
    ("billing_address_collection", &["auto", "required"]),
    ("payment_method_collection", &["always", "if_required"]),
];

pub(super) fn create(state: &mut State, call: &Call<'_>, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    let session = read(state, call.now, params)?;
    params.finish()?;
    let shown = shown(state, &session, &expand);
    let (id, user) = (session.id.clone(), user_of(&session.metadata));
    state.activity.tell(user, || Step::SessionCreated { session: id });
    state.put_session(session);
    Ok(shown)
}

pub(super) fn list(state: &State, params: &mut Params) -> Result<Value, Refusal> {
    let page = Page::read(params)?;
    let created = Created::read(params)?;
    let status = params.word("status", &["open", "complete", "expired"])?;
    let customer = params.text("customer")?;
    let payment_intent = params.text("payment_intent")?;
    let subscription = params.text("subscription")?;
    params.finish()?;
    let fits = |session: &Session| {
        created.fits(session.created)
            && status.is_none_or(|status| json!(session.status) == status)
            && is(&customer, session.customer.as_deref())
            && is(&payment_intent, session.payment_intent.as_deref())
            && is(&subscription, session.subscription.as_deref())
    };
    page.of(&state.sessions, "/v1/checkout/sessions", NOUN, fits, |session| session.shown(&state.base))
}

pub(super) fn retrieve(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    params.finish()?;
    Ok(shown(state, find(state, id)?, &expand))
}

pub(super) fn line_items(state: &State, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    // There are never more of them than a page holds.
    Page::read(params)?;
    params.finish()?;
    Ok(find(state, id)?.shown_lines())
}

pub(super) fn expire(state: &mut State, call: &Call<'_>, id: &str, params: &mut Params) -> Result<Value, Refusal> {
    let expand = params.expand(EXPANDABLE)?;
    params.finish()?;
    find(state, id)?;
    if !checkout::expire(state, id, call.origin(), call.now) {
        return Err(Refusal::invalid_request("Only open Checkout Sessions can be expired."));
    }
    Ok(shown(state, find(state, id)?, &expand))
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a Session, Refusal> {
    state.sessions.get(id).ok_or_else(|| Refusal::no_such(NOUN, id, "session"))
}

const EXPANDABLE: &[&str] = &["line_items", "customer"];

fn shown(state: &State, session: &Session, expand: &[String]) -> Value {
    let mut shown = super::expand(state, session.shown(&state.base), expand);
    // Not there at all where nobody asks for them.
    let lines = expand.iter().find(|field| *field == "line_items");
    if let (Some(fields), Some(lines)) = (shown.as_object_mut(), lines) {
        fields.insert(lines.clone(), session.shown_lines());
    }
    shown
}

/// The session that is asked for, or why Stripe would not open it.
fn read(state: &State, now: i64, params: &mut Params) -> Result<Session, Refusal> {
    let mode = mode(params)?;
    let (currency, lines) = lines(mode, params)?;
    if params
        .word("ui_mode", &["hosted_page", "hosted", "embedded", "embedded_page", "custom", "elements", "form"])?
        .is_some_and(|ui_mode| !ui_mode.starts_with("hosted"))
    {
        return Err(Refusal::invalid("parameter_invalid", "ui_mode", "The sandbox has hosted pages only."));
    }
    let customer = params.text("customer")?.map(|id| customers::living(state, &id)).transpose()?;
    let customer_email = params.text("customer_email")?;
    if customer.is_some() && customer_email.is_some() {
        let message = "Only one of customer and customer_email can be given.";
        return Err(Refusal::invalid("parameters_exclusive", "customer_email", message));
    }
    let creation = params.word("customer_creation", &["always", "if_required"])?;
    if creation.is_some() && (mode == Mode::Subscription || customer.is_some()) {
        let message = "customer_creation goes with payment mode, without a customer.";
        return Err(Refusal::invalid("parameter_invalid", "customer_creation", message));
    }
    let amount = lines.iter().fold(0_i64, |sum, line: &Line| sum.saturating_add(line.unit_amount * line.quantity));
    if amount > AMOUNT_MAX {
        return Err(Refusal::invalid("amount_too_large", "line_items", "The total is above 99999999."));
    }
    let mut metadata = Metadata::new();
    params.update_metadata(&mut metadata)?;
    let free = amount == 0 && mode == Mode::Payment;
    let (child_metadata, trial_days) = child(mode, params)?;
    Ok(Session {
        id: Session::new_id(),
        created: now,
        expires_at: expires_at(now, params)?,
        mode,
        status: Status::Open,
        payment_status: if free { PaymentStatus::NoPaymentRequired } else { PaymentStatus::Unpaid },
        delayed: None,
        currency,
        lines,
        metadata,
        child_metadata,
        trial_days,
        client_reference_id: params.text("client_reference_id")?,
        customer: customer.map(|customer| customer.id),
        customer_email,
        always_customer: creation == Some("always"),
        payer: None,
        success_url: address(params, "success_url")?.ok_or_else(|| Refusal::missing("success_url"))?,
        cancel_url: address(params, "cancel_url")?,
        inert: inert(params)?,
        payment_intent: None,
        subscription: None,
        invoice: None,
    })
}

fn mode(params: &mut Params) -> Result<Mode, Refusal> {
    match params.word("mode", &["payment", "subscription", "setup"])? {
        Some("payment") => Ok(Mode::Payment),
        Some("subscription") => Ok(Mode::Subscription),
        Some(_) => {
            Err(Refusal::invalid("parameter_invalid", "mode", "The sandbox has no setup mode: nothing is paid in it."))
        }
        None => Err(Refusal::missing("mode")),
    }
}

fn lines(mode: Mode, params: &mut Params) -> Result<(String, Vec<Line>), Refusal> {
    let items = params.objects("line_items")?;
    if items.len() > LINES_MAX {
        return Err(Refusal::invalid("parameter_invalid_array", "line_items", "A session sells up to 100 things."));
    }
    let mut currency = None;
    let mut lines = Vec::with_capacity(items.len());
    for mut item in items {
        lines.push(line(&mut item, mode, &mut currency)?);
        item.finish()?;
    }
    let currency = currency.ok_or_else(|| Refusal::missing("line_items"))?;
    if mode == Mode::Subscription && lines.iter().all(|line| line.recurring.is_none()) {
        let message = "In subscription mode at least one price must be recurring.";
        return Err(Refusal::invalid("parameter_invalid", "line_items", message));
    }
    Ok((currency, lines))
}

fn line(item: &mut Params, mode: Mode, currency: &mut Option<String>) -> Result<Line, Refusal> {
    let quantity = item.integer("quantity")?.ok_or_else(|| Refusal::missing(item.name("quantity")))?;
    if !(1..=QUANTITY_MAX).contains(&quantity) {
        let message = "Invalid quantity: must be from 1 to 999999";
        return Err(Refusal::invalid("parameter_invalid_integer", item.name("quantity"), message));
    }
    let adjustable = adjustable(item, quantity)?;
    if let Some(id) = item.text("price")? {
        return Err(unknown_price(&id, &item.name("price")));
    }
    let mut price = item.object("price_data")?.ok_or_else(|| Refusal::missing(item.name("price_data")))?;
    let told = price.required("currency")?.to_ascii_lowercase();
    if told.len() != 3 || !told.bytes().all(|byte| byte.is_ascii_lowercase()) {
        let message = "Invalid currency: three letters such as usd";
        return Err(Refusal::invalid("parameter_invalid", price.name("currency"), message));
    }
    if currency.get_or_insert_with(|| told.clone()) != &told {
        let message = "All prices of a session must be in the same currency.";
        return Err(Refusal::invalid("parameter_invalid", price.name("currency"), message));
    }
    let unit_amount = unit_amount(&mut price)?;
    let recurring = price.object("recurring")?.map(recurring).transpose()?;
    if mode == Mode::Payment && recurring.is_some() {
        let message = "A recurring price needs subscription mode.";
        return Err(Refusal::invalid("parameter_invalid", price.name("recurring"), message));
    }
    price.word("tax_behavior", &["exclusive", "inclusive", "unspecified"])?;
    let name = product(&mut price)?;
    price.finish()?;
    let (id, product) = (new_id("li_1", 24), new_id("prod_", 14));
    Ok(Line { id, price: new_id("price_1", 24), product, name, unit_amount, quantity, recurring, adjustable })
}

/// How many a buyer could choose at Stripe. The sandbox's page sells as many as the session says.
fn adjustable(item: &mut Params, quantity: i64) -> Result<Option<(i64, i64)>, Refusal> {
    let Some(mut adjustable) = item.object("adjustable_quantity")? else { return Ok(None) };
    let enabled = adjustable.boolean("enabled")?.ok_or_else(|| Refusal::missing(adjustable.name("enabled")))?;
    let (minimum, maximum) =
        (adjustable.integer("minimum")?.unwrap_or(0), adjustable.integer("maximum")?.unwrap_or(99));
    adjustable.finish()?;
    if enabled && !(0 <= minimum && minimum <= quantity && quantity <= maximum && maximum <= QUANTITY_MAX) {
        let message =
            "Invalid adjustable_quantity: quantity must be from minimum to maximum, and these from 0 to 999999";
        return Err(Refusal::invalid("parameter_invalid_integer", item.name("adjustable_quantity"), message));
    }
    Ok(enabled.then_some((minimum, maximum)))
}

fn unknown_price(id: &str, param: &str) -> Refusal {
    let message = format!(
        "No such price: '{id}'. The sandbox has no prices: say the amount in line_items[…][price_data], \
         which in Tollgate's catalogue is amount, currency and interval in place of price."
    );
    Refusal::invalid("resource_missing", param, message)
}

fn unit_amount(price: &mut Params) -> Result<i64, Refusal> {
    let (whole, decimal) = (price.integer("unit_amount")?, price.integer("unit_amount_decimal")?);
    let name = price.name("unit_amount");
    let amount = match (whole, decimal) {
        (Some(amount), None) | (None, Some(amount)) => amount,
        (None, None) => return Err(Refusal::missing(name)),
        (Some(_), Some(_)) => {
            let message = "Only one of unit_amount and unit_amount_decimal can be given.";
            return Err(Refusal::invalid("parameters_exclusive", name, message));
        }
    };
    if (0..=AMOUNT_MAX).contains(&amount) {
        return Ok(amount);
    }
    Err(Refusal::invalid("parameter_invalid_integer", name, "Invalid amount: must be from 0 to 99999999"))
}

/// How often a price is paid.
pub(super) fn recurring(mut recurring: Params) -> Result<Recurring, Refusal> {
    let interval = recurring.word("interval", &["day", "week", "month", "year"])?;
    let interval = interval.ok_or_else(|| Refusal::missing(recurring.name("interval")))?.to_owned();
    let interval_count = recurring.integer("interval_count")?.unwrap_or(1);
    if !(1..=1095).contains(&interval_count) {
        let message = "Invalid interval_count: three years at most";
        return Err(Refusal::invalid("parameter_invalid_integer", recurring.name("interval_count"), message));
    }
    recurring.finish()?;
    Ok(Recurring { interval, interval_count })
}

/// What is sold, by name.
fn product(price: &mut Params) -> Result<String, Refusal> {
    if let Some(id) = price.text("product")? {
        let message = format!("No such product: '{id}'. The sandbox has no products: name it in product_data.");
        return Err(Refusal::invalid("resource_missing", price.name("product"), message));
    }
    let mut product = price.object("product_data")?.ok_or_else(|| Refusal::missing(price.name("product_data")))?;
    let name = product.required("name")?;
    product.text("description")?;
    product.text("tax_code")?;
    product.texts("images")?;
    product.update_metadata(&mut Metadata::new())?;
    product.finish()?;
    Ok(name)
}

fn expires_at(now: i64, params: &mut Params) -> Result<i64, Refusal> {
    let Some(told) = params.integer("expires_at")? else { return Ok(now.saturating_add(LASTS_DEFAULT)) };
    let lasts = told.saturating_sub(now);
    if (LASTS_MIN - CLOCKS_DIFFER..=LASTS_DEFAULT + CLOCKS_DIFFER).contains(&lasts) {
        return Ok(told);
    }
    let message = "Invalid expires_at: must be from 30 minutes to 24 hours from now";
    Err(Refusal::invalid("parameter_invalid_integer", "expires_at", message))
}

/// What is hung on the payment or the subscription that comes of the session, and the days before the latter is paid.
fn child(mode: Mode, params: &mut Params) -> Result<(Metadata, Option<i64>), Refusal> {
    let (key, other) = match mode {
        Mode::Payment => ("payment_intent_data", "subscription_data"),
        Mode::Subscription => ("subscription_data", "payment_intent_data"),
    };
    if params.object(other)?.is_some() {
        let message = format!("{other} does not go with this mode.");
        return Err(Refusal::invalid("parameter_invalid", other, message));
    }
    let mut metadata = Metadata::new();
    let mut trial_days = None;
    if let Some(mut child) = params.object(key)? {
        child.update_metadata(&mut metadata)?;
        child.text("description")?;
        if mode == Mode::Subscription {
            trial_days = child.integer("trial_period_days")?;
        }
        if trial_days.is_some_and(|days| !(1..=TRIAL_DAYS_MAX).contains(&days)) {
            let message = "Invalid trial_period_days: must be from 1 to 730";
            return Err(Refusal::invalid("parameter_invalid_integer", child.name("trial_period_days"), message));
        }
        child.finish()?;
    }
    Ok((metadata, trial_days))
}

/// Where a browser is sent: `{CHECKOUT_SESSION_ID}` may stand in it.
pub(super) fn address(params: &mut Params, key: &str) -> Result<Option<String>, Refusal> {
    let Some(text) = params.text(key)? else { return Ok(None) };
    let usable = Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if usable {
        return Ok(Some(text));
    }
    Err(Refusal::invalid("url_invalid", key, "Not a valid URL: it must begin with http:// or https://"))
}

fn inert(params: &mut Params) -> Result<Map<String, Value>, Refusal> {
    let mut inert = Map::new();
    for (key, words) in INERT_WORDS {
        inert.extend(params.word(key, words)?.map(|word| ((*key).to_owned(), word.into())));
    }
    inert.extend(params.text("locale")?.map(|locale| ("locale".to_owned(), locale.into())));
    // There are no promotion codes to be had here, and no taxes.
    let promotion = params.boolean("allow_promotion_codes")?;
    inert.extend(promotion.map(|allowed| ("allow_promotion_codes".to_owned(), allowed.into())));
    if switch(params, "automatic_tax")? == Some(true) {
        let tax = json!({
            "enabled": true,
            "liability": { "type": "self" },
            "provider": "stripe",
            "status": "requires_location_inputs",
        });
        inert.insert("automatic_tax".to_owned(), tax);
    }
    if let Some(enabled) = switch(params, "tax_id_collection")? {
        inert.insert("tax_id_collection".to_owned(), json!({ "enabled": enabled, "required": "never" }));
    }
    // Older versions of the API take it; the page has a card and a delayed method whatever is asked for.
    params.texts("payment_method_types")?;
    Ok(inert)
}

/// An object of which only `enabled` matters.
fn switch(params: &mut Params, key: &str) -> Result<Option<bool>, Refusal> {
    let Some(mut switch) = params.object(key)? else { return Ok(None) };
    let enabled = switch.boolean("enabled")?.ok_or_else(|| Refusal::missing(switch.name("enabled")))?;
    switch.finish()?;
    Ok(Some(enabled))
}
