//! How users' entitlements changed, along the table's own key.

use std::sync::Arc;

use diesel::{ExpressionMethods, QueryDsl, RunQueryDsl};

use super::{
    super::{
        HistoryEntry, LedgerError,
        history::{Columns, bound, entry},
    },
    connection::{Pool, moment},
    schema::entitlement_history as t,
};
use crate::domain::id::UserId;

pub(super) async fn entries(
    readers: &Arc<Pool>,
    user: UserId,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<HistoryEntry>, LedgerError> {
    let query = t::table
        .filter(t::user_id.eq(user.to_string()))
        .filter(t::version.lt(bound(before)))
        .order(t::version.desc())
        .limit(i64::from(limit))
        .select((
            t::version,
            t::level,
            t::expires_at,
            t::quantity,
            t::changed_at,
            t::cause,
            t::event_id,
            t::operator,
            t::reason,
            t::source,
        ));
    let rows: Vec<Columns<i64>> = readers.ask(move |connection| query.load(connection)).await?;
    Ok(rows.into_iter().map(|row| entry(row, moment)).collect())
}
