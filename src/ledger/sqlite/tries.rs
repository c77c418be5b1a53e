//! Counts of tries that panicked, or may have ended a process. Each is a statement of its own, committed by itself: what it is to outlive
//! may come at once.

use std::sync::Arc;

use diesel::{
    RunQueryDsl,
    sql_types::{BigInt, Bool, Integer, Text},
};

use super::{
    super::{
        LedgerError, TryEnd,
        tries::{KEPT_DAYS, LAST, TOGETHER_MAX, UNDER_WAY_SECONDS, count, counted},
    },
    connection::{Pool, micros, now},
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

pub(super) async fn begin(writer: &Arc<Pool>, event: &EventId, alone: bool) -> Result<Option<u32>, LedgerError> {
    let begin = diesel::sql_query(format!(
        "INSERT INTO stripe_tries (event_id, tries, begun_at, counted_at) VALUES (?1, 2, ?2, ?2) \
         ON CONFLICT (event_id) DO UPDATE SET tries = tries + 1, begun_at = ?2, counted_at = ?2 \
         WHERE tries < {TOGETHER_MAX} OR ?3 AND (tries <> {LAST} OR begun_at IS NULL OR \
           begun_at < ?2 - {UNDER_WAY_SECONDS} * 1000000) RETURNING tries"
    ))
    .bind::<Text, _>(event.as_str().to_owned())
    .bind::<BigInt, _>(micros(now()))
    .bind::<Bool, _>(alone);
    Ok(count(counts(writer.ask(move |connection| begin.load(connection)).await?)))
}

pub(super) async fn end(writer: &Arc<Pool>, event: &EventId, end: TryEnd) -> Result<(), LedgerError> {
    let end = diesel::sql_query(match end {
        TryEnd::InOrder => "DELETE FROM stripe_tries WHERE event_id = ?1",
        TryEnd::NotMade => "UPDATE stripe_tries SET tries = max(tries - 1, 0), begun_at = NULL WHERE event_id = ?1",
        TryEnd::Panicked => "UPDATE stripe_tries SET begun_at = NULL WHERE event_id = ?1",
    })
    .bind::<Text, _>(event.as_str().to_owned());
    writer.ask(move |connection| end.execute(connection)).await?;
    Ok(())
}

pub(super) async fn count_panic(writer: &Arc<Pool>, event: &EventId) -> Result<u32, LedgerError> {
    let (event, now) = (event.as_str().to_owned(), micros(now()));
    let tidy = diesel::sql_query(format!(
        "DELETE FROM stripe_tries WHERE counted_at < ?2 - {KEPT_DAYS} * 86400000000 AND event_id <> ?1"
    ))
    .bind::<Text, _>(event.clone())
    .bind::<BigInt, _>(now);
    let count = diesel::sql_query(
        "INSERT INTO stripe_tries (event_id, tries, counted_at) VALUES (?1, 1, ?2) \
         ON CONFLICT (event_id) DO UPDATE SET tries = tries + 1, counted_at = ?2 RETURNING tries",
    )
    .bind::<Text, _>(event)
    .bind::<BigInt, _>(now);
    let rows = writer
        .ask(move |connection| {
            tidy.execute(connection)?;
            count.load(connection)
        })
        .await?;
    counted(counts(rows))
}

pub(super) async fn park_for(writer: &Arc<Pool>, event: &EventId, reason: ParkReason) -> Result<(), LedgerError> {
    let park = diesel::sql_query("UPDATE stripe_events SET reason = ?2 WHERE id = ?1 AND outcome = 'parked'")
        .bind::<Text, _>(event.as_str().to_owned())
        .bind::<Text, _>(reason.as_str());
    writer.ask(move |connection| park.execute(connection)).await?;
    Ok(())
}
