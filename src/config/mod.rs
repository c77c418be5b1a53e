//! All settings, read once at the start and checked together: what is wrong is told all at once, each with its name, what
//! was expected and an example. The table of every variable is [`SETTINGS`].
//!
//! The process environment wins over `.env.local`, that over `.env`; a variable set to nothing is as good as absent. The files
//! are only read: the process's own environment is never changed.

use std::{collections::HashMap, path::Path};

use crate::domain::plan::Catalogue;

mod actor;
mod auth;
mod cache;
pub mod catalogue;
mod checkout;
mod command;
mod keys;
mod ledger;
mod parse;
mod reader;
mod sandbox;
mod server;
mod setting;
mod stripe;

pub use actor::ActorConfig;
pub use auth::AuthConfig;
pub use cache::{CacheConfig, CacheStore};
pub use checkout::CheckoutConfig;
pub use command::{AdminConfig, MigrationConfig, SessionKeyConfig, WebhookSecretConfig};
pub use keys::{KeysError, SandboxKeys};
pub use ledger::{LedgerConfig, LedgerStore};
pub(crate) use parse::{duration, is_loopback};
pub use reader::{ConfigError, ConfigErrors};
pub use sandbox::{Choice, SandboxConfig};
pub use server::{LogConfig, LogFormat, ServerConfig};
pub use setting::{SETTINGS, Setting, WhenUnset, env_example, markdown};
pub use stripe::{StripeConfig, StripeKey, StripeMode};

/// Everything that can be set. Safe to print: what is secret stays hidden.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listeners, threads, the log.
    pub server: ServerConfig,
    /// The Stripe account.
    pub stripe: StripeConfig,
    /// The local look-alike that takes the account's place, if it does.
    pub sandbox: Option<SandboxConfig>,
    /// The database.
    pub ledger: LedgerConfig,
    /// Redis, or none.
    pub cache: CacheConfig,
    /// Who may ask.
    pub auth: AuthConfig,
    /// Limits of the actors.
    pub actor: ActorConfig,
    /// Limits of selling.
    pub checkout: CheckoutConfig,
    /// What is sold.
    pub catalogue: Catalogue,
    /// Where that was read, and is read again.
    pub catalogue_source: catalogue::Source,
    /// What is allowed but hardly meant; to be logged once at the start.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the process environment, `.env.local` and `.env`. What the command line names wins.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn from_env(data: Option<&Path>) -> Result<Self, ConfigErrors> {
        Self::from_environment_and_files(process_environment(data), Path::new("."))
    }

    fn from_environment_and_files(variables: HashMap<String, String>, directory: &Path) -> Result<Self, ConfigErrors> {
        with_files(variables, directory, Self::from_lookup)
    }

    /// Reads settings from anywhere. The catalogue's file is read as well.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let reader = reader::Reader::new(lookup);
        let server = ServerConfig::read(&reader);
        let stripe = StripeConfig::read(&reader);
        let binds = server.as_ref().map(|server| (server.bind, server.admin_bind)).unzip();
        let data = sandbox::read_data(&reader);
        let sandbox = SandboxConfig::read(&reader, binds.0, binds.1, data.as_deref().unwrap_or(Path::new("")));
        // Where it is wrong itself, nothing is asked for that it would have made needless.
        let sandboxed = !matches!(sandbox, Some(None));
        let ledger = LedgerConfig::read(&reader, data.as_deref().filter(|_| sandboxed));
        let cache = CacheConfig::read(&reader, ledger.as_ref().map(|ledger| &ledger.store), sandboxed);
        let auth = AuthConfig::read(&reader, binds.1, sandboxed);
        let actor = ActorConfig::read(&reader);
        let checkout = CheckoutConfig::read(&reader);
        let pro_price_id = stripe.as_ref().and_then(|stripe| stripe.pro_price_id.as_deref());
        let (catalogue, catalogue_source) = catalogue::read(&reader, pro_price_id).unzip();

        let found = reader.finish();
        let config = (|| {
            Some(Self {
                server: server?,
                stripe: stripe?,
                sandbox: sandbox?,
                ledger: ledger?,
                cache: cache?,
                auth: auth?,
                actor: actor?,
                checkout: checkout?,
                catalogue: catalogue?,
                catalogue_source: catalogue_source?,
                warnings: found.warnings,
            })
        })();
        match config {
            Some(config) if found.errors.is_empty() => Ok(config.with_warnings()),
            _ => Err(ConfigErrors(found.errors)),
        }
    }

    /// Pairs of settings that are right alone and risky together.
    fn with_warnings(mut self) -> Self {
        let mut warn = |risky: bool, text: &str| {
            if risky {
                self.warnings.push(text.to_owned());
            }
        };
        let live = self.stripe.mode() == Some(StripeMode::Live);
        warn(
            live && self.server.app_url.as_ref().is_none_or(|url| url.scheme() == "http"),
            "TOLLGATE_APP_URL: buyers of a live account are sent to an http address",
        );
        warn(live && self.cache.is_exposed(), "REDIS_URL: not encrypted and not on this machine; rediss:// would be");
        warn(
            self.sandbox.is_some() && matches!(self.ledger.store, LedgerStore::Postgres(_)),
            "TOLLGATE_SANDBOX: what is bought with play money is granted in DATABASE_URL; use a database that nobody relies on",
        );
        warn(
            self.sandbox.is_some() && self.catalogue.has_prices_at_stripe(),
            "TOLLGATE_CATALOGUE, STRIPE_PRO_PRICE_ID: the sandbox knows no prices kept at Stripe, so what has one cannot be bought",
        );
        warn(
            self.actor.reply_timeout <= self.ledger.commit_timeout,
            "TOLLGATE_REPLY_TIMEOUT is not longer than TOLLGATE_LEDGER_COMMIT_TIMEOUT: callers give up before the ledger does",
        );
        warn(
            self.server.streams_max >= self.server.connections_max,
            "TOLLGATE_STREAMS_MAX is not below TOLLGATE_CONNECTIONS_MAX: streams alone may keep everything else out",
        );
        self
    }
}

/// Bytes that are no UTF-8 become U+FFFD, which no setting takes.
fn process_environment(data: Option<&Path>) -> HashMap<String, String> {
    let data = data.map(|data| (setting::DATA.name.to_owned(), data.to_string_lossy().into_owned()));
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .chain(data)
        .collect()
}

/// Adds the files' variables, and what is wrong with any of their names to what `read` finds wrong.
fn with_files<T>(
    mut variables: HashMap<String, String>,
    directory: &Path,
    read: impl FnOnce(&dyn Fn(&str) -> Option<String>) -> Result<T, ConfigErrors>,
) -> Result<T, ConfigErrors> {
    let mut errors = Vec::new();
    for file in [".env.local", ".env"] {
        if let Err(error) = add_file(&mut variables, &directory.join(file)) {
            errors.push(error);
        }
    }
    errors.extend(unknown(variables.keys()));
    match read(&|name| variables.get(name).cloned()) {
        Ok(found) if errors.is_empty() => Ok(found),
        Ok(_) => Err(ConfigErrors(errors)),
        Err(ConfigErrors(more)) => {
            errors.extend(more);
            Err(ConfigErrors(errors))
        }
    }
}

/// Adds a file's variables to those that are there already; a file that is not there adds none.
fn add_file(variables: &mut HashMap<String, String>, path: &Path) -> Result<(), ConfigError> {
    let error = |problem| ConfigError { name: path.display().to_string(), problem };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(error(format!("cannot be read: {cause}"))),
    };
    let mut last = "the beginning".to_owned();
    for line in dotenvy::from_read_iter(file) {
        // The parser's own error holds the line, and with it perhaps a secret.
        let (name, value) = line.map_err(|_| {
            error(format!(
                "expected NAME=value in each line, for example TOLLGATE_LOG=\"info\"; see the line after {last}"
            ))
        })?;
        last.clone_from(&name);
        variables.entry(name).or_insert(value);
    }
    Ok(())
}

/// Prefixes of names that are not ours although they look so: Kubernetes sets them for a service called `tollgate`; the
/// tests have their own.
const FOREIGN: [&str; 4] = ["TOLLGATE_PORT", "TOLLGATE_SERVICE_HOST", "TOLLGATE_SERVICE_PORT", "TOLLGATE_TEST_"];

/// Variables of ours that do not exist: a misspelt limit must not be a limit that is silently not there.
fn unknown<'a>(names: impl Iterator<Item = &'a String>) -> Vec<ConfigError> {
    let known = || SETTINGS.iter().map(|setting| setting.name);
    let mut unknown: Vec<ConfigError> = names
        .filter(|name| name.starts_with("TOLLGATE_") && !FOREIGN.iter().any(|foreign| name.starts_with(foreign)))
        .filter(|name| !known().any(|known| known == name.as_str()))
        .map(|name| {
            let hint = parse::nearest(name, known()).map_or_else(String::new, |near| format!(", for example {near}"));
            ConfigError {
                name: name.escape_debug().to_string(),
                problem: format!("expected the name of a setting{hint}"),
            }
        })
        .collect();
    unknown.sort_by(|a, b| a.name.cmp(&b.name));
    unknown
}

#[cfg(test)]
mod embedded_tests;
#[cfg(test)]
mod tests;
