//! Test cards that pay, each with what comes of it later.

use serde::{Deserialize, Serialize};

/// A card that can be kept, and what it does when it is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Card {
    /// It pays.
    Pays,
    /// It can be kept, and fails when it is charged.
    FailsLater,
    /// It pays; a refund to it fails an hour later.
    RefundFails,
    /// It pays, and its owner's bank takes the money back at once.
    Disputed,
    /// It pays, and its owner's bank asks what for.
    Inquired,
}

impl Card {
    /// All of them, by the names of Stripe's test payment methods.
    pub const NAMED: &[(&str, Self)] = &[
        ("pm_card_visa", Self::Pays),
        ("pm_card_chargeCustomerFail", Self::FailsLater),
        ("pm_card_refundFail", Self::RefundFails),
        ("pm_card_createDispute", Self::Disputed),
        ("pm_card_createDisputeInquiry", Self::Inquired),
    ];

    /// The end of its number.
    #[must_use]
    pub const fn last4(self) -> &'static str {
        match self {
            Self::Pays => "4242",
            Self::FailsLater => "0341",
            Self::RefundFails => "5126",
            Self::Disputed => "0259",
            Self::Inquired => "1976",
        }
    }
}
