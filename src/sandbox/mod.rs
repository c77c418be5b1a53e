//! A local Stripe look-alike: API, pay page, signed webhooks with retries and duplicates. Loopback only.

pub mod pay_page;

use std::{net::SocketAddr, path::PathBuf};

use secrecy::SecretString;

use crate::activity::Activity;

/// What a sandbox is started with.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// Where API and pay pages answer: a loopback address; port 0 takes any.
    pub bind: SocketAddr,
    /// The file that sessions, customers and events are kept in.
    pub file: PathBuf,
    /// The API key that callers must present: `sk_test_…`.
    pub secret_key: SecretString,
    /// Signs deliveries to the service's own endpoint: `whsec_…`.
    pub webhook_secret: SecretString,
}

/// How deliveries misbehave, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switches {
    /// How often each event is delivered: 1 to 5.
    pub copies: u8,
    /// Whether newer events overtake older ones.
    pub reorder: bool,
    /// Whether deliveries are held back until this is switched off.
    pub withhold: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self { copies: 1, reorder: false, withhold: false }
    }
}

/// How an endpoint answered a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The HTTP status.
    pub status: u16,
    /// The body, cut off at a few kilobytes.
    pub body: String,
}

/// Why the sandbox did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// There is no such event.
    #[error("there is no such event")]
    UnknownEvent,
    /// No endpoint takes this event, or none could be reached.
    #[error("the event could not be delivered: {0}")]
    Undelivered(String),
}

/// A running sandbox. Clones share everything.
#[derive(Debug, Clone)]
pub struct Sandbox;

impl Sandbox {
    /// Binds, opens the file and answers. To be called within an actix `System`.
    pub async fn start(_settings: SandboxSettings, _activity: Activity) -> anyhow::Result<Self> {
        anyhow::bail!("not there yet")
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// Delivers events to this address from now on, and those that wait as well.
    pub fn deliver_to(&self, _webhook_url: &str) {}

    /// Delivers an event once more, at once, whatever the switches say.
    pub async fn redeliver(&self, _event: &str) -> Result<Delivery, SandboxError> {
        Err(SandboxError::UnknownEvent)
    }

    /// How deliveries misbehave now.
    #[must_use]
    pub fn switches(&self) -> Switches {
        Switches::default()
    }

    /// Lets deliveries misbehave from now on. Copies outside 1 to 5 become the nearest.
    pub fn set_switches(&self, _switches: Switches) {}

    /// Ends deliveries and the listener.
    pub async fn stop(&self) {}
}
