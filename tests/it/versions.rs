//! Replicas of different versions, or with different catalogues, side by side, as while either reaches one after the other. An older program is
//! not here to be run: what is held to is what makes it possible. Migrations only add; what the oldest version wrote is read; what a newer
//! one writes is neither understood nor guessed.

use std::{fs, path::Path};

use serde_json::json;
use tollgate::{
    domain::event::Outcome,
    ledger::{InboxFilter, Ledger, LedgerError},
};
use uuid::Uuid;

use crate::{
    harness::{
        PATIENCE, TestDatabase,
        event::SessionEvent,
        eventually,
        server::{World, unix_now},
    },
    ledger::{commit, commit_one, ledger_on, purchase, user},
};

/// The first migration takes from the program that Tollgate replaces what would harm; no version of Tollgate had it.
const FIRST: &str = "000001";

/// What of a script the version before it might not survive.
fn what_it_takes(script: &str) -> Option<String> {
    let said: String =
        script.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let words = said.to_uppercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let taken =
        ["DROP ", "RENAME ", "ALTER COLUMN", "ADD CONSTRAINT", "UNIQUE INDEX", "TRUNCATE ", "DELETE FROM", "UPDATE "];
    let added = words.split("ADD COLUMN").skip(1).map(|rest| rest.split(';').next().unwrap_or_default());
    let demanded = added.filter(|column| column.contains("NOT NULL") && !column.contains(" DEFAULT "));
    taken
        .into_iter()
        .find(|word| words.contains(word))
        .map(str::to_owned)
        .or_else(|| demanded.last().map(str::to_owned))
}

#[test]
fn every_migration_only_adds() {
    for (script, taken) in [
        ("ALTER TABLE t\n  ADD COLUMN a text, -- NOT NULL\n  ADD COLUMN b int NOT NULL DEFAULT 1;", false),
        ("CREATE TABLE t (a text NOT NULL);", false),
        ("ALTER TABLE t ADD COLUMN a text NOT NULL;", true),
        ("ALTER TABLE t ADD COLUMN a int DEFAULT 1, ADD COLUMN b int NOT NULL;", true),
        ("alter table t\n  rename column a to b;", true),
        ("ALTER TABLE t ALTER COLUMN a SET NOT NULL;", true),
        ("DROP INDEX i;", true),
        ("CREATE UNIQUE INDEX i ON t (a);", true),
    ] {
        assert_eq!(what_it_takes(script).is_some(), taken, "{script}");
    }
    let mut scripts = 0;
    for database in ["postgres", "sqlite"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
        for migration in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if migration.is_dir() && !migration.to_str().unwrap().contains(FIRST) {
                let script = fs::read_to_string(migration.join("up.sql")).unwrap();
                assert_eq!(what_it_takes(&script), None, "{}", migration.display());
                scripts += 1;
            }
        }
    }
    assert!(scripts > 10, "{scripts}");
}

/// Up to where the oldest version migrated.
const OLDEST: &[&str] = &[
    include_str!("../../migrations/postgres/2026-11-23-000001_ledger/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000002_row_level_security/up.sql"),
    include_str!("../../migrations/postgres/2026-11-23-000003_shown_until/up.sql"),
];

#[tokio::test]
async fn what_the_oldest_version_wrote_is_read_and_gone_on_from() {
    let world = World::new().await;
    let migrations = "CREATE TABLE __diesel_schema_migrations (\
                        version varchar(50) PRIMARY KEY, run_on timestamp NOT NULL DEFAULT now()); \
                      INSERT INTO __diesel_schema_migrations (version) \
                      VALUES ('20261123000001'), ('20261123000002'), ('20261123000003')";
    world.database.execute(migrations).await;
    for script in OLDEST {
        world.database.execute(script).await;
    }
    let (bought, cached) = (SessionEvent::paid(Uuid::new_v4()), Uuid::new_v4());
    let (user, id, session) = (bought.user, &bought.id, &bought.session);
    let rows = format!(
        "INSERT INTO users (id) VALUES ('{user}'), ('{cached}'); \
         INSERT INTO user_entitlements (user_id, entitlement_level, expires_at, stripe_event_id, source_kind, source_id, status, \
           period_end, reported_at, checkout_session) VALUES \
           ('{user}', 'TRIAL', now() + interval '5 days', '{id}', 'checkout', '{session}', 'active', now() + interval '5 days', now(), '{session}'), \
           ('{user}', 'PRO', now(), 'evt_taken', 'subscription', 'sub_taken', 'revoked', now() + interval '9 days', now(), NULL); \
         INSERT INTO entitlement_state (user_id, level, expires_at, version) VALUES \
           ('{user}', 'TRIAL', now() + interval '5 days', 3), ('{cached}', 'FREE', NULL, 1); \
         INSERT INTO stripe_events (id, type, object_id, created, livemode, api_version, user_id, outcome, processed_at) VALUES \
           ('{id}', 'checkout.session.completed', '{session}', now(), false, '2026-10-28.endive', '{user}', 'applied', now()); \
         INSERT INTO instances (id) VALUES (gen_random_uuid())"
    );
    world.database.execute(&rows).await;
    let server = world.serve().await;
    let read = server.read(user).await.json;
    assert_eq!((&read["entitlementLevel"], &read["version"]), (&json!("TRIAL"), &json!(3)));
    assert_eq!(server.deliver(&bought.json()).await.json, json!({ "ok": true, "idempotent": true }));

    let epoch = world.redis.get(&format!("webhook:event:{id}")).await.expect("a mark is the epoch");
    let fresh_until = ((unix_now() + 600) * 1000).to_string();
    let meta = format!("{{entitlements:{cached}}}:meta");
    eventually(PATIENCE, "the start has shown what was there", || async {
        !world.redis.hgetall(&meta).await.is_empty()
    })
    .await;
    // Cached values of the oldest version say no quantity.
    world.redis.command::<i64>(&["DEL", &meta]).await;
    let hash =
        ["HSET", &meta, "level", "PRO", "expires_at", "", "version", "2", "epoch", &epoch, "fresh_until", &fresh_until];
    world.redis.command::<i64>(&hash).await;
    let read = server.read(cached).await.json;
    assert_eq!(
        (&read["entitlementLevel"], &read["version"], &read["source"]),
        (&json!("PRO"), &json!(2), &json!("cache"))
    );

    let next = SessionEvent::paid(user);
    assert_eq!(server.deliver(&next.json()).await.json["processed"], true);
    let read = server.read(user).await.json;
    assert_eq!((&read["entitlementLevel"], &read["version"]), (&json!("PRO"), &json!(4)));
}

/// A grant of a kind that only a newer version knows was left out, and its holder folded to what else he had.
#[tokio::test]
async fn a_grant_of_a_newer_version_was_folded_as_if_it_were_not_there() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    database.execute("ALTER TABLE user_entitlements DROP CONSTRAINT user_entitlements_status_check").await;
    let mut lane = ledger.lane();
    for word in ["source_kind = 'voucher'", "status = 'paused'"] {
        let (holder, other) = (user(), user());
        let (first, second) = (format!("evt_1{holder}"), format!("evt_2{holder}"));
        let (first, second) = (first.replace('-', ""), second.replace('-', ""));
        commit_one(&mut *lane, purchase(holder, &first, &format!("cs_{first}"))).await;
        database.execute(&format!("UPDATE user_entitlements SET {word} WHERE user_id = '{holder}'")).await;
        let batch = vec![
            purchase(holder, &second, &format!("cs_{second}")),
            purchase(other, &format!("{second}o"), &format!("cs_{second}o")),
        ];
        let answers = commit(&mut *lane, batch).await;
        assert!(matches!(answers[0], Err(LedgerError::Unavailable(_))), "{word}: another replica can decide");
        assert_eq!(answers[1].as_ref().map(|committed| committed.outcome), Ok(Outcome::Applied), "{word}");
        let state = ledger.entitlement(holder).await.unwrap();
        assert_eq!((state.level.as_str(), state.version), ("PRO", 1), "{word}: what was decided holds");
        let over = format!("UPDATE entitlement_state SET expires_at = now() WHERE user_id = '{holder}'");
        database.execute(&over).await;
        let read = ledger.entitlement(holder).await;
        assert!(matches!(read, Err(LedgerError::Unavailable(_))), "{word}: {read:?}");
    }
}

#[tokio::test]
async fn words_of_a_newer_version_stand_where_they_are() {
    let database = TestDatabase::new().await;
    let ledger = ledger_on(&database).await;
    let mut lane = ledger.lane();
    let (buyer, other) = (user(), user());
    commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await;
    commit_one(&mut *lane, purchase(other, "evt_2", "cs_2")).await;
    database
        .execute(
            "ALTER TABLE stripe_events DROP CONSTRAINT stripe_events_outcome_check; \
             UPDATE stripe_events SET outcome = 'postponed' WHERE id = 'evt_1'; \
             UPDATE stripe_events SET outcome = 'parked', reason = 'full_moon' WHERE id = 'evt_2'; \
             UPDATE entitlement_history SET cause = 'moon'; \
             INSERT INTO stripe_fetches (object_id, reason, due_at) VALUES ('sub_1', 'curiosity', now())",
        )
        .await;
    database.execute(&format!("UPDATE entitlement_state SET level = 'ULTRA' WHERE user_id = '{buyer}'")).await;

    let listed = ledger.events(&InboxFilter::default(), 10).await.unwrap();
    assert_eq!(listed.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["evt_2"]);
    assert_eq!(ledger.parked().await.unwrap()[0].reason, "full_moon");
    assert_eq!(ledger.history(buyer, None, 10).await.unwrap()[0].cause, "moon");
    assert!(ledger.fetches_due(10, std::time::Duration::from_secs(1)).await.unwrap().is_empty());
    assert_eq!(ledger.entitlement(buyer).await.unwrap().level.as_str(), "ULTRA", "as the newer version decided");
    let again = commit_one(&mut *lane, purchase(buyer, "evt_1", "cs_1")).await;
    assert_eq!((again.outcome, again.entitlement.unwrap().version), (Outcome::Duplicate, 1));
    let outcome = database.value("SELECT outcome FROM stripe_events WHERE id = 'evt_1'").await;
    assert_eq!(outcome, "postponed", "for the newer version to go on with");
}

/// A new catalogue has reached one replica, and the other not yet.
#[tokio::test]
async fn a_level_that_one_replica_knows_already_is_not_taken_by_another() {
    let world = World::new().await;
    let catalogue = tempfile::NamedTempFile::new().unwrap();
    let team = "[[plan]]\nlevel = \"TEAM\"\nrank = 30\nmode = \"payment\"\namount = 100\n";
    fs::write(catalogue.path(), format!("{}\n{team}", tollgate::config::catalogue::BUILT_IN)).unwrap();
    let old = world.serve().await;
    let new = world.serve_with(&[("TOLLGATE_CATALOGUE", catalogue.path().to_str().unwrap())]).await;
    let holder = Uuid::new_v4();
    let bought = SessionEvent { level: "TEAM".into(), ..SessionEvent::paid(holder) };
    assert_eq!(new.deliver(&bought.json()).await.json["processed"], true);
    let next = SessionEvent::paid(holder);
    old.deliver(&next.json()).await.assert_error(503, "UNAVAILABLE");
    for (server, version) in [(&old, 1), (&new, 1), (&new, 2), (&old, 2)] {
        if version == 2 {
            assert_eq!(new.deliver(&next.json()).await.status, 200);
        }
        let read = server.read_at_least(holder, version).await.json;
        assert_eq!((&read["entitlementLevel"], &read["version"]), (&json!("TEAM"), &json!(version)));
    }
}
