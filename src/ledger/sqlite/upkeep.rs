//! The ledger's smaller books: parked events, checkout sessions, callers' idempotency keys, processes.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use diesel::{
    ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, RunQueryDsl, SelectableHelper,
    sql_types::{BigInt, Text},
    sqlite::SqliteConnection,
};
use uuid::Uuid;

use super::{
    super::{
        Instance, KeyClaim, LedgerError, ParkedEvent, SessionRecord,
        account::{self, ParkedRow},
    },
    connection::{Pool, micros, moment, now},
    schema::{checkout_keys, checkout_sessions, instances},
};
use crate::domain::{
    event::ParkReason,
    id::{CustomerId, SessionId, UserId},
};

/// A process that has been silent for this long is forgotten even if nobody took its left-overs: a day outlives every cached
/// value.
const INSTANCE_KEPT: TimeDelta = TimeDelta::days(1);

/// Takes events that are due, counting the try: 30 s after the last one, then a minute, two, …; at most an hour apart. What waits for the
/// owner of its subscription is due once that has been bought since the last try. Poison is left to people.
pub(super) async fn parked_due(writer: &Arc<Pool>, limit: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
    let take = diesel::sql_query(
        "UPDATE stripe_events SET attempts = attempts + 1, processed_at = ?1 WHERE id IN (\
           SELECT p.id FROM stripe_events AS p WHERE p.outcome = 'parked' AND p.payload IS NOT NULL AND p.reason IS NOT 'poison' AND \
             (p.processed_at < ?1 - min(30000000 << (min(p.attempts, 13) - 1), 3600000000) OR \
              p.reason = 'unknown_owner' AND EXISTS (\
                SELECT 1 FROM user_entitlements AS g WHERE g.source_kind = 'subscription' AND g.source_id = p.object_id AND \
                  g.created_at >= p.processed_at)) \
           ORDER BY p.processed_at LIMIT ?2) \
         RETURNING id, payload",
    )
    .bind::<BigInt, _>(micros(now()))
    .bind::<BigInt, _>(i64::from(limit));
    let rows: Vec<ParkedRow> = writer.ask(move |connection| take.load(connection)).await?;
    Ok(rows.into_iter().filter_map(ParkedRow::event).collect())
}

pub(super) async fn wake_parked(writer: &Arc<Pool>, reason: ParkReason) -> Result<usize, LedgerError> {
    let wake = diesel::sql_query("UPDATE stripe_events SET processed_at = 0 WHERE outcome = 'parked' AND reason = ?1")
        .bind::<Text, _>(reason.as_str());
    writer.ask(move |connection| wake.execute(connection)).await
}

#[derive(diesel::Insertable, diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = checkout_sessions)]
struct SessionRow {
    id: String,
    user_id: String,
    level: String,
    interval: Option<String>,
    state: String,
    expires_at: i64,
    created_at: i64,
    url: Option<String>,
    opened_by: Option<String>,
}

impl SessionRow {
    fn record(self, user: UserId) -> Option<SessionRecord> {
        let ends = moment(self.expires_at);
        let record = account::session(&self.id, user.uuid(), &self.level, self.interval.as_deref(), &self.state, ends)?;
        Some(SessionRecord { url: self.url, opened_by: self.opened_by, ..record })
    }
}

pub(super) async fn record_session(writer: &Arc<Pool>, session: &SessionRecord) -> Result<(), LedgerError> {
    let row = SessionRow {
        id: session.id.as_str().to_owned(),
        user_id: session.user.to_string(),
        level: session.level.as_str().to_owned(),
        interval: session.interval.map(|interval| interval.as_str().to_owned()),
        state: "open".to_owned(),
        expires_at: micros(session.expires_at),
        created_at: micros(now()),
        url: session.url.clone(),
        opened_by: session.opened_by.clone(),
    };
    let insert = diesel::insert_into(checkout_sessions::table).values(row).on_conflict_do_nothing();
    writer.ask(move |connection| insert.execute(connection)).await?;
    Ok(())
}

pub(super) async fn session(
    readers: &Arc<Pool>,
    user: UserId,
    id: &SessionId,
) -> Result<Option<SessionRecord>, LedgerError> {
    let query = checkout_sessions::table
        .find(id.as_str().to_owned())
        .filter(checkout_sessions::user_id.eq(user.to_string()))
        .select(SessionRow::as_select());
    let row = readers.ask(move |connection| query.first(connection).optional()).await?;
    Ok(row.and_then(|row| row.record(user)))
}

pub(super) async fn session_opened_by(
    readers: &Arc<Pool>,
    user: UserId,
    key: &str,
) -> Result<Option<SessionRecord>, LedgerError> {
    let query = checkout_sessions::table
        .filter(checkout_sessions::user_id.eq(user.to_string()))
        .filter(checkout_sessions::opened_by.eq(key.to_owned()))
        .select(SessionRow::as_select());
    let row = readers.ask(move |connection| query.first(connection).optional()).await?;
    Ok(row.and_then(|row| row.record(user)))
}

#[derive(diesel::QueryableByName)]
struct CustomerRow {
    #[diesel(sql_type = Text)]
    customer: String,
}

pub(super) async fn customer(readers: &Arc<Pool>, user: UserId) -> Result<Option<CustomerId>, LedgerError> {
    let newest = diesel::sql_query(
        "SELECT g.customer FROM user_entitlements AS g WHERE g.user_id = ?1 AND g.customer IS NOT NULL AND \
           NOT EXISTS (SELECT 1 FROM user_entitlements AS o WHERE o.customer = g.customer AND o.user_id <> g.user_id) \
         ORDER BY (g.expires_at > ?2) DESC, g.reported_at DESC LIMIT 1",
    )
    .bind::<Text, _>(user.to_string())
    .bind::<BigInt, _>(micros(now()));
    let row: Option<CustomerRow> = readers.ask(move |connection| newest.get_result(connection).optional()).await?;
    Ok(row.and_then(|row| CustomerId::parse(&row.customer).ok()))
}

pub(super) async fn claim_key(
    writer: &Arc<Pool>,
    user: UserId,
    key_hash: [u8; 32],
    wish: &str,
    attempt: u32,
) -> Result<KeyClaim, LedgerError> {
    let insert = diesel::insert_into(checkout_keys::table)
        .values((
            checkout_keys::user_id.eq(user.to_string()),
            checkout_keys::key_hash.eq(key_hash.to_vec()),
            // The level, and the interval if it is not the default one: see billing.
            checkout_keys::level.eq(wish.to_owned()),
            checkout_keys::attempt.eq(account::attempt(attempt)),
            checkout_keys::created_at.eq(micros(now())),
        ))
        .on_conflict_do_nothing();
    let claim = checkout_keys::table
        .find((user.to_string(), key_hash.to_vec()))
        .select((checkout_keys::level, checkout_keys::attempt));
    let (wish, attempt): (String, i32) = writer
        .ask(move |connection| {
            insert.execute(connection)?;
            claim.first(connection)
        })
        .await?;
    Ok(account::key_claim(wish, attempt))
}

pub(super) async fn move_key(
    writer: &Arc<Pool>,
    user: UserId,
    key_hash: [u8; 32],
    from: u32,
    to: u32,
) -> Result<(), LedgerError> {
    // Only from where it was seen: two failures of one attempt are one.
    let seen = checkout_keys::attempt.eq(account::attempt(from));
    let update = diesel::update(checkout_keys::table.find((user.to_string(), key_hash.to_vec())).filter(seen))
        .set(checkout_keys::attempt.eq(account::attempt(to)));
    writer.ask(move |connection| update.execute(connection)).await?;
    Ok(())
}

pub(super) async fn beat(writer: &Arc<Pool>, instance: Uuid, behind: Duration) -> Result<Vec<Instance>, LedgerError> {
    let now = now();
    let shown = TimeDelta::from_std(behind).ok().and_then(|behind| now.checked_sub_signed(behind)).unwrap_or_default();
    let heard = (instances::last_seen.eq(micros(now)), instances::shown_until.eq(micros(shown)));
    let beat = diesel::insert_into(instances::table)
        .values((instances::id.eq(instance.to_string()), instances::started_at.eq(micros(now)), heard))
        .on_conflict(instances::id)
        .do_update()
        .set(heard);
    let tidy = diesel::delete(instances::table.filter(instances::last_seen.lt(micros(now - INSTANCE_KEPT))));
    writer
        .ask(move |connection| {
            connection.immediate_transaction(|connection| {
                beat.execute(connection)?;
                tidy.execute(connection)?;
                list_instances(connection)
            })
        })
        .await
}

pub(super) async fn instances(readers: &Arc<Pool>) -> Result<Vec<Instance>, LedgerError> {
    readers.ask(list_instances).await
}

fn list_instances(connection: &mut SqliteConnection) -> QueryResult<Vec<Instance>> {
    let all =
        instances::table.order(instances::id).select((instances::id, instances::last_seen, instances::shown_until));
    let rows: Vec<(String, i64, i64)> = all.load(connection)?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, last_seen, shown_until)| {
            let id = Uuid::try_parse(&id).ok()?;
            Some(Instance { id, last_seen: moment(last_seen), shown_until: moment(shown_until) })
        })
        .collect())
}

pub(super) async fn forget_instance(writer: &Arc<Pool>, instance: Uuid) -> Result<(), LedgerError> {
    let delete = diesel::delete(instances::table.find(instance.to_string()));
    writer.ask(move |connection| delete.execute(connection)).await?;
    Ok(())
}
