//! The few calls to Stripe's API that Tollgate makes, behind types that do not mention async-stripe.
//!
//! async-stripe supplies the request types, generated from Stripe's own description of its API; everything that
//! happens on the wire is here: one pooled connection set, one retry loop under the *caller's* idempotency key, bounded
//! time and bounded memory. No public function is generic, so that this crate's cost is paid once, when it is built,
//! and not again in every crate that calls it.

mod checkout;
mod config;
mod error;
mod gateway;
mod pace;
mod retry;
mod transport;

pub use checkout::{CreatedSession, Interval, Mode, NewCheckoutSession, PageOptions, Price};
pub use config::GatewayConfig;
pub use error::{GatewayError, Unavailability};
pub use gateway::{BoxFuture, Fetched, StripeGateway};
