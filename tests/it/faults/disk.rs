//! A disk that is full: a real PostgreSQL on a small one.

use uuid::Uuid;

use super::{PATIENCE, assert_reads, assert_unavailable, deliver, deliver_again, until_taken};
use crate::harness::{PostgresServer, TestDatabase, event::SessionEvent, eventually, server::World};

/// First its tables cannot grow, of which each statement is told; then its log cannot, which ends it.
#[tokio::test]
async fn a_full_disk_is_answered_503_and_loses_nothing_acknowledged() {
    let Some(cluster) = PostgresServer::start_on_small_disk(96).await else { return };
    let world = World { database: TestDatabase::on(&cluster).await, ..World::new().await };
    let server = world.serve().await;
    let known = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &known).await;

    cluster.fill_disk().await;
    let mut taken = Vec::new();
    let refused = loop {
        let event = SessionEvent::paid(Uuid::new_v4());
        let answer = server.deliver(&event.json()).await;
        if answer.status != 200 {
            assert_unavailable(&answer);
            break event;
        }
        taken.push(event);
    };
    assert!(cluster.log().contains("No space left on device"), "{}", cluster.log());
    assert_eq!(assert_reads(&server.read(known.user).await, "PRO", 1), "cache");

    assert!(world.database.try_query("SELECT pg_switch_wal(); SELECT txid_current()").await.is_err());
    eventually(PATIENCE, "it has crashed, and cannot recover", async || !cluster.is_running()).await;
    assert_unavailable(&server.deliver(&refused.json()).await);
    assert_eq!(assert_reads(&server.read(known.user).await, "PRO", 1), "cache");

    cluster.empty_disk().await;
    cluster.start().await;
    until_taken(&server, &refused).await;
    for event in &taken {
        deliver_again(&server, event).await;
        assert_reads(&server.read_at_least(event.user, 1).await, "PRO", 1);
    }
    let once = "SELECT count(*) FROM entitlement_state WHERE version <> 1";
    assert_eq!(world.database.value(once).await, "0", "each has had its effect once");
}
