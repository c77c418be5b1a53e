//! ROOM 2: untrusted bytes in, meaning out: the only room that knows what Stripe sends.
//!
//! `signature` proves that the bytes are Stripe's, `event` knows Stripe's JSON, `interpret` says what an event means.

pub mod event;
pub mod interpret;
pub mod signature;

pub use event::PayloadError;
pub use interpret::{Envelope, Interpreter, Meaning};
