//! The page, in every state a session can be in. Every value is escaped where it is written: `maud` writes no other way.

use maud::{DOCTYPE, Markup, html};

use super::{
    PayState, PayView,
    form::{Chosen, FieldError, TEST_CARDS},
};

/// The whole page.
#[must_use]
pub fn render(view: &PayView) -> String {
    let main = html! {
        (summary(view))
        section.side.pay aria-labelledby="what-to-do" {
            div.column { (what_to_do(view)) }
        }
        @if is_payable(view) && view.amount_minor != 0 { (test_cards()) }
    };
    document(&title(view), &main)
}

/// A page of the sandbox's, whatever is on it.
pub(in crate::sandbox) fn document(title: &str, main: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) }
                link rel="icon" href="/c/assets/icon.svg";
                link rel="stylesheet" href="/c/assets/pay.css";
                script src="/c/assets/pay.js" defer {}
            }
            body {
                p.strip { strong { "Sandbox" } ": no real money" }
                main { (main) }
            }
        }
    }
    .into_string()
}

fn title(view: &PayView) -> String {
    let state = match view.state {
        PayState::Open if first_wrong(view).is_some() => "Check your entries",
        PayState::Open => "Pay",
        PayState::Declined(_) => "Payment declined",
        PayState::Paid => "Paid",
        PayState::Pending => "Payment on its way",
        PayState::Expired => "Page expired",
        PayState::Failed => "Payment failed",
    };
    format!("{state}: {} (sandbox)", view.plan_name)
}

fn is_payable(view: &PayView) -> bool {
    matches!(view.state, PayState::Open | PayState::Declined(_))
}

fn summary(view: &PayView) -> Markup {
    let price = money(view.amount_minor, &view.currency);
    html! {
        section.side.summary aria-labelledby="what" {
            div.column {
                @if is_payable(view) {
                    a.back href={ "/c/pay/" (view.session_id) "/cancel" } { span aria-hidden="true" { "← " } "Back" }
                }
                h1 #what { (view.plan_name) }
                p.price {
                    span.amount { (price) }
                    @if let Some(interval) = &view.interval { " " span.interval { "per " (interval) } }
                }
                dl.lines {
                    div {
                        dt { (view.plan_name) @if let Some(interval) = &view.interval { ", every " (interval) } }
                        dd { (price) }
                    }
                    div.total { dt { (total(view)) } dd { (price) } }
                }
            }
        }
    }
}

fn total(view: &PayView) -> &'static str {
    match view.state {
        PayState::Open | PayState::Declined(_) => "Due today",
        PayState::Paid => "Paid",
        PayState::Pending => "On its way",
        PayState::Expired | PayState::Failed => "Not paid",
    }
}

fn test_cards() -> Markup {
    html! {
        section.side.cards aria-labelledby="cards" {
            div.column {
                h2 #cards { "Test cards" }
                ul {
                    @for card in TEST_CARDS {
                        li { code { (card.number) } " " span { (card.effect) } }
                    }
                }
                p { "With any date to come and any code." }
            }
        }
    }
}

fn what_to_do(view: &PayView) -> Markup {
    match &view.state {
        PayState::Open => form(view, None),
        PayState::Declined(why) => form(view, Some(why)),
        PayState::Paid => notice(
            Mood::Good,
            "This is already paid",
            "Thank you. You can close this page, or go back to the shop.",
            &link_to(&view.success_url, "Go to the shop"),
        ),
        PayState::Pending => notice(
            Mood::Waiting,
            "The payment is on its way",
            "A bank would take days. Here you decide whether the money arrives.",
            &settle(view),
        ),
        PayState::Expired => notice(
            Mood::Bad,
            "This page has expired",
            "Nothing was paid. Choose again in the shop.",
            &link_to(&view.cancel_url, "Back to the shop"),
        ),
        PayState::Failed => notice(
            Mood::Bad,
            "The payment failed",
            "The money did not arrive. Choose again in the shop.",
            &link_to(&view.cancel_url, "Back to the shop"),
        ),
    }
}

fn link_to(url: &str, text: &str) -> Markup {
    html! { a.button href=(url) { (text) } }
}

enum Mood {
    Good,
    Waiting,
    Bad,
}

fn notice(mood: Mood, heading: &str, sentence: &str, next: &Markup) -> Markup {
    let (class, path) = match mood {
        Mood::Good => ("notice good", "M14 24.5l7 7 13-15"),
        Mood::Waiting => ("notice waiting", "M24 14v11l7 5"),
        Mood::Bad => ("notice bad", "M24 14v13m0 6.5v.5"),
    };
    html! {
        div class=(class) {
            svg viewBox="0 0 48 48" width="48" height="48" aria-hidden="true" {
                circle cx="24" cy="24" r="22" {}
                path d=(path) {}
            }
            h2 #what-to-do { (heading) }
            p { (sentence) }
            (next)
        }
    }
}

fn settle(view: &PayView) -> Markup {
    html! {
        form.settle method="post" action={ "/c/pay/" (view.session_id) "/settle" } {
            button.button name="outcome" value="succeeded" { "Let the payment arrive" }
            button.button.quiet name="outcome" value="failed" { "Let it fail" }
        }
        a.plain href=(view.success_url) { "Back to the shop" }
    }
}

fn form(view: &PayView, declined: Option<&str>) -> Markup {
    let is_free = view.amount_minor == 0;
    html! {
        h2 #what-to-do { @if is_free { "Complete your order" } @else { "Pay" } }
        @if let Some(why) = declined { p.declined role="alert" { (why) } }
        // The browser's own checks would hide ours, and are worded differently in each.
        form method="post" action={ "/c/pay/" (view.session_id) } autocomplete="off" novalidate {
            (input(view, &EMAIL))
            @if is_free {
                input type="hidden" name="method" value="free";
            } @else {
                (methods(view))
            }
            button #submit.button data-busy="One moment…" {
                @if is_free { "Complete order" } @else { "Pay " (money(view.amount_minor, &view.currency)) }
            }
            p.promise { "Nothing is charged: this is your own sandbox." }
        }
    }
}

fn methods(view: &PayView) -> Markup {
    let that_pays = TEST_CARDS.first().map(|card| card.number);
    let error = view.errors.method;
    html! {
        fieldset.methods aria-describedby=[error.map(|_| "method-error")] {
            legend { "Payment method" }
            (method(view, "card", Chosen::Card, html! { "Card" }))
            div.card {
                (input(view, &CARD_NUMBER))
                div.pair { (input(view, &EXPIRY)) (input(view, &CVC)) }
                (input(view, &NAME))
                button #fill.plain type="button" hidden data-number=[that_pays] { "Fill in the card that pays" }
            }
            (method(view, "delayed", Chosen::Delayed, html! { "Bank transfer" span { "arrives later" } }))
            (error_text("method", error))
        }
    }
}

fn method(view: &PayView, value: &str, chosen: Chosen, label: Markup) -> Markup {
    let is_first_wrong = chosen == Chosen::Card && first_wrong(view) == Some("method");
    html! {
        label.method {
            input id={ "method-" (value) } type="radio" name="method" value=(value)
                checked[view.kept.method == chosen] autofocus[is_first_wrong];
            (label)
        }
    }
}

/// A field of text.
struct Field {
    name: &'static str,
    label: &'static str,
    is_optional: bool,
    placeholder: &'static str,
    /// Which keyboard a phone shows.
    keyboard: &'static str,
    /// What the browser may fill in. Never a real card.
    autocomplete: &'static str,
    length_max: u16,
    value: fn(&PayView) -> &str,
    error: fn(&PayView) -> Option<FieldError>,
}

const EMAIL: Field = Field {
    name: "email",
    label: "Email",
    is_optional: true,
    placeholder: "name@example.com",
    keyboard: "email",
    autocomplete: "email",
    length_max: 254,
    value: |view| match view.kept.email.as_str() {
        "" => view.email.as_deref().unwrap_or_default(),
        typed => typed,
    },
    error: |view| view.errors.email,
};

const CARD_NUMBER: Field = Field {
    name: "card_number",
    label: "Card number",
    is_optional: false,
    placeholder: "4242 4242 4242 4242",
    keyboard: "numeric",
    autocomplete: "off",
    length_max: 30,
    value: |_| "",
    error: |view| view.errors.card_number,
};

const EXPIRY: Field = Field {
    name: "expiry",
    label: "Expiry",
    is_optional: false,
    placeholder: "MM / YY",
    keyboard: "numeric",
    autocomplete: "off",
    length_max: 12,
    value: |view| &view.kept.expiry,
    error: |view| view.errors.expiry,
};

const CVC: Field = Field {
    name: "cvc",
    label: "Security code",
    is_optional: false,
    placeholder: "CVC",
    keyboard: "numeric",
    autocomplete: "off",
    length_max: 4,
    value: |_| "",
    error: |view| view.errors.cvc,
};

const NAME: Field = Field {
    name: "name",
    label: "Name on card",
    is_optional: true,
    placeholder: "",
    keyboard: "text",
    autocomplete: "off",
    length_max: 200,
    value: |view| &view.kept.name,
    error: |_| None,
};

/// Where the buyer has to look first, in the order of the page.
fn first_wrong(view: &PayView) -> Option<&'static str> {
    let errors = &view.errors;
    let wrong = [
        ("email", errors.email),
        ("method", errors.method),
        ("card_number", errors.card_number),
        ("expiry", errors.expiry),
        ("cvc", errors.cvc),
    ];
    let declined = matches!(view.state, PayState::Declined(_)).then_some("card_number");
    wrong.iter().find(|(_, error)| error.is_some()).map(|(name, _)| *name).or(declined)
}

fn input(view: &PayView, field: &Field) -> Markup {
    let error = (field.error)(view);
    html! {
        div.field {
            label for=(field.name) { (field.label) @if field.is_optional { span.optional { "optional" } } }
            input id=(field.name) name=(field.name) type="text" value=((field.value)(view))
                inputmode=(field.keyboard) autocomplete=(field.autocomplete) maxlength=(field.length_max)
                placeholder=(field.placeholder) spellcheck="false"
                aria-required=[(!field.is_optional).then_some("true")]
                aria-invalid=[error.map(|_| "true")]
                aria-describedby=[error.map(|_| format!("{}-error", field.name))]
                autofocus[first_wrong(view) == Some(field.name)];
            (error_text(field.name, error))
        }
    }
}

fn error_text(name: &str, error: Option<FieldError>) -> Markup {
    html! {
        @if let Some(error) = error { p.error id={ (name) "-error" } { (error.sentence()) } }
    }
}

/// ISO 4217 currencies without a smaller unit, or with a thousandth; all others have hundredths.
const WHOLE: &[&str] =
    &["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"];
const THOUSANDTHS: &[&str] = &["bhd", "jod", "kwd", "omr", "tnd"];

/// `$1,234.50`, `¥500`, `CHF 20.00`.
pub(in crate::sandbox) fn money(amount_minor: i64, currency: &str) -> String {
    let decimals: usize = match currency {
        _ if WHOLE.contains(&currency) => 0,
        _ if THOUSANDTHS.contains(&currency) => 3,
        _ => 2,
    };
    let sign = if amount_minor < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", amount_minor.unsigned_abs(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let symbol = match currency {
        "usd" => "$".to_owned(),
        "eur" => "€".to_owned(),
        "gbp" => "£".to_owned(),
        "jpy" => "¥".to_owned(),
        _ => format!("{}\u{a0}", currency.to_uppercase()),
    };
    let mut text = format!("{sign}{symbol}{}", with_commas(whole));
    if decimals > 0 {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

fn with_commas(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
