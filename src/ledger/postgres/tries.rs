//! Counts of tries that panicked, or may have ended a process. Each is a statement of its own, committed by itself: what it is to outlive
//! may come at once.

use diesel::sql_types::{Bool, Integer, Text};
use diesel_async::RunQueryDsl;

use super::{
    super::{
        LedgerError, TryEnd,
        tries::{KEPT_DAYS, LAST, TOGETHER_MAX, UNDER_WAY_SECONDS, count, counted},
    },
    connection::Pool,
};
use crate::domain::{event::ParkReason, id::EventId};

#[derive(diesel::QueryableByName)]
struct CountRow {
    #[diesel(sql_type = Integer)]
    tries: i32,
}

fn counts(rows: Vec<CountRow>) -> Vec<i32> {
    rows.into_iter().map(|row| row.tries).collect()
}

pub(super) async fn begin(pool: &Pool, event: &EventId, alone: bool) -> Result<Option<u32>, LedgerError> {
    let begin = diesel::sql_query(format!(
        "INSERT INTO stripe_tries AS t (event_id, tries, begun_at) VALUES ($1, 2, now()) \
         ON CONFLICT (event_id) DO UPDATE SET tries = t.tries + 1, begun_at = now(), counted_at = now() \
         WHERE t.tries < {TOGETHER_MAX} OR $2 AND (t.tries <> {LAST} OR t.begun_at IS NULL OR \
           t.begun_at < now() - interval '{UNDER_WAY_SECONDS} seconds') RETURNING tries"
    ))
    .bind::<Text, _>(event.as_str())
    .bind::<Bool, _>(alone);
    Ok(count(counts(pool.run(async |connection| begin.load(connection).await).await?)))
}

pub(super) async fn end(pool: &Pool, event: &EventId, end: TryEnd) -> Result<(), LedgerError> {
    let end = diesel::sql_query(match end {
        TryEnd::InOrder => "DELETE FROM stripe_tries WHERE event_id = $1",
        TryEnd::NotMade => {
            "UPDATE stripe_tries SET tries = greatest(tries - 1, 0), begun_at = NULL WHERE event_id = $1"
        }
        TryEnd::Panicked => "UPDATE stripe_tries SET begun_at = NULL WHERE event_id = $1",
    })
    .bind::<Text, _>(event.as_str());
    pool.run(async |connection| end.execute(connection).await).await?;
    Ok(())
}

pub(super) async fn count_panic(pool: &Pool, event: &EventId) -> Result<u32, LedgerError> {
    let tidy = diesel::sql_query(format!(
        "DELETE FROM stripe_tries WHERE counted_at < now() - interval '{KEPT_DAYS} days' AND event_id <> $1"
    ))
    .bind::<Text, _>(event.as_str());
    let count = diesel::sql_query(
        "INSERT INTO stripe_tries AS t (event_id, tries) VALUES ($1, 1) \
         ON CONFLICT (event_id) DO UPDATE SET tries = t.tries + 1, counted_at = now() RETURNING tries",
    )
    .bind::<Text, _>(event.as_str());
    let rows = pool
        .run(async |connection| {
            tidy.execute(connection).await?;
            count.load(connection).await
        })
        .await?;
    counted(counts(rows))
}

pub(super) async fn park_for(pool: &Pool, event: &EventId, reason: ParkReason) -> Result<(), LedgerError> {
    let park = diesel::sql_query("UPDATE stripe_events SET reason = $2 WHERE id = $1 AND outcome = 'parked'")
        .bind::<Text, _>(event.as_str())
        .bind::<Text, _>(reason.as_str());
    pool.run(async |connection| park.execute(connection).await).await?;
    Ok(())
}
