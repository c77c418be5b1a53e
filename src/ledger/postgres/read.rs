//! Reads: from the primary, through the pool, one statement each.

use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, NullableExpressionMethods, QueryDsl, SelectableHelper,
    sql_types::{Text, Timestamptz},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    super::{
        ChangedState, Lapsed, LedgerError,
        account::{AccountRow, Loaded, entitlement as read_entitlement, load},
        batch::{OwnerRow, owner_of},
    },
    Durability,
    connection::Pool,
    schema::entitlement_state,
    statements::{ReadAccounts, ReadOwners},
};
use crate::domain::{
    change::{Owner, Subject},
    entitlement::Entitlement,
    grant::Grant,
    id::{CustomerId, UserId},
    level::Level,
    plan::Catalogue,
};

async fn account(pool: &Pool, user: UserId) -> Result<Loaded, LedgerError> {
    let users = [user.uuid()];
    let rows: Vec<AccountRow> =
        pool.run(async |connection| ReadAccounts { users: &users }.get_results(connection).await).await?;
    Ok(load(1, rows).pop().unwrap_or_default())
}

pub(super) async fn entitlement(pool: &Pool, catalogue: &Catalogue, user: UserId) -> Result<Entitlement, LedgerError> {
    account(pool, user).await?.entitlement(catalogue)
}

pub(super) async fn grants(pool: &Pool, user: UserId) -> Result<Vec<Grant>, LedgerError> {
    account(pool, user).await.map(|loaded| loaded.account.grants)
}

pub(super) async fn owner(pool: &Pool, subject: &Subject) -> Result<Owner, LedgerError> {
    let (subscriptions, customers) =
        ([subject.subscription.as_str()], [subject.customer.as_ref().map(CustomerId::as_str)]);
    let read = ReadOwners { subscriptions: &subscriptions, customers: &customers };
    let rows: Vec<OwnerRow> = pool.run(async |connection| read.get_results(connection).await).await?;
    Ok(owner_of(&rows, 1))
}

pub(super) async fn versions(pool: &Pool, users: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
    let users: Vec<Uuid> = users.iter().map(|user| user.uuid()).collect();
    let rows: Vec<(Uuid, i64)> = pool
        .run(async |connection| {
            entitlement_state::table
                .filter(entitlement_state::user_id.eq_any(&users))
                .select((entitlement_state::user_id, entitlement_state::version))
                .load(connection)
                .await
        })
        .await?;
    Ok(known(rows))
}

fn known(rows: Vec<(Uuid, i64)>) -> Vec<(UserId, u64)> {
    rows.into_iter().map(|(user, version)| (user.into(), u64::try_from(version).unwrap_or(0))).collect()
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = entitlement_state)]
struct StateRow {
    user_id: Uuid,
    level: String,
    expires_at: Option<DateTime<Utc>>,
    version: i64,
    quantity: i32,
    changed_at: DateTime<Utc>,
}

pub(super) async fn changed_between(
    pool: &Pool,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<ChangedState>, LedgerError> {
    let rows: Vec<StateRow> = pool
        .run(async |connection| {
            entitlement_state::table
                .filter(entitlement_state::changed_at.ge(since))
                .filter(entitlement_state::changed_at.le(until))
                .order(entitlement_state::changed_at.desc())
                .limit(i64::from(limit))
                .select(StateRow::as_select())
                .load(connection)
                .await
        })
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| ChangedState {
            user: row.user_id.into(),
            entitlement: read_entitlement(&row.level, row.expires_at, row.version, row.quantity),
            changed_at: row.changed_at,
        })
        .collect())
}

pub(super) async fn lapsed(pool: &Pool, after: Option<Lapsed>, limit: u32) -> Result<Vec<Lapsed>, LedgerError> {
    use entitlement_state as t;
    let all = t::table.filter(t::expires_at.le(diesel::dsl::now)).into_boxed();
    let following = match after {
        Some(Lapsed { user, ended_at, .. }) => all
            .filter(t::expires_at.ge(ended_at))
            .filter(t::expires_at.gt(ended_at).or(t::user_id.gt(user.uuid()).nullable())),
        None => all,
    };
    let page = following.order((t::expires_at.asc(), t::user_id.asc())).limit(i64::from(limit)).select((
        t::user_id,
        t::version,
        t::expires_at.assume_not_null(),
    ));
    let rows: Vec<(Uuid, i64, DateTime<Utc>)> = pool.run(async |connection| page.load(connection).await).await?;
    let lapsed = |(user, version, ended_at): (Uuid, i64, _)| Lapsed {
        user: user.into(),
        version: u64::try_from(version).unwrap_or(0),
        ended_at,
    };
    Ok(rows.into_iter().map(lapsed).collect())
}

#[derive(diesel::QueryableByName)]
struct LevelRow {
    #[diesel(sql_type = Text)]
    level: String,
}

async fn levels(pool: &Pool, statement: &str) -> Result<Vec<Level>, LedgerError> {
    let rows: Vec<LevelRow> = pool.run(async |connection| diesel::sql_query(statement).load(connection).await).await?;
    Ok(rows.into_iter().filter_map(|row| Level::parse(&row.level).ok()).collect())
}

pub(super) async fn levels_in_use(pool: &Pool) -> Result<Vec<Level>, LedgerError> {
    let statement = "SELECT DISTINCT entitlement_level::text AS level FROM user_entitlements \
                     WHERE expires_at > now() AND entitlement_level <> 'FREE'";
    levels(pool, statement).await
}

/// What the enum holds.
pub(super) async fn levels_known(pool: &Pool) -> Result<Vec<Level>, LedgerError> {
    levels(pool, "SELECT enumlabel::text AS level FROM pg_enum WHERE enumtypid = 'user_entitlement_level'::regtype")
        .await
}

#[derive(diesel::QueryableByName)]
struct DurabilityRow {
    #[diesel(sql_type = Text)]
    synchronous_commit: String,
    #[diesel(sql_type = Text)]
    fsync: String,
}

pub(super) async fn durability(pool: &Pool) -> Result<Durability, LedgerError> {
    let row: DurabilityRow = pool
        .run(async |connection| {
            diesel::sql_query(
                "SELECT current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync",
            )
            .get_result(connection)
            .await
        })
        .await?;
    Ok(Durability { synchronous_commit: row.synchronous_commit != "off", fsync: row.fsync != "off" })
}

#[derive(diesel::QueryableByName)]
struct Clock {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

pub(super) async fn now(pool: &Pool) -> Result<DateTime<Utc>, LedgerError> {
    let clock: Clock = pool
        .run(async |connection| diesel::sql_query("SELECT clock_timestamp() AS now").get_result(connection).await)
        .await?;
    Ok(clock.now)
}
