//! Did Stripe sign these bytes? Asked before anything looks inside them.
//!
//! `Stripe-Signature: t=<unix seconds>,v1=<hex>[,v1=<hex>…][,v0=…]`, where each `v1` is HMAC-SHA256 over `<t>.<body>` and
//! the key is the *whole* secret, `whsec_` included. While a secret is rolled there are several `v1` and several secrets:
//! every one is tried against every other. Schemes that are not `v1` are ignored, so nothing can be downgraded to them.
//!
//! The header is read as Stripe's own libraries read it wherever they agree with each other: split at every comma and every
//! `=`, no trimming of names, the *number* `t` is what was signed (so `t=+5`, `t= 5` and `t=05` are 5). They look at the past only;
//! here a time too far in the future is refused as well. Where they differ the stricter reading wins.
//!
//! [`VerifiedPayload`] has no other constructor than [`verify`]: what takes one cannot be reached by unsigned bytes.

use std::{fmt, time::Duration};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

type HmacSha256 = Hmac<Sha256>;

/// Longest header that is read: some 120 signatures, where Stripe sends one for each live secret.
pub const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Most `v1` signatures that are tried; more of them are refused unread.
pub const SIGNATURES_MAX: usize = 100;

/// The endpoint's signing secrets, kept only as keyed MACs: there is nothing here that could be printed.
#[derive(Clone)]
pub struct WebhookSecrets(Vec<HmacSha256>);

/// Why a list of secrets cannot verify anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// The list is empty.
    #[error("no webhook signing secret given")]
    None,
    /// A secret is empty or white space: anybody could sign with it.
    #[error("a webhook signing secret is blank")]
    Blank,
}

impl WebhookSecrets {
    /// Keys one MAC per secret. The order is that of [`VerifiedPayload::secret_index`].
    ///
    /// # Errors
    /// No secret at all, or one that is blank.
    pub fn new(secrets: &[SecretString]) -> Result<Self, SecretsError> {
        if secrets.is_empty() {
            return Err(SecretsError::None);
        }
        if secrets.iter().any(|secret| secret.expose_secret().trim().is_empty()) {
            return Err(SecretsError::Blank);
        }
        Ok(Self(secrets.iter().map(keyed).collect()))
    }
}

impl fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSecrets({} redacted)", self.0.len())
    }
}

/// How far `t` may be from the receiver's clock, in either direction. It cannot be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerance(u64);

impl Tolerance {
    /// Stripe's default: five minutes.
    pub const STRIPE: Self = Self::seconds(300);

    /// A tolerance of so many seconds; a difference of exactly that many still passes.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// How long that is.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Default for Tolerance {
    fn default() -> Self {
        Self::STRIPE
    }
}

/// A body that Stripe signed, byte for byte as it came. Not parsed, perhaps not even UTF-8.
#[derive(Clone)]
pub struct VerifiedPayload {
    raw: Bytes,
    signed_at: i64,
    secret_index: usize,
}

impl VerifiedPayload {
    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.raw
    }

    /// When Stripe signed this delivery, in Unix seconds. Each delivery of one event has its own.
    #[must_use]
    pub fn signed_at(&self) -> i64 {
        self.signed_at
    }

    /// Which of the secrets matched: tells when the old one of a rotation is no longer in use.
    #[must_use]
    pub fn secret_index(&self) -> usize {
        self.secret_index
    }
}

impl fmt::Debug for VerifiedPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedPayload")
            .field("bytes", &self.raw.len())
            .field("signed_at", &self.signed_at)
            .field("secret_index", &self.secret_index)
            .finish()
    }
}

/// Why a delivery is not believed. For logs and counters: the sender learns no more than that the signature is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no header, or nothing in it.
    #[error("no signature header")]
    Missing,
    /// The header cannot be read; the text says what is wrong with it.
    #[error("malformed signature header: {0}")]
    Malformed(&'static str),
    /// Signed too long ago, or too far in the future. Not yet known to be Stripe's: age is checked first.
    #[error("signature time {signed_at} is too far from the clock's {now}")]
    TimestampOutOfTolerance {
        /// `t` of the header.
        signed_at: i64,
        /// The receiver's clock.
        now: i64,
    },
    /// No signature was made with any of the secrets over these bytes.
    #[error("no signature matches")]
    NoMatch,
}

/// Checks that `body` was signed with one of `secrets` not longer than `tolerance` from `now_unix`.
///
/// Hands the body back wrapped as proof. Tags are compared in constant time.
///
/// # Errors
/// [`SignatureError`]; each of them means: answer 400, store nothing.
pub fn verify(
    secrets: &WebhookSecrets,
    header: &[u8],
    body: Bytes,
    now_unix: i64,
    tolerance: Tolerance,
) -> Result<VerifiedPayload, SignatureError> {
    let signed_at = read_header(header)?;
    if now_unix.abs_diff(signed_at) > tolerance.0 {
        return Err(SignatureError::TimestampOutOfTolerance { signed_at, now: now_unix });
    }
    let time = signed_at.to_string();
    for (secret_index, keyed) in secrets.0.iter().enumerate() {
        let mac = keyed.clone().chain_update(&time).chain_update(b".").chain_update(&body);
        let mut tags = fields(header).filter(|(name, _)| *name == b"v1").filter_map(|(_, value)| tag(value?));
        if tags.any(|tag| mac.clone().verify_slice(&tag).is_ok()) {
            return Ok(VerifiedPayload { raw: body, signed_at, secret_index });
        }
    }
    Err(SignatureError::NoMatch)
}

/// The header that Stripe would send with `body` at `timestamp`.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it is written down here, and compared nowhere")]
pub fn sign(secret: &SecretString, timestamp: i64, body: &[u8]) -> String {
    let mac = keyed(secret).chain_update(timestamp.to_string()).chain_update(b".").chain_update(body);
    format!("t={timestamp},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// HMAC's key block (RFC 2104): a longer key is hashed, a shorter one padded with zeros. Unlike `new_from_slice` it has no
/// error that cannot happen.
fn keyed(secret: &SecretString) -> HmacSha256 {
    let secret = secret.expose_secret().as_bytes();
    let mut block = hmac::digest::Key::<HmacSha256>::default();
    if secret.len() > block.len() {
        block.iter_mut().zip(Sha256::digest(secret)).for_each(|(to, from)| *to = from);
    } else {
        block.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
    }
    HmacSha256::new(&block)
}

/// `name=value` pairs as Stripe's libraries split them; a second `=` ends the value, without any there is none.
fn fields(header: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    header.split(|byte| *byte == b',').map(|field| {
        let mut parts = field.split(|byte| *byte == b'=');
        (parts.next().unwrap_or_default(), parts.next())
    })
}

/// The one `t`, once the whole header is known to be worth any hashing.
fn read_header(header: &[u8]) -> Result<i64, SignatureError> {
    use SignatureError::{Malformed, Missing};

    if header.trim_ascii().is_empty() {
        return Err(Missing);
    }
    if header.len() > HEADER_BYTES_MAX {
        return Err(Malformed("header too long"));
    }
    let mut time = None;
    let mut signatures = 0_usize;
    for (name, value) in fields(header) {
        match (name, value) {
            (b"t", _) if time.is_some() => return Err(Malformed("two times")),
            (b"t", value) => time = Some(seconds(value).ok_or(Malformed("time is not a number of seconds"))?),
            (b"v1", None) => return Err(Malformed("v1 without a value")),
            (b"v1", Some(_)) => signatures = signatures.saturating_add(1),
            _ => {}
        }
    }
    match (time, signatures) {
        (None, _) => Err(Malformed("no time")),
        (Some(_), 0) => Err(Malformed("no v1 signature")),
        (Some(_), count) if count > SIGNATURES_MAX => Err(Malformed("too many signatures")),
        (Some(time), _) => Ok(time),
    }
}

/// ASCII digits only, at most 19; white space around and one `+` before are what every library lets pass.
fn seconds(value: Option<&[u8]>) -> Option<i64> {
    let text = std::str::from_utf8(value?.trim_ascii()).ok()?;
    let digits = text.strip_prefix('+').unwrap_or(text);
    let plausible = digits.len() <= 19 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plausible { digits.parse().ok() } else { None }
}

/// 64 lower-case hex digits; anything else cannot match.
fn tag(hex: &[u8]) -> Option<[u8; 32]> {
    if hex.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut tag = [0; 32];
    hex::decode_to_slice(hex, &mut tag).ok()?;
    Some(tag)
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
