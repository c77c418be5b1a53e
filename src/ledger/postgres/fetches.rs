//! Questions to Stripe: whose turn it is, and what became of them. They are written by the transactions that find them (`apply`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Text, Timestamptz};
use diesel_async::RunQueryDsl;

use super::{
    super::{
        Fetch, FetchCount, FetchEnd, FetchReason, LedgerError,
        fetches::{self, FetchColumns},
    },
    connection::Pool,
};

/// Of a grant `g`: from an hour before a subscription's end until five days after it.
const LAPSES: &str = "g.source_kind = 'subscription' AND g.status = 'active' AND \
    g.period_end BETWEEN now() - interval '5 days' AND now() + interval '1 hour'";

#[derive(diesel::QueryableByName)]
struct DueRow {
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = Text)]
    reason: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Timestamptz)]
    wanted_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    asked_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    known_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    ends_at: Option<DateTime<Utc>>,
}

pub(super) async fn due(pool: &Pool, limit: u32, lease: Duration) -> Result<Vec<Fetch>, LedgerError> {
    let take = diesel::sql_query(format!(
        "UPDATE stripe_fetches AS f SET attempts = f.attempts + 1, asked_at = now(), due_at = now() + $2 * interval '1 second' \
         FROM (SELECT object_id, reason FROM stripe_fetches WHERE given_up_at IS NULL AND due_at <= now() AND reason IN ({words}) \
               ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due \
           LEFT JOIN user_entitlements AS g ON g.source_kind = 'subscription' AND g.source_id = due.object_id \
         WHERE f.object_id = due.object_id AND f.reason = due.reason \
         RETURNING f.object_id, f.reason, f.attempts, f.wanted_at, f.asked_at, g.reported_at AS known_at, g.period_end AS ends_at",
        words = FetchReason::words(),
    ))
    .bind::<Integer, _>(i32::try_from(limit).unwrap_or(i32::MAX))
    .bind::<Double, _>(lease.as_secs_f64());
    let rows: Vec<DueRow> = pool.run(async |connection| take.load(connection).await).await?;
    let fetch = |row: DueRow| {
        let DueRow { object_id: object, reason, attempts, wanted_at, asked_at, known_at, ends_at } = row;
        FetchColumns { object, reason, attempts, wanted_at, asked_at, known_at, ends_at }.fetch()
    };
    Ok(rows.into_iter().filter_map(fetch).collect())
}

pub(super) async fn end(pool: &Pool, fetch: &Fetch, end: FetchEnd) -> Result<(), LedgerError> {
    const LEASED: &str = "f.object_id = $1 AND f.reason = $2 AND f.asked_at = $3";
    let (answered, set, again) = match end {
        FetchEnd::Answered(again) => (
            true,
            "due_at = now() + $4 * interval '1 second', wanted_at = now() + $4 * interval '1 second', attempts = 0",
            again,
        ),
        FetchEnd::Failed(again) => (false, "due_at = now() + $4 * interval '1 second'", again),
        FetchEnd::GivenUp => (false, "given_up_at = now() + $4 * interval '1 second'", Duration::ZERO),
    };
    let (object, reason) = (fetch.object.as_str(), fetch.reason.as_str());
    let forget = diesel::sql_query(format!(
        "DELETE FROM stripe_fetches AS f WHERE {LEASED} AND NOT (f.reason = 'lapsing' AND EXISTS (\
           SELECT 1 FROM user_entitlements AS g WHERE g.source_id = f.object_id AND {LAPSES}))"
    ))
    .bind::<Text, _>(object)
    .bind::<Text, _>(reason)
    .bind::<Timestamptz, _>(fetch.asked_at);
    let update = diesel::sql_query(format!("UPDATE stripe_fetches AS f SET {set} WHERE {LEASED}"))
        .bind::<Text, _>(object)
        .bind::<Text, _>(reason)
        .bind::<Timestamptz, _>(fetch.asked_at)
        .bind::<Double, _>(again.as_secs_f64());
    pool.run(async |connection| {
        if answered {
            forget.execute(connection).await?;
        }
        update.execute(connection).await
    })
    .await?;
    Ok(())
}

pub(super) async fn find_lapsing(pool: &Pool, limit: u32) -> Result<(), LedgerError> {
    let forget = diesel::sql_query(format!(
        "DELETE FROM stripe_fetches AS f WHERE f.given_up_at < now() - interval '30 days' OR \
           f.reason = 'lapsing' AND f.given_up_at IS NULL AND NOT EXISTS (\
             SELECT 1 FROM user_entitlements AS g WHERE g.source_id = f.object_id AND {LAPSES})"
    ));
    // One that was given up is asked about again when the next period ends.
    let find = diesel::sql_query(format!(
        "INSERT INTO stripe_fetches AS f (object_id, reason, due_at) SELECT g.source_id, 'lapsing', now() \
         FROM user_entitlements AS g WHERE {LAPSES} AND NOT EXISTS (\
           SELECT 1 FROM stripe_fetches AS k WHERE k.object_id = g.source_id AND k.reason = 'lapsing' AND \
             (k.given_up_at IS NULL OR k.given_up_at > now() - interval '6 days')) \
         ORDER BY g.source_id LIMIT $1 \
         ON CONFLICT (object_id, reason) DO UPDATE SET \
           wanted_at = now(), due_at = now(), attempts = 0, asked_at = NULL, given_up_at = NULL \
           WHERE f.given_up_at IS NOT NULL"
    ))
    .bind::<Integer, _>(i32::try_from(limit).unwrap_or(i32::MAX));
    pool.run(async |connection| {
        forget.execute(connection).await?;
        find.execute(connection).await
    })
    .await?;
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = Text)]
    reason: String,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    #[diesel(sql_type = BigInt)]
    given_up: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    oldest: Option<DateTime<Utc>>,
}

pub(super) async fn counts(pool: &Pool) -> Result<Vec<FetchCount>, LedgerError> {
    let count = diesel::sql_query(
        "SELECT reason, count(*) FILTER (WHERE given_up_at IS NULL) AS waiting, count(given_up_at) AS given_up, \
           min(wanted_at) FILTER (WHERE given_up_at IS NULL AND wanted_at <= now()) AS oldest FROM stripe_fetches GROUP BY reason ORDER BY reason",
    );
    let rows: Vec<CountRow> = pool.run(async |connection| count.load(connection).await).await?;
    Ok(rows.into_iter().map(|row| fetches::count(row.reason, row.waiting, row.given_up, row.oldest)).collect())
}
