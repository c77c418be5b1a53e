//! Tollgate's integration tests: one binary, so that they link once and run in threads of one process. They start
//! real PostgreSQL and Redis servers (`harness`), which `scripts/setup` installs.
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends by panicking; clippy.toml exempts only the functions marked #[test], not their helpers"
)]

mod harness;

mod actix_facts;
mod actors;
mod alerts;
mod by_hand;
mod cache;
mod catalogue;
mod checkout;
mod cli;
mod demo;
mod demo_page;
mod duplicate_delivery;
mod edge;
mod embedded;
mod entitlement_read;
mod expiry;
mod faults;
mod fetch;
mod harness_self;
mod least_rights;
mod ledger;
mod ledger_faults;
mod ledger_file;
mod life;
mod migrations;
mod money;
mod operators;
mod overload;
mod pay_page;
mod portal;
mod redis_contract;
mod replicas;
mod sandbox;
mod security;
mod shutdown;
mod stream;
mod stripe_gateway;
mod subscription;
mod success_page;
mod tidy;
mod upkeep;
mod versions;
mod webhook;
mod year;
