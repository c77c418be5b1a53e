//! Headers and bodies put together from good and bad parts: believed is what an HMAC written by hand agrees with, and nothing else.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::intake::fuzz_cases;

const NOW: i64 = 1_800_000_000;
const OURS: [&str; 2] = ["whsec_one", "whsec_a_key_that_is_longer_than_the_block_of_64_bytes_that_sha_256_works_on"];
const THEIRS: &str = "whsec_three";

/// RFC 2104, from SHA-256 alone.
fn tag_by_hand(secret: &str, text: &[u8]) -> String {
    let mut key = [0_u8; 64];
    let hashed = Sha256::digest(secret.as_bytes());
    let short: &[u8] = if secret.len() > 64 { &hashed } else { secret.as_bytes() };
    key[..short.len()].copy_from_slice(short);
    let inner = Sha256::digest([&key.map(|byte| byte ^ 0x36)[..], text].concat());
    hex::encode(Sha256::digest([&key.map(|byte| byte ^ 0x5c)[..], &inner[..]].concat()))
}

fn signed_text(time: i64, body: &[u8]) -> Vec<u8> {
    [format!("{time}.").as_bytes(), body].concat()
}

/// One `name=value` of a header.
#[derive(Debug, Clone)]
enum Part {
    Time(i64),
    Tag { secret: usize, time: i64, name: &'static str },
    Upper { secret: usize },
    Text(String),
}

impl Part {
    fn text(&self, body: &[u8]) -> String {
        let tag = |secret: usize, time| tag_by_hand([OURS[0], OURS[1], THEIRS][secret], &signed_text(time, body));
        match self {
            Self::Time(time) => format!("t={time}"),
            Self::Tag { secret, time, name } => format!("{name}={}", tag(*secret, *time)),
            Self::Upper { secret } => format!("v1={}", tag(*secret, NOW).to_uppercase()),
            Self::Text(text) => text.clone(),
        }
    }
}

fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(NOW), 1 => Just(NOW - 300), 1 => Just(NOW + 301), 1 => any::<i64>()]
}

fn any_part() -> impl Strategy<Value = Part> {
    let name = prop_oneof![6 => Just("v1"), 1 => Just("v0"), 1 => Just("V1"), 1 => Just(" v1")];
    prop_oneof![
        3 => any_time().prop_map(Part::Time),
        4 => (0..3_usize, any_time(), name).prop_map(|(secret, time, name)| Part::Tag { secret, time, name }),
        1 => (0..2_usize).prop_map(|secret| Part::Upper { secret }),
        1 => "(t|v1|v0|)=?[ +0-9a-f=]{0,20}".prop_map(Part::Text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

    #[test]
    fn only_what_an_hmac_written_by_hand_agrees_with_is_believed(
        body in prop::collection::vec(any::<u8>(), 0..60),
        parts in prop::collection::vec(any_part(), 0..6),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        other_body in prop::option::weighted(0.1, prop::collection::vec(any::<u8>(), 0..60)),
    ) {
        let header: Vec<String> = parts.iter().map(|part| part.text(&body)).collect();
        let mut header = header.join(",").into_bytes();
        if let Some((place, byte)) = damage.filter(|_| !header.is_empty()) {
            let place = place.index(header.len());
            header[place] = byte;
        }
        let received = other_body.unwrap_or(body);
        let secrets = WebhookSecrets::new(&OURS.map(SecretString::from)).unwrap();
        let verdict = verify(&secrets, &header, Bytes::from(received.clone()), NOW, Tolerance::STRIPE);

        let text = String::from_utf8_lossy(&header);
        let values = |wanted: &str| -> Vec<&str> {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value.split('=').next().unwrap()).collect()
        };
        let times = values("t");
        let time: Option<i64> = times.first().and_then(|time| time.trim().parse().ok());
        let is_signed = time.is_some_and(|time| {
            let tags = OURS.map(|secret| tag_by_hand(secret, &signed_text(time, &received)));
            (NOW - 300..=NOW + 300).contains(&time) && values("v1").iter().any(|tag| tags.iter().any(|good| good == tag))
        });
        match verdict {
            Ok(payload) => {
                prop_assert!(is_signed && times.len() == 1, "{text}");
                prop_assert_eq!((Some(payload.signed_at()), &payload.bytes()[..]), (time, &received[..]));
            }
            Err(error) => {
                let is_plain = parts.iter().all(|part| !matches!(part, Part::Text(_))) && damage.is_none();
                prop_assert!(!is_signed || times.len() > 1 || !is_plain, "{text}: {error}");
            }
        }
    }
}
