//! A log that nobody reads: its pipe is full, and whoever writes to it waits for ever.

use std::time::Instant;

use uuid::Uuid;

use super::{PATIENCE, assert_reads, deliver, metric};
use crate::harness::{
    event::SessionEvent,
    eventually,
    server::{TestServer, World},
};

/// With so many lines waiting, the log's own end wrote to the output that it waited for.
#[tokio::test]
async fn a_log_that_nobody_reads_kept_the_server_from_ending() {
    let world = World::new().await;
    let mut settings = world.settings();
    settings.extend([("TOLLGATE_LOG", "trace")].map(|(name, value)| (name.into(), value.into())));
    let server = TestServer::start_unread(&settings).await.unwrap_or_else(|log| panic!("{log}"));
    let b = Instant::now();
    eventually(PATIENCE, "lines are dropped", async || {
        let served = (0..50).map(|_| async {
            let event = SessionEvent::paid(Uuid::new_v4());
            deliver(&server, &event).await;
            assert_reads(&server.read(event.user).await, "PRO", 1);
        });
        futures::future::join_all(served).await;
        metric(&server, "tollgate_log_lines_dropped_total").await > 0.0
    })
    .await;
    eprintln!("{:?}", b.elapsed());
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0);
}
