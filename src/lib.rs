//! Tollgate: Stripe payments in, entitlements out.

pub mod activity;
pub mod actor;
pub mod app;
pub mod auth;
pub mod billing;
pub mod cache;
pub mod cli;
mod clock;
pub mod config;
pub mod demo;
pub mod domain;
pub mod fail_point;
pub mod fetch;
pub mod http;
pub mod intake;
pub mod ledger;
pub mod operators;
pub mod reader;
mod recent;
pub mod sandbox;
pub mod telemetry;
pub mod trial;
pub mod upkeep;
pub mod watch;
pub mod watchdog;
