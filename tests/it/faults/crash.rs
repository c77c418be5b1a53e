//! The process is killed at a chosen moment: of a webhook's way before the commit, and between the commit and its answer; and of a
//! migration.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, task::JoinHandle, time::sleep};
use tollgate::ledger::postgres::PostgresLedger;
use uuid::Uuid;

use super::{PATIENCE, assert_reads, deliver_again, until_shown};
use crate::{
    harness::{
        TestDatabase,
        event::SessionEvent,
        eventually,
        proxy::{Loss, Proxy},
        server::{Answer, TestServer, World, client},
    },
    ledger::built_in,
};

/// Delivers an event to a server that is going to be killed. Gives the answer, if there is one.
fn deliver_meanwhile(server: &TestServer, event: &SessionEvent) -> JoinHandle<Option<Answer>> {
    let body = serde_json::to_vec(&event.json()).unwrap();
    let signature = server.sign(&body);
    let request = client().post(server.url("/api/webhooks/stripe")).header("Stripe-Signature", signature).body(body);
    tokio::spawn(async move { Answer::try_of(request).await.ok() })
}

async fn kill(server: &TestServer) {
    server.signal("KILL").await;
    server.ended().await;
}

#[tokio::test]
async fn a_kill_before_the_commit_leaves_nothing_and_the_redelivery_has_its_effect() {
    let world = World::new().await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    let other = world.database.connect().await.unwrap();
    // The first statement that writes waits here: `COMMIT` has not been sent.
    other.batch_execute("BEGIN; LOCK TABLE stripe_events IN SHARE MODE").await.unwrap();
    let delivery = deliver_meanwhile(&server, &event);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND \
                 application_name = 'tollgate' AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO stripe_events%'";
    eventually(PATIENCE, "the transaction waits", || async { world.database.value(waits).await != "0" }).await;
    kill(&server).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(delivery.await.unwrap().is_none(), "nothing was claimed");
    assert_eq!(world.database.value("SELECT count(*) FROM stripe_events").await, "0");
    let next = world.serve().await;
    let answer = next.deliver(&event.json()).await;
    assert_eq!(answer.json["processed"], true, "{}", answer.text);
    assert_reads(&next.read(event.user).await, "PRO", 1);
}

#[tokio::test]
async fn a_kill_between_the_commit_and_its_answer_is_made_good_by_the_next_start() {
    let world = World::new().await;
    let proxy = Proxy::before(&world.database.url()).await;
    let server = world.serve_with(&[("DATABASE_URL", proxy.url())]).await;
    eventually(PATIENCE, "the replica has made itself known", || async {
        world.database.value("SELECT count(*) FROM instances").await == "1"
    })
    .await;
    let event = SessionEvent::paid(Uuid::new_v4());
    proxy.lose_commits(Loss::ReplyInSilence, 1);
    let delivery = deliver_meanwhile(&server, &event);
    eventually(PATIENCE, "it is committed", || async {
        world.database.value("SELECT count(*) FROM entitlement_state").await == "1"
    })
    .await;
    kill(&server).await;
    assert_eq!(proxy.lost(), 1);
    assert!(delivery.await.unwrap().is_none_or(|answer| answer.status == 503), "nothing was claimed");
    let next = world.serve().await;
    until_shown(&world.redis, event.user, 1).await;
    deliver_again(&next, &event).await;
    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "1");
}

#[tokio::test]
async fn a_migration_that_is_killed_at_any_moment_is_completed_by_the_next() {
    let (database, whole) = (TestDatabase::new().await, TestDatabase::new().await);
    let proxy = Proxy::before(&database.url()).await;
    // Slow enough to be met in the middle.
    proxy.delay(Duration::from_millis(3));
    let directory = tempfile::tempdir().unwrap();
    let mut killed = 0;
    for moment in 0..10_u64 {
        let mut migration = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("migrate")
            .env_clear()
            .env("DATABASE_URL", proxy.url())
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let connections = proxy.accepted();
        eventually(PATIENCE, "it connects", || async { proxy.accepted() > connections }).await;
        sleep(Duration::from_millis(moment * 15)).await;
        migration.start_kill().unwrap();
        killed += usize::from(!migration.wait().await.unwrap().success());
    }
    assert!(killed > 0);
    for database in [&database, &whole] {
        PostgresLedger::migrate(&database.url(), &built_in()).await.unwrap();
    }
    let schema = "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) AS line \
                  FROM information_schema.columns WHERE table_schema = 'public' \
                  UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' \
                  UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
                  WHERE connamespace = 'public'::regnamespace ORDER BY line";
    assert_eq!(database.query(schema).await, whole.query(schema).await);
}
