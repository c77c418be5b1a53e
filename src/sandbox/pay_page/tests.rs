//! What forms mean, and that every state of the page says what it must and nothing that it must not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use chrono::{DateTime, Utc};

use super::{form::TEST_CARDS, page::money, *};

const GOOD: &[(&str, &str)] =
    &[("method", "card"), ("card_number", "4242 4242 4242 4242"), ("expiry", "12 / 34"), ("cvc", "123")];

fn now() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// The good form with some of its fields set.
fn form(changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let changed = |name: &str| changes.iter().any(|(other, _)| *other == name);
    let kept = GOOD.iter().filter(|(name, _)| !changed(name));
    kept.chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn errors(changes: &[(&str, &str)]) -> FieldErrors {
    match read(&form(changes), now()) {
        Ok(method) => panic!("{changes:?} is read as {method:?}"),
        Err((errors, _)) => errors,
    }
}

fn view(state: PayState) -> PayView {
    PayView {
        session_id: "cs_test_1".to_owned(),
        plan_name: "PRO".to_owned(),
        amount_minor: 2900,
        currency: "usd".to_owned(),
        interval: Some("month".to_owned()),
        email: None,
        success_url: "http://127.0.0.1:3000/done?a=1&b=2".to_owned(),
        cancel_url: "http://127.0.0.1:3000/again".to_owned(),
        state,
        errors: FieldErrors::default(),
        kept: KeptFields::default(),
    }
}

#[track_caller]
fn assert_holds(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
}

#[test]
fn a_test_card_does_what_it_is_known_for() {
    let declined = |reason| Method::Card(CardOutcome::Declined(reason));
    for (number, method) in [
        ("4242 4242 4242 4242", Method::Card(CardOutcome::Approved(Card::Pays))),
        ("4242424242424242", Method::Card(CardOutcome::Approved(Card::Pays))),
        (" 4242-4242-4242-4242 ", Method::Card(CardOutcome::Approved(Card::Pays))),
        ("4000 0000 0000 0002", declined(DeclineReason::Generic)),
        ("4000000000009995", declined(DeclineReason::InsufficientFunds)),
        ("4000000000000069", declined(DeclineReason::ExpiredCard)),
        ("4000000000000127", declined(DeclineReason::IncorrectCvc)),
    ] {
        assert_eq!(read(&form(&[("card_number", number)]), now()), Ok(method), "{number}");
    }
}

#[test]
fn a_wrong_card_number_is_refused_and_a_right_one_that_is_no_test_card_too() {
    for (number, error) in [
        ("", FieldError::NoCardNumber),
        (" - ", FieldError::NoCardNumber),
        ("4242 4242 4242 4241", FieldError::WrongCardNumber),
        ("4000 0000 0000 000", FieldError::WrongCardNumber),
        ("0", FieldError::WrongCardNumber),
        ("00000000000", FieldError::WrongCardNumber),
        ("00000000000000000000", FieldError::WrongCardNumber),
        ("4242 4242 4242 424x", FieldError::WrongCardNumber),
        ("٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢", FieldError::WrongCardNumber),
        ("5555 5555 5555 4444", FieldError::NoTestCard),
        ("378282246310005", FieldError::NoTestCard),
    ] {
        let wrong = FieldErrors { card_number: Some(error), ..FieldErrors::default() };
        assert_eq!(errors(&[("card_number", number)]), wrong, "{number:?}");
    }
}

#[test]
fn whoever_types_another_card_is_told_all_test_cards() {
    for card in TEST_CARDS {
        assert_holds(&FieldError::NoTestCard.sentence().replace('\u{a0}', " "), &[card.number]);
    }
}

#[test]
fn an_expiry_is_a_month_that_is_not_over() {
    for good in
        ["12 / 34", "12/34", "1234", "12/2034", "122034", "12-34", "1/27", "01 27", "11/26", " 12 / 34 ", "11/76"]
    {
        assert!(read(&form(&[("expiry", good)]), now()).is_ok(), "{good:?}");
    }
    for (bad, error) in [
        ("10/26", FieldError::PastExpiry),
        ("12/2025", FieldError::PastExpiry),
        ("12/1999", FieldError::PastExpiry),
        ("", FieldError::MalformedExpiry),
        ("12", FieldError::MalformedExpiry),
        ("12/", FieldError::MalformedExpiry),
        ("13/34", FieldError::MalformedExpiry),
        ("00/34", FieldError::MalformedExpiry),
        ("12/345", FieldError::MalformedExpiry),
        ("12/20345", FieldError::MalformedExpiry),
        ("12/0034", FieldError::PastExpiry),
        ("123", FieldError::MalformedExpiry),
        ("012/34", FieldError::MalformedExpiry),
        ("12/34/56", FieldError::MalformedExpiry),
        ("+1/34", FieldError::MalformedExpiry),
        ("1é34", FieldError::MalformedExpiry),
        ("12/77", FieldError::MalformedExpiry),
        ("12/9999", FieldError::MalformedExpiry),
    ] {
        let wrong = FieldErrors { expiry: Some(error), ..FieldErrors::default() };
        assert_eq!(errors(&[("expiry", bad)]), wrong, "{bad:?}");
    }
}

#[test]
fn a_code_has_three_or_four_digits() {
    for good in ["123", "0000", " 123 "] {
        assert!(read(&form(&[("cvc", good)]), now()).is_ok(), "{good:?}");
    }
    for bad in ["", "12", "12345", "12a", "-12", "1 3"] {
        let wrong = FieldErrors { cvc: Some(FieldError::MalformedCvc), ..FieldErrors::default() };
        assert_eq!(errors(&[("cvc", bad)]), wrong, "{bad:?}");
    }
}

#[test]
fn an_email_may_be_missing_but_not_malformed() {
    for method in ["card", "delayed", "free"] {
        for good in ["", "a@b.c", "some.body+tag@mail.example.com"] {
            assert!(read(&form(&[("method", method), ("email", good)]), now()).is_ok(), "{method}: {good:?}");
        }
        for bad in ["a", "@b.c", "a@", "a@b", "a@b.", "a@.c", "a@b@c.d", "a b@c.d", "a\u{7}@b.c"] {
            let wrong = FieldErrors { email: Some(FieldError::MalformedEmail), ..FieldErrors::default() };
            assert_eq!(errors(&[("method", method), ("email", bad)]), wrong, "{method}: {bad:?}");
        }
        let long = format!("{}@b.c", "a".repeat(250));
        assert_eq!(long.len(), 254);
        assert!(read(&form(&[("method", method), ("email", &long)]), now()).is_ok());
        assert!(read(&form(&[("method", method), ("email", &format!("a{long}"))]), now()).is_err());
    }
}

#[test]
fn a_method_without_a_card_needs_no_card_and_no_method_is_an_error() {
    let no_card = [("card_number", ""), ("expiry", ""), ("cvc", "")];
    let with = |method: &'static str| [&[("method", method)], no_card.as_slice()].concat();
    assert_eq!(read(&form(&with("delayed")), now()), Ok(Method::Delayed));
    assert_eq!(read(&form(&with("free")), now()), Ok(Method::Free));
    let none = FieldErrors { method: Some(FieldError::NoMethod), ..FieldErrors::default() };
    assert_eq!(errors(&with("")), none);
    assert_eq!(errors(&with("cash")), none);
    assert!(read(&[], now()).is_err());
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let all = errors(&[("email", "a"), ("card_number", "1"), ("expiry", "1"), ("cvc", "1")]);
    assert!(all.method.is_none());
    assert!([all.email, all.card_number, all.expiry, all.cvc].iter().all(Option::is_some), "{all:?}");
}

#[test]
fn what_was_typed_is_kept_but_for_the_cards_number_and_code() {
    let sent = form(&[
        ("email", "a@b.c"),
        ("card_number", "5555 5555 5555 4444"),
        ("expiry", "12/35"),
        ("cvc", "987"),
        ("name", "Jo"),
    ]);
    let (errors, kept) = read(&sent, now()).unwrap_err();
    assert_eq!(kept, KeptFields::of(&sent));
    let page = render(&PayView { errors, kept: kept.clone(), ..view(PayState::Open) });
    assert_holds(&page, &[r#"value="a@b.c""#, r#"value="12/35""#, r#"value="Jo""#]);
    for shown in [page, format!("{kept:?} {errors:?}")] {
        for secret in ["5555", "987"] {
            assert!(!shown.contains(secret), "{secret} is in\n{shown}");
        }
    }
    let (_, kept) = read(&form(&[("method", "delayed"), ("email", "a")]), now()).unwrap_err();
    let page = render(&PayView { kept, ..view(PayState::Open) });
    assert_holds(&page, &[r#"value="delayed" checked"#]);
}

#[test]
fn an_open_page_shows_what_is_bought_and_asks_how_to_pay() {
    let page = render(&view(PayState::Open));
    assert_holds(
        &page,
        &[
            "<!DOCTYPE html>",
            "Sandbox",
            "no real money",
            "PRO",
            "$29.00",
            "per month",
            r#"<form method="post" action="/c/pay/cs_test_1""#,
            r#"href="/c/pay/cs_test_1/cancel""#,
            r#"name="method" value="card" checked"#,
            r#"name="method" value="delayed">"#,
        ],
    );
    for name in ["email", "card_number", "expiry", "cvc", "name"] {
        assert_holds(&page, &[&format!(r#"<label for="{name}">"#), &format!(r#"<input id="{name}" name="{name}""#)]);
    }
    for card in TEST_CARDS {
        assert_holds(&page, &[card.number]);
    }
    for absent in ["aria-invalid", "autofocus", "role=\"alert\"", "style=", "onclick", "http://127.0.0.1"] {
        assert!(!page.contains(absent), "{absent} is in\n{page}");
    }
}

#[test]
fn the_buyers_address_is_filled_in_until_another_is_typed() {
    let known = PayView { email: Some("known@example.com".to_owned()), ..view(PayState::Open) };
    assert_holds(&render(&known), &[r#"value="known@example.com""#]);
    let kept = KeptFields { email: "typed@example.com".to_owned(), ..KeptFields::default() };
    let page = render(&PayView { kept, ..known });
    assert_holds(&page, &[r#"value="typed@example.com""#]);
    assert!(!page.contains("known@example.com"));
}

#[test]
fn every_error_is_at_its_field_and_the_first_has_the_focus() {
    let (errors, kept) =
        read(&form(&[("email", "a"), ("card_number", "1"), ("expiry", "1"), ("cvc", "1")]), now()).unwrap_err();
    let page = render(&PayView { errors, kept, ..view(PayState::Open) });
    for name in ["email", "card_number", "expiry", "cvc"] {
        assert_holds(
            &page,
            &[
                &format!(r#"aria-invalid="true" aria-describedby="{name}-error""#),
                &format!(r#"<p class="error" id="{name}-error">"#),
            ],
        );
    }
    assert_eq!(page.matches("autofocus").count(), 1);
    assert_holds(&page, &[r#"aria-describedby="email-error" autofocus"#, "Check your entries"]);

    let errors = FieldErrors { method: Some(FieldError::NoMethod), ..FieldErrors::default() };
    let page = render(&PayView { errors, ..view(PayState::Open) });
    assert_holds(&page, &[r#"aria-describedby="method-error""#, r#"id="method-error""#, "checked autofocus"]);
}

#[test]
fn a_declined_card_is_told_and_another_may_be_typed() {
    for reason in [
        DeclineReason::Generic,
        DeclineReason::InsufficientFunds,
        DeclineReason::ExpiredCard,
        DeclineReason::IncorrectCvc,
    ] {
        let page = render(&view(PayState::Declined(reason.sentence().to_owned())));
        assert_holds(&page, &[r#"role="alert""#, reason.sentence(), "<form", "Try another card."]);
        assert_eq!(page.matches("autofocus").count(), 1);
    }
}

#[test]
fn a_page_without_anything_to_pay_asks_for_no_card() {
    let page = render(&PayView { amount_minor: 0, interval: None, ..view(PayState::Open) });
    assert_holds(&page, &["$0.00", r#"type="hidden" name="method" value="free""#, "Complete order"]);
    for absent in ["card_number", "Test cards", "per month"] {
        assert!(!page.contains(absent), "{absent} is in\n{page}");
    }
}

#[test]
fn a_page_that_is_over_asks_for_nothing_and_leads_to_the_shop() {
    let success = r#"href="http://127.0.0.1:3000/done?a=1&amp;b=2""#;
    let cancel = r#"href="http://127.0.0.1:3000/again""#;
    for (state, sentence, link) in [
        (PayState::Paid, "already paid", success),
        (PayState::Expired, "expired", cancel),
        (PayState::Failed, "failed", cancel),
    ] {
        let page = render(&view(state));
        assert_holds(&page, &["no real money", "PRO", "$29.00", sentence, link]);
        for absent in ["<form", "/cancel", "Test cards"] {
            assert!(!page.contains(absent), "{absent} is in\n{page}");
        }
    }
}

#[test]
fn a_payment_on_its_way_can_arrive_or_fail() {
    assert_holds(
        &render(&view(PayState::Pending)),
        &[
            "The payment is on its way",
            r#"<form class="settle" method="post" action="/c/pay/cs_test_1/settle""#,
            r#"name="outcome" value="succeeded">Let the payment arrive<"#,
            r#"name="outcome" value="failed">Let it fail<"#,
            r#"href="http://127.0.0.1:3000/done?a=1&amp;b=2""#,
        ],
    );
}

#[test]
fn every_value_is_escaped_in_every_state() {
    const EVIL: &str = "\"><script>alert(1)</script>'&";
    let evil = || EVIL.to_owned();
    for state in [
        PayState::Open,
        PayState::Declined(evil()),
        PayState::Paid,
        PayState::Pending,
        PayState::Expired,
        PayState::Failed,
    ] {
        let page = render(&PayView {
            session_id: evil(),
            plan_name: evil(),
            currency: evil(),
            interval: Some(evil()),
            email: Some(evil()),
            success_url: evil(),
            cancel_url: evil(),
            kept: KeptFields { email: evil(), expiry: evil(), name: evil(), method: Chosen::Card },
            ..view(state.clone())
        });
        assert!(!page.to_lowercase().contains("<script>"), "{state:?}:\n{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"), "{state:?}:\n{page}");
    }
}

#[test]
fn the_page_loads_what_there_is_and_nothing_from_elsewhere() {
    let page = render(&view(PayState::Open));
    let addresses: Vec<&str> = page.split("/c/assets/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(addresses, ["icon.svg", "pay.css", "pay.js"]);
    for address in addresses {
        let (content_type, body) = asset(address).unwrap();
        assert!(content_type.contains('/') && !body.is_empty(), "{address}");
        assert!(!body.contains("url(") && !body.contains("@import"), "{address}");
    }
    assert_eq!(asset("mod.rs"), None);
    assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
}

#[test]
fn money_is_written_as_its_currency_is_counted() {
    for (amount, currency, text) in [
        (0, "usd", "$0.00"),
        (5, "usd", "$0.05"),
        (2900, "usd", "$29.00"),
        (123_456_789, "eur", "€1,234,567.89"),
        (100_000, "gbp", "£1,000.00"),
        (500, "jpy", "¥500"),
        (50_000, "krw", "KRW\u{a0}50,000"),
        (1_500, "kwd", "KWD\u{a0}1.500"),
        (-2900, "usd", "-$29.00"),
        (i64::MIN, "jpy", "-¥9,223,372,036,854,775,808"),
    ] {
        assert_eq!(money(amount, currency), text);
    }
}
