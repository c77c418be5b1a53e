//! The decision in the middle of the write transaction: pure, between what was read and what is to be written, and the same for
//! every database.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Committed, Entry, LedgerError, Verdict,
    account::Loaded,
    batch::{Users, is_retry, text},
    halving::Failure,
    history::HistoryRow,
};
use crate::domain::{
    change::{Account, Change, Decision, Effect},
    event::{EventRecord, Outcome, ParkReason},
    grant::GrantStatus,
    plan::Catalogue,
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

/// Deliveries whose event the inbox had already, by id.
pub(super) type Redelivered<'a> = HashMap<&'a str, (&'a Entry, &'a EventRecord)>;

/// Finds them: those that are not among the first, for whom something may be written.
pub(super) fn redelivered<'a>(
    entries: &[&'a Entry],
    first: &HashSet<&str>,
    may_write: impl Fn(&Entry) -> bool,
) -> Redelivered<'a> {
    entries
        .iter()
        .filter(|entry| may_write(entry))
        .filter_map(|entry| entry.event().map(|event| (event.id.as_str(), (*entry, event))))
        .filter(|(id, _)| !first.contains(id))
        .collect()
}

/// What is to be done about redelivered events.
#[derive(Default)]
pub(super) struct Known<'a> {
    /// Ignored before, and to be claimed now that their type is handled.
    pub(super) ignored: Vec<(&'a Entry, &'a EventRecord)>,
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
            let Some((entry, event)) = redelivered.get(id.as_str()) else { continue };
            if hash.as_ref().is_some_and(|hash| hash.as_slice() != event.object_hash) {
                metrics::counter!("tollgate_events_conflicting_total").increment(1);
                tracing::warn!(event.id = id, "a known event id came with another object: the first one holds");
            }
            match (outcome.as_str(), entry) {
                ("ignored", Entry::Change(_)) if !is_retry(entry) => known.ignored.push((entry, event)),
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
}

/// Decides about every entry of a batch, in order; `accounts` are those of `users`, and become what is to be written.
pub(super) fn decide<'a>(
    entries: &[&'a Entry],
    users: &Users,
    may_write: impl Fn(&Entry) -> bool,
    inbox: &Inbox<'_>,
    accounts: &mut [Loaded],
    catalogue: &Catalogue,
    owns_users: bool,
) -> Result<Decided<'a>, Failure> {
    let mut decided = Decided::default();
    for (index, entry) in entries.iter().enumerate() {
        if !may_write(entry) {
            decided.slots.push(Slot::LockedElsewhere);
            continue;
        }
        let is_first = entry.event().is_none_or(|event| inbox.first.contains(event.id.as_str()));
        let duplicate = match entry.event() {
            Some(event) if inbox.waiting.contains(event.id.as_str()) => Outcome::DuplicateWaiting,
            _ => Outcome::Duplicate,
        };
        let place = usize::try_from(users.place(entry.user()) - 1).ok();
        let mut account = place.and_then(|place| accounts.get_mut(place));
        let outcome = match (entry, account.as_deref_mut()) {
            (Entry::Note(note), _) => match (is_first, note.verdict) {
                (false, _) => duplicate,
                (true, Verdict::Ignored(reason)) => Outcome::Ignored(reason),
                (true, Verdict::Parked(reason)) => Outcome::Parked(reason),
            },
            (Entry::Change(_), _) if !is_first => duplicate,
            (Entry::Change(change), Some(account)) => {
                let outcome = apply(change, account, catalogue, owns_users)
                    .map_err(|()| Failure::Culprit(index, LedgerError::Panicked))?;
                if let (Outcome::Applied, Effect::SessionExpired(session)) = (outcome, &change.effect) {
                    decided.expired_sessions.push(session.as_str());
                }
                decided.corrections.extend(entry.event().and_then(|event| Correction::of(event, outcome)));
                outcome
            }
            // Unreachable: every change has a user, and every user a place.
            (Entry::Change(_), None) => return Err(Failure::Culprit(index, LedgerError::Panicked)),
        };
        let entitlement = account.map(|loaded| loaded.account.entitlement.clone());
        decided.slots.push(Slot::Committed(Committed { outcome, entitlement }));
    }
    Ok(decided)
}

/// The decision about one change. `Err` if it panicked: a fault of ours that must not take the whole batch down.
fn apply(change: &Change, account: &mut Loaded, catalogue: &Catalogue, owns_users: bool) -> Result<Outcome, ()> {
    if !account.exists && !owns_users {
        return Ok(Outcome::Parked(ParkReason::UnknownUser));
    }
    if gives_what_is_not_sold(&change.effect, catalogue) {
        return Ok(Outcome::Parked(ParkReason::UnknownLevel));
    }
    let (now, before) = (account.now, account.account.entitlement.clone());
    let decision =
        catch_unwind(AssertUnwindSafe(|| account.account.apply(&change.effect, catalogue, now))).map_err(|_| ())?;
    match decision {
        Decision::Applied { grant } => {
            account.changed = true;
            account.history.extend(HistoryRow::of(change, &before, &account.account, grant));
            if let Some(grant) = grant {
                tell_ties(&account.account, grant);
                if !account.touched.contains(&grant) {
                    account.touched.push(grant);
                }
            }
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

/// Says where the events of a subscription's second do not tell which was the last: the richer state is kept, until a newer one comes.
fn tell_ties(account: &Account, grant: usize) {
    if let Some(grant) = account.grants.get(grant).filter(|grant| grant.snapshots.is_tied()) {
        metrics::counter!("tollgate_subscriptions_tied_total").increment(1);
        tracing::warn!(source = %grant.source, "events of one second do not tell which state is the last: the richer one holds");
    }
}
