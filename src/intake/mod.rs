//! Untrusted bytes in, commands out: the only room that knows what Stripe sends.

mod interpret;
pub mod signature;

pub use interpret::{Interpreter, Meaning, PayloadError};
