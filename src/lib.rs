//! Tollgate: Stripe payments in, entitlements out.

pub mod cache;
pub mod domain;
pub mod ledger;
