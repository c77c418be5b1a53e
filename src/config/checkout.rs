//! Limits of selling.

use std::{num::NonZeroU32, time::Duration};

use super::{
    parse::{duration_in, number_in},
    reader::Reader,
    server::{MINUTE, SHORTEST},
    setting,
};

/// How often a user may buy, and how long Stripe may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckoutConfig {
    /// Sessions a user may create in a minute.
    pub per_user_per_minute: NonZeroU32,
    /// What all attempts of one request to Stripe may take together.
    pub stripe_timeout: Duration,
    /// How often a call to Stripe is tried.
    pub stripe_attempts: u32,
}

impl CheckoutConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let per_minute =
            reader.value(&setting::CHECKOUT_PER_MINUTE, |text| number_in(1..=10_000)(text).and_then(NonZeroU32::new));
        let stripe_timeout = reader.value(&setting::STRIPE_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let stripe_attempts = reader.value(&setting::STRIPE_ATTEMPTS, number_in(1..=10));
        Some(Self {
            per_user_per_minute: per_minute?,
            stripe_timeout: stripe_timeout?,
            stripe_attempts: stripe_attempts?,
        })
    }
}
