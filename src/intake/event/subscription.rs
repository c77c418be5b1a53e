//! A subscription, as far as it decides anything. Every field may be absent; some moved from the subscription to its items in API version
//! 2025-03-31.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Metadata, Object, Reference, Text, object, said, unix_time};
use crate::domain::{
    plan::{Interval, ItemPrice},
    subscription::{Attributes, SubscriptionStatus, Terms},
};

/// Attributes of the subscription by which one snapshot is told to be later than another.
const COMPARED: [&str; 11] = [
    "status",
    "cancel_at",
    "cancel_at_period_end",
    "canceled_at",
    "current_period_end",
    "current_period_start",
    "default_payment_method",
    "ended_at",
    "latest_invoice",
    "quantity",
    "trial_end",
];

/// The same, of its item.
const COMPARED_OF_ITEM: [&str; 3] = ["current_period_end", "current_period_start", "quantity"];

/// The subscription itself.
#[derive(Deserialize)]
pub(in crate::intake) struct Subscription<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) status: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) customer: Option<Reference<'a>>,
    #[serde(borrow)]
    metadata: Option<Object<Metadata<'a>>>,
    /// Read only where something is given: what takes away needs none.
    #[serde(borrow)]
    items: Option<&'a RawValue>,
    created: Option<i64>,
    current_period_start: Option<i64>,
    current_period_end: Option<i64>,
    trial_end: Option<i64>,
    cancel_at: Option<i64>,
    cancel_at_period_end: Option<bool>,
    ended_at: Option<i64>,
}

#[derive(Deserialize)]
struct Items<'a> {
    #[serde(borrow)]
    data: Option<Vec<&'a RawValue>>,
}

/// What is subscribed to: one price, with a period of its own.
pub(in crate::intake) struct Item<'a> {
    text: &'a str,
    fields: ItemFields<'a>,
}

#[derive(Deserialize)]
struct ItemFields<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    price: Option<Object<Price<'a>>>,
    quantity: Option<i64>,
    current_period_start: Option<i64>,
    current_period_end: Option<i64>,
}

#[derive(Deserialize)]
struct Price<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    unit_amount: Option<i64>,
    #[serde(borrow)]
    currency: Option<Text<'a>>,
    #[serde(borrow)]
    recurring: Option<Object<Recurring<'a>>>,
}

#[derive(Deserialize)]
struct Recurring<'a> {
    #[serde(borrow)]
    interval: Option<Text<'a>>,
    interval_count: Option<i64>,
}

impl<'a> Subscription<'a> {
    /// Reads the text of `data.object`; `None` if it is no subscription.
    pub(in crate::intake) fn parse(text: &'a str) -> Option<Self> {
        object(text).ok()
    }

    /// `metadata.userId`; empty is as good as absent.
    pub(in crate::intake) fn user_id(&self) -> Option<&str> {
        said(self.metadata.as_ref()?.0.user_id.as_ref())
    }

    /// `metadata.entitlementLevel`; empty is as good as absent.
    pub(in crate::intake) fn entitlement_level(&self) -> Option<&str> {
        said(self.metadata.as_ref()?.0.entitlement_level.as_ref())
    }

    /// When the subscription was made.
    pub(in crate::intake) fn created(&self) -> Option<DateTime<Utc>> {
        unix_time(self.created?)
    }

    /// Its items; `None` if one of them cannot be read.
    pub(in crate::intake) fn items(&self) -> Option<Vec<Item<'a>>> {
        self.items.map_or_else(|| Some(Vec::new()), |text| object::<Items<'a>>(text.get()).ok()?.read())
    }

    /// What decides when access ends that `item` gives; `None` if one of the times is none: taken for absent, it might give more.
    pub(in crate::intake) fn terms(&self, status: SubscriptionStatus, item: Option<&Item<'_>>) -> Option<Terms> {
        let fields = item.map(|item| &item.fields);
        let time = |seconds: Option<i64>| seconds.map_or(Some(None), |seconds| unix_time(seconds).map(Some));
        Some(Terms {
            status,
            period_start: time(fields.and_then(|item| item.current_period_start).or(self.current_period_start))?,
            period_end: time(fields.and_then(|item| item.current_period_end).or(self.current_period_end))?,
            trial_end: time(self.trial_end)?,
            cancel_at: time(self.cancel_at)?,
            cancels_at_period_end: self.cancel_at_period_end.unwrap_or_default(),
            ended_at: time(self.ended_at)?,
        })
    }
}

impl<'a> Items<'a> {
    fn read(&self) -> Option<Vec<Item<'a>>> {
        let texts = self.data.iter().flatten().map(|raw| raw.get());
        texts.map(|text| object(text).ok().map(|fields| Item { text, fields })).collect()
    }
}

impl Item<'_> {
    /// How many; `None` where it does not say, as for what is metered.
    pub(in crate::intake) fn quantity(&self) -> Option<u32> {
        self.fields.quantity.and_then(|quantity| u32::try_from(quantity).ok())
    }

    /// What it costs; `None` without a price.
    pub(in crate::intake) fn price(&self) -> Option<ItemPrice<'_>> {
        let Object(price) = self.fields.price.as_ref()?;
        Some(ItemPrice {
            id: said(price.id.as_ref()),
            amount: price.unit_amount,
            currency: said(price.currency.as_ref()),
            interval: price.recurring.as_ref().and_then(|Object(recurring)| recurring.once()),
        })
    }
}

impl Recurring<'_> {
    /// The interval, if it is paid each time that one is over.
    fn once(&self) -> Option<Interval> {
        Interval::from_word(said(self.interval.as_ref())?).filter(|_| self.interval_count.unwrap_or(1) == 1)
    }
}

/// What of a subscription's text is compared, and what of the text of `previous_attributes`: of the item, too, which the latter tells
/// apart by its id.
pub(in crate::intake) fn compared(
    subscription: &str,
    previous: Option<&str>,
    item: Option<&Item<'_>>,
) -> (Attributes, Attributes) {
    let mut values = BTreeMap::new();
    collect(&mut values, "", subscription, &COMPARED);
    if let Some(item) = item {
        collect(&mut values, "item.", item.text, &COMPARED_OF_ITEM);
    }
    let mut before = BTreeMap::new();
    if let Some(previous) = previous {
        collect(&mut before, "", previous, &COMPARED);
        if let Some(earlier) = item.and_then(|item| earlier(previous, item)) {
            collect(&mut before, "item.", earlier, &COMPARED_OF_ITEM);
        }
    }
    (values, before)
}

/// The text of the item as it was.
fn earlier<'a>(previous: &'a str, item: &Item<'_>) -> Option<&'a str> {
    #[derive(Deserialize)]
    struct Previous<'a> {
        #[serde(borrow)]
        items: Option<Object<Items<'a>>>,
    }

    let id = said(item.fields.id.as_ref())?;
    let items = object::<Previous<'a>>(previous).ok()?.items?.0.read()?;
    items.into_iter().find(|earlier| said(earlier.fields.id.as_ref()) == Some(id)).map(|earlier| earlier.text)
}

/// Takes what is a word, a number or nothing: an expanded object is not compared.
fn collect(into: &mut Attributes, prefix: &str, text: &str, names: &[&str]) {
    let fields: BTreeMap<String, &RawValue> = object(text).unwrap_or_default();
    for name in names {
        if let Some(value) = fields.get(*name).map(|raw| raw.get()).filter(|value| !value.starts_with(['{', '['])) {
            into.insert(format!("{prefix}{name}"), value.to_owned());
        }
    }
}
