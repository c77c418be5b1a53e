//! What single commands need: less than a server, so that none of them asks for settings it does not use.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use secrecy::SecretString;
use url::Url;

use super::{
    ConfigErrors, LedgerStore, SandboxConfig, SandboxKeys,
    auth::AuthConfig,
    catalogue, process_environment,
    reader::Reader,
    sandbox,
    setting::{self, Setting},
    stripe::StripeConfig,
    with_files,
};
use crate::domain::plan::Catalogue;

/// What signs session tokens.
#[derive(Debug, Clone)]
pub struct SessionKeyConfig {
    /// The key.
    pub jwt_secret: SecretString,
    /// Who issues them, if that is known.
    pub issuer: Option<String>,
}

impl SessionKeyConfig {
    /// Reads the process environment, `.env.local` and `.env`.
    ///
    /// # Errors
    /// Everything that is wrong with these settings.
    pub fn from_env(data: Option<&Path>) -> Result<Self, ConfigErrors> {
        from_env(data, Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        let setting = &setting::SUPABASE_JWT_SECRET;
        let jwt_secret = match sandbox_instead_of(reader, setting)? {
            Some(sandbox) => sandbox_keys(reader, &sandbox, setting).map(|keys| keys.jwt_secret),
            None => AuthConfig::read_jwt_secret(reader),
        };
        let issuer = AuthConfig::read_issuer(reader);
        Some(Self { jwt_secret: jwt_secret?, issuer: issuer? })
    }
}

/// What signs deliveries.
#[derive(Debug, Clone)]
pub struct WebhookSecretConfig {
    /// The first of the configured secrets.
    pub secret: SecretString,
}

impl WebhookSecretConfig {
    /// Reads the process environment, `.env.local` and `.env`.
    ///
    /// # Errors
    /// Everything that is wrong with these settings.
    pub fn from_env(data: Option<&Path>) -> Result<Self, ConfigErrors> {
        from_env(data, Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        let setting = &setting::STRIPE_WEBHOOK_SECRET;
        if let Some(sandbox) = sandbox_instead_of(reader, setting)? {
            return sandbox_keys(reader, &sandbox, setting).map(|keys| Self { secret: keys.webhook_secret });
        }
        let secret = StripeConfig::read_webhook_secrets(reader)?.into_iter().next();
        if secret.is_none() {
            reader.wrong(&setting::STRIPE_WEBHOOK_SECRET, "; the same as the server's");
        }
        Some(Self { secret: secret? })
    }
}

/// Where a server's admin listener is reached.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Its address; none where the setting leaves the port open.
    pub url: Option<Url>,
    /// What it is opened with, where it needs anything.
    pub token: Option<SecretString>,
}

impl AdminConfig {
    /// Reads the process environment, `.env.local` and `.env`.
    ///
    /// # Errors
    /// Everything that is wrong with these settings.
    pub fn from_env(data: Option<&Path>) -> Result<Self, ConfigErrors> {
        from_env(data, Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        let bind: Option<SocketAddr> = reader.value(&setting::ADMIN_BIND, |text| text.parse().ok());
        let token = AuthConfig::read_admin_token(reader);
        let mut bind = bind?;
        // All addresses of a machine are one's own too.
        match bind.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => bind.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => bind.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let url = if bind.port() == 0 { None } else { Url::parse(&format!("http://{bind}")).ok() };
        Some(Self { url, token: token? })
    }
}

/// What makes the schema.
#[derive(Debug, Clone)]
pub struct MigrationConfig {
    /// Where the ledger is.
    pub store: LedgerStore,
    /// Whether it is the sandbox's.
    pub sandbox: bool,
    /// Its levels become the database's.
    pub catalogue: Catalogue,
}

impl MigrationConfig {
    /// Reads the process environment, `.env.local` and `.env`, and the catalogue's file.
    ///
    /// # Errors
    /// Everything that is wrong with these settings.
    pub fn from_env(data: Option<&Path>) -> Result<Self, ConfigErrors> {
        from_env(data, Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        let sandbox = read_sandbox(reader)?;
        let store = LedgerStore::read(reader, sandbox.as_ref().map(|sandbox| sandbox.directory.as_path()));
        // What a level costs is of no interest to the schema.
        let catalogue = catalogue::read(reader, None);
        Some(Self { store: store?.0, sandbox: sandbox.is_some(), catalogue: catalogue?.0 })
    }
}

/// The sandbox, where settings choose it and do not hold the key themselves.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn sandbox_instead_of(reader: &Reader<'_>, key: &Setting) -> Option<Option<SandboxConfig>> {
    if reader.is_set(key) { Some(None) } else { read_sandbox(reader) }
}

/// The sandbox, where settings choose it.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn read_sandbox(reader: &Reader<'_>) -> Option<Option<SandboxConfig>> {
    let bind = reader.value(&setting::BIND, |text| text.parse().ok());
    SandboxConfig::read(reader, bind, None, &sandbox::read_data(reader)?)
}

/// The sandbox's own keys; without them, what could be set instead.
fn sandbox_keys(reader: &Reader<'_>, sandbox: &SandboxConfig, instead: &Setting) -> Option<SandboxKeys> {
    SandboxKeys::load(&sandbox.directory).map_err(|error| reader.wrong(instead, &format!("; {error}"))).ok()
}

fn from_env<T>(data: Option<&Path>, read: fn(&Reader<'_>) -> Option<T>) -> Result<T, ConfigErrors> {
    with_files(process_environment(data), Path::new("."), |lookup| from_lookup(lookup, read))
}

fn from_lookup<T>(
    lookup: &dyn Fn(&str) -> Option<String>,
    read: fn(&Reader<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let reader = Reader::new(lookup);
    let config = read(&reader);
    let errors = reader.finish().errors;
    config.filter(|_| errors.is_empty()).ok_or(ConfigErrors(errors))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use secrecy::ExposeSecret;

    use super::*;

    fn names<T>(pairs: &[(&str, &str)], read: fn(&Reader<'_>) -> Option<T>) -> Vec<String> {
        let lookup = |name: &str| pairs.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned());
        match from_lookup(&lookup, read) {
            Ok(_) => vec![],
            Err(ConfigErrors(errors)) => errors.into_iter().map(|error| error.name).collect(),
        }
    }

    #[test]
    fn each_asks_for_its_own_settings_only() {
        let never_started = ("TOLLGATE_DATA", "/nonexistent");
        assert_eq!(names(&[never_started], SessionKeyConfig::read), ["SUPABASE_JWT_SECRET"]);
        assert_eq!(names(&[never_started], WebhookSecretConfig::read), ["STRIPE_WEBHOOK_SECRET"]);
        assert_eq!(names(&[("TOLLGATE_SANDBOX", "false")], MigrationConfig::read), ["DATABASE_URL"]);
        assert!(names(&[], MigrationConfig::read).is_empty(), "the embedded ledger");

        let url = ("NEXT_PUBLIC_SUPABASE_URL", "abc");
        assert_eq!(names(&[url], SessionKeyConfig::read), ["SUPABASE_JWT_SECRET", "NEXT_PUBLIC_SUPABASE_URL"]);
        assert_eq!(names(&[("STRIPE_WEBHOOK_SECRET", "whsec_")], WebhookSecretConfig::read), ["STRIPE_WEBHOOK_SECRET"]);
        let catalogue = ("TOLLGATE_CATALOGUE", "/nonexistent");
        assert_eq!(names(&[url, catalogue], MigrationConfig::read), ["DATABASE_URL", "TOLLGATE_CATALOGUE"]);

        assert!(
            names(&[("SUPABASE_JWT_SECRET", "0123456789abcdef0123456789abcdef")], SessionKeyConfig::read).is_empty()
        );
        assert!(names(&[("DATABASE_URL", "postgres://127.0.0.1/db")], MigrationConfig::read).is_empty());
    }

    #[test]
    fn the_sandboxs_keys_stand_in_for_settings_that_are_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let keys = SandboxKeys::load_or_create(folder.path()).unwrap();
        let data = |name: &str| (name == "TOLLGATE_DATA").then(|| folder.path().to_str().unwrap().to_owned());
        let session = from_lookup(&data, SessionKeyConfig::read).unwrap();
        assert_eq!(session.jwt_secret.expose_secret(), keys.jwt_secret.expose_secret());
        let webhook = from_lookup(&data, WebhookSecretConfig::read).unwrap();
        assert_eq!(webhook.secret.expose_secret(), keys.webhook_secret.expose_secret());

        let set = |name: &str| if name == "SUPABASE_JWT_SECRET" { Some("s".repeat(32)) } else { data(name) };
        let session = from_lookup(&set, SessionKeyConfig::read).unwrap();
        assert_eq!(session.jwt_secret.expose_secret(), "s".repeat(32));
    }

    #[test]
    fn the_admin_listener_is_where_the_server_is_told_to_open_it() {
        let url = |bind: &'static str| {
            let config =
                from_lookup(&|name| (name == "TOLLGATE_ADMIN_BIND").then(|| bind.to_owned()), AdminConfig::read);
            config.unwrap().url.map(|url| url.to_string())
        };
        assert_eq!(url("").as_deref(), Some("http://127.0.0.1:3001/"));
        assert_eq!(url("0.0.0.0:9000").as_deref(), Some("http://127.0.0.1:9000/"));
        assert_eq!(url("[::]:9000").as_deref(), Some("http://[::1]:9000/"));
        assert_eq!(url("10.0.0.1:9000").as_deref(), Some("http://10.0.0.1:9000/"));
        assert_eq!(url("127.0.0.1:0"), None);
        assert_eq!(names(&[("TOLLGATE_ADMIN_BIND", "x"), ("TOLLGATE_ADMIN_TOKEN", "x")], AdminConfig::read).len(), 2);
    }

    #[test]
    fn the_first_secret_signs() {
        let list = |_: &str| Some("whsec_0123456789abcdef0,whsec_0123456789abcdef1".to_owned());
        let config = from_lookup(&list, WebhookSecretConfig::read).unwrap();
        assert_eq!(config.secret.expose_secret(), "whsec_0123456789abcdef0");
    }
}
