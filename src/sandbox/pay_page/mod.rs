//! The page a buyer pays on, as text: what it shows, what its form means, what it is made of. No HTTP in here, no clock and no state.
//!
//! It must be safe to show to somebody who takes it for a real one: only test cards are taken, and what was typed as a card's number
//! or code goes neither into a type that could be printed nor back into the page.

mod card;
mod form;
mod page;

#[cfg(test)]
mod tests;

pub use self::card::Card;
pub use self::form::{CardOutcome, Chosen, DeclineReason, FieldError, FieldErrors, KeptFields, Method, read};
pub use self::page::render;
pub(super) use self::page::{document, money};

/// What the page shows. For a page that nobody has sent yet, `errors` and `kept` are empty.
#[derive(Debug, Clone)]
pub struct PayView {
    /// `cs_…`; part of the addresses the page sends to.
    pub session_id: String,
    /// What is bought.
    pub plan_name: String,
    /// The price in the currency's smallest unit. At 0 there is no question how to pay.
    pub amount_minor: i64,
    /// ISO 4217, lower case: `usd`.
    pub currency: String,
    /// How often it is paid: `month`. Once, if there is none.
    pub interval: Option<String>,
    /// The buyer's address, where the shop has told it.
    pub email: Option<String>,
    /// Where the buyer goes after paying.
    pub success_url: String,
    /// Where the buyer goes without having paid.
    pub cancel_url: String,
    /// How the session stands.
    pub state: PayState,
    /// What is wrong with the form that was sent.
    pub errors: FieldErrors,
    /// What of that form is shown again.
    pub kept: KeptFields,
}

/// How a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayState {
    /// It waits for the buyer.
    Open,
    /// It waits for the buyer, whose last card was declined; the sentence says why.
    Declined(String),
    /// The money is there.
    Paid,
    /// Ordered with a delayed payment, which has neither arrived nor failed.
    Pending,
    /// Nobody paid in time, or the buyer may pay no longer.
    Expired,
    /// The delayed payment failed.
    Failed,
}

/// For the header of that name, with every page. `script-src` without `unsafe-inline` also stops `javascript:` addresses.
///
/// Chromium holds redirects after a form against `form-action` too, and the shop that a buyer is sent to may be anywhere on the web.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
     form-action http: https:; frame-ancestors 'none'; base-uri 'none'";

/// Content type and body of what the page loads from `/c/assets/{path}`.
#[must_use]
pub fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "pay.css" => Some(("text/css; charset=utf-8", include_str!("pay.css"))),
        "pay.js" => Some(("text/javascript; charset=utf-8", include_str!("pay.js"))),
        "icon.svg" => Some(("image/svg+xml", include_str!("icon.svg"))),
        _ => None,
    }
}
