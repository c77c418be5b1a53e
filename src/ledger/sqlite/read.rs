//! Reads: on the readers' connections, one statement each.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, QueryDsl, RunQueryDsl, SelectableHelper,
};

use super::{
    super::{
        ChangedState, Lapsed, LedgerError,
        account::{Loaded, entitlement, load},
        batch::owner_of,
    },
    apply,
    connection::{Pool, micros, moment, now},
    schema::{entitlement_state, tollgate_ledger, user_entitlements},
};
use crate::domain::{
    change::{Owner, Subject},
    id::{CustomerId, UserId},
    level::Level,
};

pub(super) async fn account(readers: &Arc<Pool>, user: UserId) -> Result<Loaded, LedgerError> {
    let rows = readers.ask(move |connection| apply::account(connection, 1, &user.to_string(), now())).await?;
    Ok(load(1, rows).pop().unwrap_or_default())
}

pub(super) async fn owner(readers: &Arc<Pool>, subject: &Subject) -> Result<Owner, LedgerError> {
    let Subject { subscription, customer } = subject.clone();
    let read = move |connection: &mut _| {
        apply::owner(connection, 1, subscription.as_str(), customer.as_ref().map(CustomerId::as_str))
    };
    Ok(owner_of(&readers.ask(read).await?, 1))
}

pub(super) async fn versions(readers: &Arc<Pool>, users: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
    let users: Vec<String> = users.iter().map(ToString::to_string).collect();
    let query = entitlement_state::table
        .filter(entitlement_state::user_id.eq_any(users))
        .select((entitlement_state::user_id, entitlement_state::version));
    let rows: Vec<(String, i64)> = readers.ask(move |connection| query.load(connection)).await?;
    let known =
        |(user, version): (String, i64)| Some((UserId::parse(&user).ok()?, u64::try_from(version).unwrap_or(0)));
    Ok(rows.into_iter().filter_map(known).collect())
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = entitlement_state)]
struct StateRow {
    user_id: String,
    level: String,
    expires_at: Option<i64>,
    version: i64,
    quantity: i32,
    changed_at: i64,
}

pub(super) async fn changed_between(
    readers: &Arc<Pool>,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<ChangedState>, LedgerError> {
    let query = entitlement_state::table
        .filter(entitlement_state::changed_at.ge(micros(since)))
        .filter(entitlement_state::changed_at.le(micros(until)))
        .order(entitlement_state::changed_at.desc())
        .limit(i64::from(limit))
        .select(StateRow::as_select());
    let rows = readers.ask(move |connection| query.load(connection)).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(ChangedState {
                user: UserId::parse(&row.user_id).ok()?,
                entitlement: entitlement(&row.level, row.expires_at.map(moment), row.version, row.quantity),
                changed_at: moment(row.changed_at),
            })
        })
        .collect())
}

pub(super) async fn lapsed(readers: &Arc<Pool>, after: Option<Lapsed>, limit: u32) -> Result<Vec<Lapsed>, LedgerError> {
    use entitlement_state as t;
    let all = t::table.filter(t::expires_at.le(micros(now()))).into_boxed();
    let following = match after {
        Some(Lapsed { user, ended_at, .. }) => all
            .filter(t::expires_at.ge(micros(ended_at)))
            .filter(t::expires_at.gt(micros(ended_at)).or(t::user_id.gt(user.to_string()).nullable())),
        None => all,
    };
    let page = following.order((t::expires_at.asc(), t::user_id.asc())).limit(i64::from(limit)).select((
        t::user_id,
        t::version,
        t::expires_at.assume_not_null(),
    ));
    let rows: Vec<(String, i64, i64)> = readers.ask(move |connection| page.load(connection)).await?;
    let lapsed = |(user, version, ended_at): (String, i64, i64)| {
        let (user, version) = (UserId::parse(&user).ok()?, u64::try_from(version).unwrap_or(0));
        Some(Lapsed { user, version, ended_at: moment(ended_at) })
    };
    Ok(rows.into_iter().filter_map(lapsed).collect())
}

pub(super) async fn levels_in_use(readers: &Arc<Pool>) -> Result<Vec<Level>, LedgerError> {
    let query = user_entitlements::table
        .filter(user_entitlements::expires_at.gt(micros(now())))
        .filter(user_entitlements::entitlement_level.ne(Level::free().as_str().to_owned()))
        .select(user_entitlements::entitlement_level)
        .distinct();
    let levels: Vec<String> = readers.ask(move |connection| query.load(connection)).await?;
    Ok(levels.iter().filter_map(|level| Level::parse(level).ok()).collect())
}

/// This machine's clock, and that the file can be read.
pub(super) async fn clock(readers: &Arc<Pool>) -> Result<DateTime<Utc>, LedgerError> {
    let _epoch: String =
        readers.ask(|connection| tollgate_ledger::table.select(tollgate_ledger::epoch).first(connection)).await?;
    Ok(now())
}
