//! The public face: one function for each thing Tollgate asks of Stripe.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use stripe::StripeRequest as _;
use stripe_client_core::{RequestBuilder, StripeMethod};

use crate::checkout::{CreatedSession, NewCheckoutSession, SessionAnswer};
use crate::config::GatewayConfig;
use crate::error::GatewayError;
use crate::pace::Share;
use crate::transport::Transport;

/// A boxed future that may move between threads: it keeps callers free of this crate's generated types.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An object as Stripe has it, for whoever knows its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The body as it came.
    pub json: Bytes,
    /// When Stripe gave it (its `Date` header), in seconds since 1970-01-01 UTC.
    pub at: i64,
}

/// Calls to Stripe over one pool of kept-alive connections. Clones share the pool and the pace.
///
/// Reads are repeated freely; what creates something is repeated under its idempotency key only.
#[derive(Clone)]
pub struct StripeGateway {
    transport: Arc<Transport>,
    share: Share,
}

/// The part that is read of an answer whose only news is an address.
#[derive(miniserde::Deserialize)]
struct PageAnswer {
    url: String,
}

impl StripeGateway {
    /// Checks the settings and prepares the connection pool; connects to nothing yet.
    ///
    /// # Errors
    /// [`GatewayError::Configuration`] names the setting that cannot work.
    pub fn new(config: GatewayConfig) -> Result<Self, GatewayError> {
        Ok(Self { transport: Arc::new(Transport::new(&config)?), share: Share::Buyers })
    }

    /// The same, for what nobody waits for: its calls have a share of their own in Stripe's rate limit, and never keep a buyer waiting.
    #[must_use]
    pub fn in_background(&self) -> Self {
        Self { transport: Arc::clone(&self.transport), share: Share::Background }
    }

    /// Opens a page on which `session.user_id` can buy `session.level` (`POST /v1/checkout/sessions`).
    ///
    /// `idempotency_key` is 1 to 255 visible ASCII characters. Every attempt of this call sends it, and calling again with the
    /// same key and the same session returns the same page for a day instead of opening a second one; with other
    /// parameters Stripe refuses ([`GatewayError::is_other_request`]).
    /// Rule: <https://docs.stripe.com/api/idempotent_requests>.
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::needs_new_key`] says whether this key is of further use.
    pub fn create_checkout_session<'a>(
        &'a self,
        session: NewCheckoutSession,
        idempotency_key: &'a str,
    ) -> BoxFuture<'a, Result<CreatedSession, GatewayError>> {
        Box::pin(async move {
            let request = session.into_request()?.build();
            let answer = self.transport.send(request, Some(idempotency_key), self.share).await?;
            read::<SessionAnswer>(&answer.body).map(Into::into)
        })
    }

    /// Opens Stripe's page on which a customer sees invoices and manages subscriptions, and gives its address
    /// (`POST /v1/billing_portal/sessions`). `return_url` is where its back link leads.
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::is_missing`] if Stripe has no such customer (any more).
    pub fn create_portal_session<'a>(
        &'a self,
        customer: &'a str,
        return_url: &'a str,
    ) -> BoxFuture<'a, Result<String, GatewayError>> {
        Box::pin(async move {
            let form = BTreeMap::from([("customer", customer), ("return_url", return_url)]);
            let request = RequestBuilder::new(StripeMethod::Post, "/billing_portal/sessions").form(&form);
            // A second page would do no harm: the key is there so that a lost answer may be asked for again.
            let key = format!("tollgate-portal-{:032x}", rand::random::<u128>());
            let answer = self.transport.send(request, Some(&key), self.share).await?;
            read::<PageAnswer>(&answer.body).map(|page| page.url)
        })
    }

    /// A Checkout Session (`GET /v1/checkout/sessions/{id}`).
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::is_missing`] if there is none.
    pub fn retrieve_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Fetched, GatewayError>> {
        self.get(object("/checkout/sessions/", id))
    }

    /// A subscription (`GET /v1/subscriptions/{id}`).
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::is_missing`] if there is none.
    pub fn retrieve_subscription<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Fetched, GatewayError>> {
        self.get(object("/subscriptions/", id))
    }

    /// A PaymentIntent with its newest charge in `latest_charge`, or null there
    /// (`GET /v1/payment_intents/{id}?expand[]=latest_charge`).
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::is_missing`] if there is none.
    pub fn retrieve_payment_intent<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Fetched, GatewayError>> {
        let expand = BTreeMap::from([("expand[]", "latest_charge")]);
        self.get(object("/payment_intents/", id).map(|request| request.query(&expand)))
    }

    /// The list of what invoices a PaymentIntent paid, newest first, a hundred at most
    /// (`GET /v1/invoice_payments?payment[type]=payment_intent&…`).
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub fn invoice_payments_of<'a>(&'a self, payment_intent: &'a str) -> BoxFuture<'a, Result<Fetched, GatewayError>> {
        let query = BTreeMap::from([
            ("limit", "100"),
            ("payment[payment_intent]", payment_intent),
            ("payment[type]", "payment_intent"),
        ]);
        self.get(Ok(RequestBuilder::new(StripeMethod::Get, "/invoice_payments").query(&query)))
    }

    /// An invoice (`GET /v1/invoices/{id}`).
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::is_missing`] if there is none.
    pub fn retrieve_invoice<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Fetched, GatewayError>> {
        self.get(object("/invoices/", id))
    }

    /// The list of a subscription's invoices that were paid, newest first, ten at most (`GET /v1/invoices?status=paid&…`).
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub fn paid_invoices_of<'a>(&'a self, subscription: &'a str) -> BoxFuture<'a, Result<Fetched, GatewayError>> {
        let query = BTreeMap::from([("limit", "10"), ("status", "paid"), ("subscription", subscription)]);
        self.get(Ok(RequestBuilder::new(StripeMethod::Get, "/invoices").query(&query)))
    }

    fn get(&self, request: Result<RequestBuilder, GatewayError>) -> BoxFuture<'_, Result<Fetched, GatewayError>> {
        Box::pin(async move {
            let answer = self.transport.send(request?, None, self.share).await?;
            // Without a time nobody could tell whether it is older than what is known.
            Ok(Fetched { json: answer.body, at: answer.date.ok_or(GatewayError::Unreadable)? })
        })
    }
}

/// The request for one object. An id becomes a part of the path: it must not be able to lead elsewhere.
fn object(collection: &str, id: &str) -> Result<RequestBuilder, GatewayError> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(GatewayError::Configuration("an id of Stripe's has letters, digits and underscores".to_owned()));
    }
    Ok(RequestBuilder::new(StripeMethod::Get, format!("{collection}{id}")))
}

fn read<T: miniserde::Deserialize>(body: &[u8]) -> Result<T, GatewayError> {
    let text = std::str::from_utf8(body).map_err(|_| GatewayError::Unreadable)?;
    miniserde::json::from_str(text).map_err(|_| GatewayError::Unreadable)
}

impl fmt::Debug for StripeGateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StripeGateway")
    }
}
