//! What is no event, what is barely one, and what must hold for every input.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::tests::{FIXTURES, USER, grant, read, with, without, word_of};

#[test]
fn bodies_that_are_no_events() {
    let refusal = |body: &[u8]| match read(body) {
        Ok(meaning) => panic!("{meaning:?}"),
        Err(error) => error.to_string(),
    };
    for body in ["", " ", "null", "[]", "\"evt_1\"", "5", "{}", "{\"id\":\"evt_1\"", "{}{}", "\u{feff}{}"] {
        refusal(body.as_bytes());
    }
    assert_eq!(refusal(b"\xff\xfe"), "the body is not UTF-8");
    assert_eq!(refusal(b"{\n\"id\": nope}"), "the body is not JSON: see line 2, column 8");
    for pointer in ["/id", "/object", "/type", "/created", "/data", "/data/object"] {
        let text = refusal(&without(pointer));
        let name = pointer.trim_start_matches('/').split('/').next_back().unwrap();
        assert!(text.contains(name), "{pointer}: {text}");
    }
    for (pointer, value) in [
        ("/id", json!("cs_1")),
        ("/id", json!(format!("evt_{}", "canary".repeat(50)))),
        ("/id", json!("evt_canary\0")),
        ("/id", json!("evt_canary*")),
        ("/object", json!("canary")),
        ("/type", json!("")),
        ("/type", json!("Canary")),
        ("/type", json!("canary\n")),
        ("/type", json!("canary\0")),
        ("/type", json!("c".repeat(129))),
        ("/created", json!(null)),
        ("/created", json!("2026-09-21T14:13:20Z")),
        ("/created", json!(1.5)),
        ("/created", json!(-1)),
        ("/created", json!(i64::MAX)),
        ("/created", json!(u64::MAX)),
        ("/livemode", json!("canary")),
        ("/data", json!("canary")),
        ("/data/object", json!(null)),
    ] {
        let text = refusal(&with(&[(pointer, value)]));
        assert!(!text.contains("canary"), "{pointer}: {text}");
    }
    let twice = String::from_utf8(with(&[])).unwrap().replacen('{', "{\"id\":\"evt_2\",", 1);
    assert!(refusal(twice.as_bytes()).contains("repeated field"));
    let huge = String::from_utf8(with(&[])).unwrap().replace("1790000162", &"9".repeat(400));
    assert!(refusal(huge.as_bytes()).contains("`created`"));
}

#[test]
fn depth_costs_nothing() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(deep(10_000).as_bytes()).is_err());
    assert!(read("{\"a\":".repeat(10_000).as_bytes()).is_err());
    let whole = String::from_utf8(with(&[("/data/object/custom_text", json!("HERE"))])).unwrap();
    assert_eq!(word_of(whole.replace("\"HERE\"", &deep(10_000)).as_bytes()), "active", "what is not read may be deep");
    for place in ["mode", "metadata", "subscription"] {
        let body = String::from_utf8(with(&[(&format!("/data/object/{place}"), json!("HERE"))])).unwrap();
        assert_eq!(word_of(body.replace("\"HERE\"", &deep(10_000)).as_bytes()), "incomplete_object", "{place}");
    }
}

#[test]
fn strange_strings_are_read_all_the_same() {
    let body = String::from_utf8(with(&[])).unwrap().replace(USER, &USER.replace('3', "\\u0033"));
    assert_eq!(grant(read(body.as_bytes()).unwrap()).0.to_string(), USER);
    // Half a character that JSON can write and UTF-8 cannot.
    let body = String::from_utf8(with(&[])).unwrap().replace("\"userId\":\"3", "\"userId\":\"\\ud800");
    assert_eq!(word_of(body.as_bytes()), "incomplete_object");
}

proptest! {
    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&body).is_err());
    }

    #[test]
    fn any_likely_text_is_answered(
        body in r#"(\{|\}|\[|\]|:|,|"|\\|\\u0000|id|object|event|type|created|data|evt_1|[0-9]{0,30}|null| ){0,60}"#,
    ) {
        let _ = read(body.as_bytes());
    }

    #[test]
    fn mutated_events_are_answered(
        which in 0..FIXTURES.len(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, any::<u8>()), 1..8),
    ) {
        let mut body = FIXTURES[which].1.to_vec();
        for (place, how, byte) in mutations {
            if body.is_empty() {
                break;
            }
            let place = place.index(body.len());
            match how {
                0 => body[place] = byte,
                1 => body.insert(place, byte),
                2 => drop(body.remove(place)),
                _ => body.truncate(place.max(1)),
            }
        }
        if let Ok(meaning) = read(&body) {
            // Whatever is believed may go into the ledger's text columns.
            let event = meaning.event().unwrap();
            let texts = [Some(&event.kind), event.object_id.as_ref(), event.api_version.as_ref()];
            prop_assert!(texts.into_iter().flatten().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())));
            prop_assert!(std::str::from_utf8(&event.payload).is_ok());
        }
    }

    #[test]
    fn any_value_in_any_field_is_answered(
        field in prop::sample::select(vec![
            "id", "mode", "payment_status", "client_reference_id", "metadata", "subscription", "payment_intent", "customer",
        ]),
        value in prop_oneof![
            Just(json!(null)), Just(json!({})), Just(json!([])), any::<f64>().prop_map(|number| json!(number)),
            ".{0,20}".prop_map(|text| json!(text)), ".{0,8}".prop_map(|text| json!({"id": text, "userId": text})),
        ],
    ) {
        prop_assert!(read(&with(&[(&format!("/data/object/{field}"), value)])).is_ok(), "an event is never refused for its object");
    }
}
