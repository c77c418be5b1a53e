//! What is known of objects that are no grants, read by walking from one to the next: a statement costs no round trip here.

use std::collections::HashSet;

use diesel::{QueryResult, RunQueryDsl, sqlite::SqliteConnection};

use super::{
    super::{
        Entry,
        account::{Loaded, ObjectRow, facts, objects},
        halving::Failure,
        reach::{ReachRow, Reaches, named, objects_of, report_of},
    },
    apply::aborted,
    connection::{micros, moment},
    statements::{ReadDependents, ReadObject, ReadObjectsBelow, WriteObject},
};
use crate::domain::{
    id::{ObjectId, UserId},
    money::Objects,
};

/// What the reports of a batch reach.
pub(super) fn reaches(connection: &mut SqliteConnection, entries: &[&Entry]) -> QueryResult<Reaches> {
    let mut rows: Vec<ReachRow> = Vec::new();
    for (place, entry) in (1..).zip(entries) {
        let mut names: Vec<String> =
            report_of(entry).into_iter().flat_map(|report| report.names()).map(ToString::to_string).collect();
        while let Some(name) = names.pop() {
            let users: Vec<String> = ReadDependents { id: &name }.get_results(connection)?;
            rows.extend(users.iter().filter_map(|user| Some((place, None, Some(UserId::parse(user).ok()?.uuid())))));
            names.extend(object(connection, &name)?.and_then(|(_, parent, ..)| parent));
            rows.push((place, Some(name), None));
        }
    }
    Ok(Reaches::of(entries, rows))
}

/// What is known of the objects that the entries name, of those that the accounts' grants depend on, and of what is above and below them.
pub(super) fn read(
    connection: &mut SqliteConnection,
    entries: &[&Entry],
    accounts: &[Loaded],
) -> Result<Objects, Failure> {
    let of_accounts = accounts.iter().flat_map(|loaded| &loaded.account.grants).flat_map(objects_of);
    let mut ids: Vec<String> = named(entries).into_iter().chain(of_accounts).map(str::to_owned).collect();
    let (mut seen, mut rows) = (HashSet::new(), Vec::new());
    while let Some(id) = ids.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        if let Some(row) = object(connection, &id).map_err(aborted)? {
            ids.extend(row.1.clone());
            rows.push(row);
        }
        let below: Vec<String> = ReadObjectsBelow { id: &id }.get_results(connection).map_err(aborted)?;
        ids.extend(below);
    }
    objects(rows).map_err(Failure::Aborted)
}

fn object(connection: &mut SqliteConnection, id: &str) -> QueryResult<Option<ObjectRow>> {
    let rows: Vec<(String, Option<String>, Option<i64>, String)> = ReadObject { id }.get_results(connection)?;
    let row = rows.into_iter().next();
    Ok(row.map(|(id, parent, period_end, facts)| (id, parent, period_end.map(moment), facts)))
}

/// Writes what was learnt.
pub(super) fn write(connection: &mut SqliteConnection, money: &Objects) -> Result<(), Failure> {
    for (id, object) in money.learnt() {
        let facts = facts(object).map_err(Failure::Aborted)?;
        let write = WriteObject {
            id: id.as_str(),
            parent: object.parent.as_ref().map(ObjectId::as_str),
            period_end: object.period_end.map(micros),
            facts: &facts,
        };
        write.execute(connection).map_err(aborted)?;
    }
    Ok(())
}
