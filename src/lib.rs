//! Tollgate: Stripe payments in, entitlements out.

pub mod domain;
pub mod intake;
