//! One sale: the session that is open for the same wish, or a new one.
//!
//! Attempts of an offer (a wish, with a trial or without) are counted in the ledger, and the key that Stripe gets is made of the attempt: it belongs to everybody who wants
//! the same for the same user. Nothing is locked or claimed for a while. Two clicks at once use one key, and Stripe answers both with
//! one session; who dies on the way leaves nothing behind but a key under which the next click gets what he had opened.

use chrono::{DateTime, TimeDelta, Utc};
use stripe_gateway::{
    CreatedSession, Interval as StripeInterval, Mode as StripeMode, NewCheckoutSession, PageOptions,
    Price as StripePrice,
};

use super::{
    CheckoutError, Shop, StartedCheckout,
    key::{KeyHash, stripe_key, wish},
    standing::refusal,
};
use crate::{
    clock,
    domain::{
        grant::Grant,
        id::{CustomerId, SessionId, UserId},
        plan::{Charge, Interval, Mode, Plan, Price},
    },
    fail_point::{self, Point},
    ledger::SessionRecord,
};

/// A session that ends sooner is not given to somebody who comes anew: there must be time to pay.
const TIME_TO_PAY: TimeDelta = TimeDelta::minutes(10);
/// How often Stripe is asked for one sale where its answer says that another question may have another answer.
const TRIES: u32 = 4;

/// Where the attempts of an offer stand.
struct Turn {
    attempt: u32,
    /// The session that the attempt opened, if that is known.
    open: Option<StartedCheckout>,
}

impl Shop {
    pub(super) async fn sell(
        &self,
        user: UserId,
        plan: &Plan,
        price: &Price,
        caller_key: Option<KeyHash>,
    ) -> Result<StartedCheckout, CheckoutError> {
        let gateway = self.gateway.as_ref().ok_or(CheckoutError::NotConfigured)?;
        let grants = self.ledger.grants(user).await?;
        if let Some(refusal) = refusal(&grants, plan, clock::now()) {
            return Err(refusal);
        }
        let wish = wish(plan, price);
        // Who has had the level gets no trial, and not the page that was opened with one either.
        let trial_days = plan.checkout.trial_days.filter(|_| grants.iter().all(|grant| grant.level != plan.level));
        let offer = if trial_days.is_some() { format!("{wish} trial") } else { wish.clone() };
        let mut turn = self.turn(user, &offer, &grants).await?;
        if let Some(key) = caller_key
            && let Some(started) = self.started_with(user, &wish, &offer, key, turn.attempt).await?
        {
            return Ok(started);
        }
        let mut customer = if turn.open.is_none() { self.ledger.customer(user).await? } else { None };
        for _ in 0..TRIES {
            let Turn { attempt, open } = turn;
            if let Some(started) = open {
                return Ok(started);
            }
            let key = stripe_key(user, &offer, attempt);
            let order = self.order(user, customer.as_ref(), plan, price, trial_days);
            let permit = self.may_call()?;
            fail_point::pass(Point::CheckoutOpen, || user.to_string()).await;
            let answer = gateway.create_checkout_session(order, &key).await;
            drop(permit);
            match answer.map(read) {
                Ok(Some(started)) => {
                    fail_point::pass(Point::CheckoutOpened, || user.to_string()).await;
                    // If this fails, the user's next try gets the same session, and records it.
                    self.record(user, plan, price, &started, key).await?;
                }
                Ok(None) => {
                    self.give_up(user, &offer, attempt).await;
                    return Err(CheckoutError::Stripe);
                }
                Err(error) => {
                    tracing::warn!(user.id = %user, error = %error, "no checkout session from Stripe");
                    if error.needs_new_key() {
                        self.give_up(user, &offer, attempt).await;
                    }
                    // The customer was deleted, the order has changed since the key was used, or it is in use this moment.
                    let is_deleted = error.is_missing() && customer.take().is_some();
                    if !(is_deleted || error.is_other_request() || error.is_in_use()) {
                        return Err(CheckoutError::Stripe);
                    }
                }
            }
            turn = self.turn(user, &offer, &grants).await?;
        }
        turn.open.ok_or(CheckoutError::Stripe)
    }

    /// The newest attempt, past those whose sessions are over.
    async fn turn(&self, user: UserId, offer: &str, grants: &[Grant]) -> Result<Turn, CheckoutError> {
        let slot = KeyHash::of_offer(offer).bytes();
        loop {
            let attempt = self.ledger.claim_key(user, slot, offer, 1).await?.attempt;
            let session = self.ledger.session_opened_by(user, &stripe_key(user, offer, attempt)).await?;
            let Some(session) = session else { return Ok(Turn { attempt, open: None }) };
            let is_used = grants.iter().any(|grant| grant.session.as_ref() == Some(&session.id));
            if !is_used && let open @ Some(_) = started(session, clock::now() + TIME_TO_PAY) {
                return Ok(Turn { attempt, open });
            }
            self.ledger.move_key(user, slot, attempt, attempt.saturating_add(1)).await?;
        }
    }

    /// What the caller's key was given before, until that ends. Otherwise the key stands for the attempt from now on.
    async fn started_with(
        &self,
        user: UserId,
        wish: &str,
        offer: &str,
        key: KeyHash,
        attempt: u32,
    ) -> Result<Option<StartedCheckout>, CheckoutError> {
        let claim = self.ledger.claim_key(user, key.bytes(), wish, attempt).await?;
        if claim.wish != wish {
            return Err(CheckoutError::IdempotencyConflict);
        }
        if claim.attempt == attempt {
            return Ok(None);
        }
        let session = self.ledger.session_opened_by(user, &stripe_key(user, offer, claim.attempt)).await?;
        let started = session.and_then(|session| started(session, clock::now()));
        if started.is_none() {
            self.ledger.move_key(user, key.bytes(), claim.attempt, attempt).await?;
        }
        Ok(started)
    }

    /// Stripe keeps a failure under its key for a day: the next try has another one.
    async fn give_up(&self, user: UserId, offer: &str, attempt: u32) {
        let slot = KeyHash::of_offer(offer).bytes();
        if let Err(error) = self.ledger.move_key(user, slot, attempt, attempt.saturating_add(1)).await {
            // The next try meets the stored failure once more, and then comes by here again.
            tracing::warn!(user.id = %user, error = %error, "failed key not noted");
        }
    }

    async fn record(
        &self,
        user: UserId,
        plan: &Plan,
        price: &Price,
        started: &StartedCheckout,
        key: String,
    ) -> Result<(), CheckoutError> {
        let record = SessionRecord {
            id: started.session_id.clone(),
            user,
            level: plan.level.clone(),
            interval: price.interval,
            expired: false,
            expires_at: started.expires_at,
            url: Some(started.url.clone()),
            opened_by: Some(key),
        };
        Ok(self.ledger.record_session(&record).await?)
    }

    fn order(
        &self,
        user: UserId,
        customer: Option<&CustomerId>,
        plan: &Plan,
        price: &Price,
        trial_days: Option<u16>,
    ) -> NewCheckoutSession {
        let checkout = &plan.checkout;
        // What the purchase was sold on: the event that tells of it says neither, and the catalogue may have changed by then.
        let interval_word = price
            .interval
            .filter(|_| !plan.other_prices.is_empty())
            .map(|interval| ("interval", interval.as_str().to_owned()));
        let trial_word = trial_days.map(|days| ("trialDays", days.to_string()));
        NewCheckoutSession {
            user_id: user.to_string(),
            customer: customer.map(|customer| customer.as_str().to_owned()),
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

/// A recorded session as it can be given again, if it lasts beyond that moment.
fn started(session: SessionRecord, beyond: DateTime<Utc>) -> Option<StartedCheckout> {
    let SessionRecord { id, expired, expires_at, url, .. } = session;
    let url = url.filter(|_| !expired && expires_at > beyond)?;
    Some(StartedCheckout { session_id: id, url, expires_at })
}
