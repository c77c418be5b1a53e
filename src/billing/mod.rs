//! Selling: Checkout Sessions on Stripe's own page, under keys that never open two for one wish.
//!
//! A caller names a level, and perhaps an interval; price, addresses and everything else that Stripe is told come from the catalogue and the
//! settings. What was bought is never decided here: only Stripe's events grant anything.

mod error;
mod key;
pub(crate) mod limit;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stripe_gateway::{
    CreatedSession, Interval as StripeInterval, Mode as StripeMode, NewCheckoutSession, PageOptions,
    Price as StripePrice, StripeGateway,
};
use tokio::sync::Semaphore;
use url::Url;

pub use self::error::CheckoutError;
use self::{
    key::{CallerKey, stripe_key, wish},
    limit::UserLimit,
};
use crate::{
    config::CheckoutConfig,
    domain::{
        grant::{Grant, GrantStatus, SourceKind},
        id::{SessionId, UserId},
        level::Level,
        live::LiveCatalogue,
        plan::{Charge, Interval, Mode, Plan, Price},
    },
    ledger::{Ledger, SessionRecord},
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
    limit: UserLimit,
    stripe_calls: Semaphore,
}

/// A session that was opened, or had been opened under the same key.
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
}

/// How far a session got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// It can be paid.
    Open,
    /// It is paid.
    Complete,
    /// Bought with a delayed payment method; the money is on its way.
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
            limit: UserLimit::per_minute(config.per_user_per_minute),
            stripe_calls: Semaphore::new(STRIPE_CALLS_MAX),
        }))
    }

    /// Opens a page on which the user can buy the level, paid that often, or as it is sold by default. With the same `caller_key` the same page is given again.
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
        let key = caller_key.map(CallerKey::parse).transpose()?;
        self.0.limit.check(user)?;

        let shop = Arc::clone(&self.0);
        let task = tokio::spawn(async move { shop.sell(user, &plan, &price, key).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(user.id = %user, error = %error, "checkout task failed");
            Err(CheckoutError::Internal)
        })
    }

    /// A session of this user. Those of others, and those that another program made, are not found.
    ///
    /// # Errors
    /// [`CheckoutError::NotFound`], or the ledger cannot be reached.
    pub async fn session(&self, user: UserId, id: &str) -> Result<SessionView, CheckoutError> {
        let id = SessionId::parse(id).map_err(|_| CheckoutError::NotFound)?;
        let session = self.0.ledger.session(user, &id).await?.ok_or(CheckoutError::NotFound)?;
        let grants = self.0.ledger.grants(user).await?;
        let bought = grants.iter().filter(|grant| grant.session.as_ref() == Some(&id)).max_by_key(|grant| grant.status);
        let state = state(&session, bought, Utc::now());
        Ok(SessionView {
            granted: state == SessionState::Complete,
            state,
            id: session.id,
            level: session.level,
            expires_at: session.expires_at,
        })
    }
}

impl Shop {
    async fn sell(
        &self,
        user: UserId,
        plan: &Plan,
        price: &Price,
        caller_key: Option<CallerKey>,
    ) -> Result<StartedCheckout, CheckoutError> {
        let gateway = self.gateway.as_ref().ok_or(CheckoutError::NotConfigured)?;
        let grants = self.ledger.grants(user).await?;
        if is_entitled(&grants, plan, Utc::now()) {
            return Err(CheckoutError::AlreadyEntitled);
        }
        let wish = wish(plan, price);
        let attempt = match &caller_key {
            None => 1,
            Some(key) => {
                let claim = self.ledger.claim_key(user, key.hash(), &wish).await?;
                if claim.wish != wish {
                    return Err(CheckoutError::IdempotencyConflict);
                }
                claim.attempt
            }
        };
        let key = stripe_key(user, &wish, caller_key.as_ref(), attempt);

        // Full means "not now" at once: whoever waited here would only add to what is waiting.
        let permit = self.stripe_calls.try_acquire().map_err(|_| CheckoutError::Busy)?;
        let is_new = grants.iter().all(|grant| grant.level != plan.level);
        let answer = gateway.create_checkout_session(self.order(user, plan, price, is_new), &key).await;
        drop(permit);

        let (started, failure_is_stored) = match answer {
            Ok(created) => (read(created), true),
            Err(error) => {
                tracing::warn!(user.id = %user, error = %error, "no checkout session from Stripe");
                (None, error.needs_new_key())
            }
        };
        let Some(started) = started else {
            if let (Some(key), true) = (&caller_key, failure_is_stored)
                && let Err(error) = self.ledger.fail_key(user, key.hash(), attempt).await
            {
                // The next try meets the stored failure once more, and then comes by here again.
                tracing::warn!(user.id = %user, error = %error, "failed key not noted");
            }
            return Err(CheckoutError::Stripe);
        };
        // If this fails, the caller's next try with the same key gets the same session, and records it.
        self.ledger
            .record_session(&SessionRecord {
                id: started.session_id.clone(),
                user,
                level: plan.level.clone(),
                interval: price.interval,
                expired: false,
                expires_at: started.expires_at,
            })
            .await?;
        Ok(started)
    }

    /// `is_new`: the user has not had the level, and gets its trial.
    fn order(&self, user: UserId, plan: &Plan, price: &Price, is_new: bool) -> NewCheckoutSession {
        let checkout = &plan.checkout;
        let trial_days = checkout.trial_days.filter(|_| is_new);
        // What the purchase was sold on: the event that tells of it says neither, and the catalogue may have changed by then.
        let interval_word = price
            .interval
            .filter(|_| !plan.other_prices.is_empty())
            .map(|interval| ("interval", interval.as_str().to_owned()));
        let trial_word = trial_days.map(|days| ("trialDays", days.to_string()));
        NewCheckoutSession {
            user_id: user.to_string(),
            level: plan.level.as_str().to_owned(),
            mode: match plan.mode {
                Mode::Payment => StripeMode::Payment,
                Mode::Subscription => StripeMode::Subscription,
            },
            price: match &price.charge {
                Charge::Id(id) => StripePrice::Id(id.clone()),
                Charge::Inline { amount, currency } => StripePrice::Inline {
                    amount: *amount,
                    currency: currency.clone(),
                    product_name: plan.name.clone(),
                    interval: price.interval.map(interval),
                },
            },
            success_url: self.success_url.clone(),
            cancel_url: self.cancel_url.clone(),
            page: PageOptions {
                promotion_codes: checkout.promotion_codes,
                quantity: checkout.quantity.map(|quantity| (quantity.min, quantity.max)),
                automatic_tax: checkout.tax,
                billing_address: checkout.billing_address,
                tax_id_collection: checkout.tax_id_collection,
                trial_days,
            },
            more_metadata: interval_word.into_iter().chain(trial_word).collect(),
        }
    }
}

const fn interval(interval: Interval) -> StripeInterval {
    match interval {
        Interval::Day => StripeInterval::Day,
        Interval::Week => StripeInterval::Week,
        Interval::Month => StripeInterval::Month,
        Interval::Year => StripeInterval::Year,
    }
}

/// A session as it can be used here; what Stripe's answer lacks, no later answer under the same key will have.
fn read(created: CreatedSession) -> Option<StartedCheckout> {
    Some(StartedCheckout {
        session_id: SessionId::parse(&created.id).ok()?,
        url: created.url,
        expires_at: DateTime::from_timestamp(created.expires_at, 0)?,
    })
}

/// Whether buying the plan (again) would take money for nothing: it can be had only once and was had, or a subscription of
/// the level is running.
fn is_entitled(grants: &[Grant], plan: &Plan, now: DateTime<Utc>) -> bool {
    grants
        .iter()
        .filter(|grant| grant.level == plan.level && grant.was_paid())
        .any(|grant| plan.once_per_user || (grant.source.kind == SourceKind::Subscription && grant.is_live(now)))
}

/// `bought` is what is known of the purchase made in the session, if anything is. A subscription that has ended was bought all the same.
fn state(session: &SessionRecord, bought: Option<&Grant>, now: DateTime<Utc>) -> SessionState {
    match bought {
        Some(grant) if grant.was_paid() => SessionState::Complete,
        Some(grant) if grant.status == GrantStatus::Pending => SessionState::Pending,
        Some(_) => SessionState::Expired,
        None if session.expired || session.expires_at <= now => SessionState::Expired,
        None => SessionState::Open,
    }
}

#[cfg(test)]
pub(crate) mod tests;
