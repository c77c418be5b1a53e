//! Refunds, charges, disputes, invoices and customers, as far as they decide anything. Every field may be absent; what ties an invoice to its
//! subscription, and a payment to its invoice, moved in API version 2025-03-31.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Object, Reference, Text, object, unix_time};

macro_rules! readable {
    ($($name:ident)+) => {
        $(impl<'a> $name<'a> {
            /// Reads the text of `data.object`; `None` if it is not what its type says.
            pub(in crate::intake) fn parse(text: &'a str) -> Option<Self> {
                object(text).ok()
            }
        })+
    };
}

readable! { Refund Charge Dispute Invoice InvoicePayment Customer PaymentIntent List }

/// A refund.
#[derive(Deserialize)]
pub(in crate::intake) struct Refund<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) status: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) payment_intent: Option<Reference<'a>>,
    pub(in crate::intake) amount: Option<i64>,
    created: Option<i64>,
}

impl Refund<'_> {
    /// When it was made.
    pub(in crate::intake) fn made_at(&self) -> Option<DateTime<Utc>> {
        unix_time(self.created?)
    }
}

/// A charge.
#[derive(Deserialize)]
pub(in crate::intake) struct Charge<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) payment_intent: Option<Reference<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) invoice: Option<Reference<'a>>,
    pub(in crate::intake) amount_captured: Option<i64>,
    pub(in crate::intake) amount_refunded: Option<i64>,
}

/// A dispute, which may be an inquiry only.
#[derive(Deserialize)]
pub(in crate::intake) struct Dispute<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) status: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) payment_intent: Option<Reference<'a>>,
}

/// An invoice.
#[derive(Deserialize)]
pub(in crate::intake) struct Invoice<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) payment_intent: Option<Reference<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) status: Option<Text<'a>>,
    #[serde(borrow)]
    subscription: Option<Reference<'a>>,
    #[serde(borrow)]
    parent: Option<Object<Parent<'a>>>,
    #[serde(borrow)]
    lines: Option<Object<Lines<'a>>>,
}

/// What an invoice is for, or one of its lines.
#[derive(Deserialize)]
struct Parent<'a> {
    #[serde(borrow)]
    subscription_details: Option<Object<Details<'a>>>,
    #[serde(borrow)]
    subscription_item_details: Option<Object<Details<'a>>>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    subscription: Option<Reference<'a>>,
    proration: Option<bool>,
}

#[derive(Deserialize)]
struct Lines<'a> {
    #[serde(borrow)]
    data: Option<Vec<Object<Line<'a>>>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    subscription_item: Option<Reference<'a>>,
    #[serde(borrow)]
    parent: Option<Object<Parent<'a>>>,
    proration: Option<bool>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    period: Option<Period>,
}

#[derive(Deserialize)]
struct Period {
    end: Option<i64>,
}

impl<'a> Invoice<'a> {
    /// The subscription that it is for; `None` if it is for none.
    pub(in crate::intake) fn subscription(&self) -> Option<&Reference<'a>> {
        let of_parent = || self.parent.as_ref()?.0.subscription_details.as_ref()?.0.subscription.as_ref();
        self.subscription.as_ref().or_else(of_parent)
    }

    /// The end of the period that it is for: the latest among the lines of the subscription that are no prorations.
    pub(in crate::intake) fn period_end(&self) -> Option<DateTime<Utc>> {
        let lines = self.lines.as_ref()?.0.data.iter().flatten();
        lines.filter_map(|Object(line)| line.period_end()).max()
    }
}

impl Line<'_> {
    fn period_end(&self) -> Option<DateTime<Utc>> {
        let details = self.parent.as_ref().and_then(|Object(parent)| parent.subscription_item_details.as_ref());
        let is_of_subscription = details.is_some()
            || self.subscription_item.is_some()
            || self.kind.as_ref().is_some_and(|kind| kind.as_str() == "subscription");
        let is_proration = self.proration.or_else(|| details?.0.proration).unwrap_or_default();
        if is_of_subscription && !is_proration { unix_time(self.period.as_ref()?.end?) } else { None }
    }
}

/// What ties a payment to the invoice it paid.
#[derive(Deserialize)]
pub(in crate::intake) struct InvoicePayment<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(in crate::intake) invoice: Option<Reference<'a>>,
    #[serde(borrow)]
    payment: Option<Object<Payment<'a>>>,
}

#[derive(Deserialize)]
struct Payment<'a> {
    #[serde(borrow)]
    payment_intent: Option<Reference<'a>>,
}

impl<'a> InvoicePayment<'a> {
    /// The payment; `None` if it was paid by other means.
    pub(in crate::intake) fn payment_intent(&self) -> Option<&Reference<'a>> {
        self.payment.as_ref()?.0.payment_intent.as_ref()
    }
}

/// A customer.
#[derive(Deserialize)]
pub(in crate::intake) struct Customer<'a> {
    #[serde(borrow)]
    pub(in crate::intake) id: Option<Text<'a>>,
}

/// A payment with its newest charge.
#[derive(Deserialize)]
pub(in crate::intake) struct PaymentIntent<'a> {
    #[serde(borrow)]
    latest_charge: Option<Object<Charge<'a>>>,
}

impl<'a> PaymentIntent<'a> {
    /// Its newest charge; `None` if there is none.
    pub(in crate::intake) fn charge(&self) -> Option<&Charge<'a>> {
        self.latest_charge.as_ref().map(|Object(charge)| charge)
    }
}

/// A list as Stripe gives it.
#[derive(Deserialize)]
pub(in crate::intake) struct List<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

impl<'a> List<'a> {
    /// The text of each object.
    pub(in crate::intake) fn texts(&self) -> impl Iterator<Item = &'a str> {
        self.data.iter().map(|object| object.get())
    }
}
