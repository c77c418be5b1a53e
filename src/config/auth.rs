//! Who may ask: keys of session tokens, service tokens, the operators' token.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::{parse::web_url, reader::Reader, sandbox::Choice, setting};

/// Least length of a token, in characters.
const TOKEN_LEN_MIN: usize = 16;
/// Least length of an HS256 key: as long as its hash (RFC 7518, 3.2).
const JWT_SECRET_LEN_MIN: usize = 32;

/// What requests prove themselves with.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Signs session tokens (HS256). `None`: the sandbox's own key does.
    pub jwt_secret: Option<SecretString>,
    /// Why that one.
    pub choice: Choice,
    /// Who must have issued them, if that is known: `https://<project>.supabase.co/auth/v1`.
    pub issuer: Option<String>,
    /// Any of these reads everybody's entitlements.
    pub service_tokens: Vec<SecretString>,
    /// Opens the admin listener; `None` only where that is on loopback.
    pub admin_token: Option<SecretString>,
}

impl AuthConfig {
    /// `admin_bind` is `None` where it is wrong itself.
    pub(super) fn read(reader: &Reader<'_>, admin_bind: Option<SocketAddr>, sandbox: bool) -> Option<Self> {
        let jwt_secret = if sandbox && !reader.is_set(&setting::SUPABASE_JWT_SECRET) {
            Some(None)
        } else {
            Self::read_jwt_secret(reader).map(Some)
        };
        let choice = if matches!(jwt_secret, Some(None)) {
            Choice::without(&setting::SUPABASE_JWT_SECRET, "session tokens of the sandbox")
        } else if reader.is_set(&setting::SUPABASE_URL) {
            Choice::by(&setting::SUPABASE_URL, "Supabase session tokens (HS256)")
        } else {
            Choice::by(&setting::SUPABASE_JWT_SECRET, "session tokens (HS256)")
        };
        let issuer = Self::read_issuer(reader);
        let anon_key = reader.token(&setting::SUPABASE_ANON_KEY, TOKEN_LEN_MIN);
        let service_tokens = [setting::SERVICE_TOKEN, setting::SUPABASE_SERVICE_ROLE_KEY].map(|setting| {
            let token = reader.token(&setting, TOKEN_LEN_MIN);
            if let (Some(Some(token)), Some(Some(anon_key))) = (&token, &anon_key)
                && token.expose_secret() == anon_key.expose_secret()
            {
                reader.wrong(&setting, "");
            }
            token
        });
        let admin_token = Self::read_admin_token(reader);
        if let Some(None) = admin_token
            && admin_bind.is_some_and(|bind| !bind.ip().is_loopback())
        {
            reader.wrong(&setting::ADMIN_TOKEN, "; required because TOLLGATE_ADMIN_BIND is not on loopback");
        }
        anon_key?;
        Some(Self {
            jwt_secret: jwt_secret?,
            choice,
            issuer: issuer?,
            service_tokens: service_tokens.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect(),
            admin_token: admin_token?,
        })
    }

    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    pub(super) fn read_admin_token(reader: &Reader<'_>) -> Option<Option<SecretString>> {
        reader.token(&setting::ADMIN_TOKEN, TOKEN_LEN_MIN)
    }

    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    pub(super) fn read_issuer(reader: &Reader<'_>) -> Option<Option<String>> {
        reader.optional(&setting::SUPABASE_URL, |text| {
            web_url(text).map(|url| format!("{}/auth/v1", url.as_str().trim_end_matches('/')))
        })
    }

    pub(super) fn read_jwt_secret(reader: &Reader<'_>) -> Option<SecretString> {
        let secret = reader.token(&setting::SUPABASE_JWT_SECRET, JWT_SECRET_LEN_MIN)?;
        if secret.is_none() {
            let hint = if reader.text(setting::SUPABASE_URL.name).is_some() {
                "; Supabase shows it in the project's dashboard under Project Settings, JWT Keys, Legacy JWT secret"
            } else {
                "; `openssl rand -hex 32` makes one. With TOLLGATE_SANDBOX=true the sandbox has one of its own"
            };
            reader.wrong(&setting::SUPABASE_JWT_SECRET, hint);
        }
        secret
    }
}
