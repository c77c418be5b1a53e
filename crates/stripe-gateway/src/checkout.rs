//! A Checkout Session: what Tollgate says about it, and how that becomes Stripe's parameters.

use std::collections::HashMap;
use std::str::FromStr;

use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionAutomaticTax, CreateCheckoutSessionCustomerCreation,
    CreateCheckoutSessionCustomerUpdate, CreateCheckoutSessionCustomerUpdateAddress,
    CreateCheckoutSessionCustomerUpdateName, CreateCheckoutSessionLineItems,
    CreateCheckoutSessionLineItemsAdjustableQuantity, CreateCheckoutSessionLineItemsPriceData,
    CreateCheckoutSessionLineItemsPriceDataRecurring,
    CreateCheckoutSessionLineItemsPriceDataRecurringInterval as StripeInterval, CreateCheckoutSessionPaymentIntentData,
    CreateCheckoutSessionSubscriptionData, CreateCheckoutSessionTaxIdCollection, ProductData,
};
use stripe_checkout::{CheckoutSessionBillingAddressCollection, CheckoutSessionMode};
use stripe_types::Currency;

use crate::error::GatewayError;

/// A purchase to be paid on Stripe's own page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckoutSession {
    /// Who buys. Sent as `client_reference_id` and as `metadata.userId`, so that every event of the purchase names
    /// its user.
    pub user_id: String,
    /// As whom Stripe knows the buyer (`cus_…`). Without it the purchase makes a customer.
    pub customer: Option<String>,
    /// The level bought, sent as `metadata.entitlementLevel`.
    pub level: String,
    /// One payment or a subscription.
    pub mode: Mode,
    /// What it costs.
    pub price: Price,
    /// Where Stripe sends the browser afterwards; `{CHECKOUT_SESSION_ID}` in it is replaced by Stripe.
    pub success_url: String,
    /// Where Stripe's back button leads.
    pub cancel_url: String,
    /// What the page asks and offers beside the price.
    pub page: PageOptions,
    /// What is said in the metadata beside user and level.
    pub more_metadata: Vec<(&'static str, String)>,
}

/// What Stripe's page asks the buyer, and offers. By default nothing but what Stripe needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageOptions {
    /// Takes promotion codes.
    pub promotion_codes: bool,
    /// Lets the buyer choose how many, from the first to the second; the page begins with the first. One where absent.
    pub quantity: Option<(u32, u32)>,
    /// Has Stripe work out the tax.
    pub automatic_tax: bool,
    /// Asks for a billing address in any case.
    pub billing_address: bool,
    /// Lets a business give its tax id.
    pub tax_id_collection: bool,
    /// Days before a subscription is first paid, 1 to 730. Not allowed in a payment.
    pub trial_days: Option<u16>,
}

/// How a session is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Once.
    Payment,
    /// Every interval until cancelled.
    Subscription,
}

/// What a session costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Price {
    /// A price kept at Stripe (`price_…`).
    Id(String),
    /// A price said with the session; Stripe makes a new price of it each time.
    Inline {
        /// In the currency's minor unit (cents; yen have none). 0 is normal for a trial: the page then asks for no
        /// card and the session completes with `no_payment_required`.
        amount: i64,
        /// ISO 4217, in either case (`usd`).
        currency: String,
        /// What the page and the receipt call it.
        product_name: String,
        /// How often it is paid: needed in a subscription, not allowed in a payment.
        interval: Option<Interval>,
    },
}

/// How often a subscription is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// Every day.
    Day,
    /// Every week.
    Week,
    /// Every month.
    Month,
    /// Every year.
    Year,
}

/// What Stripe answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSession {
    /// `cs_…`.
    pub id: String,
    /// The page to send the browser to.
    pub url: String,
    /// When the page stops working, in seconds since 1970-01-01 UTC.
    pub expires_at: i64,
}

/// The part of Stripe's Checkout Session that is read. The type of async-stripe would refuse a session that lacks any
/// of its required fields, although the purchase is already open; this one asks only for what is used.
#[derive(miniserde::Deserialize)]
pub(crate) struct SessionAnswer {
    id: String,
    url: String,
    expires_at: i64,
}

impl From<SessionAnswer> for CreatedSession {
    fn from(SessionAnswer { id, url, expires_at }: SessionAnswer) -> Self {
        Self { id, url, expires_at }
    }
}

impl NewCheckoutSession {
    /// Stripe's parameters, or the reason why these cannot be sold.
    pub(crate) fn into_request(self) -> Result<CreateCheckoutSession, GatewayError> {
        let page = self.page;
        let line_item = line_item(self.price, self.mode, page.quantity)?;
        let more = self.more_metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        let metadata: HashMap<String, String> =
            [("userId".to_owned(), self.user_id.clone()), ("entitlementLevel".to_owned(), self.level)]
                .into_iter()
                .chain(more)
                .collect();
        let mut request = CreateCheckoutSession::new()
            .client_reference_id(self.user_id)
            .line_items(vec![line_item])
            .success_url(self.success_url)
            .cancel_url(self.cancel_url)
            .metadata(metadata.clone());
        if page.promotion_codes {
            request = request.allow_promotion_codes(true);
        }
        if page.automatic_tax {
            request = request.automatic_tax(CreateCheckoutSessionAutomaticTax::new(true));
        }
        if page.billing_address {
            request = request.billing_address_collection(CheckoutSessionBillingAddressCollection::Required);
        }
        if page.tax_id_collection {
            request = request.tax_id_collection(CreateCheckoutSessionTaxIdCollection::new(true));
        }
        request = match (self.customer, self.mode) {
            (Some(customer), _) => {
                let request = request.customer(customer);
                // Stripe refuses to ask a known customer for what it may not keep.
                match customer_update(&page) {
                    Some(update) => request.customer_update(update),
                    None => request,
                }
            }
            // A subscription has one in any case.
            (None, Mode::Payment) => request.customer_creation(CreateCheckoutSessionCustomerCreation::Always),
            (None, Mode::Subscription) => request,
        };
        // The session's metadata is not copied to what the session creates, so later events (a renewal, a refund)
        // would not name the user. A payment of 0 creates no PaymentIntent, but the parameter is valid in its mode.
        Ok(match self.mode {
            Mode::Payment => {
                if page.trial_days.is_some() {
                    return Err(GatewayError::Configuration("a single payment has no trial".to_owned()));
                }
                let mut intent = CreateCheckoutSessionPaymentIntentData::new();
                intent.metadata = Some(metadata);
                request.mode(CheckoutSessionMode::Payment).payment_intent_data(intent)
            }
            Mode::Subscription => {
                let mut subscription = CreateCheckoutSessionSubscriptionData::new();
                subscription.metadata = Some(metadata);
                subscription.trial_period_days = page.trial_days.map(u32::from);
                request.mode(CheckoutSessionMode::Subscription).subscription_data(subscription)
            }
        })
    }
}

fn customer_update(page: &PageOptions) -> Option<CreateCheckoutSessionCustomerUpdate> {
    let mut update = CreateCheckoutSessionCustomerUpdate::new();
    update.address = page.automatic_tax.then_some(CreateCheckoutSessionCustomerUpdateAddress::Auto);
    update.name = page.tax_id_collection.then_some(CreateCheckoutSessionCustomerUpdateName::Auto);
    (update.address.is_some() || update.name.is_some()).then_some(update)
}

fn line_item(
    price: Price,
    mode: Mode,
    quantity: Option<(u32, u32)>,
) -> Result<CreateCheckoutSessionLineItems, GatewayError> {
    let mut item = CreateCheckoutSessionLineItems::new();
    item.quantity = Some(quantity.map_or(1, |(min, _)| min.into()));
    item.adjustable_quantity = quantity.map(|(min, max)| {
        let mut adjustable = CreateCheckoutSessionLineItemsAdjustableQuantity::new(true);
        (adjustable.minimum, adjustable.maximum) = (Some(min.into()), Some(max.into()));
        adjustable
    });
    match price {
        Price::Id(id) => item.price = Some(id),
        Price::Inline { amount, currency, product_name, interval } => {
            let wrong = |what: &str| Err(GatewayError::Configuration(what.to_owned()));
            if amount < 0 {
                return wrong("a price must not be negative");
            }
            if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                return wrong("a currency must be three letters like usd");
            }
            let recurring = match (mode, interval) {
                (Mode::Subscription, Some(interval)) => {
                    Some(CreateCheckoutSessionLineItemsPriceDataRecurring::new(StripeInterval::from(interval)))
                }
                (Mode::Payment, None) => None,
                (Mode::Subscription, None) => return wrong("a subscription needs an interval"),
                (Mode::Payment, Some(_)) => return wrong("a single payment has no interval"),
            };
            // Cannot fail: a currency the crate does not know is passed on, and Stripe decides.
            let Ok(currency) = Currency::from_str(&currency.to_ascii_lowercase());
            let mut data = CreateCheckoutSessionLineItemsPriceData::new(currency);
            data.unit_amount = Some(amount);
            data.product_data = Some(ProductData::new(product_name));
            data.recurring = recurring;
            item.price_data = Some(data);
        }
    }
    Ok(item)
}

impl From<Interval> for StripeInterval {
    fn from(interval: Interval) -> Self {
        match interval {
            Interval::Day => Self::Day,
            Interval::Week => Self::Week,
            Interval::Month => Self::Month,
            Interval::Year => Self::Year,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use stripe::StripeRequest as _;

    use super::*;

    fn session(mode: Mode, price: Price) -> NewCheckoutSession {
        NewCheckoutSession {
            user_id: "u1".into(),
            customer: None,
            level: "PRO".into(),
            mode,
            price,
            success_url: "https://app.test/ok".into(),
            cancel_url: "https://app.test/no".into(),
            page: PageOptions::default(),
            more_metadata: vec![],
        }
    }

    fn inline(amount: i64, currency: &str, interval: Option<Interval>) -> Price {
        Price::Inline { amount, currency: currency.into(), product_name: "Pro & more".into(), interval }
    }

    fn body(mode: Mode, price: Price) -> String {
        let request = session(mode, price).into_request().unwrap();
        request.build().body.unwrap()
    }

    #[test]
    fn a_subscription_carries_its_metadata_to_the_subscription() {
        let body = body(Mode::Subscription, Price::Id("price_1".into()));
        for part in [
            "mode=subscription",
            "client_reference_id=u1",
            "line_items[0][price]=price_1",
            "line_items[0][quantity]=1",
            "metadata[userId]=u1",
            "metadata[entitlementLevel]=PRO",
            "subscription_data[metadata][userId]=u1",
            "subscription_data[metadata][entitlementLevel]=PRO",
        ] {
            assert!(body.split('&').any(|pair| pair == part), "{part} in {body}");
        }
        assert!(!body.contains("payment_intent_data"));
    }

    #[test]
    fn a_free_payment_carries_its_metadata_to_the_payment_intent() {
        let body = body(Mode::Payment, inline(0, "USD", None));
        for part in [
            "mode=payment",
            "line_items[0][price_data][currency]=usd",
            "line_items[0][price_data][unit_amount]=0",
            "payment_intent_data[metadata][userId]=u1",
            "payment_intent_data[metadata][entitlementLevel]=PRO",
        ] {
            assert!(body.split('&').any(|pair| pair == part), "{part} in {body}");
        }
        assert!(!body.contains("subscription_data") && !body.contains("recurring"));
    }

    #[test]
    fn a_buyer_is_the_customer_that_he_was_and_else_becomes_one() {
        let of = |mode, customer: Option<&str>, page| {
            let price = inline(1, "usd", (mode == Mode::Subscription).then_some(Interval::Month));
            let session = NewCheckoutSession { customer: customer.map(Into::into), page, ..session(mode, price) };
            session.into_request().unwrap().build().body.unwrap()
        };
        let plain = PageOptions::default();
        assert!(of(Mode::Payment, None, plain.clone()).contains("customer_creation=always"));
        assert!(!of(Mode::Subscription, None, plain.clone()).contains("customer"));
        let known = of(Mode::Payment, Some("cus_1"), plain);
        assert!(known.contains("customer=cus_1") && !known.contains("customer_creation"), "{known}");
        assert!(!known.contains("customer_update"), "{known}");
        let taxed = PageOptions { automatic_tax: true, tax_id_collection: true, ..PageOptions::default() };
        let taxed = of(Mode::Subscription, Some("cus_1"), taxed);
        for part in ["customer=cus_1", "customer_update[address]=auto", "customer_update[name]=auto"] {
            assert!(taxed.split('&').any(|pair| pair == part), "{part} in {taxed}");
        }
    }

    #[test]
    fn the_page_asks_and_offers_only_what_it_is_told_to() {
        let all = PageOptions {
            promotion_codes: true,
            quantity: Some((2, 50)),
            automatic_tax: true,
            billing_address: true,
            tax_id_collection: true,
            trial_days: Some(14),
        };
        let parts = [
            "allow_promotion_codes=true",
            "line_items[0][quantity]=2",
            "line_items[0][adjustable_quantity][enabled]=true",
            "line_items[0][adjustable_quantity][minimum]=2",
            "line_items[0][adjustable_quantity][maximum]=50",
            "automatic_tax[enabled]=true",
            "billing_address_collection=required",
            "tax_id_collection[enabled]=true",
            "subscription_data[trial_period_days]=14",
        ];
        let monthly = || inline(2900, "usd", Some(Interval::Month));
        let offering = NewCheckoutSession { page: all.clone(), ..session(Mode::Subscription, monthly()) };
        let (offering, plain) =
            (offering.into_request().unwrap().build().body.unwrap(), body(Mode::Subscription, monthly()));
        for part in parts {
            assert!(offering.split('&').any(|pair| pair == part), "{part} in {offering}");
            assert!(!plain.split('&').any(|pair| pair == part), "{part} in {plain}");
        }
        let paid_once = NewCheckoutSession { page: all, ..session(Mode::Payment, inline(1, "usd", None)) };
        assert!(matches!(paid_once.into_request(), Err(GatewayError::Configuration(_))), "a payment has no trial");
    }

    #[test]
    fn prices_that_stripe_would_refuse_are_not_sent() {
        for (mode, price) in [
            (Mode::Subscription, inline(2900, "usd", None)),
            (Mode::Payment, inline(2900, "usd", Some(Interval::Month))),
            (Mode::Payment, inline(-1, "usd", None)),
            (Mode::Payment, inline(1, "us$", None)),
        ] {
            let Err(GatewayError::Configuration(_)) = session(mode, price).into_request() else {
                panic!("this price should be refused");
            };
        }
    }
}
