//! What was chosen, and why, for whoever starts the service: for people as a page, for machines as one log line.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
};

use url::Url;

use crate::config::{CacheStore, Choice, Config, LedgerStore, StripeMode};

/// Where things answer.
pub(super) struct Addresses {
    pub(super) app: Url,
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) sandbox: Option<SocketAddr>,
}

/// The chosen neighbours.
pub(super) struct Banner<'a> {
    config: &'a Config,
    stripe: Choice,
    addresses: &'a Addresses,
    /// Whether there is a page to click on.
    demo: bool,
}

impl<'a> Banner<'a> {
    pub(super) fn new(config: &'a Config, addresses: &'a Addresses, demo: bool) -> Self {
        Self { config, stripe: stripe(config, addresses.sandbox), addresses, demo }
    }

    fn rows(&self) -> [(&'static str, &Choice); 4] {
        let Config { ledger, cache, auth, .. } = self.config;
        [("Ledger", &ledger.choice), ("Cache", &cache.choice), ("Stripe", &self.stripe), ("Sign-in", &auth.choice)]
    }

    /// What turns a shop on one machine into production.
    fn missing(&self) -> &'static str {
        match (&self.config.ledger.store, &self.config.cache.store) {
            (LedgerStore::Sqlite(_), CacheStore::Memory { .. }) => "DATABASE_URL, REDIS_URL and STRIPE_SECRET_KEY",
            (LedgerStore::Sqlite(_), CacheStore::Redis(_)) => "DATABASE_URL and STRIPE_SECRET_KEY",
            (LedgerStore::Postgres(_), CacheStore::Memory { .. }) => "REDIS_URL and STRIPE_SECRET_KEY",
            (LedgerStore::Postgres(_), CacheStore::Redis(_)) => "STRIPE_SECRET_KEY",
        }
    }

    /// Logs it; shows it to a person, if there is one. A terminal that cannot be written to is not worth a failed start.
    pub(super) fn show(&self) {
        let [ledger, cache, stripe, sign_in] =
            self.rows().map(|(_, Choice { what, why })| tracing::field::display(format!("{what}: {why}")));
        tracing::info!(ledger, cache, stripe, sign_in, "chosen");
        let mut stderr = io::stderr().lock();
        if (self.config.sandbox.is_some() || stderr.is_terminal())
            // In one piece: the log is written at the same time, and often into the same file.
            && let Err(error) = stderr.write_all(format!("{self}\n").as_bytes())
        {
            tracing::debug!(%error, "nobody saw the banner");
        }
    }
}

fn stripe(config: &Config, sandbox: Option<SocketAddr>) -> Choice {
    let (what, why) = match (sandbox, config.stripe.mode()) {
        (Some(address), _) => (format!("sandbox, http://{address}"), "no STRIPE_SECRET_KEY, so no money is real"),
        (None, Some(StripeMode::Live)) => ("live".to_owned(), "by STRIPE_SECRET_KEY: money is real"),
        (None, Some(StripeMode::Test)) => ("test mode".to_owned(), "by STRIPE_SECRET_KEY: no money is real"),
        (None, None) => ("no checkout".to_owned(), "neither STRIPE_SECRET_KEY nor TOLLGATE_SANDBOX=true is set"),
    };
    Choice { what, why: why.to_owned() }
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addresses { app, public, admin, .. } = self.addresses;
        let width = self.rows().iter().map(|(_, choice)| choice.what.chars().count()).max().unwrap_or(0);
        writeln!(f, "\n  Tollgate {}\n", env!("CARGO_PKG_VERSION"))?;
        for (row, Choice { what, why }) in self.rows() {
            writeln!(f, "  {row:<9}{what:<width$}   {why}")?;
        }
        writeln!(f)?;
        if self.demo {
            writeln!(f, "  Open     {app}   and buy PRO with the card 4242 4242 4242 4242")?;
        }
        writeln!(f, "  API      http://{public}/docs")?;
        writeln!(f, "  Metrics  http://{admin}/metrics")?;
        if self.config.sandbox.is_some() {
            writeln!(f, "\n  For production set {}; the start says what else is missing.", self.missing())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn banner(settings: &[(&str, &str)], sandbox: Option<&str>) -> String {
        let lookup = |name: &str| settings.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        let config = Config::from_lookup(&lookup).unwrap();
        let addresses = Addresses {
            app: "http://127.0.0.1:3000".parse().unwrap(),
            public: "127.0.0.1:3000".parse().unwrap(),
            admin: "127.0.0.1:3001".parse().unwrap(),
            sandbox: sandbox.map(|address| address.parse().unwrap()),
        };
        Banner::new(&config, &addresses, sandbox.is_some()).to_string()
    }

    #[test]
    fn without_settings_everything_is_embedded_and_says_so() {
        let text = banner(&[], Some("127.0.0.1:3002"));
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "Ledger SQLite, tollgate-data/ledger.sqlite3 DATABASE_URL is not set",
            "Cache in this process REDIS_URL is not set",
            "Stripe sandbox, http://127.0.0.1:3002 no STRIPE_SECRET_KEY, so no money is real",
            "Sign-in session tokens of the sandbox SUPABASE_JWT_SECRET is not set",
            "Open http://127.0.0.1:3000/ and buy PRO with the card 4242 4242 4242 4242",
            "For production set DATABASE_URL, REDIS_URL and STRIPE_SECRET_KEY; the start says what else is missing.",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line}\nin\n{text}");
        }
    }

    #[test]
    fn with_settings_the_banner_names_them_and_no_secret() {
        const CANARY: &str = "cafe0123456789abcdef0123456789abcdef";
        let url = format!("postgres://u:{CANARY}@localhost/db");
        let redis = format!("redis://u:{CANARY}@localhost");
        let key = format!("sk_live_{CANARY}");
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("REDIS_URL", redis.as_str()),
            ("STRIPE_SECRET_KEY", key.as_str()),
            ("SUPABASE_JWT_SECRET", CANARY),
        ];
        let text = banner(&settings, None);
        for (name, _) in settings {
            assert!(text.contains(name), "{name} in\n{text}");
        }
        assert!(text.contains("live") && !text.contains("For production") && !text.contains(CANARY), "{text}");
    }
}
