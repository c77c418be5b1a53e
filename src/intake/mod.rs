//! Untrusted bytes in, commands out: the only room that knows what Stripe sends.

pub mod signature;
