//! Tollgate: Stripe payments in, entitlements out.

pub mod config;
pub mod domain;
pub mod intake;
