//! Faults of the stores and of the way to them, made on real servers: nothing is lost, nothing is guessed, and it comes back by itself.
//! docs/FAULTS.md is the table of all of them.

mod clock;
mod cold;
mod crash;
mod disk;
mod doubt;
mod log;
#[cfg(feature = "fail-points")]
mod points;
#[cfg(feature = "fail-points")]
mod poison;
mod postgres;
mod redis;
#[cfg(feature = "fail-points")]
mod replicas;
mod rolling;
mod threads;

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::harness::{
    RedisServer,
    event::SessionEvent,
    eventually,
    server::{Answer, TestServer, client},
    until_ok,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Asserts a 503 that says when to come again.
#[track_caller]
fn assert_unavailable(answer: &Answer) {
    answer.assert_error(503, "UNAVAILABLE");
    let seconds = answer.header("retry-after").expect("it says when to come again");
    assert!(seconds.parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{seconds}");
}

/// Asserts a level, and gives where it is from.
#[track_caller]
fn assert_reads(answer: &Answer, level: &str, version: usize) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json["entitlementLevel"], level, "{}", answer.text);
    assert_eq!(answer.json["version"], version, "{}", answer.text);
    answer.json["source"].as_str().unwrap().to_owned()
}

/// Delivers an event that nobody has had before.
async fn deliver(server: &TestServer, event: &SessionEvent) {
    let answer = server.deliver(&event.json()).await;
    assert_eq!((answer.status, answer.json["processed"].as_bool()), (200, Some(true)), "{}", answer.text);
}

/// Delivers an event that has had its effect.
async fn deliver_again(server: &TestServer, event: &SessionEvent) {
    let answer = until_taken(server, event).await;
    assert_eq!(answer.json, json!({ "ok": true, "idempotent": true }), "{}", answer.text);
}

/// Delivers an event until it is taken, as Stripe does. Gives the answer to the last delivery.
async fn until_taken(server: &TestServer, event: &SessionEvent) -> Answer {
    until_ok(PATIENCE, "the event is taken", || async {
        let answer = server.deliver(&event.json()).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.text) }
    })
    .await
}

/// Waits until applications that read Redis find this version, with nobody asking for it.
async fn until_shown(redis: &RedisServer, user: Uuid, version: usize) {
    let meta = format!("{{entitlements:{user}}}:meta");
    let version = version.to_string();
    eventually(PATIENCE, "readers of Redis are shown it without a request", || async {
        let Ok(mut connection) = redis.connect().await else { return false };
        let mut get = ::redis::cmd("HGET");
        get.arg(&meta).arg("version");
        get.query_async::<Option<String>>(&mut connection).await.is_ok_and(|found| found.as_ref() == Some(&version))
    })
    .await;
}

async fn metric(server: &TestServer, name: &str) -> f64 {
    let metrics = Answer::of(client().get(server.admin_url("/metrics"))).await.text;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}
