//! The Stripe account: keys, signing secrets, where its API is.

use secrecy::SecretString;
use url::Url;

use super::{
    parse::{has_stripe_shape, is_loopback, web_url},
    reader::Reader,
    setting,
};

/// Whether money is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripeMode {
    /// Test data.
    Test,
    /// Real money.
    Live,
}

impl StripeMode {
    /// What Stripe writes into its objects as `livemode`.
    #[must_use]
    pub const fn livemode(self) -> bool {
        matches!(self, Self::Live)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }
}

/// The API key and what its prefix says.
#[derive(Debug, Clone)]
pub struct StripeKey {
    /// `sk_…` or `rk_…`.
    pub secret: SecretString,
    /// From the prefix.
    pub mode: StripeMode,
}

impl StripeKey {
    fn parse(text: &str) -> Option<Self> {
        let shaped = |prefix| has_stripe_shape(text, prefix, 8);
        let test = shaped("sk_test_") || shaped("rk_test_");
        let live = shaped("sk_live_") || shaped("rk_live_");
        let mode = if test { StripeMode::Test } else { StripeMode::Live };
        (test || live).then(|| Self { secret: text.into(), mode })
    }
}

/// The Stripe account.
#[derive(Debug, Clone)]
pub struct StripeConfig {
    /// Absent: nothing can be sold.
    pub key: Option<StripeKey>,
    /// Empty: webhooks are answered 500.
    pub webhook_secrets: Vec<SecretString>,
    /// The frontend's key, of the same mode.
    pub publishable_key: Option<String>,
    /// Where the API is, without a path of its own as a rule.
    pub api_base: Url,
    /// Already part of the catalogue; kept for `doctor`.
    pub pro_price_id: Option<String>,
}

impl StripeConfig {
    /// The key's mode, if there is a key.
    #[must_use]
    pub fn mode(&self) -> Option<StripeMode> {
        self.key.as_ref().map(|key| key.mode)
    }

    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let key = reader.optional(&setting::STRIPE_SECRET_KEY, StripeKey::parse);
        let webhook_secrets = Self::read_webhook_secrets(reader);
        let publishable_key = reader.optional(&setting::STRIPE_PUBLISHABLE_KEY, |text| {
            (has_stripe_shape(text, "pk_test_", 8) || has_stripe_shape(text, "pk_live_", 8)).then(|| text.to_owned())
        });
        let api_base = reader.value(&setting::STRIPE_API_BASE, |text| {
            web_url(text).filter(|url| url.scheme() == "https" || is_loopback(url))
        });
        let pro_price_id = reader.optional(&setting::STRIPE_PRO_PRICE_ID, price_id);

        let config = Self {
            key: key?,
            webhook_secrets: webhook_secrets?,
            publishable_key: publishable_key?,
            api_base: api_base?,
            pro_price_id: pro_price_id?,
        };
        config.check(reader);
        Some(config)
    }

    /// None where there are none.
    pub(super) fn read_webhook_secrets(reader: &Reader<'_>) -> Option<Vec<SecretString>> {
        let secrets = reader.optional(&setting::STRIPE_WEBHOOK_SECRET, |text| {
            text.split(',').map(str::trim).map(webhook_secret).collect::<Option<Vec<_>>>()
        });
        Some(secrets?.unwrap_or_default())
    }

    /// What is wrong only together.
    fn check(&self, reader: &Reader<'_>) {
        let Some(key) = &self.key else { return };
        if let Some(publishable) = &self.publishable_key
            && !publishable.starts_with(&format!("pk_{}_", key.mode.word()))
        {
            reader.wrong(&setting::STRIPE_PUBLISHABLE_KEY, &format!("; the secret key is a {} key", key.mode.word()));
        }
        if self.webhook_secrets.is_empty() {
            reader.warn("STRIPE_WEBHOOK_SECRET is not set: checkout works, but webhooks are answered 500 and nothing is granted");
        }
        if key.mode == StripeMode::Live && self.api_base.host_str() != Some("api.stripe.com") {
            reader.warn("STRIPE_API_BASE: a live key is sent to another host than api.stripe.com");
        }
    }
}

/// The whole string is the key, `whsec_` included.
fn webhook_secret(text: &str) -> Option<SecretString> {
    let published = setting::STRIPE_WEBHOOK_SECRET.example;
    (has_stripe_shape(text, "whsec_", 16) && text != published).then(|| text.into())
}

/// A price kept at Stripe.
pub(super) fn price_id(text: &str) -> Option<String> {
    has_stripe_shape(text, "price_", 1).then(|| text.to_owned())
}
