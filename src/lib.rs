//! Tollgate: Stripe payments in, entitlements out.

pub mod auth;
pub mod cache;
pub mod config;
pub mod domain;
pub mod intake;
pub mod ledger;
pub mod telemetry;
