//! A change: one thing that happened to one user, and what it does to the user's grants.

use chrono::{DateTime, Utc};

use super::{
    by_hand::Remark,
    entitlement::{Entitlement, fold},
    event::EventRecord,
    grant::{Grant, GrantStatus, Source},
    id::{CustomerId, SessionId, SubscriptionId, UserId},
    money::Objects,
    plan::Catalogue,
};

/// What a change does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A report about a purchase or a subscription: joined with what is known of it.
    Purchase(Grant),
    /// A person gives a level. A grant that is known stays as it is: this is asked for again where the answer was lost.
    GiveByHand(Grant),
    /// A person takes back what a person gave: the grant of this source.
    TakeByHand(Source),
    /// A Checkout Session ended unpaid. Takes and gives nothing.
    SessionExpired(SessionId),
    /// The level's time is over. Holds only for the version that was seen to be over.
    Lapse {
        /// The version whose end has come.
        version: u64,
    },
}

/// What made a change happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Stripe delivered an event.
    Delivery(EventRecord),
    /// An event that waited in the inbox is tried again.
    Retry(EventRecord),
    /// Stripe was asked how something stands. No event, and so nothing for the inbox: the business key alone keeps it from counting
    /// twice.
    Fetched,
    /// A person wanted it.
    Operator(Remark),
    /// A moment came.
    Time,
}

impl Cause {
    /// The event behind the change, if there is one.
    #[must_use]
    pub const fn event(&self) -> Option<&EventRecord> {
        match self {
            Self::Delivery(event) | Self::Retry(event) => Some(event),
            Self::Fetched | Self::Operator(_) | Self::Time => None,
        }
    }

    /// The word in the ledger.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Delivery(_) => "delivery",
            Self::Retry(_) => "retry",
            Self::Fetched => "fetched",
            Self::Operator(_) => "operator",
            Self::Time => "time",
        }
    }
}

/// What an event is about that names no user: by this its owner is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The subscription: whoever has its grant.
    pub subscription: SubscriptionId,
    /// The customer, if the subscription is nobody's yet: the one user that bought anything as this customer.
    pub customer: Option<CustomerId>,
}

/// Whose a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nothing of it is known (yet).
    Nobody,
    /// One user's.
    User(UserId),
    /// Likely this user's, the only one who bought anything as the customer. Somebody else's checkout may still claim it.
    Likely(UserId),
    /// Users share the customer.
    Several,
}

impl Owner {
    /// Of the users that are known, each with whether it is by the subscription, by which alone it is certain.
    pub fn of(users: impl IntoIterator<Item = (bool, UserId)>) -> Self {
        let mut by_customer = Self::Nobody;
        for (is_certain, user) in users {
            match by_customer {
                _ if is_certain => return Self::User(user),
                Self::Nobody => by_customer = Self::Likely(user),
                Self::Likely(other) if other == user => {}
                _ => by_customer = Self::Several,
            }
        }
        by_customer
    }

    /// The one user, however certain.
    #[must_use]
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::User(user) | Self::Likely(user) => Some(user),
            Self::Nobody | Self::Several => None,
        }
    }
}

/// Something that happened to a user whom the event does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unowned {
    /// By what the user is found.
    pub subject: Subject,
    /// What made it happen.
    pub cause: Cause,
    /// What it does.
    pub effect: Effect,
}

/// One thing that happened to one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose grants change.
    pub user: UserId,
    /// By what the user was found, if the event names none: must still hold when the change is applied.
    pub found_by: Option<Subject>,
    /// What made it happen.
    pub cause: Cause,
    /// What it does.
    pub effect: Effect,
}

/// Everything about one user that decisions are made of: the rows of the ledger, read under the user's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The state as last folded.
    pub entitlement: Entitlement,
    /// All grants, in any order.
    pub grants: Vec<Grant>,
}

impl Default for Account {
    fn default() -> Self {
        Self { entitlement: Entitlement::none(), grants: Vec::new() }
    }
}

/// What a change did to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The account changed and its version grew by one.
    Applied {
        /// Places in [`Account::grants`] of the grants to be written.
        grants: Vec<usize>,
    },
    /// What was known before holds; the account is as it was.
    Superseded,
}

impl Account {
    /// Applies one effect: pure, total, and the same for every order of the same effects (but for the version, which counts
    /// the changes that were applied). `money` is what is known of the objects that the grants depend on, the new one's included.
    pub fn apply(&mut self, effect: &Effect, money: &Objects, catalogue: &Catalogue, now: DateTime<Utc>) -> Decision {
        let grant = match effect {
            Effect::Purchase(report) if self.is_told_of_elsewhere(report) => return Decision::Superseded,
            Effect::Purchase(report) => match self.grants.iter().position(|known| known.source == report.source) {
                Some(place) => {
                    let Some(known) = self.grants.get_mut(place) else { return Decision::Superseded };
                    if !known.join(report) {
                        return Decision::Superseded;
                    }
                    Some(place)
                }
                None => {
                    self.grants.push(report.clone());
                    Some(self.grants.len() - 1)
                }
            },
            Effect::GiveByHand(given) => {
                if self.grants.iter().any(|known| known.source == given.source) {
                    return Decision::Superseded;
                }
                self.grants.push(given.clone());
                Some(self.grants.len() - 1)
            }
            Effect::TakeByHand(source) => {
                let is_meant = |grant: &Grant| {
                    grant.source == *source && grant.is_by_hand() && grant.status == GrantStatus::Active
                };
                let Some(place) = self.grants.iter().position(is_meant) else { return Decision::Superseded };
                if let Some(grant) = self.grants.get_mut(place) {
                    grant.status = GrantStatus::Revoked;
                }
                Some(place)
            }
            Effect::SessionExpired(_) => None,
            Effect::Lapse { version } => {
                if self.entitlement.version != *version || !self.entitlement.is_over(now) {
                    return Decision::Superseded;
                }
                None
            }
        };
        let mut grants = self.weigh_grants(money);
        grants.extend(grant.filter(|place| !grants.contains(place)));
        self.refold(catalogue, now);
        Decision::Applied { grants }
    }

    /// Applies what was learnt about money: changes the account if a grant is held that was not, or the reverse.
    pub fn weigh(&mut self, money: &Objects, catalogue: &Catalogue, now: DateTime<Utc>) -> Decision {
        let grants = self.weigh_grants(money);
        if grants.is_empty() {
            return Decision::Superseded;
        }
        self.refold(catalogue, now);
        Decision::Applied { grants }
    }

    /// Gives the places of those whose hold is another one than before.
    fn weigh_grants(&mut self, money: &Objects) -> Vec<usize> {
        let weighed = self.grants.iter_mut().map(|grant| grant.weigh(money.hold(grant)));
        weighed.enumerate().filter_map(|(place, changed)| changed.then_some(place)).collect()
    }

    fn refold(&mut self, catalogue: &Catalogue, now: DateTime<Utc>) {
        let (level, expires_at, quantity) = fold(&self.grants, catalogue, now);
        let version = self.entitlement.version.saturating_add(1);
        self.entitlement = Entitlement { level, expires_at, quantity, version };
    }

    /// Whether a grant of another source was taken from the same event: the program that Tollgate replaces was told, too, and
    /// knows purchases by their events only.
    fn is_told_of_elsewhere(&self, report: &Grant) -> bool {
        report.event.is_some()
            && self.grants.iter().any(|known| known.source != report.source && known.event == report.event)
    }
}
