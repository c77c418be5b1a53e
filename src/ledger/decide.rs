//! The decision in the middle of the write transaction: pure, between what was read and what is to be written, and the same for
//! every database.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Committed, Entry, LedgerError, Note, Verdict,
    account::Loaded,
    batch::{Users, is_retry, text},
    fetches::{Needs, open_after, open_of},
    halving::Failure,
    history::HistoryRow,
};
use crate::{
    domain::{
        change::{Account, Change, Decision, Effect},
        event::{EventRecord, Outcome, ParkReason},
        grant::GrantStatus,
        id::UserId,
        money::{Objects, Report},
        plan::Catalogue,
    },
    fail_point::{self, Point},
};

/// What a committed transaction did with one entry.
#[derive(Debug)]
pub(super) enum Slot {
    /// It is durable.
    Committed(Committed),
    /// Its user is locked elsewhere; nothing was written for it.
    LockedElsewhere,
}

impl Slot {
    /// What its caller is told who has nowhere else to try.
    pub(super) fn into_committed(self) -> Result<Committed, LedgerError> {
        match self {
            Self::Committed(committed) => Ok(committed),
            Self::LockedElsewhere => Err(LedgerError::Contended),
        }
    }
}

/// What the inbox said about the events of a batch.
pub(super) struct Inbox<'a> {
    /// Had by nobody before, or claimed from among those that waited: to be applied.
    pub(super) first: HashSet<&'a str>,
    /// Parked, or still ignored.
    pub(super) waiting: HashSet<&'a str>,
}

/// Deliveries whose event the inbox had already, by id, with their places in the batch.
pub(super) type Redelivered<'a> = HashMap<&'a str, (usize, &'a Entry, &'a EventRecord)>;

/// Finds them: those that are not among the first, for whom something may be written.
pub(super) fn redelivered<'a>(
    entries: &[&'a Entry],
    first: &HashSet<&str>,
    may_write: impl Fn(usize) -> bool,
) -> Redelivered<'a> {
    entries
        .iter()
        .enumerate()
        .filter(|(index, _)| may_write(*index))
        .filter_map(|(index, entry)| entry.event().map(|event| (event.id.as_str(), (index, *entry, event))))
        .filter(|(id, _)| !first.contains(id))
        .collect()
}

/// What is to be done about redelivered events.
#[derive(Default)]
pub(super) struct Known<'a> {
    /// Ignored before, and to be claimed now that their type is handled.
    pub(super) ignored: Vec<(usize, &'a Entry, &'a EventRecord)>,
    /// Parked, and to be woken.
    pub(super) parked: Vec<&'a str>,
    /// Parked, or still ignored.
    pub(super) waiting: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    /// Sorts what the inbox has of them: id, outcome, hash of the object. An ignored one is no duplicate if its type is handled
    /// by now: it is claimed. A parked one is woken. A different object under a known id is somebody's mistake, and said so.
    pub(super) fn sort(redelivered: &Redelivered<'a>, found: &[(String, String, Option<Vec<u8>>)]) -> Self {
        let mut known = Self::default();
        for (id, outcome, hash) in found {
            let Some((index, entry, event)) = redelivered.get(id.as_str()) else { continue };
            if hash.as_ref().is_some_and(|hash| hash.as_slice() != event.object_hash) {
                metrics::counter!("tollgate_events_conflicting_total").increment(1);
                tracing::warn!(event.id = id, "a known event id came with another object: the first one holds");
            }
            match (outcome.as_str(), entry) {
                ("ignored", Entry::Change(_) | Entry::Report(_)) if !is_retry(entry) => {
                    known.ignored.push((*index, entry, event));
                }
                ("parked", _) if !is_retry(entry) => {
                    known.parked.push(event.id.as_str());
                    known.waiting.insert(event.id.as_str());
                }
                ("ignored" | "parked", _) => {
                    known.waiting.insert(event.id.as_str());
                }
                _ => {}
            }
        }
        known
    }
}

/// An inbox row that was written as applied and turned out otherwise.
pub(super) struct Correction<'a> {
    pub(super) id: &'a str,
    pub(super) outcome: &'a str,
    pub(super) reason: Option<&'a str>,
    pub(super) payload: Option<&'a str>,
}

impl<'a> Correction<'a> {
    fn of(event: &'a EventRecord, outcome: Outcome) -> Option<Self> {
        let (word, reason, payload) = match outcome {
            Outcome::Applied | Outcome::Duplicate | Outcome::DuplicateWaiting => return None,
            Outcome::Superseded => ("superseded", None, None),
            Outcome::Ignored(reason) => ("ignored", Some(reason.as_str()), None),
            Outcome::Parked(reason) => ("parked", Some(reason.as_str()), text(event)),
        };
        Some(Self { id: event.id.as_str(), outcome: word, reason, payload })
    }
}

/// What is to be written, beside the accounts, and answered.
#[derive(Default)]
pub(super) struct Decided<'a> {
    pub(super) slots: Vec<Slot>,
    pub(super) corrections: Vec<Correction<'a>>,
    pub(super) expired_sessions: Vec<&'a str>,
    pub(super) needs: Needs,
}

/// What was read, where nobody else can change it. What was decided is put into it, to be written.
pub(super) struct Found<'a> {
    pub(super) inbox: Inbox<'a>,
    /// Those of the batch's users, in order.
    pub(super) accounts: Vec<Loaded>,
    /// Objects that the accounts' grants depend on, and those that the entries name.
    pub(super) money: Objects,
}

/// Decides about every entry of a batch, in order. Each sees what those before it did.
pub(super) fn decide<'a>(
    entries: &[&'a Entry],
    users: &Users,
    may_write: impl Fn(usize) -> bool,
    found: &mut Found<'_>,
    catalogue: &Catalogue,
    owns_users: bool,
) -> Result<Decided<'a>, Failure> {
    let Found { inbox, accounts, money } = found;
    let mut decided = Decided::default();
    for (index, entry) in entries.iter().enumerate() {
        if !may_write(index) {
            decided.slots.push(Slot::LockedElsewhere);
            continue;
        }
        let is_first = entry.event().is_none_or(|event| inbox.first.contains(event.id.as_str()));
        let culprit = |error| Failure::Culprit(index, error);
        let place = usize::try_from(users.place(entry.user()) - 1).ok();
        let mut others = Vec::new();
        let outcome = match entry {
            _ if !is_first => match entry.event() {
                Some(event) if inbox.waiting.contains(event.id.as_str()) => Outcome::DuplicateWaiting,
                _ => Outcome::Duplicate,
            },
            Entry::Note(Note { verdict: Verdict::Ignored(reason), .. }) => Outcome::Ignored(*reason),
            Entry::Note(Note { verdict: Verdict::Parked(reason), .. }) => Outcome::Parked(*reason),
            Entry::Change(change) => {
                // Always there: every change has a user, and every user a place.
                let account = place.and_then(|place| accounts.get_mut(place));
                let account = account.ok_or(LedgerError::Panicked).map_err(culprit)?;
                let open = open_of(&account.account, &change.effect);
                let outcome =
                    caught(entry, || apply(change, account, money, catalogue, owns_users)).map_err(culprit)?;
                decided.needs.note(open, open_of(&account.account, &change.effect), entry.event().is_some());
                if let (Outcome::Applied, Effect::SessionExpired(session)) = (outcome, &change.effect) {
                    decided.expired_sessions.push(session.as_str());
                }
                decided.corrections.extend(entry.event().and_then(|event| Correction::of(event, outcome)));
                outcome
            }
            Entry::Report(report) => {
                let open = open_after(report, accounts, money);
                let changed = caught(entry, || learn(report, accounts, money, catalogue)).map_err(culprit)?;
                decided.needs.note(open, open_after(report, accounts, money), entry.event().is_some());
                let outcome = if changed.is_some() { Outcome::Applied } else { Outcome::Superseded };
                let state = |place: usize| {
                    Some((UserId::from(*users.ids.get(place)?), accounts.get(place)?.account.entitlement.clone()))
                };
                others = changed.into_iter().flatten().filter_map(state).collect();
                decided.corrections.extend(entry.event().and_then(|event| Correction::of(event, outcome)));
                outcome
            }
        };
        let account = place.and_then(|place| accounts.get(place));
        let entitlement = account.map(|loaded| loaded.account.entitlement.clone());
        decided.slots.push(Slot::Committed(Committed { outcome, entitlement, others }));
    }
    Ok(decided)
}

/// Makes the decision about one entry. One that panics, a fault of ours, must not take the whole batch down.
fn caught<T>(entry: &Entry, decide: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
    let decide = || {
        fail_point::pass_now(Point::LedgerDecide, || Entry::about([entry]));
        decide()
    };
    catch_unwind(AssertUnwindSafe(decide)).map_err(|_| LedgerError::Panicked).flatten()
}

/// The decision about one change. `Err` if it cannot be made here.
fn apply(
    change: &Change,
    account: &mut Loaded,
    money: &Objects,
    catalogue: &Catalogue,
    owns_users: bool,
) -> Result<Outcome, LedgerError> {
    if !account.exists && !owns_users {
        return Ok(Outcome::Parked(ParkReason::UnknownUser));
    }
    if gives_what_is_not_sold(&change.effect, catalogue) {
        return Ok(Outcome::Parked(ParkReason::UnknownLevel));
    }
    let (now, before) = (account.now, account.account.entitlement.clone());
    match account.account.apply(&change.effect, money, catalogue, now) {
        Decision::Applied { grants } => {
            account.knows_what_is_held(catalogue)?;
            grants.iter().for_each(|grant| tell_ties(&account.account, *grant));
            account.history.extend(HistoryRow::of(&change.cause, &before, &account.account, &grants));
            account.touch(&grants);
            Ok(Outcome::Applied)
        }
        Decision::Superseded => Ok(Outcome::Superseded),
    }
}

/// Whether the level has left the catalogue since the event was read: what is kept of it would be served as `FREE`.
fn gives_what_is_not_sold(effect: &Effect, catalogue: &Catalogue) -> bool {
    matches!(effect, Effect::Purchase(grant)
        if grant.status == GrantStatus::Active && !grant.level.is_free() && catalogue.plan(&grant.level).is_none())
}

/// Takes what a report says, and gives the places of the accounts that it changed; none if it says nothing new. `Err` as of [`apply`].
///
/// An account is looked at if a grant of its is tied to the report's objects by now: by what the ledger had, or by what came before
/// it in this batch.
fn learn(
    report: &Report,
    accounts: &mut [Loaded],
    money: &mut Objects,
    catalogue: &Catalogue,
) -> Result<Option<Vec<usize>>, LedgerError> {
    let mut is_new = false;
    for fact in &report.facts {
        is_new |= money.learn(fact);
    }
    if !is_new {
        return Ok(None);
    }
    tell_unmeasured(report, money);
    let mut changed = Vec::new();
    for (place, loaded) in accounts.iter_mut().enumerate() {
        let is_tied = loaded.account.grants.iter().any(|grant| money.are_tied(report, grant));
        let before = loaded.account.entitlement.clone();
        if is_tied && let Decision::Applied { grants } = loaded.account.weigh(money, catalogue, loaded.now) {
            loaded.knows_what_is_held(catalogue)?;
            let remembered = HistoryRow::of(&report.cause, &before, &loaded.account, &grants);
            loaded.history.extend(remembered);
            loaded.touch(&grants);
            changed.push(place);
        }
    }
    Ok(Some(changed))
}

/// Says that money went back of a payment of which no event has said how much it was: it takes nothing till then.
fn tell_unmeasured(report: &Report, money: &Objects) {
    for fact in &report.facts {
        if money.get(&fact.id).is_some_and(|object| object.facts.is_unmeasured()) {
            metrics::counter!("tollgate_refunds_unmeasured_total").increment(1);
            tracing::info!(payment = %fact.id, "refunded, but its charge is not known: it takes nothing yet");
        }
    }
}

/// Says where the events of a subscription's second do not tell which was the last: the richer state is kept, until a newer one comes.
fn tell_ties(account: &Account, grant: usize) {
    if let Some(grant) = account.grants.get(grant).filter(|grant| grant.snapshots.is_tied()) {
        metrics::counter!("tollgate_subscriptions_tied_total").increment(1);
        tracing::warn!(source = %grant.source, "events of one second do not tell which state is the last: the richer one holds");
    }
}

#[cfg(test)]
mod tests;
