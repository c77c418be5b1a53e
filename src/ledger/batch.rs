//! A batch before it reaches a database: which entries share a transaction, whose they are, and their rows of the inbox.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Committed, Entry, LedgerError, Reply, Ticket, Verdict, halving::Failure, reach::Reaches};
use crate::domain::{
    change::{Cause, Change, Owner, Subject},
    event::EventRecord,
    id::{CustomerId, UserId},
    money::Report,
};

/// The transactions that a batch is made into, mostly one. Copies of an event that the same transaction cannot tell apart come
/// in a later one, when their first is decided.
pub(super) struct Rounds(Vec<Ticket>);

impl Rounds {
    pub(super) fn of(batch: Vec<Ticket>) -> Self {
        metrics::histogram!("tollgate_ledger_batch_size")
            .record(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        Self(bundle_copies(batch))
    }
}

impl Iterator for Rounds {
    type Item = Vec<Ticket>;

    fn next(&mut self) -> Option<Vec<Ticket>> {
        let (round, twins) = set_twins_aside(std::mem::take(&mut self.0));
        self.0 = twins;
        (!round.is_empty()).then_some(round)
    }
}

/// Makes one ticket of deliveries that are the same to the byte: of a burst of copies only the first asks the database.
fn bundle_copies(batch: Vec<Ticket>) -> Vec<Ticket> {
    let mut bundles: Vec<(Ticket, Vec<Reply>)> = Vec::with_capacity(batch.len());
    let mut places = HashMap::new();
    for ticket in batch {
        let place = ticket.entry.event().map(|event| *places.entry(event.id.clone()).or_insert(bundles.len()));
        match place.and_then(|place| bundles.get_mut(place)) {
            Some((first, copies)) if first.entry == ticket.entry => copies.push(ticket.reply),
            _ => bundles.push((ticket, Vec::new())),
        }
    }
    bundles
        .into_iter()
        .map(|(ticket, copies)| if copies.is_empty() { ticket } else { answer_all(ticket, copies) })
        .collect()
}

fn answer_all(first: Ticket, copies: Vec<Reply>) -> Ticket {
    let Ticket { entry, reply } = first;
    let reply = Box::new(move |result: Result<Committed, LedgerError>| {
        let again = result.clone().map(|committed| Committed { outcome: committed.outcome.again(), ..committed });
        reply(result);
        copies.into_iter().for_each(|copy| copy(again.clone()));
    });
    Ticket { entry, reply }
}

/// Splits off other deliveries of an event that is in the batch already: within one statement they could not be told from each
/// other.
fn set_twins_aside(batch: Vec<Ticket>) -> (Vec<Ticket>, Vec<Ticket>) {
    let mut seen = HashSet::new();
    let places: Vec<bool> =
        batch.iter().map(|ticket| ticket.entry.event().is_none_or(|event| seen.insert(event.id.clone()))).collect();
    let mut places = places.into_iter();
    batch.into_iter().partition(|_| places.next().unwrap_or(true))
}

/// The users of a batch, sorted by lock key; their places (counted from 1, as SQL does) are how rows refer to them.
pub(super) struct Users {
    pub(super) ids: Vec<Uuid>,
    pub(super) keys: Vec<i64>,
}

impl Users {
    pub(super) fn of(entries: &[&Entry], reaches: &Reaches) -> Self {
        let users = entries.iter().filter_map(|entry| entry.user()).chain(reaches.users());
        let mut users: Vec<(i64, Uuid)> = users.map(|user| (lock_key(user), user.uuid())).collect();
        users.sort_unstable();
        users.dedup();
        let (keys, ids) = users.into_iter().unzip();
        Self { ids, keys }
    }

    /// Where a user stands; 0 for none.
    pub(super) fn place(&self, user: Option<UserId>) -> i64 {
        user.and_then(|user| {
            let key = lock_key(user);
            let first = self.keys.partition_point(|other| *other < key);
            self.ids.iter().skip(first).position(|id| *id == user.uuid()).map(|offset| first + offset + 1)
        })
        .and_then(|place| i64::try_from(place).ok())
        .unwrap_or(0)
    }
}

/// The advisory lock that stands for a user, where the database has such locks. Two users may share one, which costs a little
/// waiting and nothing else; other programs' advisory locks live in the same 64 bits, hence the salt.
pub(super) fn lock_key(user: UserId) -> i64 {
    const SALT: u64 = 0x746f_6c6c_6761_7465; // "tollgate"
    let (high, low) = user.uuid().as_u64_pair();
    i64::from_ne_bytes((high ^ low.rotate_left(29) ^ SALT).to_ne_bytes())
}

/// A user that a subject may be of: the subject's place (from 1), whether by the subscription itself, and the user.
pub(super) type OwnerRow = (i64, bool, Uuid);

/// Whose one subject is.
pub(super) fn owner_of(rows: &[OwnerRow], place: i64) -> Owner {
    Owner::of(rows.iter().filter(|row| row.0 == place).map(|row| (row.1, UserId::from(row.2))))
}

/// What the entries of a batch are about whose users were looked up before the users' locks were taken: with the entry's place in the
/// batch.
pub(super) struct Subjects<'a>(Vec<(usize, &'a Subject)>);

impl<'a> Subjects<'a> {
    pub(super) fn of(entries: &[&'a Entry]) -> Self {
        let found_by = |entry: &'a Entry| match entry {
            Entry::Change(change) => change.found_by.as_ref(),
            Entry::Report(_) | Entry::Note(_) => None,
        };
        Self(entries.iter().enumerate().filter_map(|(place, entry)| Some((place, found_by(entry)?))).collect())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Subscriptions and customers, in order.
    pub(super) fn columns(&self) -> (Vec<&'a str>, Vec<Option<&'a str>>) {
        let column = |(_, subject): &(usize, &'a Subject)| {
            (subject.subscription.as_str(), subject.customer.as_ref().map(CustomerId::as_str))
        };
        self.0.iter().map(column).unzip()
    }

    /// Whether the users are still the owners, by what was read under their locks. The first who is not is the culprit: nothing is
    /// written, and its caller looks the owner up again.
    pub(super) fn check(
        &self,
        entries: &[&Entry],
        owners: &[OwnerRow],
        may_write: impl Fn(usize) -> bool,
    ) -> Result<(), Failure> {
        for (number, (place, _)) in (1..).zip(&self.0) {
            let moved = entries
                .get(*place)
                .is_some_and(|entry| may_write(*place) && entry.user() != owner_of(owners, number).user());
            if moved {
                return Err(Failure::Culprit(*place, LedgerError::OwnerChanged));
            }
        }
        Ok(())
    }
}

/// An event's row in the inbox, as it will stand unless the decision says otherwise.
pub(super) struct EventRow<'a> {
    pub(super) id: &'a str,
    pub(super) kind: &'a str,
    pub(super) object_id: Option<&'a str>,
    pub(super) created: Option<DateTime<Utc>>,
    pub(super) livemode: Option<bool>,
    pub(super) api_version: Option<&'a str>,
    pub(super) object_hash: Option<&'a [u8]>,
    pub(super) user: Option<Uuid>,
    pub(super) outcome: &'a str,
    pub(super) reason: Option<&'a str>,
    pub(super) payload: Option<&'a str>,
}

impl<'a> EventRow<'a> {
    /// `reached` is the user whom an entry without one turned out to be about.
    pub(super) fn of(entry: &'a Entry, event: &'a EventRecord, reached: Option<Uuid>) -> Self {
        let verdict = match entry {
            Entry::Change(_) | Entry::Report(_) => None,
            Entry::Note(note) => Some((note.verdict, note.user)),
        };
        // An ignored event keeps id and type only.
        let keep = !matches!(verdict, Some((Verdict::Ignored(_), _)));
        let (outcome, reason, payload) = match verdict {
            None => ("applied", None, None),
            Some((Verdict::Ignored(reason), _)) => ("ignored", Some(reason.as_str()), None),
            Some((Verdict::Parked(reason), _)) => ("parked", Some(reason.as_str()), text(event)),
        };
        let user = entry.user().or(verdict.and_then(|(_, user)| user)).map(UserId::uuid).or(reached);
        Self {
            id: event.id.as_str(),
            kind: &event.kind,
            object_id: event.object_id.as_deref().filter(|_| keep),
            created: keep.then_some(event.created),
            livemode: keep.then_some(event.livemode),
            api_version: event.api_version.as_deref().filter(|_| keep),
            object_hash: keep.then_some(event.object_hash.as_slice()),
            user: user.filter(|_| keep),
            outcome,
            reason,
            payload,
        }
    }
}

/// The raw body as the inbox keeps it. JSON is UTF-8 (RFC 8259, 8.1), and intake has parsed it.
pub(super) fn text(event: &EventRecord) -> Option<&str> {
    std::str::from_utf8(&event.payload).ok()
}

/// Whether an entry tries an event again that waits in the inbox.
pub(super) const fn is_retry(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Change(Change { cause: Cause::Retry(_), .. }) | Entry::Report(Report { cause: Cause::Retry(_), .. })
    )
}
