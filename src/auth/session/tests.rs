//! Every way in which a token may be wrong.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ISSUER: &str = "https://abcdefghijklmnop.supabase.co/auth/v1";
const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";

fn verifier() -> SessionVerifier {
    SessionVerifier::new(&SECRET.into(), Some(ISSUER.to_owned()))
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().chain(&[0; 2]).take(3).fold(0_usize, |bits, byte| (bits << 8) | usize::from(*byte));
        for digit in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit)) & 63]));
        }
    }
    text
}

/// Signs any header and any claims, whatever they say.
fn forge(header: &str, claims: &str, secret: &str, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": USER, "aud": "authenticated", "role": "authenticated", "iat": NOW - 60, "exp": NOW + 3_600,
        "email": "user@example.com", "app_metadata": {"provider": "email"}, "is_anonymous": false,
    })
}

/// Verifies good claims after a change; `null` removes a claim.
fn changed(changes: &[(&str, Value)]) -> Result<Session, AuthError> {
    let mut claims = claims();
    for (name, value) in changes {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    verify(&claims.to_string())
}

fn verify(claims: &str) -> Result<Session, AuthError> {
    verifier().verify(&forge(r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#, claims, SECRET, Algorithm::HS256), NOW)
}

fn with_header(header: &str) -> Result<Session, AuthError> {
    verifier().verify(&forge(header, &claims().to_string(), SECRET, Algorithm::HS256), NOW)
}

#[test]
fn a_good_token() {
    let session = Session { user: UserId::parse(USER).unwrap(), expires_at: NOW + 3_600 };
    assert_eq!(changed(&[]), Ok(session));
    assert_eq!(changed(&[("aud", json!(["other", "authenticated"]))]), Ok(session));
    assert_eq!(changed(&[("nbf", json!(NOW))]), Ok(session));
}

#[test]
fn what_we_issue_we_accept() {
    let user = UserId::parse(USER).unwrap();
    let token = issue(&SECRET.into(), Some(ISSUER), user, Duration::from_secs(60), NOW).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Ok(Session { user, expires_at: NOW + 60 }));
    assert_eq!(verifier().verify(&token, NOW + 66), Err(AuthError::Expired));
    let token = issue(&SECRET.into(), None, user, Duration::from_secs(60), NOW).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Err(AuthError::NotASession("iss")));
    assert!(SessionVerifier::new(&SECRET.into(), None).verify(&token, NOW).is_ok());
}

#[test]
fn no_signature_is_no_token() {
    for alg in ["none", "None", "NONE", "HS256", ""] {
        let header = base64url(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#).as_bytes());
        let payload = base64url(claims().to_string().as_bytes());
        for token in [format!("{header}.{payload}."), format!("{header}.{payload}"), format!("{header}.{payload}.AA")] {
            assert_eq!(verifier().verify(&token, NOW), Err(AuthError::Signature), "{alg}");
        }
        if alg != "HS256" {
            assert_eq!(with_header(&format!(r#"{{"alg":"{alg}"}}"#)), Err(AuthError::NotASession("header")), "{alg}");
        }
    }
}

#[test]
fn another_key_or_algorithm_is_refused() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n";
    for (secret, algorithm, alg) in [
        (pem, Algorithm::HS256, "HS256"),
        ("", Algorithm::HS256, "HS256"),
        ("0123456789abcdef0123456789abcdeF", Algorithm::HS256, "HS256"),
        (SECRET, Algorithm::HS384, "HS384"),
        (SECRET, Algorithm::HS512, "HS512"),
        (SECRET, Algorithm::HS512, "HS256"),
    ] {
        let token = forge(&format!(r#"{{"alg":"{alg}"}}"#), &claims().to_string(), secret, algorithm);
        assert_eq!(verifier().verify(&token, NOW), Err(AuthError::Signature), "{alg}");
    }
    // Signed with our key as HS256, but saying something else.
    for alg in ["RS256", "ES256", "PS256", "EdDSA", "HS384", "hs256"] {
        assert_eq!(with_header(&format!(r#"{{"alg":"{alg}"}}"#)), Err(AuthError::NotASession("header")), "{alg}");
    }
}

#[test]
fn a_header_that_brings_keys_or_demands_is_refused() {
    for extra in [
        r#""jku":"https://evil.example.com/jwks.json""#,
        r#""x5u":"https://evil.example.com/cert.pem""#,
        r#""x5c":["MIIB"]"#,
        r#""jwk":{"kty":"oct","k":"AAAA"}"#,
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""alg":"HS256""#,
    ] {
        assert_eq!(
            with_header(&format!(r#"{{"alg":"HS256",{extra}}}"#)),
            Err(AuthError::NotASession("header")),
            "{extra}"
        );
    }
    for kid in ["../../etc/passwd", "' or 1=1 --", "unknown"] {
        assert!(with_header(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#)).is_ok(), "a key id is never looked up");
    }
    assert!(with_header("{}").is_err() && with_header("[]").is_err() && with_header("").is_err());
}

#[test]
fn times_are_whole_seconds() {
    assert!(changed(&[("exp", json!(NOW - 4))]).is_ok());
    for past in [NOW - 5, NOW - 60, 0, -1, i64::MIN] {
        assert_eq!(changed(&[("exp", json!(past))]), Err(AuthError::Expired), "{past}");
    }
    let future = (NOW + 3_600).to_string();
    for wrong in
        [json!(null), json!(future), json!(1.9e9), json!(18_446_744_073_709_551_615_u64), json!(true), json!([NOW + 9])]
    {
        assert!(matches!(changed(&[("exp", wrong.clone())]), Err(AuthError::NotASession(_))), "{wrong}");
    }
    for exp in ["18446744073709551616", "1e30", "null", "-"] {
        let text = claims().to_string().replace(&(NOW + 3_600).to_string(), exp);
        assert!(verify(&text).is_err(), "{exp}");
    }
    assert!(changed(&[("nbf", json!(NOW + 5))]).is_ok());
    assert_eq!(changed(&[("nbf", json!(NOW + 6))]), Err(AuthError::NotASession("nbf")));
    for wrong in [json!("0"), json!(0.5), json!(true)] {
        assert!(changed(&[("nbf", wrong.clone())]).is_err(), "{wrong}");
    }
    assert!(verify(&claims().to_string().replacen('{', r#"{"nbf":null,"#, 1)).is_err());
    assert!(verify(&claims().to_string().replacen('{', r#"{"exp":4000000000,"#, 1)).is_err(), "two exp");
}

#[test]
fn only_a_users_own_session_is_one() {
    for (claim, wrong) in [
        ("iss", json!("https://other.supabase.co/auth/v1")),
        ("iss", json!(format!("{ISSUER}/"))),
        ("iss", json!(null)),
        ("iss", json!([ISSUER])),
        ("aud", json!(null)),
        ("aud", json!("anon")),
        ("aud", json!("Authenticated")),
        ("aud", json!([])),
        ("aud", json!(["anon", "other"])),
        ("aud", json!({"authenticated": true})),
        ("role", json!(null)),
        ("role", json!("anon")),
        ("role", json!("service_role")),
        ("role", json!("supabase_admin")),
        ("role", json!(["authenticated"])),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!("user@example.com")),
        ("sub", json!("7f6a3e2c5d1b4c8e9a602f1d0c9b8a71")),
        ("sub", json!(format!("urn:uuid:{USER}"))),
        ("sub", json!(17)),
    ] {
        assert!(matches!(changed(&[(claim, wrong.clone())]), Err(AuthError::NotASession(_))), "{claim} {wrong}");
    }
}

#[test]
fn supabases_own_keys_are_no_sessions() {
    for role in ["anon", "service_role"] {
        let key = json!({"iss": "supabase", "ref": "abcdefghijklmnop", "role": role, "iat": NOW - 60, "exp": NOW + 300_000_000});
        assert!(matches!(verify(&key.to_string()), Err(AuthError::NotASession(_))), "{role}");
    }
}

#[test]
fn what_is_no_token_at_all() {
    let good = forge(r#"{"alg":"HS256"}"#, &claims().to_string(), SECRET, Algorithm::HS256);
    let long = format!("{good}{}", "A".repeat(TOKEN_BYTES_MAX));
    for wrong in [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "é.é.é",
        &format!("{good}."),
        &format!("x.{good}"),
        &format!("{good}="),
        &long,
    ] {
        assert!(verifier().verify(wrong, NOW).is_err(), "{wrong:.40}");
    }
    // Two segments, signed all the same.
    let message = base64url(br#"{"alg":"HS256"}"#);
    let signature = crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256);
    assert!(verifier().verify(&format!("{message}.{}", signature.unwrap()), NOW).is_err());
    for claims in ["", "null", "[]", "{", "\u{feff}{}"] {
        assert!(verify(claims).is_err(), "{claims}");
    }
    assert!(!format!("{:?}", verifier()).contains(SECRET));
}

proptest! {
    #[test]
    fn any_text_is_answered(token in "[A-Za-z0-9_.=-]{0,200}|.{0,100}", now: i64) {
        prop_assert!(verifier().verify(&token, now).is_err());
    }

    #[test]
    fn signed_nonsense_is_answered(header in ".{0,40}", claims in ".{0,80}") {
        prop_assert!(verifier().verify(&forge(&header, &claims, SECRET, Algorithm::HS256), NOW).is_err());
    }

    #[test]
    fn any_changed_character_is_refused(at: prop::sample::Index, other in "[A-Za-z0-9_-]") {
        let good = forge(r#"{"alg":"HS256"}"#, &claims().to_string(), SECRET, Algorithm::HS256);
        let at = at.index(good.len());
        let mut token = good.clone();
        token.replace_range(at..=at, &other);
        prop_assert_eq!(verifier().verify(&token, NOW).is_ok(), token == good);
    }
}

#[test]
fn a_token_that_was_good_is_so_until_it_ends_and_no_letter_longer() {
    let verifier = verifier();
    let token = forge(r#"{"alg":"HS256","typ":"JWT"}"#, &claims().to_string(), SECRET, Algorithm::HS256);
    let session = verifier.verify(&token, NOW).unwrap();
    assert_eq!(verifier.verify(&token, NOW), Ok(session));
    assert_eq!(verifier.verify(&token, session.expires_at + 5), Err(AuthError::Expired), "remembered or not");
    for changed in [format!("{token}x"), token[1..].to_owned(), token.to_lowercase()] {
        assert!(verifier.verify(&changed, NOW).is_err(), "{changed}");
    }
    let other = SessionVerifier::new(&SecretString::from("another-secret-of-at-least-32-characters"), None);
    assert!(other.verify(&token, NOW).is_err(), "nothing is shared between keys");
}
