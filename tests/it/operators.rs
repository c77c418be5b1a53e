//! Operators at a running server: what arrived, what is parked, trying it again. Over HTTP and with the commands, on both ledgers.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    server::{Answer, SERVICE_TOKEN, TestServer, World, client},
    shop::Shop,
};

const TOKEN: &str = "an-operators-token-for-tests-only-01";

/// A catalogue that sells GOLD as well.
const WITH_GOLD: &str = r#"
[[plan]]
level = "PRO"
rank = 20
mode = "payment"
amount = 2900
currency = "usd"

[[plan]]
level = "GOLD"
rank = 30
mode = "payment"
amount = 9900
currency = "usd"
"#;

async fn get(server: &TestServer, path: &str) -> Answer {
    Answer::of(client().get(server.admin_url(&format!("/api/admin/{path}")))).await
}

async fn post(server: &TestServer, path: &str, body: &Value) -> Answer {
    Answer::of(client().post(server.admin_url(&format!("/api/admin/{path}"))).json(body)).await
}

fn ids(answer: &Answer) -> Vec<&str> {
    answer.json["events"].as_array().expect("a list").iter().map(|event| event["id"].as_str().unwrap()).collect()
}

fn of_level(level: &str) -> SessionEvent {
    SessionEvent { level: level.into(), ..SessionEvent::paid(Uuid::new_v4()) }
}

async fn deliver(server: &TestServer, event: &SessionEvent) {
    let answer = server.deliver(&event.json()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// Runs a command with these settings and no others, where no `.env` of a developer is read.
fn tollgate(server: &TestServer, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .env_clear()
        .env("TOLLGATE_ADMIN_BIND", server.admin.to_string())
        .envs(settings.iter().copied())
        .current_dir(directory.path())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// What a command wrote, if it ended so.
#[track_caller]
fn written(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    text(&output.stdout)
}

#[tokio::test]
async fn the_inbox_is_looked_at_on_postgres() {
    let world = World::new().await;
    the_inbox_is_looked_at(&world.serve().await).await;
}

#[tokio::test]
async fn the_inbox_is_looked_at_in_a_file() {
    the_inbox_is_looked_at(&Shop::new().serve().await).await;
}

async fn the_inbox_is_looked_at(server: &TestServer) {
    let applied = SessionEvent::paid(Uuid::new_v4());
    let (gold, silver) = (of_level("GOLD"), of_level("SILVER"));
    let nobodys = SessionEvent { metadata: Some(json!({})), ..SessionEvent::paid(Uuid::new_v4()) };
    let unhandled = SessionEvent { kind: "product.updated", ..SessionEvent::paid(Uuid::new_v4()) };
    for event in [&applied, &gold, &silver, &nobodys, &unhandled] {
        deliver(server, event).await;
    }
    let newest_first = [&unhandled, &nobodys, &silver, &gold, &applied].map(|event| event.id.as_str());

    let all = get(server, "events").await;
    assert_eq!((ids(&all), &all.json["next"]), (newest_first.to_vec(), &Value::Null));
    assert_eq!(all.header("cache-control"), Some("private, no-store"));
    assert!(!all.text.contains("\"payload\"") && !all.text.contains("\"metadata\""), "{}", all.text);
    for (query, expected) in [
        ("outcome=parked".to_owned(), &newest_first[1..4]),
        ("outcome=ignored".to_owned(), &newest_first[..1]),
        ("reason=unknown_level".to_owned(), &newest_first[2..4]),
        ("type=product.updated".to_owned(), &newest_first[..1]),
        (format!("user={}", gold.user), &newest_first[3..4]),
        ("since=2099-01-01T00:00:00Z".to_owned(), &[]),
    ] {
        assert_eq!(ids(&get(server, &format!("events?{query}")).await), expected, "{query}");
    }
    let (mut walked, mut query) = (Vec::new(), "events?limit=2".to_owned());
    loop {
        let page = get(server, &query).await;
        walked.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page.json["next"].as_str() else { break };
        query = format!("events?limit=2&cursor={next}");
    }
    assert_eq!(walked, newest_first);
    for wrong in ["outcome=lost", "limit=0", "cursor=1", "page=2"] {
        get(server, &format!("events?{wrong}")).await.assert_error(400, "INVALID_REQUEST");
    }

    let shown = get(server, &format!("events/{}", gold.id)).await;
    assert_eq!((&shown.json["outcome"], &shown.json["reason"]), (&json!("parked"), &json!("unknown_level")));
    assert_eq!(shown.json["payload"]["data"]["object"]["metadata"]["entitlementLevel"], "GOLD");
    assert_eq!(shown.json["explanation"], "parked: metadata.entitlementLevel is not in the catalogue");
    assert_eq!(shown.header("cache-control"), Some("private, no-store"));
    eventually(PATIENCE, "who read the payload is logged", || async {
        server.log_lines().iter().any(|line| {
            line["fields"]["message"] == "an operator read an event's payload"
                && line["fields"]["event.id"] == gold.id.as_str()
                && line["fields"]["operator.address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:"))
        })
    })
    .await;
    assert_eq!(get(server, &format!("events/{}", applied.id)).await.json["payload"], Value::Null);
    get(server, "events/evt_nobody").await.assert_error(404, "NOT_FOUND");

    let summary = get(server, "summary").await.json;
    let received = json!({ "applied": 1, "superseded": 0, "ignored": 1, "parked": 3 });
    assert_eq!(summary["received"], received, "{summary}");
    let parked: Vec<_> =
        summary["parked"].as_array().unwrap().iter().map(|row| (&row["reason"], &row["count"])).collect();
    let expected = [("missing_metadata", 1), ("unknown_level", 2)].map(|(reason, count)| (json!(reason), json!(count)));
    assert_eq!(parked, expected.each_ref().map(|(reason, count)| (reason, count)));
    assert_eq!(summary["liveActors"], 1);

    let user = get(server, &format!("entitlements/{}", applied.user)).await.json;
    assert_eq!((&user["entitlementLevel"], &user["version"]), (&json!("PRO"), &json!(1)));
    assert_eq!(
        (&user["grants"][0]["sourceId"], &user["grants"][0]["status"]),
        (&json!(applied.session), &json!("active"))
    );
    assert_eq!((&user["grants"][0]["eventId"], &user["events"][0]["id"]), (&json!(applied.id), &json!(applied.id)));
    let nobody = get(server, &format!("entitlements/{}", Uuid::new_v4())).await.json;
    assert_eq!((&nobody["entitlementLevel"], &nobody["grants"]), (&json!("FREE"), &json!([])));
    get(server, "entitlements/robin").await.assert_error(400, "INVALID_REQUEST");

    let contract = Answer::of(client().get(server.admin_url("/openapi.json"))).await.json;
    assert!(contract["paths"]["/api/admin/events"]["get"]["tags"] == json!(["admin"]), "{contract}");
}

#[tokio::test]
async fn an_unknown_level_is_replayed_after_a_restart_with_another_catalogue_on_postgres() {
    let world = World::new().await;
    let parked = [(); 3].map(|()| of_level("GOLD"));
    let server = world.serve().await;
    park(&server, &parked).await;
    drop(server);
    // The sweep would try them by itself 30 s after the delivery.
    world.database.execute("UPDATE stripe_events SET attempts = 13, processed_at = now()").await;
    let catalogue = catalogue_with_gold();
    let server = world.serve_with(&[("TOLLGATE_CATALOGUE", catalogue.path().to_str().unwrap())]).await;
    gold_is_replayed(&server, &parked).await;
}

#[tokio::test]
async fn an_unknown_level_is_replayed_after_a_restart_with_another_catalogue_in_a_file() {
    let shop = Shop::new();
    let parked = [(); 3].map(|()| of_level("GOLD"));
    let server = shop.serve().await;
    park(&server, &parked).await;
    server.signal("TERM").await;
    assert_eq!(server.ended().await, 0, "{}", server.log());
    let file = shop.data().join("ledger.sqlite3");
    SqliteConnection::establish(file.to_str().unwrap())
        .unwrap()
        .batch_execute("UPDATE stripe_events SET attempts = 13, processed_at = unixepoch() * 1000000")
        .unwrap();
    let catalogue = catalogue_with_gold();
    let server = shop.serve_with(&[("TOLLGATE_CATALOGUE", catalogue.path().to_str().unwrap())]).await;
    gold_is_replayed(&server.unwrap(), &parked).await;
}

fn catalogue_with_gold() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), WITH_GOLD).unwrap();
    file
}

/// Parks events whose level is unknown; trying them again changes nothing.
async fn park(server: &TestServer, events: &[SessionEvent]) {
    for event in events {
        deliver(server, event).await;
    }
    let still = post(server, &format!("events/{}/replay", events[0].id), &json!({})).await;
    assert_eq!((&still.json["outcome"], &still.json["reason"]), (&json!("parked"), &json!("unknown_level")));
}

async fn gold_is_replayed(server: &TestServer, parked: &[SessionEvent; 3]) {
    let gauge = "tollgate_events_parked{reason=\"unknown_level\"} 3";
    eventually(PATIENCE, "parked events are counted", || async {
        Answer::of(client().get(server.admin_url("/metrics"))).await.text.contains(gauge)
    })
    .await;
    assert_eq!(server.read(parked[0].user).await.json["entitlementLevel"], "FREE");
    let path = format!("events/{}/replay", parked[0].id);
    let replayed = post(server, &path, &json!({})).await;
    assert_eq!((replayed.status, &replayed.json["outcome"]), (200, &json!("applied")), "{}", replayed.text);
    assert_eq!(server.read(parked[0].user).await.json["entitlementLevel"], "GOLD");
    post(server, &path, &json!({})).await.assert_error(409, "NOT_PARKED");

    let other = post(server, "events/replay", &json!({ "reason": "unknown_user" })).await.json;
    assert_eq!((&other["tried"], &other["next"]), (&json!(0), &Value::Null));
    let rest = post(server, "events/replay", &json!({ "reason": "unknown_level" })).await.json;
    let expected = json!({ "tried": 2, "applied": 2, "superseded": 0, "parked": 0, "failed": 0, "next": null });
    assert_eq!(rest, expected);
    for event in parked {
        let user = get(server, &format!("entitlements/{}", event.user)).await.json;
        assert_eq!((&user["entitlementLevel"], &user["version"]), (&json!("GOLD"), &json!(1)), "once each");
    }
    post(server, "events/replay", &json!({ "reasons": "x" })).await.assert_error(400, "INVALID_REQUEST");
    post(server, "events/evt_nobody/replay", &json!({})).await.assert_error(404, "NOT_FOUND");
}

#[tokio::test]
async fn an_unknown_user_is_replayed_when_the_user_has_appeared() {
    let world = World::new().await;
    world.database.execute("CREATE TABLE users (id uuid PRIMARY KEY)").await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &event).await;
    let path = format!("events/{}/replay", event.id);
    let still = post(&server, &path, &json!({})).await;
    assert_eq!((&still.json["outcome"], &still.json["reason"]), (&json!("parked"), &json!("unknown_user")));
    let attempts = get(&server, &format!("events/{}", event.id)).await.json["attempts"].clone();
    assert_eq!(attempts, 1, "the sweep comes no later because an operator tried");

    // The sweep would be as quick.
    world.database.execute("UPDATE stripe_events SET attempts = 13").await;
    world.database.execute(&format!("INSERT INTO users VALUES ('{}')", event.user)).await;
    assert_eq!(post(&server, &path, &json!({})).await.json["outcome"], "applied");
    assert_eq!(server.read(event.user).await.json["entitlementLevel"], "PRO");
}

#[tokio::test]
async fn operators_and_the_sweep_at_once_have_one_effect() {
    let world = World::new().await;
    world.database.execute("CREATE TABLE users (id uuid PRIMARY KEY)").await;
    let server = world.serve().await;
    let event = SessionEvent::paid(Uuid::new_v4());
    deliver(&server, &event).await;
    // Due for the sweep as well.
    world.database.execute("UPDATE stripe_events SET processed_at = '-infinity'").await;
    world.database.execute(&format!("INSERT INTO users VALUES ('{}')", event.user)).await;
    let path = format!("events/{}/replay", event.id);
    let nothing = json!({});
    for answer in futures::future::join_all((0..16).map(|_| post(&server, &path, &nothing))).await {
        let is_settled = answer.json["outcome"] == "applied" || answer.json["code"] == "NOT_PARKED";
        assert!(is_settled, "{}", answer.text);
    }
    let user = get(&server, &format!("entitlements/{}", event.user)).await.json;
    assert_eq!((&user["entitlementLevel"], &user["version"]), (&json!("PRO"), &json!(1)), "{user}");
}

/// More than one call tries: each goes on where the one before ended, past what cannot be applied.
#[tokio::test]
async fn many_are_replayed_in_several_calls() {
    let shop = Shop::new();
    let server = shop.serve().await;
    futures::future::join_all((0..70).map(|_| async { deliver(&server, &of_level("GOLD")).await })).await;
    let first = post(&server, "events/replay", &json!({})).await.json;
    assert_eq!((&first["tried"], &first["parked"]), (&json!(64), &json!(64)), "{first}");
    let second = post(&server, "events/replay", &json!({ "cursor": first["next"] })).await.json;
    assert_eq!((&second["tried"], &second["next"]), (&json!(6), &Value::Null), "{second}");

    let output = tollgate(&server, &[], &["events", "replay", "--all", "--json"]);
    let counts: Value = serde_json::from_str(written(&output, 1)).unwrap();
    assert_eq!((&counts["tried"], &counts["parked"]), (&json!(70), &json!(70)));
    assert!(text(&output.stderr).contains("70 of 70 events could not be applied"), "{output:?}");
}

#[tokio::test]
async fn the_token_is_required_where_one_is_set() {
    let shop = Shop::new();
    let server = shop.serve_with(&[("TOLLGATE_ADMIN_TOKEN", TOKEN)]).await.unwrap();
    let summary = || client().get(server.admin_url("/api/admin/summary"));
    Answer::of(summary()).await.assert_error(401, "UNAUTHORIZED");
    for wrong in [SERVICE_TOKEN, &server.token(Uuid::new_v4())] {
        Answer::of(summary().bearer_auth(wrong)).await.assert_error(401, "UNAUTHORIZED");
    }
    assert_eq!(Answer::of(summary().bearer_auth(TOKEN)).await.status, 200);
    let by_name = summary().bearer_auth(TOKEN).header("Host", "tollgate.internal:3001");
    assert_eq!(Answer::of(by_name.try_clone().unwrap()).await.status, 200, "whoever has the token may use any name");
    let own = by_name.try_clone().unwrap().header("Origin", "https://tollgate.internal:3001");
    assert_eq!(Answer::of(own).await.status, 200);
    Answer::of(by_name.header("Origin", "https://evil.test")).await.assert_error(403, "FORBIDDEN");
    post(&server, "events/replay", &json!({})).await.assert_error(401, "UNAUTHORIZED");
    let public = client().get(server.url("/api/admin/summary")).bearer_auth(TOKEN);
    Answer::of(public).await.assert_error(404, "NOT_FOUND");

    let refused = tollgate(&server, &[], &["events", "list"]);
    assert_eq!(written(&refused, 1), "");
    assert!(text(&refused.stderr).contains("set TOLLGATE_ADMIN_TOKEN to the server's"), "{refused:?}");
    let taken = tollgate(&server, &[("TOLLGATE_ADMIN_TOKEN", TOKEN)], &["events", "list"]);
    assert_eq!(written(&taken, 0), "no events\n");
}

#[tokio::test]
async fn pages_in_an_operators_browser_are_kept_out() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let event = of_level("GOLD");
    deliver(&server, &event).await;
    let replay = || client().post(server.admin_url(&format!("/api/admin/events/{}/replay", event.id)));
    for origin in
        ["https://evil.test", "null", "http://127.0.0.1:1", &format!("http://localhost:{}", server.admin.port())]
    {
        Answer::of(replay().header("Origin", origin)).await.assert_error(403, "FORBIDDEN");
    }
    assert_eq!(Answer::of(replay().header("Origin", server.admin_url(""))).await.status, 200);
    for host in ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "10.0.0.1", "a b", ""] {
        let request = client().get(server.admin_url("/api/admin/events")).header("Host", host);
        let answer = Answer::of(request).await;
        assert!(matches!(answer.status, 400 | 403), "{host}: {}", answer.text);
        assert!(!answer.text.contains("evt_"), "{host}");
    }
    for host in ["localhost:3001", "127.0.0.1", "[::1]:3001"] {
        let request = client().get(server.admin_url("/api/admin/events")).header("Host", host);
        assert_eq!(Answer::of(request).await.status, 200, "{host}");
    }
    let form =
        client().post(server.admin_url("/api/admin/events/replay")).header("Content-Type", "text/plain").body("{}");
    Answer::of(form).await.assert_error(415, "UNSUPPORTED_MEDIA_TYPE");
}

#[tokio::test]
async fn the_commands_list_show_and_replay_on_postgres() {
    let world = World::new().await;
    the_commands_list_show_and_replay(&world.serve().await).await;
}

#[tokio::test]
async fn the_commands_list_show_and_replay_in_a_file() {
    the_commands_list_show_and_replay(&Shop::new().serve().await).await;
}

async fn the_commands_list_show_and_replay(server: &TestServer) {
    let applied = SessionEvent::paid(Uuid::new_v4());
    // What a terminal would obey comes from whoever made the session.
    let hostile = of_level("GOLD\u{1b}[2J\u{9b}");
    for event in [&applied, &hostile] {
        deliver(server, event).await;
    }
    let run = |arguments: &[&str]| tollgate(server, &[], arguments);
    let obeyed = |c: char| c.is_control() && c != '\n';

    let listed = run(&["events", "list", "--since", "2d"]);
    let table = written(&listed, 0);
    assert!(table.contains(&applied.id) && table.contains(&applied.user.to_string()) && table.contains("applied"));
    assert!(table.contains(&hostile.id) && table.contains("unknown_level"), "{table}");
    assert!(table.find(&hostile.id) < table.find(&applied.id), "the newest first");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    let one = run(&["events", "list", "--limit", "1"]);
    assert!(written(&one, 0).ends_with("there are more: say a larger --limit\n"), "{one:?}");

    let user = applied.user.to_string();
    let filtered = run(&["events", "list", "--outcome", "parked", "--reason", "unknown_level", "--json"]);
    let json: BTreeMap<String, Value> = serde_json::from_str(written(&filtered, 0)).unwrap();
    assert_eq!((&json["events"][0]["id"], json["events"].as_array().unwrap().len()), (&json!(hostile.id), 1));
    let of_user = run(&["events", "list", "--user", &user, "--type", "checkout.session.completed"]);
    assert!(written(&of_user, 0).contains(&applied.id) && !text(&of_user.stdout).contains(&hostile.id));

    for arguments in [["events", "show", &hostile.id].as_slice(), &["events", "show", &hostile.id, "--json"]] {
        let shown = run(arguments);
        assert!(written(&shown, 0).contains("GOLD\\u001b[2J\\u009b"), "{shown:?}");
        assert!(!text(&shown.stdout).contains(obeyed), "{shown:?}");
    }
    let unknown = run(&["events", "show", "evt_nobody"]);
    assert_eq!((written(&unknown, 1), text(&unknown.stderr).contains("no such event")), ("", true));

    let replayed = run(&["events", "replay", &hostile.id, &applied.id]);
    let lines = written(&replayed, 1);
    assert!(lines.contains(&format!("{} still parked: unknown_level", hostile.id)), "{lines}");
    assert!(lines.contains(&format!("{} is not parked", applied.id)), "{lines}");
    assert!(text(&replayed.stderr).contains("2 of 2 events could not be applied"), "no bar where nobody sees it");

    let had = run(&["entitlements", "get", &user]);
    let report = written(&had, 0);
    for part in ["PRO until ", "version 1", &applied.session, &applied.id] {
        assert!(report.contains(part), "{part} in {report}");
    }
    let had: Value = serde_json::from_str(written(&run(&["entitlements", "get", &user, "--json"]), 0)).unwrap();
    assert_eq!(had["grants"][0]["sourceId"], applied.session);

    for wrong in [
        ["events", "list", "--outcome", "lost"].as_slice(),
        &["events", "list", "--since", "yesterday"],
        &["events", "replay"],
        &["events", "replay", "--all", &hostile.id],
        &["events", "replay", &hostile.id, "--reason", "unknown_level"],
        &["events", "show", "cs_1"],
        &["entitlements", "get", "robin"],
    ] {
        assert_eq!(written(&run(wrong), 2), "", "{wrong:?}");
    }
    let nobody = run(&["events", "list", "--admin-url", "http://127.0.0.1:1"]);
    assert_eq!(written(&nobody, 1), "");
    assert!(text(&nobody.stderr).contains("is the server running?"), "{nobody:?}");
    let public = format!("http://{}", server.public);
    let elsewhere = run(&["events", "list", "--admin-url", &public]);
    assert!(written(&elsewhere, 1).is_empty() && text(&elsewhere.stderr).contains("NOT_FOUND"), "{elsewhere:?}");
}
