//! What must be true of every history: one function for each invariant, and none of them asks anybody anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Change, Claim, EndState, Operation, Record, What};

/// Of the built-in catalogue, lowest first.
const LEVELS: [&str; 3] = ["FREE", "TRIAL", "PRO"];
/// Marks live for a day.
const MARK_LIFE: i64 = 86_400;
/// A level may be shown for so long after its end.
const AFTER_END: TimeDelta = TimeDelta::seconds(1);

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// How old an answer may be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    /// While all is well; zero: what was acknowledged is seen.
    pub(crate) healthy: Duration,
    /// For how long after a fault its delay is still granted.
    pub(crate) after_heal: Duration,
    /// When there were faults: from, until.
    pub(crate) faults: Vec<(Duration, Duration)>,
}

impl Bounds {
    /// What was acknowledged before this moment must be seen by a read begun at `at`.
    fn seen_before(&self, at: Duration) -> Duration {
        let during = self.faults.iter().filter(|(from, until)| (*from..=*until + self.after_heal).contains(&at));
        let since = during.map(|(from, _)| *from).min().unwrap_or(at).min(at);
        since.saturating_sub(self.healthy)
    }
}

/// The level that a user should have once these events have had their effect.
pub(crate) type Model<'a> = &'a dyn Fn(Uuid, &BTreeSet<&str>) -> &'static str;

/// All of them.
pub(crate) fn all(record: &Record, end: &EndState, bounds: &Bounds, model: Model<'_>) -> Vec<Violation> {
    let operations = &record.operations;
    [
        no_acknowledged_event_is_lost(operations, end),
        no_effect_is_double(end),
        nothing_is_made_up(operations, end),
        versions_have_no_gaps(end),
        states_are_what_events_make_of_them(end, model),
        no_read_is_older_than_asked_for(operations),
        no_read_is_too_old(operations, end, bounds),
        nobody_has_more_than_he_was_given(operations, end),
        no_level_is_shown_after_its_end(record),
        readers_of_redis_find_the_state(end),
        marks_are_of_events_that_had_their_effect(end),
        nothing_waits(end),
        answers_are_honest(operations),
    ]
    .concat()
}

fn violations(invariant: &'static str, found: impl IntoIterator<Item = String>) -> Vec<Violation> {
    found.into_iter().map(|what| Violation { invariant, what }).collect()
}

/// Whether it is durable, by its answer.
fn is_acknowledged(operation: &Operation) -> bool {
    operation.status == Some(200)
}

/// Deliveries, with the event's id.
fn deliveries(operations: &[Operation]) -> impl Iterator<Item = (&Operation, &str)> {
    operations.iter().filter_map(|operation| match &operation.what {
        What::Deliver { event, .. } => Some((operation, event.as_str())),
        What::Read { .. } => None,
    })
}

/// Reads that were answered: the user, the least version asked for, version, level.
fn reads(operations: &[Operation]) -> impl Iterator<Item = (&Operation, Uuid, Option<u64>, u64, &str)> {
    operations.iter().filter_map(|operation| match (&operation.what, operation.version, &operation.level) {
        (What::Read { user, min_version }, Some(version), Some(level)) if operation.status == Some(200) => {
            Some((operation, *user, *min_version, version, level.as_str()))
        }
        _ => None,
    })
}

/// I1: what was acknowledged is in the inbox, as what it was acknowledged as.
pub(crate) fn no_acknowledged_event_is_lost(operations: &[Operation], end: &EndState) -> Vec<Violation> {
    let inbox: HashMap<&str, &str> = end.inbox.iter().map(|row| (row.event.as_str(), row.outcome.as_str())).collect();
    let lost = deliveries(operations).filter(|(operation, _)| is_acknowledged(operation)).filter_map(
        |(operation, id)| match (operation.outcome, inbox.get(id)) {
            (Some(Claim::Processed), Some(&"applied")) => None,
            (Some(Claim::Processed), found) => Some(format!("{id} was said to have its effect, and is {found:?}")),
            (_, Some(_)) => None,
            (_, None) => Some(format!("{id} was acknowledged and is not there")),
        },
    );
    violations("I1", lost)
}

/// I2: an event makes one grant and one version, a purchase one grant.
pub(crate) fn no_effect_is_double(end: &EndState) -> Vec<Violation> {
    let mut seen = HashSet::new();
    let grants = end.grants.iter().flat_map(|grant| {
        let event = grant.event.iter().map(|event| ("grant of", event.as_str(), String::new()));
        event.chain([("grant of", grant.source.as_str(), String::new())])
    });
    let versions = end.history.iter().filter_map(|change| {
        let event = change.event.as_deref()?;
        Some(("version of", event, change.user.to_string()))
    });
    let double = grants.chain(versions).filter(|one| !seen.insert(one.clone()));
    violations("I2", double.map(|(what, whose, user)| format!("a second {what} {whose} {user}")))
}

/// I3: the inbox holds nothing that was not sent, as it was sent.
pub(crate) fn nothing_is_made_up(operations: &[Operation], end: &EndState) -> Vec<Violation> {
    let sent: HashSet<(&str, &str)> = operations
        .iter()
        .filter_map(|operation| match &operation.what {
            What::Deliver { event, object, .. } => Some((event.as_str(), object.as_str())),
            What::Read { .. } => None,
        })
        .collect();
    let ids: HashSet<&str> = sent.iter().map(|(id, _)| *id).collect();
    let made_up = end.inbox.iter().filter(|row| match &row.object {
        Some(object) => !sent.contains(&(row.event.as_str(), object.as_str())),
        None => !ids.contains(row.event.as_str()),
    });
    violations("I3", made_up.map(|row| format!("{} was never sent with the object {:?}", row.event, row.object)))
}

/// I4: a user's version counts the applied changes. For events that each concern one user, and ends of levels.
pub(crate) fn versions_have_no_gaps(end: &EndState) -> Vec<Violation> {
    let mut applied: BTreeMap<Uuid, u64> = BTreeMap::new();
    for row in end.inbox.iter().filter(|row| row.outcome == "applied") {
        if let Some(user) = row.user {
            *applied.entry(user).or_default() += 1;
        }
    }
    for change in end.history.iter().filter(|change| change.event.is_none()) {
        *applied.entry(change.user).or_default() += 1;
    }
    let versions: BTreeMap<Uuid, u64> = end.states.iter().map(|state| (state.user, state.version)).collect();
    let users: BTreeSet<&Uuid> = applied.keys().chain(versions.keys()).collect();
    let counted = users.into_iter().filter_map(|user| {
        let (changes, version) = (applied.get(user).copied().unwrap_or(0), versions.get(user).copied().unwrap_or(0));
        (changes != version).then(|| format!("{user} is at version {version} after {changes} changes"))
    });
    let beyond = end.history.iter().filter_map(|change| {
        let newest = versions.get(&change.user).copied().unwrap_or(0);
        (change.version == 0 || change.version > newest)
            .then(|| format!("{} has a version {} beyond {newest}", change.user, change.version))
    });
    violations("I4", counted.chain(beyond))
}

/// I5: a state is the best of the live grants, and what the model makes of the user's events.
pub(crate) fn states_are_what_events_make_of_them(end: &EndState, model: Model<'_>) -> Vec<Violation> {
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let wrong = end.states.iter().filter(|state| state.expires_at.is_none_or(|over| over > end.at)).flat_map(|state| {
        let live = end.grants.iter().filter(|grant| grant.user == state.user && grant.expires_at > end.at);
        let best = live.max_by_key(|grant| (rank(&grant.level), grant.expires_at));
        let best = best.map_or(("FREE", None), |grant| (grant.level.as_str(), Some(grant.expires_at)));
        let events: BTreeSet<&str> = end
            .inbox
            .iter()
            .filter(|row| row.user == Some(state.user) && row.outcome == "applied")
            .map(|row| row.event.as_str())
            .collect();
        let expected = model(state.user, &events);
        let user = state.user;
        let is = (state.level.as_str(), state.expires_at);
        [
            (is != best).then(|| format!("{user} has {is:?}, and his grants give {best:?}")),
            (state.level != expected).then(|| format!("{user} has {}, and should have {expected}", state.level)),
        ]
        .into_iter()
        .flatten()
    });
    violations("I5", wrong)
}

/// I7: never older than asked for.
pub(crate) fn no_read_is_older_than_asked_for(operations: &[Operation]) -> Vec<Violation> {
    let older = reads(operations).filter(|(.., least, version, _)| least.is_some_and(|least| *version < least));
    violations(
        "I7",
        older.map(|(read, user, least, version, _)| {
            format!("read {} of {user} was given version {version}, asked for {least:?}", read.id)
        }),
    )
}

/// I8: what was acknowledged before the bound is seen.
pub(crate) fn no_read_is_too_old(operations: &[Operation], end: &EndState, bounds: &Bounds) -> Vec<Violation> {
    let versions: HashMap<&str, (Uuid, u64)> = end
        .history
        .iter()
        .filter_map(|change| Some((change.event.as_deref()?, (change.user, change.version))))
        .collect();
    let mut acknowledged: HashMap<Uuid, Vec<(Duration, u64)>> = HashMap::new();
    for (operation, id) in deliveries(operations).filter(|(operation, _)| is_acknowledged(operation)) {
        if let (Some(returned), Some((user, version))) = (operation.returned, versions.get(id)) {
            acknowledged.entry(*user).or_default().push((returned, *version));
        }
    }
    let stale = reads(operations).filter_map(|(read, user, _, version, _)| {
        let before = bounds.seen_before(read.invoked);
        let known = acknowledged.get(&user)?.iter().filter(|(returned, _)| *returned <= before);
        let least = known.map(|(_, version)| *version).max()?;
        (version < least).then(|| {
            let at = read.invoked;
            format!("read {} of {user} at {at:?} saw version {version}, acknowledged was {least}", read.id)
        })
    });
    violations("I8", stale)
}

/// I9: what is read is what that version gave.
pub(crate) fn nobody_has_more_than_he_was_given(operations: &[Operation], end: &EndState) -> Vec<Violation> {
    let mut changes: HashMap<Uuid, BTreeMap<u64, &Change>> = HashMap::new();
    for change in &end.history {
        changes.entry(change.user).or_default().insert(change.version, change);
    }
    let other = reads(operations).filter_map(|(read, user, _, version, level)| {
        let given = changes.get(&user).and_then(|changes| changes.range(..=version).next_back());
        let given = given.map_or(("FREE", None), |(_, change)| (change.level.as_str(), change.expires_at));
        let ends_alike = read.expires_at.map(|end| end.timestamp_millis()) == given.1.map(|end| end.timestamp_millis());
        // What is over may be answered before its end has become a version.
        let is_over = level == "FREE" && given.1.is_some();
        (!is_over && (level != given.0 || !ends_alike)).then(|| {
            let read_end = read.expires_at;
            format!(
                "read {} of {user} gave {level} until {read_end:?} as version {version}, which is {given:?}",
                read.id
            )
        })
    });
    violations("I9", other)
}

/// I10: a level that is over is not shown.
pub(crate) fn no_level_is_shown_after_its_end(record: &Record) -> Vec<Violation> {
    let begun = |read: &Operation| -> DateTime<Utc> {
        record.began_at + TimeDelta::from_std(read.invoked).expect("no test takes an age")
    };
    let late = reads(&record.operations).filter(|(read, .., level)| {
        *level != "FREE" && read.expires_at.is_some_and(|end| begun(read) > end + AFTER_END)
    });
    violations(
        "I10",
        late.map(|(read, user, .., level)| format!("read {} of {user} gave {level}, which was over", read.id)),
    )
}

/// I11: at rest Redis says nothing, or what the ledger says.
pub(crate) fn readers_of_redis_find_the_state(end: &EndState) -> Vec<Violation> {
    let states: BTreeMap<Uuid, (&str, u64)> =
        end.states.iter().map(|state| (state.user, (state.level.as_str(), state.version))).collect();
    let wrong = end.shown.iter().filter_map(|(user, shown)| {
        let (level, version) = states.get(user).copied().unwrap_or(("FREE", 0));
        let plain_is_right = shown.plain.as_deref().is_none_or(|plain| plain == level);
        let is_right = plain_is_right && shown.level.as_deref() == Some(level) && shown.version == Some(version);
        (!is_right).then(|| format!("{user} is {level} of version {version}, and shown as {shown:?}"))
    });
    violations("I11", wrong)
}

/// I12: what is marked has had its effect, in this ledger, and not for ever.
pub(crate) fn marks_are_of_events_that_had_their_effect(end: &EndState) -> Vec<Violation> {
    let done: HashSet<&str> = end
        .inbox
        .iter()
        .filter(|row| ["applied", "superseded"].contains(&row.outcome.as_str()))
        .map(|row| row.event.as_str())
        .collect();
    let wrong = end.marks.iter().filter(|(event, mark)| {
        !done.contains(event.as_str()) || !mark.epoch.contains(&end.epoch) || !(1..=MARK_LIFE).contains(&mark.ttl)
    });
    violations("I12", wrong.map(|(event, mark)| format!("{event} is marked with {mark:?}")))
}

/// I13: no cache write waits.
pub(crate) fn nothing_waits(end: &EndState) -> Vec<Violation> {
    let waiting = end.waiting.iter().enumerate().filter(|(_, waiting)| **waiting > 0);
    violations("I13", waiting.map(|(replica, waiting)| format!("{waiting} cache writes wait at replica {replica}")))
}

/// I16: an effect is told of once, and nothing is claimed with a failure.
pub(crate) fn answers_are_honest(operations: &[Operation]) -> Vec<Violation> {
    let mut told = HashSet::new();
    let twice = deliveries(operations)
        .filter(|(operation, _)| operation.outcome == Some(Claim::Processed))
        .filter(|(_, id)| !told.insert(*id))
        .map(|(_, id)| format!("the effect of {id} was told of twice"));
    let twice: Vec<String> = twice.collect();
    let false_claims = deliveries(operations)
        .filter(|(operation, _)| operation.status.is_some_and(|status| status != 200) && operation.outcome.is_some())
        .map(|(operation, id)| format!("{id} was answered {:?} and claims {:?}", operation.status, operation.outcome));
    violations("I16", twice.into_iter().chain(false_claims))
}
