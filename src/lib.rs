//! Tollgate: Stripe payments in, entitlements out.

pub mod actor;
pub mod auth;
pub mod cache;
pub mod config;
pub mod domain;
pub mod intake;
pub mod ledger;
pub mod reader;
pub mod telemetry;
pub mod upkeep;
