//! The harness keeps its promises: isolation, outages on demand, nothing left behind.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{PostgresServer, RedisServer, TestDatabase, browser::Browser, eventually, until_ok};

const SOON: Duration = Duration::from_secs(20);
const A_MOMENT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn databases_of_two_tests_do_not_see_each_other() {
    let (one, other) = tokio::join!(TestDatabase::new(), TestDatabase::new());
    one.execute("CREATE TABLE things (id int, name text); INSERT INTO things VALUES (1, 'x'), (2, NULL)").await;

    assert_eq!(
        one.query("SELECT id, name FROM things ORDER BY id").await,
        [[Some("1".into()), Some("x".into())], [Some("2".into()), None]]
    );
    let error = other.try_query("SELECT * FROM things").await.expect_err("no such table here");
    assert_eq!(error.code().map(|code| code.code()), Some("42P01"));
    assert_eq!(one.value("SHOW synchronous_commit").await, "on");
}

#[tokio::test]
async fn a_dropped_database_goes_away_although_somebody_is_connected() {
    let observer = TestDatabase::new().await;
    let database = TestDatabase::new().await;
    let _open = database.connect().await.expect("it is there");
    let name = database.value("SELECT current_database()").await;
    let count = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    assert_eq!(observer.value(&count).await, "1");

    drop(database);

    eventually(SOON, "the database is dropped", || async { observer.value(&count).await == "0" }).await;
}

#[tokio::test]
async fn postgres_keeps_port_and_data_over_stop_and_kill() {
    let server = PostgresServer::start_own_with(&[("max_connections", "20")]).await;
    let database = TestDatabase::on(&server).await;
    assert_eq!(database.value("SHOW max_connections").await, "20");
    database.execute("CREATE TABLE things AS SELECT 1 AS id").await;
    let connected = database.connect().await.expect("it is up");

    server.stop().await;
    assert!(database.try_query("SELECT 1").await.is_err(), "nobody listens");
    assert!(connected.simple_query("SELECT 1").await.is_err(), "clients were disconnected");
    server.start().await;
    assert_eq!(database.value("SELECT count(*) FROM things").await, "1");

    database.execute("INSERT INTO things VALUES (2)").await;
    server.sigkill().await;
    assert!(database.try_query("SELECT 1").await.is_err(), "nobody listens");
    server.start().await;
    assert_eq!(database.value("SELECT count(*) FROM things").await, "2");
    assert!(server.log().contains("automatic recovery in progress"));

    server.restart().await;
    assert!(database.url().contains(&server.port().to_string()));
    assert_eq!(database.value("SELECT count(*) FROM things").await, "2");
}

#[tokio::test]
async fn paused_postgres_answers_neither_old_nor_new_clients_until_it_is_resumed() {
    let server = PostgresServer::start_own().await;
    let database = TestDatabase::on(&server).await;
    let connected = database.connect().await.expect("it is up");

    server.pause().await;
    let old = tokio::time::timeout(A_MOMENT, connected.simple_query("SELECT 1")).await;
    assert!(old.is_err(), "an open connection hangs");
    let new = tokio::time::timeout(A_MOMENT, database.try_query("SELECT 1")).await;
    assert!(new.is_err(), "a new connection hangs");

    server.resume().await;
    assert_eq!(database.value("SELECT 1").await, "1");
    connected.simple_query("SELECT 1").await.expect("the old connection lives on");
}

#[tokio::test]
async fn redis_restarts_empty_on_the_same_port() {
    let server = RedisServer::start().await;
    let port = server.port();
    server.set("name", "value").await;
    server.command::<()>(&["HSET", "hash", "field", "1"]).await;
    server.command::<()>(&["SET", "mortal", "x", "EX", "100"]).await;
    assert_eq!(server.get("name").await.as_deref(), Some("value"));
    assert_eq!(server.hgetall("hash").await.get("field").map(String::as_str), Some("1"));
    assert!((90..=100).contains(&server.ttl("mortal").await));
    assert_eq!(server.ttl("name").await, -1);
    assert_eq!(server.keys().await, ["hash", "mortal", "name"]);
    server.flushall().await;
    assert_eq!(server.keys().await, [""; 0]);

    server.set("name", "value").await;
    server.stop().await;
    assert!(server.connect().await.is_err(), "nobody listens");
    server.start_again().await;
    assert_eq!(server.get("name").await, None);

    server.set("name", "value").await;
    server.sigkill().await;
    assert!(server.connect().await.is_err(), "nobody listens");
    server.start_again().await;
    assert_eq!(server.get("name").await, None);

    server.restart().await;
    assert_eq!(server.url(), format!("redis://127.0.0.1:{port}"));
    assert!(server.log().contains("Ready to accept connections"));
}

#[tokio::test]
async fn paused_redis_keeps_its_data_and_answers_when_it_is_resumed() {
    let server = RedisServer::start().await;
    server.set("name", "value").await;

    server.pause().await;
    let answer = tokio::time::timeout(A_MOMENT, server.try_command::<String>(&["GET", "name"])).await;
    assert!(!matches!(answer, Ok(Ok(_))), "a paused server answered");

    server.resume().await;
    assert_eq!(server.get("name").await.as_deref(), Some("value"));
}

#[tokio::test]
async fn two_redis_servers_share_nothing() {
    let (one, other) = tokio::join!(RedisServer::start(), RedisServer::start());
    one.set("name", "value").await;
    assert_eq!(other.get("name").await, None);
}

#[tokio::test]
async fn a_dropped_server_leaves_no_process_and_no_directory_even_when_it_is_paused() {
    let postgres = PostgresServer::start_own().await;
    let redis = RedisServer::start().await;
    let data: PathBuf = TestDatabase::on(&postgres).await.value("SHOW data_directory").await.into();
    let directory: Vec<String> = redis.command(&["CONFIG", "GET", "dir"]).await;
    let directory = PathBuf::from(&directory[1]);
    assert!(data.exists() && directory.exists());

    postgres.pause().await;
    redis.pause().await;
    drop((postgres, redis));

    assert!(!data.exists(), "{} is left", data.display());
    assert!(!directory.exists(), "{} is left", directory.display());
}

#[tokio::test]
async fn a_dropped_browser_leaves_no_process_and_no_directory() {
    let browser = Browser::start().await;
    let directory = browser.directory();
    let name = directory.to_str().expect("a path in UTF-8").to_owned();
    assert!(processes().contains(&name), "the profile's path is an argument of the browser");

    drop(browser);

    assert!(!directory.exists(), "{name} is left");
    let left: Vec<String> = processes().lines().filter(|line| line.contains(&name)).map(str::to_owned).collect();
    assert_eq!(left, [""; 0]);
}

#[tokio::test]
async fn what_a_browser_complains_about_is_heard() {
    let browser = Browser::start().await;
    browser.goto("data:text/html,<script>console.error('ouch')</script>").await;
    browser
        .goto(
            "data:text/html,<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\"><img src=http://127.0.0.1/x>",
        )
        .await;
    let complaints = browser.complaints().await;
    for part in ["ouch", "Content Security Policy"] {
        assert!(complaints.iter().any(|complaint| complaint.contains(part)), "{part} is not in {complaints:#?}");
    }
    browser.assert_no_complaints().await;
}

/// Every process with its arguments, one a line.
fn processes() -> String {
    let listing = Command::new("ps").args(["-A", "-o", "args="]).output().expect("ps runs");
    String::from_utf8_lossy(&listing.stdout).into_owned()
}

#[tokio::test]
async fn a_wait_in_vain_ends_in_time_and_shows_the_last_error() {
    let started = Instant::now();
    let waiting = tokio::spawn(until_ok(A_MOMENT, "pigs fly", || async { Err::<(), _>("no wings") }));
    let panic = waiting.await.expect_err("it panics").into_panic();
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("harness_self.rs"), "{message}");
    assert!(message.ends_with("waiting until pigs fly: no wings"), "{message}");

    let hanging = tokio::spawn(eventually(A_MOMENT, "it ends", std::future::pending));
    assert!(hanging.await.is_err());
    assert!(started.elapsed() < SOON);
}
