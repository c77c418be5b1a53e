//! The Stripe account: the real one, or the sandbox, reached in the same way. Nothing beyond this file knows which it is.

use anyhow::Context;
use secrecy::SecretString;
use stripe_gateway::{GatewayConfig, StripeGateway};

use super::listen::Socket;
use crate::{
    activity::Activity,
    config::{CheckoutConfig, Config, SandboxConfig, SandboxKeys, StripeMode},
    intake::signature::WebhookSecrets,
    sandbox::{Sandbox, SandboxSettings},
};

/// The file of the sandbox's objects, in the data folder.
const SANDBOX_FILE: &str = "sandbox.sqlite3";

/// What the service is told of its Stripe account.
pub(super) struct Account {
    pub(super) gateway: Option<StripeGateway>,
    pub(super) webhook_secrets: Option<WebhookSecrets>,
    /// What events must say of themselves; `None`: anything.
    pub(super) livemode: Option<bool>,
}

impl Account {
    /// The account that the settings name.
    pub(super) fn of_stripe(config: &Config) -> anyhow::Result<Self> {
        let stripe = &config.stripe;
        let gateway =
            stripe.key.as_ref().map(|key| gateway(&key.secret, stripe.api_base.to_string(), &config.checkout));
        if stripe.webhook_secrets.is_empty() {
            tracing::warn!("STRIPE_WEBHOOK_SECRET is not set: webhooks are answered 500 until it is");
        }
        let webhook_secrets = (!stripe.webhook_secrets.is_empty())
            .then(|| WebhookSecrets::new(&stripe.webhook_secrets).context("STRIPE_WEBHOOK_SECRET"));
        Ok(Self {
            gateway: gateway.transpose()?,
            webhook_secrets: webhook_secrets.transpose()?,
            livemode: stripe.mode().map(StripeMode::livemode),
        })
    }

    /// The sandbox's.
    pub(super) fn of_sandbox(sandbox: &Sandbox, keys: &SandboxKeys, checkout: &CheckoutConfig) -> anyhow::Result<Self> {
        let api_base = format!("http://{}", sandbox.address());
        Ok(Self {
            gateway: Some(gateway(&keys.stripe_key, api_base, checkout)?),
            webhook_secrets: Some(WebhookSecrets::new(std::slice::from_ref(&keys.webhook_secret))?),
            livemode: Some(false),
        })
    }
}

fn gateway(key: &SecretString, api_base: String, checkout: &CheckoutConfig) -> anyhow::Result<StripeGateway> {
    let gateway = GatewayConfig {
        api_base,
        attempts: checkout.stripe_attempts,
        timeout: checkout.stripe_timeout,
        total_timeout: checkout.stripe_timeout,
        ..GatewayConfig::new(key.clone())
    };
    StripeGateway::new(gateway).context("STRIPE_API_BASE")
}

/// Starts the sandbox, and gives its keys.
pub(super) async fn start_sandbox(
    sandbox: &SandboxConfig,
    socket: Socket,
    activity: &Activity,
    tell_ahead: fn(i64),
) -> anyhow::Result<(Sandbox, SandboxKeys)> {
    let keys = SandboxKeys::load_or_create(&sandbox.directory).context("the sandbox's keys")?;
    let settings = SandboxSettings {
        listener: socket.into(),
        file: sandbox.directory.join(SANDBOX_FILE),
        secret_key: keys.stripe_key.clone(),
        webhook_secret: keys.webhook_secret.clone(),
        tell_ahead,
    };
    let running = Sandbox::start(settings, activity.clone()).await.context("the sandbox")?;
    Ok((running, keys))
}
