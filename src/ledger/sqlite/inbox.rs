//! The inbox as operators look at it. Every list goes along an index that has its order.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, RunQueryDsl,
    dsl::{count_star, min, sql},
    sql_types::{BigInt, Bool, Nullable, Text},
};

use super::{
    super::{
        InboxEvent, InboxFilter, InboxPlace, LedgerError, ParkedCount, Standing, StoredEvent,
        inbox::{self, Columns, ParkedColumns},
    },
    connection::{Pool, micros, moment},
    schema::stripe_events as t,
};
use crate::domain::id::UserId;

/// The row of [`Columns`]. `type` is a word of Rust's; what is woken was tried at a moment that is none.
macro_rules! columns {
    () => {
        (
            t::id,
            sql::<Text>("type"),
            t::object_id,
            t::user_id,
            t::outcome,
            t::reason,
            t::attempts,
            t::created,
            t::received_at,
            sql::<Nullable<BigInt>>("nullif(processed_at, 0)"),
        )
    };
}

type Row = Columns<String, i64>;

fn read(columns: Row) -> Option<InboxEvent> {
    inbox::event(columns, |user| UserId::parse(&user).ok(), moment)
}

pub(super) async fn events(
    readers: &Arc<Pool>,
    filter: &InboxFilter,
    limit: u32,
) -> Result<Vec<InboxEvent>, LedgerError> {
    let mut query =
        t::table.order((t::received_at.desc(), t::id.desc())).limit(i64::from(limit)).select(columns!()).into_boxed();
    if let Some(standing) = filter.standing {
        query = query.filter(sql::<Bool>(standing.condition()));
    }
    if let Some(kind) = &filter.kind {
        query = query.filter(sql::<Text>("type").eq(kind.clone()));
    }
    if let Some(user) = filter.user {
        query = query.filter(t::user_id.eq(user.to_string()));
    }
    if let Some(reason) = &filter.reason {
        query = query.filter(t::reason.eq(reason.clone()));
    }
    if let Some(since) = filter.since {
        query = query.filter(t::received_at.ge(micros(since)));
    }
    if let Some(InboxPlace { received_at, id }) = &filter.after {
        // The first condition alone is one that an index can begin with.
        let received_at = micros(*received_at);
        query = query
            .filter(t::received_at.le(received_at))
            .filter(t::received_at.lt(received_at).or(t::id.lt(id.clone())));
    }
    let rows: Vec<Row> = readers.ask(move |connection| query.load(connection)).await?;
    Ok(rows.into_iter().filter_map(read).collect())
}

pub(super) async fn event(readers: &Arc<Pool>, id: &str) -> Result<Option<StoredEvent>, LedgerError> {
    let query = t::table.find(id.to_owned()).select((columns!(), t::payload));
    let row: Option<(Row, Option<String>)> = readers.ask(move |connection| query.first(connection).optional()).await?;
    Ok(row.and_then(|(columns, payload)| Some(inbox::stored(read(columns)?, payload))))
}

pub(super) async fn parked(readers: &Arc<Pool>) -> Result<Vec<ParkedCount>, LedgerError> {
    let query = t::table
        .filter(sql::<Bool>(Standing::Parked.condition()))
        .group_by(t::reason)
        .order(t::reason)
        .select((t::reason, count_star(), min(t::received_at)));
    let rows: Vec<ParkedColumns<i64>> = readers.ask(move |connection| query.load(connection)).await?;
    Ok(inbox::parked(rows, moment))
}

pub(super) async fn received_since(
    readers: &Arc<Pool>,
    since: DateTime<Utc>,
) -> Result<Vec<(Standing, u64)>, LedgerError> {
    let query =
        t::table.filter(t::received_at.ge(micros(since))).group_by(t::outcome).select((t::outcome, count_star()));
    readers.ask(move |connection| query.load(connection)).await.map(inbox::standings)
}
