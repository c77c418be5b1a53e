//! Settings of the gateway and the checks they must pass before a key is ever sent anywhere.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use crate::error::GatewayError;

/// Where Stripe's API is.
const STRIPE_API: &str = "https://api.stripe.com";

/// How to reach Stripe. `Debug` does not print the key.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The secret (`sk_…`) or restricted (`rk_…`) key.
    pub secret_key: SecretString,
    /// Base of the API without `/v1`; a path is kept (`http://127.0.0.1:9/fake` gives `/fake/v1/…`).
    pub api_base: String,
    /// Longest time for one attempt, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// How many requests may be sent for one call, the first included; at least 1.
    pub attempts: u32,
    /// Longest time for one call with all its attempts and the pauses between them.
    pub total_timeout: Duration,
}

impl GatewayConfig {
    /// Stripe's own address, three attempts of at most five seconds, twelve seconds in all.
    #[must_use]
    pub fn new(secret_key: SecretString) -> Self {
        Self {
            secret_key,
            api_base: STRIPE_API.to_owned(),
            timeout: Duration::from_secs(5),
            attempts: 3,
            total_timeout: Duration::from_secs(12),
        }
    }

    /// Checks all settings and returns the address to which paths such as `/checkout/sessions` are appended.
    pub(crate) fn checked_base(&self) -> Result<ApiBase, GatewayError> {
        let wrong = |what: &str| Err(GatewayError::Configuration(what.to_owned()));
        let key = self.secret_key.expose_secret();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("the Stripe secret key must be one word like sk_test_…");
        }
        if self.attempts == 0 || self.timeout.is_zero() || self.total_timeout.is_zero() {
            return wrong("attempts and time limits of calls to Stripe must be greater than zero");
        }
        let Ok(url) = Url::parse(&self.api_base) else {
            return wrong("the Stripe API base must be a URL like https://api.stripe.com");
        };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return wrong("the Stripe API base must begin with https:// or http://");
        }
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        if has_credentials || url.query().is_some() || url.fragment().is_some() {
            return wrong("the Stripe API base must be only scheme, host, port and path");
        }
        let loopback = is_loopback(&url);
        let live = key.starts_with("sk_live_") || key.starts_with("rk_live_");
        if live && url.scheme() == "http" && !loopback {
            return wrong("a live Stripe key is not sent over plain http to another host");
        }
        Ok(ApiBase { prefix: format!("{}/v1", url.as_str().trim_end_matches('/')), loopback })
    }
}

/// A checked address.
#[derive(Debug)]
pub(crate) struct ApiBase {
    /// For example `https://api.stripe.com/v1`.
    pub(crate) prefix: String,
    /// It is this machine, so a proxy for the outside world has no business with it.
    pub(crate) loopback: bool,
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use super::*;

    fn with_base(key: &str, api_base: &str) -> GatewayConfig {
        GatewayConfig { api_base: api_base.to_owned(), ..GatewayConfig::new(key.into()) }
    }

    #[test]
    fn the_prefix_does_not_depend_on_a_trailing_slash() {
        for (base, prefix) in [
            ("https://api.stripe.com", "https://api.stripe.com/v1"),
            ("https://api.stripe.com/", "https://api.stripe.com/v1"),
            ("http://127.0.0.1:9/fake/", "http://127.0.0.1:9/fake/v1"),
        ] {
            assert_eq!(with_base("sk_test_1", base).checked_base().unwrap().prefix, prefix);
        }
    }

    #[test]
    fn what_cannot_work_or_would_leak_is_refused_without_quoting_the_key() {
        for (key, base) in [
            ("", "https://api.stripe.com"),
            ("sk_test_with space", "https://api.stripe.com"),
            ("sk_test_1", "api.stripe.com"),
            ("sk_test_1", "ftp://api.stripe.com"),
            ("sk_test_1", "https://sk_test_1@api.stripe.com"),
            ("sk_test_1", "https://api.stripe.com?x=1"),
            ("sk_live_1", "http://stripe.internal"),
        ] {
            let Err(GatewayError::Configuration(sentence)) = with_base(key, base).checked_base() else {
                panic!("{base} with this key should be refused");
            };
            assert!(!sentence.contains("sk_test_1") && !sentence.contains("sk_live_1"));
        }
    }

    #[test]
    fn a_live_key_may_go_over_plain_http_only_to_this_machine() {
        for base in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(with_base("sk_live_1", base).checked_base().unwrap().loopback);
        }
    }

    #[test]
    fn debug_does_not_print_the_key() {
        let config = GatewayConfig::new("sk_test_do_not_print".into());
        assert!(!format!("{config:?}").contains("do_not_print"));
    }
}
