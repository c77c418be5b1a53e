//! The tests' servers. Used whole, so that a development world and a test world cannot drift apart.
#![allow(dead_code, reason = "a development world breaks nothing on purpose")]
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "made for tests, where failing is panicking"
)]

#[path = "../../tests/it/harness/ports.rs"]
mod ports;
#[path = "../../tests/it/harness/postgres.rs"]
pub(crate) mod postgres;
#[path = "../../tests/it/harness/programs.rs"]
mod programs;
#[path = "../../tests/it/harness/redis.rs"]
pub(crate) mod redis;
#[path = "../../tests/it/harness/supervised.rs"]
mod supervised;
#[path = "../../tests/it/harness/wait.rs"]
mod wait;
