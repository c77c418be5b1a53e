//! The embedded mode: what is chosen where nobody has chosen. Nothing dangerous is chosen silently: one setting that speaks of a
//! production neighbour is enough, and the sandbox has to be asked for by name.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    parse::flag,
    reader::Reader,
    setting::{self, Setting},
};

/// The local Stripe look-alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Where its API and pay pages answer; on loopback.
    pub bind: SocketAddr,
    /// Where its objects and keys are kept.
    pub directory: PathBuf,
}

/// What a row was chosen to be, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// For example `PostgreSQL`. Never holds a secret.
    pub what: String,
    /// What led to it.
    pub why: String,
}

impl Choice {
    pub(super) fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }

    /// The usual reason: a setting says so.
    pub(super) fn by(setting: &Setting, what: impl Into<String>) -> Self {
        Self::new(what, format!("{} is set", setting.name))
    }

    /// The other usual reason: none does.
    pub(super) fn without(setting: &Setting, what: impl Into<String>) -> Self {
        Self::new(what, format!("{} is not set", setting.name))
    }
}

/// Settings of production neighbours: who has one of them does not want to be given a sandbox unasked.
const PRODUCTION: [&Setting; 10] = [
    &setting::STRIPE_SECRET_KEY,
    &setting::STRIPE_WEBHOOK_SECRET,
    &setting::STRIPE_PUBLISHABLE_KEY,
    &setting::STRIPE_PRO_PRICE_ID,
    &setting::DATABASE_URL,
    &setting::LEDGER,
    &setting::REDIS_URL,
    &setting::SUPABASE_URL,
    &setting::SUPABASE_ANON_KEY,
    &setting::SUPABASE_SERVICE_ROLE_KEY,
];

impl SandboxConfig {
    /// `Some(None)`: no sandbox. `bind` and `admin_bind` are `None` where they are wrong themselves.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    pub(super) fn read(
        reader: &Reader<'_>,
        bind: Option<SocketAddr>,
        admin_bind: Option<SocketAddr>,
        data: &Path,
    ) -> Option<Option<Self>> {
        let own_bind: Option<SocketAddr> = reader.value(&setting::SANDBOX_BIND, |text| {
            text.parse().ok().filter(|bind: &SocketAddr| bind.ip().is_loopback())
        });
        let asked_for = reader.optional(&setting::SANDBOX, flag)?;
        let on_loopback = bind.is_none_or(|bind| bind.ip().is_loopback());
        let on = asked_for.unwrap_or_else(|| on_loopback && !PRODUCTION.iter().any(|setting| reader.is_set(setting)));
        if !on {
            return Some(None);
        }
        let stripe = [&setting::STRIPE_SECRET_KEY, &setting::STRIPE_WEBHOOK_SECRET];
        if let Some(stripe) = stripe.into_iter().find(|setting| reader.is_set(setting)) {
            reader.wrong(&setting::SANDBOX, &format!("; {} is set, so take one of them away", stripe.name));
            return None;
        }
        if !on_loopback {
            reader.wrong(&setting::SANDBOX, "; TOLLGATE_BIND is not on loopback, and anybody could buy for nothing");
            return None;
        }
        let own_bind = own_bind?;
        if own_bind.port() != 0 && [bind, admin_bind].contains(&Some(own_bind)) {
            reader.wrong(&setting::SANDBOX_BIND, "");
            return None;
        }
        Some(Some(Self { bind: own_bind, directory: data.to_owned() }))
    }
}

/// Where the embedded ledger, and the sandbox's objects and keys are.
pub(super) fn read_data(reader: &Reader<'_>) -> Option<PathBuf> {
    reader.value(&setting::DATA, |text| Some(PathBuf::from(text)))
}
