//! Questions to Stripe: whose turn it is, and what became of them. They are written by the transactions that find them (`apply`).

use std::{sync::Arc, time::Duration};

use diesel::{
    QueryResult, RunQueryDsl,
    sql_types::{BigInt, Integer, Nullable, Text},
    sqlite::SqliteConnection,
};

use super::{
    super::{
        Fetch, FetchCount, FetchEnd, FetchReason, LedgerError,
        fetches::{self, FetchColumns, Needs},
    },
    connection::{Pool, micros, moment, now},
};

const SECOND: i64 = 1_000_000;

/// Of a grant `g`, at `?1`: from an hour before a subscription's end until five days after it.
const LAPSES: &str = "g.source_kind = 'subscription' AND g.status = 'active' AND \
    g.period_end BETWEEN ?1 - 432000000000 AND ?1 + 3600000000";

fn lasting(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 2)
}

/// Writes what a transaction found to be asked, or answered.
pub(super) fn write(connection: &mut SqliteConnection, needs: &Needs) -> QueryResult<()> {
    let now = micros(now());
    for (object, reason) in needs.rows(false) {
        diesel::sql_query("DELETE FROM stripe_fetches WHERE object_id = ?1 AND reason = ?2")
            .bind::<Text, _>(object)
            .bind::<Text, _>(reason.as_str())
            .execute(connection)?;
    }
    for (object, reason) in needs.rows(true) {
        diesel::sql_query(
            "INSERT INTO stripe_fetches (object_id, reason, wanted_at, due_at) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (object_id, reason) DO UPDATE SET wanted_at = excluded.wanted_at, due_at = excluded.due_at, attempts = 0, \
               asked_at = NULL, given_up_at = NULL",
        )
        .bind::<Text, _>(object)
        .bind::<Text, _>(reason.as_str())
        .bind::<BigInt, _>(now)
        .bind::<BigInt, _>(now + i64::from(reason.delay_seconds()) * SECOND)
        .execute(connection)?;
    }
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct DueRow {
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = Text)]
    reason: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = BigInt)]
    wanted_at: i64,
    #[diesel(sql_type = BigInt)]
    asked_at: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    known_at: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    ends_at: Option<i64>,
}

pub(super) async fn due(writer: &Arc<Pool>, limit: u32, lease: Duration) -> Result<Vec<Fetch>, LedgerError> {
    let now = micros(now());
    let take = diesel::sql_query(format!(
        "UPDATE stripe_fetches SET attempts = attempts + 1, asked_at = ?1, due_at = ?2 WHERE (object_id, reason) IN (\
           SELECT object_id, reason FROM stripe_fetches WHERE given_up_at IS NULL AND due_at <= ?1 AND \
             reason IN ({words}) ORDER BY due_at LIMIT ?3) \
         RETURNING object_id, reason, attempts, wanted_at, asked_at, \
           (SELECT g.reported_at FROM user_entitlements AS g WHERE g.source_kind = 'subscription' AND \
             g.source_id = stripe_fetches.object_id) AS known_at, \
           (SELECT g.period_end FROM user_entitlements AS g WHERE g.source_kind = 'subscription' AND \
             g.source_id = stripe_fetches.object_id) AS ends_at",
        words = FetchReason::words(),
    ))
    .bind::<BigInt, _>(now)
    .bind::<BigInt, _>(now.saturating_add(lasting(lease)))
    .bind::<BigInt, _>(i64::from(limit));
    let rows: Vec<DueRow> = writer.ask(move |connection| take.load(connection)).await?;
    let fetch = |row: DueRow| {
        let (wanted_at, asked_at) = (moment(row.wanted_at), moment(row.asked_at));
        let (known_at, ends_at) = (row.known_at.map(moment), row.ends_at.map(moment));
        let DueRow { object_id: object, reason, attempts, .. } = row;
        FetchColumns { object, reason, attempts, wanted_at, asked_at, known_at, ends_at }.fetch()
    };
    Ok(rows.into_iter().filter_map(fetch).collect())
}

pub(super) async fn end(writer: &Arc<Pool>, fetch: &Fetch, end: FetchEnd) -> Result<(), LedgerError> {
    const LEASED: &str = "object_id = ?2 AND reason = ?3 AND asked_at = ?4";
    let now = micros(now());
    let (answered, set, again) = match end {
        FetchEnd::Answered(again) => (true, "due_at = ?1, wanted_at = ?1, attempts = 0", again),
        FetchEnd::Failed(again) => (false, "due_at = ?1", again),
        FetchEnd::GivenUp => (false, "given_up_at = ?1", Duration::ZERO),
    };
    let (object, reason) = (fetch.object.as_str().to_owned(), fetch.reason.as_str());
    let forget = diesel::sql_query(format!(
        "DELETE FROM stripe_fetches WHERE {LEASED} AND NOT (reason = 'lapsing' AND EXISTS (\
           SELECT 1 FROM user_entitlements AS g WHERE g.source_id = object_id AND {LAPSES}))"
    ))
    .bind::<BigInt, _>(now)
    .bind::<Text, _>(object.clone())
    .bind::<Text, _>(reason)
    .bind::<BigInt, _>(micros(fetch.asked_at));
    let update = diesel::sql_query(format!("UPDATE stripe_fetches SET {set} WHERE {LEASED}"))
        .bind::<BigInt, _>(now.saturating_add(lasting(again)))
        .bind::<Text, _>(object)
        .bind::<Text, _>(reason)
        .bind::<BigInt, _>(micros(fetch.asked_at));
    let end = move |connection: &mut SqliteConnection| {
        if answered {
            forget.execute(connection)?;
        }
        update.execute(connection)
    };
    writer.ask(move |connection| connection.immediate_transaction(end)).await?;
    Ok(())
}

pub(super) async fn find_lapsing(writer: &Arc<Pool>, limit: u32) -> Result<(), LedgerError> {
    let now = micros(now());
    let forget = diesel::sql_query(format!(
        "DELETE FROM stripe_fetches WHERE given_up_at < ?1 - 2592000000000 OR \
           reason = 'lapsing' AND given_up_at IS NULL AND NOT EXISTS (\
             SELECT 1 FROM user_entitlements AS g WHERE g.source_id = object_id AND {LAPSES})"
    ))
    .bind::<BigInt, _>(now);
    // One that was given up is asked about again when the next period ends.
    let find = diesel::sql_query(format!(
        "INSERT INTO stripe_fetches (object_id, reason, wanted_at, due_at) SELECT g.source_id, 'lapsing', ?1, ?1 \
         FROM user_entitlements AS g WHERE {LAPSES} AND NOT EXISTS (\
           SELECT 1 FROM stripe_fetches AS k WHERE k.object_id = g.source_id AND k.reason = 'lapsing' AND \
             (k.given_up_at IS NULL OR k.given_up_at > ?1 - 518400000000)) \
         ORDER BY g.source_id LIMIT ?2 \
         ON CONFLICT (object_id, reason) DO UPDATE SET wanted_at = ?1, due_at = ?1, attempts = 0, asked_at = NULL, given_up_at = NULL"
    ))
    .bind::<BigInt, _>(now)
    .bind::<BigInt, _>(i64::from(limit));
    writer
        .ask(move |connection| {
            forget.execute(connection)?;
            find.execute(connection)
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
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest: Option<i64>,
}

pub(super) async fn counts(readers: &Arc<Pool>) -> Result<Vec<FetchCount>, LedgerError> {
    let count = diesel::sql_query(
        "SELECT reason, count(*) FILTER (WHERE given_up_at IS NULL) AS waiting, count(given_up_at) AS given_up, \
           min(wanted_at) FILTER (WHERE given_up_at IS NULL AND wanted_at <= ?1) AS oldest FROM stripe_fetches GROUP BY reason ORDER BY reason",
    )
    .bind::<BigInt, _>(micros(now()));
    let rows: Vec<CountRow> = readers.ask(move |connection| count.load(connection)).await?;
    let count = |row: CountRow| fetches::count(row.reason, row.waiting, row.given_up, row.oldest.map(moment));
    Ok(rows.into_iter().map(count).collect())
}
