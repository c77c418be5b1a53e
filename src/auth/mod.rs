//! Whose request is it? A user's session token, or an application server's service token.
//!
//! Nothing here knows HTTP's status codes, and nothing reads a clock: `now` is an argument. Why a token was refused is for
//! logs and counters; whoever sent it learns only that authentication is required.

mod service;
mod session;

pub use service::ServiceTokens;
pub use session::{Session, SessionVerifier, issue};

/// Longest token that is read, in bytes; Supabase's have about one thousand.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why a caller is not known. Holds nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization` header.
    #[error("no authorization header")]
    Missing,
    /// Neither a bearer token nor, beneath, a JSON Web Token; the text says what is wrong.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// Not signed with our key and HS256.
    #[error("the token's signature does not match")]
    Signature,
    /// Signed with our key, but a header or claim is not a session's; the text names it.
    #[error("the token is not a session: {0}")]
    NotASession(&'static str),
    /// It was good until it ended.
    #[error("the token has expired")]
    Expired,
}

/// The token of `Authorization: Bearer <token>`; the scheme's case does not matter.
///
/// # Errors
/// No header, another scheme, no token or more than one, or one that is too long.
pub fn bearer(header: Option<&[u8]>) -> Result<&str, AuthError> {
    let header = header.ok_or(AuthError::Missing)?;
    let text = std::str::from_utf8(header).map_err(|_| AuthError::Malformed("not text"))?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::Malformed("no token"))?;
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::Malformed("another scheme than Bearer"));
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(AuthError::Malformed("too long"));
    }
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(AuthError::Malformed("not one token"));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_headers() {
        for good in ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER  a.b-c_d "] {
            assert_eq!(bearer(Some(good.as_bytes())), Ok("a.b-c_d"), "{good}");
        }
        assert_eq!(bearer(None), Err(AuthError::Missing));
        let long = format!("Bearer {}", "x".repeat(20 * 1024));
        for wrong in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Bearer  ",
            "Basic dXNlcjpwYXNz",
            "Bearer a b",
            "Bearer a,b c",
            " Bearer a",
            "Bearera",
            "Bearer a\tb",
            "Bearer é",
            "Bearer a\0",
            &long,
        ] {
            assert!(matches!(bearer(Some(wrong.as_bytes())), Err(AuthError::Malformed(_))), "{wrong:.40}");
        }
        assert!(bearer(Some(b"Bearer \xff")).is_err());
    }
}
