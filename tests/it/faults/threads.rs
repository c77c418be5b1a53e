//! A thread that is held up: that each of them is watched. What that shows is tried where one can be held up (`actors`).

use super::PATIENCE;
use crate::harness::{
    eventually,
    server::{Answer, World, client},
};

#[tokio::test]
async fn every_thread_that_serves_tells_how_late_it_wakes() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_HTTP_WORKERS", "1"), ("TOLLGATE_ACTOR_THREADS", "1")]).await;
    eventually(PATIENCE, "each has woken twice", async || {
        let metrics = Answer::of(client().get(server.admin_url("/metrics"))).await.text;
        ["main", "http", "actors"].iter().all(|thread| {
            let count = format!("tollgate_thread_delay_seconds_count{{thread=\"{thread}\"}} ");
            let woken = metrics.lines().find_map(|line| line.strip_prefix(&count)?.parse::<u32>().ok());
            woken.is_some_and(|woken| woken >= 2)
        })
    })
    .await;
}
