//! The inbox as operators look at it. Every list goes along an index that has its order.

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl,
    dsl::{count_star, min, sql},
    sql_types::{Bool, Nullable, Text, Timestamptz},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    super::{
        InboxEvent, InboxFilter, InboxPlace, LedgerError, ParkedCount, Standing, StoredEvent,
        inbox::{self, Columns, ParkedColumns},
    },
    connection::Pool,
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
            sql::<Nullable<Timestamptz>>("nullif(processed_at, '-infinity')"),
        )
    };
}

type Row = Columns<Uuid, DateTime<Utc>>;

fn read(columns: Row) -> Option<InboxEvent> {
    inbox::event(columns, |user| Some(UserId::from(user)), |moment| moment)
}

pub(super) async fn events(pool: &Pool, filter: &InboxFilter, limit: u32) -> Result<Vec<InboxEvent>, LedgerError> {
    let mut query =
        t::table.order((t::received_at.desc(), t::id.desc())).limit(i64::from(limit)).select(columns!()).into_boxed();
    if let Some(standing) = filter.standing {
        query = query.filter(sql::<Bool>(standing.condition()));
    }
    if let Some(kind) = &filter.kind {
        query = query.filter(sql::<Text>("type").eq(kind));
    }
    if let Some(user) = filter.user {
        query = query.filter(t::user_id.eq(user.uuid()));
    }
    if let Some(reason) = &filter.reason {
        query = query.filter(t::reason.eq(reason));
    }
    if let Some(since) = filter.since {
        query = query.filter(t::received_at.ge(since));
    }
    if let Some(InboxPlace { received_at, id }) = &filter.after {
        // The first condition alone is one that an index can begin with.
        query = query.filter(t::received_at.le(received_at)).filter(t::received_at.lt(received_at).or(t::id.lt(id)));
    }
    let rows: Vec<Row> = pool.run(async |connection| query.load(connection).await).await?;
    Ok(rows.into_iter().filter_map(read).collect())
}

pub(super) async fn event(pool: &Pool, id: &str) -> Result<Option<StoredEvent>, LedgerError> {
    let query = t::table.find(id).select((columns!(), t::payload));
    let row: Option<(Row, Option<String>)> =
        pool.run(async |connection| query.first(connection).await.optional()).await?;
    Ok(row.and_then(|(columns, payload)| Some(inbox::stored(read(columns)?, payload))))
}

pub(super) async fn parked(pool: &Pool) -> Result<Vec<ParkedCount>, LedgerError> {
    let query = t::table
        .filter(sql::<Bool>(Standing::Parked.condition()))
        .group_by(t::reason)
        .order(t::reason)
        .select((t::reason, count_star(), min(t::received_at)));
    let rows: Vec<ParkedColumns<DateTime<Utc>>> = pool.run(async |connection| query.load(connection).await).await?;
    Ok(inbox::parked(rows, |moment| moment))
}

pub(super) async fn received_since(pool: &Pool, since: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError> {
    let query = t::table.filter(t::received_at.ge(since)).group_by(t::outcome).select((t::outcome, count_star()));
    pool.run(async |connection| query.load(connection).await).await.map(inbox::standings)
}
