//! Application servers, which may read anybody's entitlements.

use std::fmt;

use hmac::digest::CtOutput;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The tokens that are good; kept as hashes, so that there is nothing to print and nothing to learn from how long a
/// comparison takes: neither a token's text nor its length.
#[derive(Clone)]
pub struct ServiceTokens(Vec<CtOutput<Sha256>>);

impl ServiceTokens {
    /// Without any token nobody is let in.
    #[must_use]
    pub fn new(tokens: &[SecretString]) -> Self {
        Self(tokens.iter().map(|token| hash(token.expose_secret())).collect())
    }

    /// Whether the token is one of them. Every one is compared, in constant time.
    #[must_use]
    pub fn contains(&self, token: &str) -> bool {
        let token = hash(token);
        self.0.iter().fold(false, |found, known| (*known == token) | found)
    }
}

fn hash(token: &str) -> CtOutput<Sha256> {
    CtOutput::new(Sha256::digest(token))
}

impl fmt::Debug for ServiceTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceTokens({} redacted)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_tokens() {
        let tokens = ServiceTokens::new(&["first-service-token".into(), "second-service-token".into()]);
        assert!(tokens.contains("first-service-token") && tokens.contains("second-service-token"));
        for wrong in ["", "first-service-toke", "first-service-token ", "First-service-token", "third-service-token"] {
            assert!(!tokens.contains(wrong), "{wrong}");
        }
        assert!(!ServiceTokens::new(&[]).contains(""));
        assert!(!format!("{tokens:?}").contains("service-token"));
    }
}
