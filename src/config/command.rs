//! What single commands need: less than a server, so that none of them asks for settings it does not use.

use std::path::Path;

use secrecy::SecretString;

use super::{
    ConfigErrors, auth::AuthConfig, catalogue, ledger::LedgerConfig, process_environment, reader::Reader, setting,
    stripe::StripeConfig, with_files,
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
    pub fn from_env() -> Result<Self, ConfigErrors> {
        from_env(Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        let (jwt_secret, issuer) = (AuthConfig::read_jwt_secret(reader), AuthConfig::read_issuer(reader));
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
    pub fn from_env() -> Result<Self, ConfigErrors> {
        from_env(Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        let secret = StripeConfig::read_webhook_secrets(reader)?.into_iter().next();
        if secret.is_none() {
            reader.wrong(&setting::STRIPE_WEBHOOK_SECRET, "; the same as the server's");
        }
        Some(Self { secret: secret? })
    }
}

/// What makes the schema.
#[derive(Debug, Clone)]
pub struct MigrationConfig {
    /// `postgres://…`, with the password.
    pub database_url: SecretString,
    /// Its levels become the database's.
    pub catalogue: Catalogue,
}

impl MigrationConfig {
    /// Reads the process environment, `.env.local` and `.env`, and the catalogue's file.
    ///
    /// # Errors
    /// Everything that is wrong with these settings.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        from_env(Self::read)
    }

    fn read(reader: &Reader<'_>) -> Option<Self> {
        // What a level costs is of no interest to the schema.
        let (database_url, catalogue) = (LedgerConfig::read_url(reader), catalogue::read(reader, None));
        Some(Self { database_url: database_url?, catalogue: catalogue? })
    }
}

fn from_env<T>(read: fn(&Reader<'_>) -> Option<T>) -> Result<T, ConfigErrors> {
    with_files(process_environment(), Path::new("."), |lookup| from_lookup(lookup, read))
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
        assert_eq!(names(&[], SessionKeyConfig::read), ["SUPABASE_JWT_SECRET"]);
        assert_eq!(names(&[], WebhookSecretConfig::read), ["STRIPE_WEBHOOK_SECRET"]);
        assert_eq!(names(&[], MigrationConfig::read), ["DATABASE_URL"]);

        let url = ("NEXT_PUBLIC_SUPABASE_URL", "abc");
        assert_eq!(names(&[url], SessionKeyConfig::read), ["SUPABASE_JWT_SECRET", "NEXT_PUBLIC_SUPABASE_URL"]);
        assert_eq!(names(&[("STRIPE_WEBHOOK_SECRET", "whsec_")], WebhookSecretConfig::read), ["STRIPE_WEBHOOK_SECRET"]);
        let catalogue = ("TOLLGATE_CATALOGUE", "/nonexistent");
        assert_eq!(names(&[catalogue], MigrationConfig::read), ["DATABASE_URL", "TOLLGATE_CATALOGUE"]);

        assert!(
            names(&[("SUPABASE_JWT_SECRET", "0123456789abcdef0123456789abcdef")], SessionKeyConfig::read).is_empty()
        );
        assert!(names(&[("DATABASE_URL", "postgres://127.0.0.1/db")], MigrationConfig::read).is_empty());
    }

    #[test]
    fn the_first_secret_signs() {
        let list = |_: &str| Some("whsec_0123456789abcdef0,whsec_0123456789abcdef1".to_owned());
        let config = from_lookup(&list, WebhookSecretConfig::read).unwrap();
        assert_eq!(config.secret.expose_secret(), "whsec_0123456789abcdef0");
    }
}
