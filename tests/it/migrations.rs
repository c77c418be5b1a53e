//! Migrations: on nothing, on the tables of the application that Tollgate replaces, twice, and by many at once.

use std::time::Duration;

use chrono::Utc;
use tollgate::{
    config::catalogue,
    domain::{id::UserId, plan::Catalogue},
    ledger::{
        Ledger,
        postgres::{Limits, PostgresLedger},
    },
};
use uuid::Uuid;

use crate::harness::{TestDatabase, ledger::TestFile};

fn built_in() -> Catalogue {
    catalogue::parse(catalogue::BUILT_IN).unwrap()
}

/// A dump of everything that a migration decides: columns, constraints, indexes, policies, privileges.
async fn shape(database: &TestDatabase) -> Vec<Vec<Option<String>>> {
    database
        .query(
            "SELECT 'column', table_name || '.' || column_name, data_type || coalesce(column_default, '') || is_nullable \
               FROM information_schema.columns WHERE table_schema = 'public' \
             UNION ALL SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint \
               WHERE connamespace = 'public'::regnamespace \
             UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' \
             UNION ALL SELECT 'policy', tablename || '.' || policyname, cmd FROM pg_policies WHERE schemaname = 'public' \
             UNION ALL SELECT 'privileges', relname, coalesce(relacl::text, '') || relrowsecurity FROM pg_class \
               WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1, 2, 3",
        )
        .await
}

/// The original's schema, written down from what it does to us: a grant table with one row per user, a trigger that fills it with
/// FREE rows, a policy that lets users insert into it, Supabase's roles with their default rights.
const ORIGINAL: &str = include_str!("../fixtures/original_schema.sql");

const BUYER: &str = "11111111-1111-4111-8111-111111111111";
const NEWCOMER: &str = "22222222-2222-4222-8222-222222222222";

async fn original() -> TestDatabase {
    let database = TestDatabase::new().await;
    database.execute(ORIGINAL).await;
    database
        .execute(&format!(
            "INSERT INTO auth.users VALUES ('{BUYER}', 'buyer@example.com'), ('{NEWCOMER}', 'new@example.com'); \
             UPDATE public.user_entitlements SET entitlement_level = 'PRO', stripe_event_id = 'evt_old', \
               expires_at = now() + interval '200 days' WHERE user_id = '{BUYER}'"
        ))
        .await;
    database
}

async fn migrate(database: &TestDatabase) {
    PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
}

/// The scripts of all migrations, in order.
const SCRIPTS: &[&str] = &[
    include_str!("../../migrations/postgres/2026-11-23-000001_ledger/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000002_row_level_security/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000003_shown_until/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000004_subscriptions/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000010_inbox_lists/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000011_money/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000012_by_hand/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000013_one_session/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000014_stripe_fetches/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000015_stripe_tries/up.sql"),
];

#[tokio::test]
async fn an_empty_database_becomes_a_ledger_and_a_second_run_changes_nothing() {
    let database = TestDatabase::new().await;
    let first = PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    assert_eq!(first.applied.len(), SCRIPTS.len());
    let before = shape(&database).await;
    let epoch = database.value("SELECT epoch FROM tollgate_ledger").await;
    let second = PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    assert!(second.applied.is_empty() && second.levels_added.is_empty(), "{second:?}");
    assert_eq!(shape(&database).await, before);
    assert_eq!(database.value("SELECT epoch FROM tollgate_ledger").await, epoch);
    assert_eq!(database.value("SELECT owns_users FROM tollgate_ledger").await, "t");
}

#[tokio::test]
async fn the_scripts_themselves_may_run_twice() {
    let database = original().await;
    migrate(&database).await;
    let before = shape(&database).await;
    for script in SCRIPTS {
        database.execute(script).await;
    }
    assert_eq!(shape(&database).await, before);
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once() {
    let database = TestDatabase::new().await;
    let runs = (0..6).map(|_| {
        let url = database.url();
        async move { PostgresLedger::migrate(&url, &built_in()).await.unwrap().applied.len() }
    });
    let mut applied = futures::future::join_all(runs).await;
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, 0, 0, 0, SCRIPTS.len()]);
}

#[tokio::test]
async fn the_originals_data_is_kept_and_what_was_bought_stays_bought() {
    let database = original().await;
    let rows = database.value("SELECT count(*) FROM user_entitlements").await;
    migrate(&database).await;
    assert_eq!(database.value("SELECT count(*) FROM user_entitlements").await, rows);
    assert_eq!(database.value("SELECT owns_users FROM tollgate_ledger").await, "f");
    let ledger = PostgresLedger::connect(&database.url(), Limits::default(), built_in()).await.unwrap();

    let buyer = ledger.entitlement(UserId::parse(BUYER).unwrap()).await.unwrap();
    assert_eq!((buyer.level.as_str(), buyer.version), ("PRO", 0));
    assert!(buyer.expires_at.unwrap() > Utc::now() + chrono::TimeDelta::days(199));
    let newcomer = ledger.entitlement(UserId::parse(NEWCOMER).unwrap()).await.unwrap();
    assert!(newcomer.level.is_free(), "the FREE row of the original's trigger is no grant");
    assert_eq!(
        database.value("SELECT outcome FROM stripe_events WHERE id = 'evt_old'").await,
        "applied",
        "Stripe may still deliver what the original has applied"
    );
}

/// Regression: with the original's `UNIQUE (user_id)` the first purchase of every user violated it, and was reported as a success.
#[tokio::test]
async fn the_originals_constraint_of_one_row_per_user_is_gone() {
    let database = original().await;
    let insert = format!(
        "INSERT INTO user_entitlements (user_id, entitlement_level, expires_at) VALUES ('{BUYER}', 'PRO', now())"
    );
    assert!(database.try_query(&insert).await.is_err(), "the fixture has the harmful constraint");
    migrate(&database).await;
    database.execute(&insert).await;
}

#[tokio::test]
async fn nobody_from_the_web_can_write_or_see_more_than_his_own() {
    let database = original().await;
    let as_buyer = |sql: &str| {
        format!("SET ROLE authenticated; SELECT set_config('request.user', '{BUYER}', false); {sql}; RESET ROLE")
    };
    let insert = "INSERT INTO user_entitlements (user_id, entitlement_level, expires_at) \
                  SELECT '11111111-1111-4111-8111-111111111111', 'PRO', now() + interval '9 years'";
    database.execute("ALTER TABLE user_entitlements DROP CONSTRAINT user_entitlements_user_id_unique").await;
    database.execute(&as_buyer(insert)).await; // The fixture has the harmful policy: a user may sell himself PRO.
    migrate(&database).await;

    for (role, sql) in [
        ("authenticated", insert),
        ("authenticated", "UPDATE user_entitlements SET expires_at = now() + interval '9 years'"),
        ("authenticated", "DELETE FROM user_entitlements"),
        ("anon", insert),
    ] {
        let refused = database.try_query(&format!("SET ROLE {role}; {sql}")).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{role}: {sql}");
    }
    for table in [
        "stripe_events",
        "entitlement_state",
        "entitlement_history",
        "checkout_sessions",
        "checkout_keys",
        "instances",
        "stripe_fetches",
        "stripe_objects",
        "stripe_tries",
        "tollgate_ledger",
        "__diesel_schema_migrations",
    ] {
        for role in ["anon", "authenticated"] {
            let refused = database.try_query(&format!("SET ROLE {role}; SELECT * FROM {table}")).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "42501", "{role} on {table}");
        }
        let secured = format!("SELECT relrowsecurity FROM pg_class WHERE oid = '{table}'::regclass");
        assert_eq!(database.value(&secured).await, "t", "{table}");
    }
    let seen = database.query(&as_buyer("SELECT DISTINCT user_id FROM user_entitlements")).await;
    assert!(seen.contains(&vec![Some(BUYER.to_owned())]), "users go on reading their own: {seen:?}");
    assert!(!seen.contains(&vec![Some(NEWCOMER.to_owned())]), "{seen:?}");
}

#[tokio::test]
async fn levels_of_the_catalogue_join_the_enum() {
    let database = TestDatabase::new().await;
    let text = format!(
        "{}\n[[plan]]\nlevel = \"TEAM\"\nrank = 30\nmode = \"payment\"\namount = 9900\ncurrency = \"usd\"\n",
        catalogue::BUILT_IN
    );
    let catalogue = catalogue::parse(&text).unwrap();
    let report = PostgresLedger::migrate(&database.url(), &catalogue).await.unwrap();
    assert_eq!(report.levels_added, ["TEAM"]);
    assert_eq!(database.value("SELECT 'TEAM'::user_entitlement_level::text").await, "TEAM");
}

/// The tables, columns and types that a `schema.rs` names, with `?` behind what may be NULL.
fn columns_of(source: &str) -> Vec<(String, String, String)> {
    let mut table = "";
    let mut columns = Vec::new();
    for line in source.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with(") {")) {
            table = name;
        } else if let Some((column, kind)) = line.trim_end_matches(',').split_once(" -> ") {
            let nullable = kind.strip_prefix("Nullable<").map(|inner| format!("{}?", inner.trim_end_matches('>')));
            columns.push((table.to_owned(), column.to_owned(), nullable.unwrap_or_else(|| kind.to_owned())));
        }
    }
    assert!(columns.len() > 20, "the file was not understood: {columns:?}");
    columns
}

/// diesel's picture of the tables, written by hand, against a migrated database.
#[tokio::test]
async fn the_schema_file_agrees_with_the_database() {
    let database = TestDatabase::new().await;
    migrate(&database).await;
    for (table, column, kind) in columns_of(include_str!("../../src/ledger/postgres/schema.rs")) {
        let expected = match kind.trim_end_matches('?') {
            "Uuid" => "uuid",
            "Text" => "text",
            "Bytea" => "bytea",
            "Bool" => "boolean",
            "Int4" => "integer",
            "Int8" => "bigint",
            "Timestamptz" => "timestamp with time zone",
            other => panic!("{other}: add it here"),
        };
        let nullable = if kind.ends_with('?') { "YES" } else { "NO" };
        let found = database
            .query(&format!(
                "SELECT data_type, is_nullable FROM information_schema.columns \
                 WHERE table_name = '{table}' AND column_name = '{column}'"
            ))
            .await;
        assert_eq!(found, [[Some(expected.to_owned()), Some(nullable.to_owned())]], "{table}.{column}");
    }
}

#[tokio::test]
async fn the_schema_file_agrees_with_the_file() {
    let file = TestFile::new();
    file.open().await;
    for (table, column, kind) in columns_of(include_str!("../../src/ledger/sqlite/schema.rs")) {
        let expected = match kind.trim_end_matches('?') {
            "Text" => "TEXT",
            "Binary" => "BLOB",
            "Integer" | "BigInt" => "INTEGER",
            other => panic!("{other}: add it here"),
        };
        let found = file.column(&format!(
            "SELECT type || iif(\"notnull\" OR pk, '', '?') FROM pragma_table_info('{table}') WHERE name = '{column}'"
        ));
        let nullable = if kind.ends_with('?') { "?" } else { "" };
        assert_eq!(found, [format!("{expected}{nullable}")], "{table}.{column}");
    }
}

/// Regression: a running replica saw another epoch only when it happened to open a connection for writing.
#[tokio::test]
async fn a_running_replica_notices_another_epoch() {
    let database = TestDatabase::new().await;
    migrate(&database).await;
    let ledger = PostgresLedger::connect(&database.url(), Limits::default(), built_in()).await.unwrap();
    let before = ledger.epoch();
    database.execute("UPDATE tollgate_ledger SET epoch = gen_random_uuid()").await;
    ledger.beat(Uuid::new_v4(), Duration::ZERO).await.unwrap();
    assert_ne!(ledger.epoch(), before);
}

/// A dump restored into another database is another ledger, though its rows are the same.
#[tokio::test]
async fn a_copy_of_a_database_has_another_epoch() {
    let (one, two) = (TestDatabase::new().await, TestDatabase::new().await);
    migrate(&one).await;
    migrate(&two).await;
    let id = one.value("SELECT epoch FROM tollgate_ledger").await;
    two.execute(&format!("UPDATE tollgate_ledger SET epoch = '{id}'")).await;
    let epoch = async |database: &TestDatabase| {
        PostgresLedger::connect(&database.url(), Limits::default(), built_in()).await.unwrap().epoch()
    };
    let (first, second) = (epoch(&one).await, epoch(&two).await);
    assert!(first.as_str().starts_with(&id) && second.as_str().starts_with(&id));
    assert_ne!(first, second);
}

/// A database dropped and made again has another epoch: what Redis still holds counts for nothing.
#[tokio::test]
async fn another_database_has_another_epoch() {
    let (one, two) = (TestDatabase::new().await, TestDatabase::new().await);
    let mut epochs = Vec::new();
    for database in [&one, &two] {
        migrate(database).await;
        let ledger = PostgresLedger::connect(&database.url(), Limits::default(), built_in()).await.unwrap();
        epochs.push(ledger.epoch());
    }
    assert_ne!(epochs[0], epochs[1]);
    assert!(Uuid::try_parse(&epochs[0].as_str()[..36]).is_ok(), "{}", epochs[0]);
}
