//! The public face: one function for each thing Tollgate asks of Stripe.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use stripe::{IdempotencyKey, RequestStrategy, StripeRequest as _};

use crate::checkout::{CreatedSession, NewCheckoutSession, SessionAnswer};
use crate::config::GatewayConfig;
use crate::error::GatewayError;
use crate::transport::Transport;

/// A boxed future that may move between threads: it keeps callers free of this crate's generated types.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Calls to Stripe over one pool of kept-alive connections. Clones share the pool.
#[derive(Clone)]
pub struct StripeGateway {
    transport: Arc<Transport>,
}

impl StripeGateway {
    /// Checks the settings and prepares the connection pool; connects to nothing yet.
    ///
    /// # Errors
    /// [`GatewayError::Configuration`] names the setting that cannot work.
    pub fn new(config: GatewayConfig) -> Result<Self, GatewayError> {
        Ok(Self { transport: Arc::new(Transport::new(&config)?) })
    }

    /// Opens a page on which `session.user_id` can buy `session.level` (`POST /v1/checkout/sessions`).
    ///
    /// `idempotency_key` is 1 to 255 visible ASCII characters. Every attempt of this call sends it, and calling again with the
    /// same key and the same session returns the same page for a day instead of opening a second one; with other
    /// parameters Stripe refuses (`idempotency_error`).
    /// Rule: <https://docs.stripe.com/api/idempotent_requests>.
    ///
    /// # Errors
    /// See [`GatewayError`]; [`GatewayError::needs_new_key`] says whether this key is of further use.
    pub fn create_checkout_session<'a>(
        &'a self,
        session: NewCheckoutSession,
        idempotency_key: &'a str,
    ) -> BoxFuture<'a, Result<CreatedSession, GatewayError>> {
        Box::pin(async move {
            let key = IdempotencyKey::new(idempotency_key).map_err(|_| {
                GatewayError::Configuration("an idempotency key must have 1 to 255 characters".to_owned())
            })?;
            let request = session.into_request()?.build();
            let answer: SessionAnswer =
                request.customize().request_strategy(RequestStrategy::Idempotent(key)).send(&*self.transport).await?;
            Ok(answer.into())
        })
    }
}

impl fmt::Debug for StripeGateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StripeGateway")
    }
}
