//! What a buyer has sent: how to pay, or what is wrong with each field.

use chrono::{DateTime, Datelike, Utc};

use super::card::Card;

/// How a buyer pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// At once, or not at all.
    Card(CardOutcome),
    /// A payment that arrives, or fails, later.
    Delayed,
    /// Without paying. Whether there is nothing to pay is for the caller to check.
    Free,
}

/// What a test card does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardOutcome {
    /// It is taken, and what it does then is its own affair.
    Approved(Card),
    /// It does not.
    Declined(DeclineReason),
}

/// Why a card was declined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclineReason {
    /// The bank does not say.
    Generic,
    /// Too little money.
    InsufficientFunds,
    /// The bank says that the card is too old, whatever date was typed.
    ExpiredCard,
    /// The bank has another security code.
    IncorrectCvc,
}

impl DeclineReason {
    /// For the buyer.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Generic => "Your card was declined. Try another card.",
            Self::InsufficientFunds => "Your card has insufficient funds. Try another card.",
            Self::ExpiredCard => "Your card has expired. Try another card.",
            Self::IncorrectCvc => "Your card’s security code is incorrect. Try another card.",
        }
    }
}

/// A card that may be typed here. There are no others.
pub(super) struct TestCard {
    pub(super) number: &'static str,
    pub(super) outcome: CardOutcome,
    /// What it does, for the buyer.
    pub(super) effect: &'static str,
}

const fn declines(number: &'static str, reason: DeclineReason, effect: &'static str) -> TestCard {
    TestCard { number, outcome: CardOutcome::Declined(reason), effect }
}

const fn approves(number: &'static str, card: Card, effect: &'static str) -> TestCard {
    TestCard { number, outcome: CardOutcome::Approved(card), effect }
}

pub(super) const TEST_CARDS: &[TestCard] = &[
    approves("4242 4242 4242 4242", Card::Pays, "pays"),
    declines("4000 0000 0000 0002", DeclineReason::Generic, "is declined"),
    declines("4000 0000 0000 9995", DeclineReason::InsufficientFunds, "has too little money"),
    declines("4000 0000 0000 0069", DeclineReason::ExpiredCard, "has expired"),
    declines("4000 0000 0000 0127", DeclineReason::IncorrectCvc, "has another code"),
    approves("4000 0000 0000 0341", Card::FailsLater, "can be kept, but never pays"),
    approves("4000 0000 0000 5126", Card::RefundFails, "pays; refunds to it fail"),
    approves("4000 0000 0000 0259", Card::Disputed, "pays, and disputes it"),
    approves("4000 0000 0000 1976", Card::Inquired, "pays, and its bank asks why"),
];

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// No method was chosen.
    NoMethod,
    /// No address.
    MalformedEmail,
    /// Nothing typed.
    NoCardNumber,
    /// Mistyped: the number's check digit is wrong.
    WrongCardNumber,
    /// It could be somebody's card.
    NoTestCard,
    /// No month of a year.
    MalformedExpiry,
    /// A month that is over.
    PastExpiry,
    /// Not 3 or 4 digits.
    MalformedCvc,
}

impl FieldError {
    /// For the buyer.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoMethod => "Choose how to pay.",
            Self::MalformedEmail => "Enter an address like name@example.com, or none.",
            Self::NoCardNumber => "Enter a test card’s number.",
            Self::WrongCardNumber => "This is no card number. Check the digits.",
            Self::NoTestCard => {
                "Never type a real card here: only test cards work. 4242\u{a0}4242\u{a0}4242\u{a0}4242 pays; \
                 4000\u{a0}0000\u{a0}0000\u{a0}0002, 4000\u{a0}0000\u{a0}0000\u{a0}9995, \
                 4000\u{a0}0000\u{a0}0000\u{a0}0069 and 4000\u{a0}0000\u{a0}0000\u{a0}0127 are declined; \
                 4000\u{a0}0000\u{a0}0000\u{a0}0341 never pays; 4000\u{a0}0000\u{a0}0000\u{a0}5126, \
                 4000\u{a0}0000\u{a0}0000\u{a0}0259 and 4000\u{a0}0000\u{a0}0000\u{a0}1976 pay, with a sequel."
            }
            Self::MalformedExpiry => "Enter month and year, like 12 / 34.",
            Self::PastExpiry => "This date has passed. Enter one to come.",
            Self::MalformedCvc => "Enter 3 or 4 digits.",
        }
    }
}

/// What is wrong with a form, field by field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FieldErrors {
    /// `method`
    pub method: Option<FieldError>,
    /// `email`
    pub email: Option<FieldError>,
    /// `card_number`
    pub card_number: Option<FieldError>,
    /// `expiry`
    pub expiry: Option<FieldError>,
    /// `cvc`
    pub cvc: Option<FieldError>,
}

impl FieldErrors {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What of a form is shown again: never a card's number or code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptFields {
    /// The method that is marked.
    pub method: Chosen,
    /// `email`; the buyer's address, where the form was good.
    pub email: String,
    /// `expiry`
    pub expiry: String,
    /// `name`
    pub name: String,
}

/// Which of the methods is marked in the form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chosen {
    /// What most buyers take.
    #[default]
    Card,
    /// The payment that arrives later.
    Delayed,
}

impl KeptFields {
    /// Also for a form that was good, but whose card was declined.
    #[must_use]
    pub fn of(fields: &[(String, String)]) -> Self {
        Self {
            method: if value(fields, "method") == "delayed" { Chosen::Delayed } else { Chosen::Card },
            email: value(fields, "email").to_owned(),
            expiry: value(fields, "expiry").to_owned(),
            name: value(fields, "name").to_owned(),
        }
    }
}

/// Reads the fields of a form, decoded: `method` (`card`, `delayed`, `free`), `email`, `card_number`, `expiry`, `cvc`, `name`.
///
/// # Errors
/// What is wrong with it, field by field, and what of it to show again.
pub fn read(fields: &[(String, String)], now: DateTime<Utc>) -> Result<Method, (FieldErrors, KeptFields)> {
    let mut errors = FieldErrors { email: check_email(value(fields, "email")).err(), ..FieldErrors::default() };
    let method = match value(fields, "method") {
        "card" => {
            let outcome = read_card_number(value(fields, "card_number"));
            errors.card_number = outcome.err();
            errors.expiry = check_expiry(value(fields, "expiry"), now).err();
            errors.cvc = check_cvc(value(fields, "cvc")).err();
            outcome.map(Method::Card)
        }
        "delayed" => Ok(Method::Delayed),
        "free" => Ok(Method::Free),
        _ => {
            errors.method = Some(FieldError::NoMethod);
            Err(FieldError::NoMethod)
        }
    };
    match method {
        Ok(method) if errors.is_empty() => Ok(method),
        _ => Err((errors, KeptFields::of(fields))),
    }
}

/// Empty for a field that was not sent.
fn value<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.trim())
}

const EMAIL_BYTES_MAX: usize = 254;

fn check_email(text: &str) -> Result<(), FieldError> {
    let is_address = text.split_once('@').is_some_and(|(local, domain)| {
        let has_dot = domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
        !local.is_empty() && has_dot && !domain.contains('@')
    });
    let has_gap = text.contains(|c: char| c.is_whitespace() || c.is_control());
    if text.is_empty() || (is_address && !has_gap && text.len() <= EMAIL_BYTES_MAX) {
        Ok(())
    } else {
        Err(FieldError::MalformedEmail)
    }
}

fn read_card_number(text: &str) -> Result<CardOutcome, FieldError> {
    let digits = without_separators(text);
    if digits.is_empty() {
        return Err(FieldError::NoCardNumber);
    }
    if !is_card_number(&digits) {
        return Err(FieldError::WrongCardNumber);
    }
    TEST_CARDS
        .iter()
        .find(|card| without_separators(card.number) == digits)
        .map(|card| card.outcome)
        .ok_or(FieldError::NoTestCard)
}

fn without_separators(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

/// 12 to 19 digits with a right check digit, by Luhn's formula.
fn is_card_number(text: &str) -> bool {
    let Some(digits) = text.chars().map(|c| c.to_digit(10)).collect::<Option<Vec<u32>>>() else {
        return false;
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match digit * 2 {
            _ if place % 2 == 0 => *digit,
            doubled if doubled > 9 => doubled - 9,
            doubled => doubled,
        })
        .sum();
    (12..=19).contains(&digits.len()) && sum.is_multiple_of(10)
}

/// No card lives longer; later is mistyped.
const CARD_YEARS_MAX: i32 = 50;

/// A card is good to the end of its month.
fn check_expiry(text: &str, now: DateTime<Utc>) -> Result<(), FieldError> {
    let (year, month) = read_expiry(text).ok_or(FieldError::MalformedExpiry)?;
    if year > now.year() + CARD_YEARS_MAX {
        return Err(FieldError::MalformedExpiry);
    }
    if (year, month) < (now.year(), now.month()) {
        return Err(FieldError::PastExpiry);
    }
    Ok(())
}

/// Year and month of `12 / 34`, `12/2034`, `1-34`, `1234`, `122034`.
fn read_expiry(text: &str) -> Option<(i32, u32)> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (month, year) = match text.split_once(['/', '-']) {
        Some(parts) => parts,
        None => text.split_at_checked(2)?,
    };
    let (month, year) = match year.len() {
        2 => (number(month, 1..=2)?, 2000 + number(year, 2..=2)?),
        _ => (number(month, 1..=2)?, number(year, 4..=4)?),
    };
    (1..=12).contains(&month).then_some((i32::try_from(year).ok()?, month))
}

/// A number with so many digits, and nothing but digits.
fn number(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let is_number = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn check_cvc(text: &str) -> Result<(), FieldError> {
    number(text, 3..=4).map(|_| ()).ok_or(FieldError::MalformedCvc)
}
