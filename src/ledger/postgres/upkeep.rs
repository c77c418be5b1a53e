//! The ledger's smaller books: parked events, checkout sessions, callers' idempotency keys, replicas.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::{
    ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper,
    sql_types::{Integer, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    super::{
        Epoch, Instance, KeyClaim, LedgerError, ParkedEvent, SessionRecord,
        account::{self, ParkedRow},
    },
    connection::{Pool, identify},
    schema::{checkout_keys, checkout_sessions, instances},
};
use crate::domain::{
    event::ParkReason,
    id::{CustomerId, SessionId, UserId},
};

/// A replica that has been silent for this long is forgotten even if nobody took its left-overs: a day outlives every cached
/// value.
const INSTANCE_KEPT: &str = "1 day";

/// Takes events that are due, counting the try, so that one replica at a time tries each: unknown users a second after they are
/// there, then after two, four, …; everything else after 30 s, a minute, two, …; at most an hour apart. What waits for the owner of its
/// subscription is due once that has been bought since the last try, give or take what a transaction may last. Poison is left to people.
pub(super) async fn parked_due(pool: &Pool, limit: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
    let take = diesel::sql_query(
        "UPDATE stripe_events AS e SET attempts = e.attempts + 1, processed_at = now() \
         FROM (SELECT p.id FROM stripe_events AS p WHERE p.outcome = 'parked' AND p.payload IS NOT NULL AND p.reason IS DISTINCT FROM 'poison' AND \
                 (p.processed_at < now() - least(power(2, least(p.attempts, 13) - 1) * \
                   CASE p.reason WHEN 'unknown_user' THEN interval '1 second' ELSE interval '30 seconds' END, \
                   interval '1 hour') OR p.reason = 'unknown_owner' AND EXISTS (\
                   SELECT 1 FROM user_entitlements AS g WHERE g.source_kind = 'subscription' AND g.source_id = p.object_id AND \
                     g.created_at > p.processed_at - interval '10 seconds')) AND \
                 (p.reason IS DISTINCT FROM 'unknown_user' OR EXISTS (SELECT 1 FROM users AS u WHERE u.id = p.user_id)) \
               ORDER BY p.processed_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due \
         WHERE e.id = due.id RETURNING e.id, e.payload",
    )
    .bind::<Integer, _>(i32::try_from(limit).unwrap_or(i32::MAX));
    let rows: Vec<ParkedRow> = pool.run(async |connection| take.load(connection).await).await?;
    Ok(rows.into_iter().filter_map(ParkedRow::event).collect())
}

pub(super) async fn wake_parked(pool: &Pool, reason: ParkReason) -> Result<usize, LedgerError> {
    let wake = diesel::sql_query(
        "UPDATE stripe_events SET processed_at = '-infinity' WHERE outcome = 'parked' AND reason = $1",
    )
    .bind::<Text, _>(reason.as_str());
    pool.run(async |connection| wake.execute(connection).await).await
}

#[derive(diesel::Insertable, diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = checkout_sessions)]
struct SessionRow {
    id: String,
    user_id: Uuid,
    level: String,
    interval: Option<String>,
    state: String,
    expires_at: DateTime<Utc>,
    url: Option<String>,
    opened_by: Option<String>,
}

impl SessionRow {
    fn record(self) -> Option<SessionRecord> {
        let Self { id, user_id, level, interval, state, expires_at, url, opened_by } = self;
        let record = account::session(&id, user_id, &level, interval.as_deref(), &state, expires_at)?;
        Some(SessionRecord { url, opened_by, ..record })
    }
}

pub(super) async fn record_session(pool: &Pool, session: &SessionRecord) -> Result<(), LedgerError> {
    let row = SessionRow {
        id: session.id.as_str().to_owned(),
        user_id: session.user.uuid(),
        level: session.level.as_str().to_owned(),
        interval: session.interval.map(|interval| interval.as_str().to_owned()),
        state: "open".to_owned(),
        expires_at: session.expires_at,
        url: session.url.clone(),
        opened_by: session.opened_by.clone(),
    };
    let insert = diesel::insert_into(checkout_sessions::table).values(&row).on_conflict_do_nothing();
    pool.run(async |connection| insert.execute(connection).await).await?;
    Ok(())
}

pub(super) async fn session(pool: &Pool, user: UserId, id: &SessionId) -> Result<Option<SessionRecord>, LedgerError> {
    let row: Option<SessionRow> = pool
        .run(async |connection| {
            checkout_sessions::table
                .find(id.as_str())
                .filter(checkout_sessions::user_id.eq(user.uuid()))
                .select(SessionRow::as_select())
                .first(connection)
                .await
                .optional()
        })
        .await?;
    Ok(row.and_then(SessionRow::record))
}

pub(super) async fn session_opened_by(
    pool: &Pool,
    user: UserId,
    key: &str,
) -> Result<Option<SessionRecord>, LedgerError> {
    let row: Option<SessionRow> = pool
        .run(async |connection| {
            checkout_sessions::table
                .filter(checkout_sessions::user_id.eq(user.uuid()))
                .filter(checkout_sessions::opened_by.eq(key))
                .select(SessionRow::as_select())
                .first(connection)
                .await
                .optional()
        })
        .await?;
    Ok(row.and_then(SessionRow::record))
}

#[derive(diesel::QueryableByName)]
struct CustomerRow {
    #[diesel(sql_type = Text)]
    customer: String,
}

pub(super) async fn customer(pool: &Pool, user: UserId) -> Result<Option<CustomerId>, LedgerError> {
    let newest = diesel::sql_query(
        "SELECT g.customer FROM user_entitlements AS g WHERE g.user_id = $1 AND g.customer IS NOT NULL AND \
           NOT EXISTS (SELECT 1 FROM user_entitlements AS o WHERE o.customer = g.customer AND o.user_id <> g.user_id) \
         ORDER BY (g.expires_at > now()) DESC, g.reported_at DESC NULLS LAST LIMIT 1",
    )
    .bind::<diesel::sql_types::Uuid, _>(user.uuid());
    let row: Option<CustomerRow> = pool.run(async |connection| newest.get_result(connection).await.optional()).await?;
    Ok(row.and_then(|row| CustomerId::parse(&row.customer).ok()))
}

pub(super) async fn claim_key(
    pool: &Pool,
    user: UserId,
    key_hash: [u8; 32],
    wish: &str,
    attempt: u32,
) -> Result<KeyClaim, LedgerError> {
    let insert = diesel::insert_into(checkout_keys::table)
        .values((
            checkout_keys::user_id.eq(user.uuid()),
            checkout_keys::key_hash.eq(key_hash.as_slice()),
            // The level, and the interval if it is not the default one: see billing.
            checkout_keys::level.eq(wish),
            checkout_keys::attempt.eq(account::attempt(attempt)),
        ))
        .on_conflict_do_nothing();
    let claim = checkout_keys::table
        .find((user.uuid(), key_hash.as_slice()))
        .select((checkout_keys::level, checkout_keys::attempt));
    let (wish, attempt): (String, i32) = pool
        .run(async |connection| {
            insert.execute(connection).await?;
            claim.first(connection).await
        })
        .await?;
    Ok(account::key_claim(wish, attempt))
}

pub(super) async fn move_key(
    pool: &Pool,
    user: UserId,
    key_hash: [u8; 32],
    from: u32,
    to: u32,
) -> Result<(), LedgerError> {
    // Only from where it was seen: two failures of one attempt are one.
    let seen = checkout_keys::attempt.eq(account::attempt(from));
    let update = diesel::update(checkout_keys::table.find((user.uuid(), key_hash.as_slice())).filter(seen))
        .set(checkout_keys::attempt.eq(account::attempt(to)));
    pool.run(async |connection| update.execute(connection).await).await?;
    Ok(())
}

/// Gives the ledger's epoch as well: a replica that only reads, or is idle, must notice another ledger too.
pub(super) async fn beat(pool: &Pool, instance: Uuid, behind: Duration) -> Result<(Epoch, Vec<Instance>), LedgerError> {
    let beat = diesel::sql_query(
        "INSERT INTO instances (id, shown_until) VALUES ($1, now() - $2 * interval '1 second') \
         ON CONFLICT (id) DO UPDATE SET last_seen = now(), shown_until = excluded.shown_until",
    )
    .bind::<diesel::sql_types::Uuid, _>(instance)
    .bind::<diesel::sql_types::Double, _>(behind.as_secs_f64());
    let tidy = diesel::sql_query(format!("DELETE FROM instances WHERE last_seen < now() - interval '{INSTANCE_KEPT}'"));
    pool.run(async |connection| {
        let (epoch, _) = identify(connection).await?;
        beat.execute(connection).await?;
        tidy.execute(connection).await?;
        Ok((epoch, list_instances(connection).await?))
    })
    .await
}

pub(super) async fn instances(pool: &Pool) -> Result<Vec<Instance>, LedgerError> {
    pool.run(list_instances).await
}

async fn list_instances(connection: &mut AsyncPgConnection) -> QueryResult<Vec<Instance>> {
    let all =
        instances::table.order(instances::id).select((instances::id, instances::last_seen, instances::shown_until));
    let rows: Vec<(Uuid, DateTime<Utc>, DateTime<Utc>)> = all.load(connection).await?;
    Ok(rows.into_iter().map(|(id, last_seen, shown_until)| Instance { id, last_seen, shown_until }).collect())
}

pub(super) async fn forget_instance(pool: &Pool, instance: Uuid) -> Result<(), LedgerError> {
    let delete = diesel::delete(instances::table.find(instance));
    pool.run(async |connection| delete.execute(connection).await).await?;
    Ok(())
}
