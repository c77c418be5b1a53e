//! Making the schema: embedded migrations, in one transaction under an advisory lock.

use std::time::Duration;

use diesel::{Connection, RunQueryDsl, sql_types::Bool};
use diesel_async::{AsyncPgConnection, async_connection_wrapper::AsyncConnectionWrapper};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::super::{LedgerError, MigrationReport};
use crate::{
    domain::plan::Catalogue,
    fail_point::{self, Point},
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// The advisory lock that lets one replica migrate at a time.
const MIGRATION_LOCK: i64 = 0x746f_6c6c_6d69_6772; // "tollmigr"

/// To open the connection. The migrations themselves may take as long as they need.
const CONNECT: Duration = Duration::from_secs(5);

/// Runs on a thread of its own: the migration harness is synchronous.
pub(super) async fn run(url: &str, catalogue: &Catalogue) -> Result<MigrationReport, LedgerError> {
    let levels = catalogue.plans().iter().map(|plan| plan.level.as_str().to_owned()).collect();
    let connection =
        tokio::time::timeout(CONNECT, <AsyncPgConnection as diesel_async::AsyncConnection>::establish(url))
            .await
            .map_err(|_| LedgerError::Unavailable("connecting took too long".into()))?
            .map_err(|error| LedgerError::Unavailable(format!("migrating failed: {error}")))?;
    tokio::task::spawn_blocking(move || run_blocking(connection, levels))
        .await
        .map_err(|_| LedgerError::Panicked)?
        .map_err(|error| LedgerError::Unavailable(format!("migrating failed: {error}")))
}

#[derive(diesel::QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    exists: bool,
}

fn run_blocking(
    connection: AsyncPgConnection,
    levels: Vec<String>,
) -> Result<MigrationReport, Box<dyn std::error::Error + Send + Sync>> {
    let mut connection: AsyncConnectionWrapper<AsyncPgConnection> = connection.into();
    let report = connection.transaction(|connection| {
        // Released with the transaction, whatever happens to this process; and PgBouncer's transaction mode keeps it.
        diesel::sql_query(format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).execute(connection)?;
        let applied = connection.run_pending_migrations(MIGRATIONS)?.iter().map(ToString::to_string).collect();
        let mut levels_added = Vec::new();
        for level in levels {
            let there: Exists = diesel::sql_query(
                "SELECT EXISTS (SELECT 1 FROM pg_enum WHERE enumtypid = 'user_entitlement_level'::regtype \
                 AND enumlabel = $1) AS exists",
            )
            .bind::<diesel::sql_types::Text, _>(&level)
            .get_result(connection)?;
            if !there.exists {
                // A level's name holds only capital letters, digits and `_`: safe to write into the statement, which takes
                // no parameters.
                diesel::sql_query(format!("ALTER TYPE user_entitlement_level ADD VALUE IF NOT EXISTS '{level}'"))
                    .execute(connection)?;
                levels_added.push(level);
            }
        }
        fail_point::pass_now(Point::MigrateCommit, String::new);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(MigrationReport { applied, levels_added })
    })?;
    fail_point::pass_now(Point::Migrated, String::new);
    Ok(report)
}
