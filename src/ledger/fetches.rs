//! What events left open, to be asked of Stripe: kept in the ledger from the transaction that finds it until it is answered.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::account::Loaded;
use crate::domain::{
    change::{Account, Effect},
    grant::SourceKind,
    id::ObjectId,
    money::{Objects, Report},
};

/// Why Stripe is asked about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FetchReason {
    /// Events of one second do not tell which state of a subscription is the last.
    Tied,
    /// A subscription is about to lapse, or has lapsed lately, and no event said why.
    Lapsing,
    /// Money went back of a payment of which nobody knows how much it was.
    Unmeasured,
    /// Money went back of a payment that is tied to nothing known.
    Unattached,
}

impl FetchReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tied, Self::Lapsing, Self::Unmeasured, Self::Unattached];

    /// The word in the ledger, and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tied => "tied",
            Self::Lapsing => "lapsing",
            Self::Unmeasured => "unmeasured",
            Self::Unattached => "unattached",
        }
    }

    /// The reverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// All words, as a list in SQL: a question of a newer version is left to it.
    pub(super) fn words() -> String {
        Self::ALL.map(|reason| format!("'{}'", reason.as_str())).join(", ")
    }

    /// How long Stripe is not asked, in seconds: the second of the tie must be over, and mostly the event that answers is on its way.
    pub(super) const fn delay_seconds(self) -> i32 {
        match self {
            Self::Lapsing => 0,
            Self::Tied => 2,
            Self::Unmeasured | Self::Unattached => 5,
        }
    }
}

/// A question to Stripe, leased to whoever was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// What is to be asked about.
    pub object: ObjectId,
    /// Why.
    pub reason: FetchReason,
    /// How often it was asked since it was last answered, this time included.
    pub attempts: u32,
    /// When it first was to be asked since it was last answered.
    pub wanted_at: DateTime<Utc>,
    /// When it was leased: names the lease.
    pub asked_at: DateTime<Utc>,
    /// Of a subscription: Stripe's time of the newest event known of it. `None` if no grant is of the object.
    pub known_at: Option<DateTime<Utc>>,
    /// Of a subscription: when it ends by what is known.
    pub ends_at: Option<DateTime<Utc>>,
}

/// What became of a question. All of it counts only while the lease does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchEnd {
    /// It was answered. Where a subscription is about to lapse all the same, it is asked again after so long.
    Answered(Duration),
    /// It could not be answered, and is asked again after so long.
    Failed(Duration),
    /// Nobody asks any more; it stays to be seen.
    GivenUp,
}

/// How many questions wait for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchCount {
    /// The reason's word.
    pub reason: String,
    /// How many are to be asked.
    pub waiting: u64,
    /// How many were given up.
    pub given_up: u64,
    /// Since when the oldest waits; `None` if none does.
    pub oldest: Option<DateTime<Utc>>,
}

/// A claimed row as databases give it.
pub(super) struct FetchColumns {
    pub(super) object: String,
    pub(super) reason: String,
    pub(super) attempts: i32,
    pub(super) wanted_at: DateTime<Utc>,
    pub(super) asked_at: DateTime<Utc>,
    pub(super) known_at: Option<DateTime<Utc>>,
    pub(super) ends_at: Option<DateTime<Utc>>,
}

impl FetchColumns {
    /// `None` where the reason is a word of a newer version.
    pub(super) fn fetch(self) -> Option<Fetch> {
        let Self { object, reason, attempts, wanted_at, asked_at, known_at, ends_at } = self;
        Some(Fetch {
            object: ObjectId::parse(&object).ok()?,
            reason: FetchReason::from_word(&reason)?,
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            wanted_at,
            asked_at,
            known_at,
            ends_at,
        })
    }
}

/// A count as databases give it: reason, waiting, given up, oldest.
pub(super) fn count(reason: String, waiting: i64, given_up: i64, oldest: Option<DateTime<Utc>>) -> FetchCount {
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    FetchCount { reason, waiting: number(waiting), given_up: number(given_up), oldest }
}

/// What a transaction finds to be asked, and what it finds answered.
#[derive(Default)]
pub(super) struct Needs(BTreeMap<(String, FetchReason), bool>);

/// What is open at one moment.
pub(super) type Open = Vec<(String, FetchReason)>;

impl Needs {
    /// Takes what was open before an entry and is after it. What Stripe itself answered, or what time brought, asks nothing: it would ask
    /// for ever.
    pub(super) fn note(&mut self, before: Open, after: Open, may_ask: bool) {
        self.0.extend(before.into_iter().filter(|need| !after.contains(need)).map(|need| (need, false)));
        if may_ask {
            self.0.extend(after.into_iter().map(|need| (need, true)));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Objects and reasons of those that are wanted, or of those that are answered.
    pub(super) fn rows(&self, wanted: bool) -> impl Iterator<Item = (&str, FetchReason)> {
        let rows = self.0.iter().filter(move |(_, is_wanted)| **is_wanted == wanted);
        rows.map(|((object, reason), _)| (object.as_str(), *reason))
    }
}

/// What is open of the subscription that an effect is about.
pub(super) fn open_of(account: &Account, effect: &Effect) -> Open {
    let Effect::Purchase(report) = effect else { return Vec::new() };
    let is_tied = report.source.kind == SourceKind::Subscription
        && account.grants.iter().any(|grant| grant.source == report.source && grant.snapshots.is_tied());
    if is_tied { vec![(report.source.id.to_string(), FetchReason::Tied)] } else { Vec::new() }
}

/// What is open of the payments that a report is about.
pub(super) fn open_after(report: &Report, accounts: &[Loaded], money: &Objects) -> Open {
    let mut open = Vec::new();
    for fact in &report.facts {
        let is_bought_with = |loaded: &Loaded| loaded.account.grants.iter().any(|grant| grant.depends_on(&fact.id));
        if money.get(&fact.id).is_some_and(|object| object.facts.is_unmeasured()) {
            open.push((fact.id.to_string(), FetchReason::Unmeasured));
        }
        if money.is_unattached(&fact.id) && !accounts.iter().any(is_bought_with) {
            open.push((fact.id.to_string(), FetchReason::Unattached));
        }
    }
    open
}
