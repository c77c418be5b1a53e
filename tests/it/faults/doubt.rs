//! Doubt: the answer to a `COMMIT` is lost. It is taken neither for a failure nor for a success, and the redelivery finds out.

use futures::future::join_all;
use uuid::Uuid;

use super::{PATIENCE, assert_reads, assert_unavailable, deliver, deliver_again, metric, until_shown, until_taken};
use crate::harness::{
    event::SessionEvent,
    eventually,
    proxy::{Loss, Proxy},
    server::{TestServer, World},
};

async fn world() -> (World, Proxy, TestServer) {
    let world = World::new().await;
    let proxy = Proxy::before(&world.database.url()).await;
    let server = world.serve_with(&[("DATABASE_URL", proxy.url())]).await;
    (world, proxy, server)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_no_failure() {
    let (world, proxy, server) = world().await;
    let user = Uuid::new_v4();
    for version in 1..=20 {
        let event = SessionEvent::paid(user);
        // Without a farewell, or in silence until it is given up.
        proxy.lose_commits(if version == 10 { Loss::ReplyInSilence } else { Loss::Reply }, 1);
        assert_unavailable(&server.deliver(&event.json()).await);
        assert_eq!(proxy.lost(), version, "this very commit");
        deliver_again(&server, &event).await;
        assert_reads(&server.read_at_least(user, version as u64).await, "PRO", version);
    }
    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "20");
    assert_eq!(world.database.value("SELECT version FROM entitlement_state").await, "20");
    assert!(metric(&server, "tollgate_ledger_in_doubt_total").await >= 20.0);
}

#[tokio::test]
async fn a_commit_that_is_lost_on_its_way_is_no_success() {
    let (world, proxy, server) = world().await;
    for lost in 1..=10 {
        let event = SessionEvent::paid(Uuid::new_v4());
        proxy.lose_commits(Loss::Request, 1);
        assert_unavailable(&server.deliver(&event.json()).await);
        assert_eq!(proxy.lost(), lost);
        // The server may not have noticed yet that its client is gone, and still hold the user's lock.
        let answer = until_taken(&server, &event).await;
        assert_eq!(answer.json["processed"], true, "nothing had happened: {}", answer.text);
        assert_reads(&server.read(event.user).await, "PRO", 1);
    }
    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "10");
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    eventually(PATIENCE, "no transaction is left open", || async { world.database.value(idle).await == "0" }).await;
}

/// A batch is in doubt as a whole, and each event of it is found out about by itself.
#[tokio::test]
async fn a_batch_in_doubt_has_each_of_its_effects_once() {
    let (world, proxy, server) = world().await;
    let events: Vec<SessionEvent> = (0..64).map(|_| SessionEvent::paid(Uuid::new_v4())).collect();
    proxy.lose_commits(Loss::Reply, 1);
    let answers = join_all(events.iter().map(|event| async { server.deliver(&event.json()).await })).await;
    assert_eq!(proxy.lost(), 1);
    assert!(answers.iter().any(|answer| answer.status != 200));
    for (event, answer) in events.iter().zip(&answers) {
        if answer.status != 200 {
            assert_unavailable(answer);
            until_taken(&server, event).await;
        }
        deliver_again(&server, event).await;
    }
    assert_eq!(world.database.value("SELECT count(*) FROM user_entitlements").await, "64");
    assert_eq!(world.database.value("SELECT count(*) FROM entitlement_state WHERE version = 1").await, "64");
}

/// They were, but only by the comparison every half minute: the commit was known to nobody, and Stripe may take hours to redeliver.
#[tokio::test]
async fn what_a_commit_in_doubt_had_changed_readers_were_not_shown() {
    let (world, proxy, server) = world().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &event).await;
    let next = SessionEvent::paid(event.user);
    proxy.lose_commits(Loss::Reply, 1);
    assert_unavailable(&server.deliver(&next.json()).await);
    until_shown(&world.redis, event.user, 2).await;
    let compared = metric(&server, "tollgate_cache_redriven_total").await;
    assert_eq!(compared, 0.0, "long before the first comparison");
}
