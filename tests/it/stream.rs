//! `GET /api/entitlements/stream`: every change reaches who watches, from wherever it comes and whatever is down meanwhile.

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use tollgate::{
    auth,
    cache::{Cache, MemoryCache, MemorySettings},
    domain::{entitlement::Entitlement, id::UserId, level::Level},
    ledger::Ledger,
    reader::{EntitlementReader, ReadSource},
    watch::{self, Hub, Watch},
};
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    scripted::ScriptedLedger,
    server::{Answer, JWT_SECRET, SERVICE_TOKEN, TestServer, World, client, session_token, unix_now},
    shop::Shop,
    until_ok,
};

const STREAM: &str = "/api/entitlements/stream";

/// One event.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

impl Event {
    pub(crate) fn version_and_level(&self) -> (Option<u64>, &str) {
        assert_eq!((self.name.as_str(), self.id), ("entitlement", self.data["version"].as_u64()), "{self:?}");
        (self.id, self.data["entitlementLevel"].as_str().unwrap())
    }
}

/// Somebody who watches.
pub(crate) struct Stream {
    response: reqwest::Response,
    text: String,
}

fn request(server: &TestServer, token: &str, query: &str) -> reqwest::RequestBuilder {
    client().get(server.url(&format!("{STREAM}{query}"))).bearer_auth(token)
}

impl Stream {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self { response, text: String::new() }
    }

    pub(crate) async fn open(server: &TestServer, user: Uuid) -> Self {
        Self::of(request(server, &server.token(user), "")).await
    }

    /// The next event; `None` at the end. What keeps the stream alive is passed over.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if let Some(data) = field("data:") {
                    return Some(Event {
                        name: field("event:").unwrap().to_owned(),
                        id: field("id:").map(|id| id.parse().unwrap()),
                        data: serde_json::from_str(data).unwrap(),
                    });
                }
            }
            let bytes = self.response.chunk().await.expect("the stream is not broken off")?;
            self.text += std::str::from_utf8(&bytes).unwrap();
        }
    }

    /// Asserts that this is what comes next.
    #[track_caller]
    fn shows(&mut self, version: u64, level: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let event = self.next().await.unwrap_or_else(|| panic!("{caller}: the stream has ended"));
            assert_eq!(event.version_and_level(), (Some(version), level), "{caller}");
        }
    }
}

async fn metric(server: &TestServer, name: &str) -> Option<f64> {
    let metrics = Answer::of(client().get(server.admin_url("/metrics"))).await.text;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// From here on nothing but Redis tells this replica of what others do.
async fn subscribed(server: &TestServer) {
    eventually(PATIENCE, "the replica listens to the others", || async {
        metric(server, "tollgate_streams_subscribed ").await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn first_comes_the_present_state_and_then_each_change() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let mut stream = Stream::open(&server, user).await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(stream.response.headers()[name], value);
    }
    assert!(stream.response.headers().contains_key("x-request-id"));
    stream.shows(0, "FREE").await;

    server.deliver(&SessionEvent::paid(user).json()).await;
    let mut event = stream.next().await.unwrap();
    assert_eq!(event.version_and_level(), (Some(1), "PRO"));
    let mut read = server.read(user).await.json;
    for answer in [&mut event.data, &mut read] {
        assert!(answer.as_object_mut().unwrap().remove("source").is_some());
    }
    assert_eq!(event.data, read, "the same JSON as a read's");

    server.deliver(&SessionEvent::paid(Uuid::new_v4()).json()).await;
    server.deliver(&SessionEvent::paid(user).json()).await;
    stream.shows(2, "PRO").await;
    let counted = "tollgate_http_request_duration_seconds_count{route=\"/api/entitlements/stream\"} ";
    assert_eq!(metric(&server, counted).await, Some(1.0), "it was answered when it began");
    assert_eq!(metric(&server, "tollgate_streams_open ").await, Some(1.0));
    drop(stream);
    eventually(PATIENCE, "its place is free", || async {
        metric(&server, "tollgate_streams_open ").await == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn what_another_replica_does_is_announced_by_redis() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    let user = Uuid::new_v4();
    let mut stream = Stream::open(&two, user).await;
    stream.shows(0, "FREE").await;
    subscribed(&two).await;
    for version in 1..=3 {
        one.deliver(&SessionEvent::paid(user).json()).await;
        stream.shows(version, "PRO").await;
    }
    // Another environment on the same Redis.
    let announcement = format!("{user} 99 another-epoch");
    world.redis.command::<i64>(&["PUBLISH", "entitlements:changed", &announcement]).await;
    world.redis.command::<i64>(&["PUBLISH", "entitlements:changed", "nonsense"]).await;
    one.deliver(&SessionEvent::paid(user).json()).await;
    stream.shows(4, "PRO").await;
}

#[tokio::test]
async fn nothing_is_missed_while_redis_is_away() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    let user = Uuid::new_v4();
    let mut stream = Stream::open(&two, user).await;
    stream.shows(0, "FREE").await;
    subscribed(&two).await;
    world.redis.sigkill().await;
    one.deliver(&SessionEvent::paid(user).json()).await;
    stream.shows(1, "PRO").await;
    world.redis.start_again().await;
    subscribed(&two).await;
    one.deliver(&SessionEvent::paid(user).json()).await;
    stream.shows(2, "PRO").await;
}

#[tokio::test]
async fn where_redis_forbids_the_channel_the_ledger_is_asked() {
    let world = World::new().await;
    world.redis.command::<()>(&["ACL", "SETUSER", "default", "resetchannels"]).await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    let user = Uuid::new_v4();
    let mut stream = Stream::open(&two, user).await;
    stream.shows(0, "FREE").await;
    one.deliver(&SessionEvent::paid(user).json()).await;
    stream.shows(1, "PRO").await;
    assert_eq!(
        world.redis.get(&format!("entitlements:{user}")).await.as_deref(),
        Some("PRO"),
        "it is written all the same"
    );
    assert_eq!(metric(&two, "tollgate_streams_subscribed ").await, None);
}

#[tokio::test]
async fn replicas_without_redis_ask_the_ledger() {
    let world = World::new().await;
    let memory = [("REDIS_URL", ""), ("TOLLGATE_CACHE", "memory")];
    let (one, two) = tokio::join!(world.serve_with(&memory), world.serve_with(&memory));
    let user = Uuid::new_v4();
    let mut stream = Stream::open(&two, user).await;
    stream.shows(0, "FREE").await;
    for version in 1..=2 {
        one.deliver(&SessionEvent::paid(user).json()).await;
        stream.shows(version, "PRO").await;
    }
}

#[tokio::test]
async fn a_shop_in_one_process_tells_by_itself() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let user = Uuid::new_v4();
    let mut stream = Stream::open(&server, user).await;
    stream.shows(0, "FREE").await;
    server.deliver(&SessionEvent::paid(user).json()).await;
    stream.shows(1, "PRO").await;
}

#[tokio::test]
async fn the_end_of_a_level_is_told() {
    let world = World::new().await;
    let server = world.serve().await;
    // A trial of seven days, bought seven days less two seconds ago.
    let created = unix_now() - 7 * 86_400 + 2;
    let event = SessionEvent { level: "TRIAL".into(), created, ..SessionEvent::paid(Uuid::new_v4()) };
    let mut stream = Stream::open(&server, event.user).await;
    stream.shows(0, "FREE").await;
    server.deliver(&event.json()).await;
    stream.shows(1, "TRIAL").await;
    stream.shows(2, "FREE").await;
}

/// A watch in this process, over a ledger of the test's own.
fn watch_on(ledger: &ScriptedLedger) -> (Hub, Watch) {
    let cache: Cache = MemoryCache::new(MemorySettings::default()).into();
    let ledger: Arc<dyn Ledger> = Arc::new(ledger.clone());
    let hub = Hub::new(10);
    let reader = EntitlementReader::new(cache, Arc::clone(&ledger), Duration::from_millis(50), 4);
    (hub.clone(), Watch::new(hub, reader, ledger))
}

fn state(level: &str, version: u64) -> Entitlement {
    Entitlement { level: Level::parse(level).unwrap(), expires_at: None, quantity: 1, version }
}

#[tokio::test]
async fn after_the_end_of_a_level_it_is_looked_for_what_follows_without_being_told() {
    let ledger = ScriptedLedger::new();
    let (_hub, watch) = watch_on(&ledger);
    let user = UserId::from(Uuid::new_v4());
    let end = Utc::now() + TimeDelta::milliseconds(100);
    ledger.write(user, Entitlement { expires_at: Some(end), ..state("TRIAL", 1) });
    let (mut following, first) = watch.follow(user, None).await.unwrap();
    assert_eq!(first.unwrap().entitlement.version, 1);
    // Another replica's sweep, of which nobody is told.
    ledger.write(user, state("FREE", 2));
    assert_eq!(following.next().await.entitlement, state("FREE", 2));
}

/// A second tab, opened while the cache is behind: what the first was told of was no news to be waited for.
#[tokio::test]
async fn who_comes_later_knows_what_others_were_told() {
    let ledger = ScriptedLedger::new();
    let (hub, watch) = watch_on(&ledger);
    let user = UserId::from(Uuid::new_v4());
    ledger.write(user, state("TRIAL", 1));
    let (_first_tab, _) = watch.follow(user, None).await.unwrap();
    // Read, and in the cache, in a task of its own.
    eventually(PATIENCE, "the cache answers", || async {
        watch.follow(user, None).await.unwrap().1.unwrap().source == ReadSource::Cache
    })
    .await;
    ledger.write(user, state("PRO", 2));
    hub.tell(user, &ledger.epoch(), 2);
    let (mut second_tab, first) = watch.follow(user, None).await.unwrap();
    assert_eq!(first.unwrap().entitlement, state("TRIAL", 1), "the cache is behind");
    assert_eq!(second_tab.next().await.entitlement, state("PRO", 2));
}

#[tokio::test]
async fn who_is_slow_finds_the_newest_state_only() {
    let ledger = ScriptedLedger::new();
    let (hub, watch) = watch_on(&ledger);
    let user = UserId::from(Uuid::new_v4());
    let (mut following, first) = watch.follow(user, None).await.unwrap();
    assert_eq!(first.unwrap().entitlement.version, 0);
    for version in 1..=100 {
        ledger.write(user, state("PRO", version));
        hub.tell(user, &ledger.epoch(), version);
    }
    assert_eq!(following.next().await.entitlement.version, 100);
    ledger.write(user, state("PRO", 101));
    hub.tell(user, &ledger.epoch(), 99);
    hub.tell(user, &ledger.epoch(), 101);
    assert_eq!(following.next().await.entitlement.version, 101, "never an older one, never the same again");
}

/// A ledger that was failed over with loss, or restored: what it lacks was shown, and is taken back.
#[tokio::test]
async fn another_ledgers_state_is_told_although_its_version_is_older() {
    let ledger = ScriptedLedger::new();
    let (hub, watch) = watch_on(&ledger);
    let user = UserId::from(Uuid::new_v4());
    ledger.write(user, state("PRO", 5));
    let (mut following, first) = watch.follow(user, Some(4)).await.unwrap();
    assert_eq!(first.unwrap().entitlement.version, 5);
    let nobody_to_hear = MemoryCache::new(MemorySettings::default()).into();
    let listening = tokio::spawn(watch::listen(hub.clone(), nobody_to_hear, Arc::new(ledger.clone())));
    ledger.write(user, state("TRIAL", 2));
    ledger.set_epoch("second");
    assert_eq!(following.next().await.entitlement, state("TRIAL", 2));
    hub.stop();
    listening.await.unwrap();
}

/// The ledger answers, and is another one before the answer is there: the old one's version counted as the new one's.
#[tokio::test]
async fn an_answer_of_the_ledger_before_hid_what_the_next_one_has() {
    let ledger = ScriptedLedger::new();
    let (hub, watch) = watch_on(&ledger);
    let user = UserId::from(Uuid::new_v4());
    ledger.write(user, state("PRO", 5));
    let (mut following, _) = watch.follow(user, None).await.unwrap();
    ledger.write(user, state("PRO", 6));
    hub.tell(user, &ledger.epoch(), 6);
    assert_eq!(following.next().await.entitlement.version, 6);
    ledger.close_gate();
    let nobody_to_hear = MemoryCache::new(MemorySettings::default()).into();
    let listening = tokio::spawn(watch::listen(hub.clone(), nobody_to_hear, Arc::new(ledger.clone())));
    eventually(PATIENCE, "the versions are asked for", async || ledger.versions_asked_for() == 1).await;
    ledger.write(user, state("TRIAL", 2));
    ledger.set_epoch("second");
    ledger.open_gate();
    let next = tokio::time::timeout(PATIENCE, following.next()).await.expect("it is told");
    assert_eq!(next.entitlement, state("TRIAL", 2));
    hub.stop();
    listening.await.unwrap();
}

#[tokio::test]
async fn who_begins_to_watch_while_the_ledger_is_replaced_is_told_what_the_next_one_has() {
    let ledger = ScriptedLedger::new();
    let (_hub, watch) = watch_on(&ledger);
    let user = UserId::from(Uuid::new_v4());
    ledger.write(user, state("PRO", 5));
    ledger.close_gate();
    let begun = tokio::spawn(async move { watch.follow(user, None).await.unwrap() });
    eventually(PATIENCE, "the state is read", async || ledger.reads() == [user]).await;
    ledger.write(user, state("TRIAL", 2));
    ledger.set_epoch("second");
    ledger.open_gate();
    let (mut following, first) = begun.await.unwrap();
    let mut newest = first.unwrap().entitlement;
    if newest.version == 5 {
        newest = tokio::time::timeout(PATIENCE, following.next()).await.expect("it is told").entitlement;
    }
    assert_eq!(newest, state("TRIAL", 2));
}

#[tokio::test]
async fn what_was_had_is_not_told_again() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    let token = session_token(user);
    server.deliver(&SessionEvent::paid(user).json()).await;
    let mut by_query = Stream::of(request(&server, &token, "?minVersion=1")).await;
    let mut by_header = Stream::of(request(&server, &token, "").header("Last-Event-ID", "1")).await;
    let mut behind = Stream::of(request(&server, &token, "?minVersion=0").header("Last-Event-ID", "x")).await;
    behind.shows(1, "PRO").await;
    server.deliver(&SessionEvent::paid(user).json()).await;
    for stream in [&mut by_query, &mut by_header, &mut behind] {
        stream.shows(2, "PRO").await;
    }
    let mut anothers = Stream::of(request(&server, &token, "?minVersion=99")).await;
    anothers.shows(2, "PRO").await;
    for wrong in ["?minVersion=x", "?minVersion=", "?version=1"] {
        Answer::of(request(&server, &token, wrong)).await.assert_error(400, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn the_stream_ends_with_its_token() {
    let world = World::new().await;
    let server = world.serve().await;
    let user = Uuid::new_v4();
    // A token is taken for some seconds beyond its end, since clocks differ.
    let nearly_over = auth::issue(&JWT_SECRET.into(), None, user.into(), Duration::ZERO, unix_now() - 2).unwrap();
    let mut stream = Stream::of(request(&server, &nearly_over, "")).await;
    stream.shows(0, "FREE").await;
    let last = stream.next().await.unwrap();
    assert_eq!((last.name.as_str(), last.data), ("end", json!({ "reason": "token" })));
    assert_eq!(stream.next().await, None);
    Answer::of(request(&server, &nearly_over, "")).await.assert_error(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn whose_stream_it_is_decides_the_token() {
    let world = World::new().await;
    let server = world.serve().await;
    for token in ["nonsense", SERVICE_TOKEN] {
        Answer::of(request(&server, token, "")).await.assert_error(401, "UNAUTHORIZED");
    }
    Answer::of(client().get(server.url(STREAM))).await.assert_error(401, "UNAUTHORIZED");
    Answer::of(client().post(server.url(STREAM))).await.assert_error(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn so_many_may_watch_and_no_more() {
    let world = World::new().await;
    let server = world.serve_with(&[("TOLLGATE_STREAMS_MAX", "9")]).await;
    let (user, other) = (Uuid::new_v4(), Uuid::new_v4());
    let mut tabs = Vec::new();
    for _ in 0..8 {
        tabs.push(Stream::open(&server, user).await);
    }
    let refused = Answer::of(request(&server, &session_token(user), "")).await;
    refused.assert_error(429, "RATE_LIMITED");
    assert!(refused.header("retry-after").is_some());
    let _other = Stream::open(&server, other).await;
    Answer::of(request(&server, &session_token(Uuid::new_v4()), "")).await.assert_error(503, "UNAVAILABLE");
    tabs.pop();
    let token = session_token(user);
    let mut again = until_ok(PATIENCE, "there is room again", || async {
        let response = request(&server, &token, "").send().await.unwrap();
        if response.status() == 200 { Ok(Stream { response, text: String::new() }) } else { Err(response.status()) }
    })
    .await;
    again.shows(0, "FREE").await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_streams() {
    let world = World::new().await;
    // Longer than a test may take.
    let server = world.serve_with(&[("TOLLGATE_SHUTDOWN_TIMEOUT", "10m")]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = Stream::open(&server, Uuid::new_v4()).await;
        stream.shows(0, "FREE").await;
        streams.push(stream);
    }
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0, "{}", server.log());
    for mut stream in streams {
        let last = stream.next().await.unwrap();
        assert_eq!((last.name.as_str(), last.data), ("end", json!({ "reason": "stopping" })));
        assert_eq!(stream.next().await, None);
    }
}
