//! ROOM 2: untrusted bytes in, meaning out: the only room that knows what Stripe sends.
//!
//! `signature` proves that the bytes are Stripe's, `event` knows Stripe's JSON, `interpret` says what an event means.

pub mod event;
pub mod interpret;
pub mod signature;

pub use event::PayloadError;
pub use interpret::{Envelope, Interpreter, Meaning};

/// Cases of each fuzz test: a thousand, or as many as asked for (CONTRIBUTING.md).
#[cfg(test)]
fn fuzz_cases() -> u32 {
    std::env::var("TOLLGATE_FUZZ_CASES").map_or(1_000, |cases| cases.parse().unwrap())
}
