//! Session tokens as Supabase issues them: JSON Web Tokens, HS256.
//!
//! The algorithm is ours to choose, never the token's: the signature is checked as HS256 before anything of the token is
//! parsed, so `none`, a public key taken for a secret, and keys that a token brings along lead nowhere. Supabase signs its
//! `anon` and `service_role` keys with the same secret: the role tells them from a user's session.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto, dangerous, decode_header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

use super::{AuthError, TOKEN_BYTES_MAX};
use crate::{domain::id::UserId, recent::Recent};

/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: i64 = 5;

/// Supabase's word for a signed-in user, both as audience and as role.
const AUTHENTICATED: &str = "authenticated";

/// A user who is signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub user: UserId,
    /// Until when, in Unix seconds.
    pub expires_at: i64,
}

impl Session {
    /// When its token is taken no longer, in Unix seconds.
    #[must_use]
    pub const fn ends_at(&self) -> i64 {
        self.expires_at.saturating_add(LEEWAY)
    }
}

/// Tokens remembered as good: a user comes back with the same one until it ends. Some 30 MiB with tokens of Supabase's usual length.
const TOKENS_MAX: usize = 16_384;

/// Checks session tokens against one key and, if it is known, one issuer. Clones remember together.
#[derive(Debug, Clone)]
pub struct SessionVerifier {
    key: DecodingKey,
    issuer: Option<String>,
    /// The whole token is the key: one letter changed, and it is checked from the beginning.
    known: Arc<RwLock<Recent<Box<str>, Session>>>,
}

impl SessionVerifier {
    /// With an issuer, `iss` must be exactly that; without, it is not looked at.
    #[must_use]
    pub fn new(jwt_secret: &SecretString, issuer: Option<String>) -> Self {
        let known = Arc::new(RwLock::new(Recent::new(TOKENS_MAX)));
        Self { key: DecodingKey::from_secret(jwt_secret.expose_secret().as_bytes()), issuer, known }
    }

    /// The session that a token stands for at `now_unix`.
    ///
    /// # Errors
    /// [`AuthError`]; each of them means: 401, and no reason given.
    pub fn verify(&self, token: &str, now_unix: i64) -> Result<Session, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed("too long"));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(token).copied();
        let session = match known {
            Some(session) => session,
            None => self.check(token, now_unix)?,
        };
        if session.ends_at() <= now_unix {
            return Err(AuthError::Expired);
        }
        if known.is_none() {
            self.known.write().unwrap_or_else(PoisonError::into_inner).insert(token.into(), session);
        }
        Ok(session)
    }

    /// Everything but the end, which is checked each time.
    fn check(&self, token: &str, now_unix: i64) -> Result<Session, AuthError> {
        self.check_signature(token)?;
        check_header(token)?;
        // "Dangerous" without a signature; it has been checked.
        let claims: Claims = dangerous::insecure_decode_claims(token)
            .map_err(|_| AuthError::NotASession("claims missing or of the wrong type"))?;
        let refused = |claim| Err(AuthError::NotASession(claim));
        if claims.nbf.is_some_and(|nbf| nbf > now_unix.saturating_add(LEEWAY)) {
            return refused("nbf");
        }
        if claims.role != AUTHENTICATED {
            return refused("role");
        }
        if !claims.aud.contains(AUTHENTICATED) {
            return refused("aud");
        }
        if self.issuer.is_some() && self.issuer != claims.iss {
            return refused("iss");
        }
        let user = UserId::parse(&claims.sub).map_err(|_| AuthError::NotASession("sub"))?;
        Ok(Session { user, expires_at: claims.exp })
    }

    fn check_signature(&self, token: &str) -> Result<(), AuthError> {
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed("not a JSON Web Token"))?;
        match crypto::verify(signature, message.as_bytes(), &self.key, Algorithm::HS256) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(AuthError::Signature),
        }
    }
}

/// A header that says HS256 as well, brings no key of its own and asks for nothing to be understood (RFC 7515, 4.1).
fn check_header(token: &str) -> Result<(), AuthError> {
    let header = decode_header(token).map_err(|_| AuthError::NotASession("header"))?;
    let Header { alg: Algorithm::HS256, jku: None, jwk: None, x5u: None, x5c: None, crit: None, .. } = header else {
        return Err(AuthError::NotASession("header"));
    };
    Ok(())
}

/// What we read of a token; of the wrong type is as bad as missing. `exp` and `nbf` are whole seconds.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<i64>,
    aud: Audience,
    role: String,
    #[serde(default, deserialize_with = "present")]
    iss: Option<String>,
}

/// One audience or several (RFC 7519, 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Several(several) => several.iter().any(|one| one == wanted),
        }
    }
}

/// A claim that may be absent, but not `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A session token for a user, as Supabase would issue it: for the `token` command and for tests.
///
/// # Errors
/// None is known; the library's signature allows for one.
pub fn issue(
    jwt_secret: &SecretString,
    issuer: Option<&str>,
    user: UserId,
    lifetime: Duration,
    now_unix: i64,
) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Issued<'a> {
        sub: UserId,
        aud: &'a str,
        role: &'a str,
        iat: i64,
        exp: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        iss: Option<&'a str>,
    }

    let claims = Issued {
        sub: user,
        aud: AUTHENTICATED,
        role: AUTHENTICATED,
        iat: now_unix,
        exp: now_unix.saturating_add(i64::try_from(lifetime.as_secs())?),
        iss: issuer,
    };
    let key = EncodingKey::from_secret(jwt_secret.expose_secret().as_bytes());
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}

#[cfg(test)]
mod tests;
