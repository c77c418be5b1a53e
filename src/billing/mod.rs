//! Selling: Checkout Sessions on Stripe's own page, under keys that never open two for one wish, and the page where a customer sees
//! what was sold to him.
//!
//! A caller names a level, and perhaps an interval; price, addresses and everything else that Stripe is told come from the catalogue and the
//! settings. What was bought is never decided here: only what Stripe says grants anything, in its events or when it is asked
//! (`fulfil.rs`).

mod error;
mod fulfil;
mod key;
pub(crate) mod limit;
mod sell;
mod standing;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stripe_gateway::StripeGateway;
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

pub use self::{error::CheckoutError, fulfil::Fulfilment};
use self::{key::KeyHash, limit::UserLimit};
use crate::{
    config::CheckoutConfig,
    domain::{
        id::{SessionId, UserId},
        level::Level,
        live::LiveCatalogue,
        plan::Interval,
    },
    ledger::Ledger,
};

/// Most calls to Stripe at once: a slow Stripe must not keep everything waiting for it.
const STRIPE_CALLS_MAX: usize = 32;

/// Sells levels. Clones share everything.
#[derive(Clone)]
pub struct Billing(Arc<Shop>);

struct Shop {
    gateway: Option<StripeGateway>,
    ledger: Arc<dyn Ledger>,
    catalogue: LiveCatalogue,
    success_url: String,
    cancel_url: String,
    /// Where the back link of the customer's page leads.
    return_url: String,
    limit: UserLimit,
    portal_limit: UserLimit,
    lookup_limit: UserLimit,
    stripe_calls: Semaphore,
}

/// A session that was opened, or had been opened for the same wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedCheckout {
    /// `cs_…`
    pub session_id: SessionId,
    /// Where to send the buyer.
    pub url: String,
    /// When Stripe closes it.
    pub expires_at: DateTime<Utc>,
}

/// How a session stands, for the page a buyer comes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// `cs_…`
    pub id: SessionId,
    /// What is being bought.
    pub level: Level,
    /// How far it got.
    pub state: SessionState,
    /// Whether the purchase has given the user the level.
    pub granted: bool,
    /// When Stripe closes, or closed, it.
    pub expires_at: DateTime<Utc>,
    /// The version of what the user may do, not older than the rest; 0 while the user has never had anything.
    pub version: u64,
}

/// How far a session got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// It can be paid.
    Open,
    /// It is paid.
    Complete,
    /// Bought with a delayed payment method, the money is on its way; or Stripe could not say how it stands.
    Pending,
    /// It ended without a payment.
    Expired,
}

impl SessionState {
    /// The word in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Pending => "pending",
            Self::Expired => "expired",
        }
    }
}

impl Billing {
    /// Without a gateway nothing can be sold, but sessions can still be looked at.
    #[must_use]
    pub fn new(
        gateway: Option<StripeGateway>,
        ledger: Arc<dyn Ledger>,
        catalogue: impl Into<LiveCatalogue>,
        app_url: &Url,
        config: &CheckoutConfig,
    ) -> Self {
        let base = app_url.as_str().trim_end_matches('/');
        Self(Arc::new(Shop {
            gateway,
            ledger,
            catalogue: catalogue.into(),
            // Stripe replaces the braces.
            success_url: format!("{base}/checkout/success?session_id={{CHECKOUT_SESSION_ID}}"),
            cancel_url: format!("{base}/checkout/cancel"),
            return_url: format!("{base}/"),
            limit: UserLimit::per_minute(config.per_user_per_minute),
            portal_limit: UserLimit::per_minute(config.per_user_per_minute),
            lookup_limit: UserLimit::of_lookups(config.per_user_per_minute),
            stripe_calls: Semaphore::new(STRIPE_CALLS_MAX),
        }))
    }

    /// Opens a page on which the user can buy the level, paid that often, or as it is sold by default. While a page for the same is open
    /// that one is given again; with the same `caller_key` until it ends, even if it has been used.
    ///
    /// The work is a task of its own: a caller who hangs up leaves no session behind that nobody knows.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub async fn start_checkout(
        &self,
        user: UserId,
        level: &str,
        interval: Option<&str>,
        caller_key: Option<&str>,
    ) -> Result<StartedCheckout, CheckoutError> {
        let catalogue = self.0.catalogue.get();
        let plan = Level::parse(level).ok().and_then(|level| catalogue.plan(&level).cloned());
        let plan = plan.ok_or(CheckoutError::InvalidLevel)?;
        let interval =
            interval.map(|word| Interval::from_word(word).ok_or(CheckoutError::InvalidInterval)).transpose()?;
        let price = plan.price_by(interval).cloned().ok_or(CheckoutError::InvalidInterval)?;
        let key = caller_key.map(KeyHash::of_caller).transpose()?;
        self.0.limit.check(user)?;

        let shop = Arc::clone(&self.0);
        let task = tokio::spawn(async move { shop.sell(user, &plan, &price, key).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(user.id = %user, error = %error, "checkout task failed");
            Err(CheckoutError::Internal)
        })
    }

    /// Opens Stripe's page on which the user sees invoices and manages subscriptions, and gives its address.
    ///
    /// # Errors
    /// [`CheckoutError::NoCustomer`] if nothing was bought yet, or the customer was deleted at Stripe.
    pub async fn open_portal(&self, user: UserId) -> Result<String, CheckoutError> {
        let shop = &self.0;
        shop.portal_limit.check(user)?;
        let gateway = shop.gateway.as_ref().ok_or(CheckoutError::NotConfigured)?;
        let customer = shop.ledger.customer(user).await?.ok_or(CheckoutError::NoCustomer)?;
        let _permit = shop.may_call()?;
        gateway.create_portal_session(customer.as_str(), &shop.return_url).await.map_err(|error| {
            tracing::warn!(user.id = %user, error = %error, "no portal session from Stripe");
            if error.is_missing() { CheckoutError::NoCustomer } else { CheckoutError::Stripe }
        })
    }
}

impl Shop {
    /// Full means "not now" at once: whoever waited here would only add to what is waiting.
    fn may_call(&self) -> Result<SemaphorePermit<'_>, CheckoutError> {
        self.stripe_calls.try_acquire().map_err(|_| CheckoutError::Busy)
    }
}

#[cfg(test)]
pub(crate) mod tests;
