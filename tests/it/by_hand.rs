//! What operators give and take by hand at a running server, over HTTP and with the commands, on both ledgers; and how what came of
//! it is remembered.

use std::process::{Command, Output};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    PATIENCE,
    event::SessionEvent,
    eventually,
    server::{Answer, TestServer, World, client},
    shop::Shop,
};

async fn get(server: &TestServer, user: Uuid, what: &str) -> Answer {
    Answer::of(client().get(server.admin_url(&format!("/api/admin/entitlements/{user}{what}")))).await
}

async fn post(server: &TestServer, user: Uuid, what: &str, body: &Value) -> Answer {
    Answer::of(client().post(server.admin_url(&format!("/api/admin/entitlements/{user}/{what}"))).json(body)).await
}

fn moment(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn gift(id: Uuid) -> Value {
    let until = moment(Utc::now() + TimeDelta::days(400));
    json!({ "id": id, "level": "PRO", "until": until, "operator": "robin", "reason": "a prize" })
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

async fn deliver(server: &TestServer, event: &SessionEvent) {
    let answer = server.deliver(&event.json()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_level_is_given_and_taken_by_hand_on_postgres() {
    let world = World::new().await;
    a_level_is_given_and_taken_by_hand(&world.serve().await).await;
}

#[tokio::test]
async fn a_level_is_given_and_taken_by_hand_in_a_file() {
    a_level_is_given_and_taken_by_hand(&Shop::new().serve().await).await;
}

async fn a_level_is_given_and_taken_by_hand(server: &TestServer) {
    let (user, id) = (Uuid::new_v4(), Uuid::new_v4());
    let wish = gift(id);
    let given = post(server, user, "grants", &wish).await;
    assert_eq!((given.status, &given.json["created"]), (200, &json!(true)), "{}", given.text);
    let grant = &given.json["grant"];
    assert_eq!((&grant["source"], &grant["sourceId"]), (&json!("manual"), &json!(id)));
    assert_eq!((&grant["status"], &grant["periodEnd"]), (&json!("active"), &wish["until"]));
    let read = server.read(user).await.json;
    assert_eq!((&read["entitlementLevel"], &read["version"]), (&json!("PRO"), &json!(1)), "whoever asks then sees it");
    assert_eq!(read["expiresAt"], wish["until"]);

    let again = post(server, user, "grants", &wish).await;
    assert_eq!((again.status, &again.json["created"]), (200, &json!(false)), "a retry is the same grant");
    for (name, value) in [("level", json!("TRIAL")), ("until", json!("2099-01-31T10:00:00Z"))] {
        post(server, user, "grants", &with(&wish, name, value)).await.assert_error(409, "GRANT_ID_TAKEN");
    }
    post(server, Uuid::new_v4(), "grants", &wish).await.assert_error(409, "GRANT_ID_TAKEN");
    assert_eq!(server.read(user).await.json["version"], 1);

    let event = SessionEvent::paid(user);
    deliver(server, &event).await;
    let signed = json!({ "operator": "kim", "reason": "the wrong user" });
    post(server, user, "revocations", &with(&signed, "grant", json!(event.session)))
        .await
        .assert_error(409, "NOT_BY_HAND");
    post(server, user, "revocations", &with(&signed, "grant", json!("nothing"))).await.assert_error(404, "NOT_FOUND");
    let taken = post(server, user, "revocations", &with(&signed, "grant", json!(id))).await;
    assert_eq!((&taken.json["revoked"][0]["sourceId"], taken.status), (&json!(id), 200), "{}", taken.text);
    let read = server.read(user).await.json;
    assert_eq!((&read["entitlementLevel"], &read["version"]), (&json!("PRO"), &json!(3)), "what was bought stays");
    assert_ne!(read["expiresAt"], wish["until"]);
    let taken = post(server, user, "revocations", &with(&signed, "grant", json!(id))).await;
    assert_eq!((taken.status, &taken.json["revoked"]), (200, &json!([])), "a retry takes nothing more");
    let late = post(server, user, "grants", &wish).await;
    assert_eq!((&late.json["created"], &late.json["grant"]["status"]), (&json!(false), &json!("revoked")));

    for _ in 0..2 {
        post(server, user, "grants", &gift(Uuid::new_v4())).await;
    }
    let all = post(server, user, "revocations", &with(&signed, "allManual", json!(true))).await;
    assert_eq!(all.json["revoked"].as_array().map(Vec::len), Some(2), "{}", all.text);

    let history = get(server, user, "/history").await;
    assert_eq!(history.header("cache-control"), Some("private, no-store"));
    let told: Vec<[&Value; 5]> = history.json["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| ["version", "cause", "operator", "reason", "eventId"].map(|name| &entry[name]))
        .collect();
    let (robin, kim, none) = (json!("robin"), json!("kim"), json!(null));
    let (operator, prize, wrong) = (json!("operator"), json!("a prize"), json!("the wrong user"));
    assert_eq!(
        told,
        [
            [&json!(7), &operator, &kim, &wrong, &none],
            [&json!(6), &operator, &kim, &wrong, &none],
            [&json!(5), &operator, &robin, &prize, &none],
            [&json!(4), &operator, &robin, &prize, &none],
            [&json!(3), &operator, &kim, &wrong, &none],
            [&json!(1), &operator, &robin, &prize, &none],
        ],
        "the purchase at 2 changed nothing that anybody could notice"
    );
    let source = &history.json["history"][5]["source"];
    assert_eq!(source, &json!(format!("manual:{id}")));
    let page = get(server, user, "/history?limit=4").await;
    assert_eq!(page.json["next"], 4);
    let rest = get(server, user, "/history?limit=4&before=4").await;
    assert_eq!((rest.json["history"].as_array().map(Vec::len), &rest.json["next"]), (Some(2), &json!(null)));
    eventually(PATIENCE, "who gave it, and why, is logged", || async {
        server.log_lines().iter().any(|line| {
            line["fields"]["message"] == "an operator gave a level by hand"
                && line["fields"]["operator.name"] == "robin"
                && line["fields"]["reason"] == "a prize"
        })
    })
    .await;
}

#[tokio::test]
async fn what_is_not_signed_not_sold_or_over_is_not_given() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let user = Uuid::new_v4();
    let wish = gift(Uuid::new_v4());
    for (name, value) in [
        ("reason", json!("")),
        ("reason", json!("x".repeat(201))),
        ("reason", json!("a\n2026-11-23 an operator gave a level by hand")),
        ("operator", json!("robin\u{1b}[2J")),
        ("operator", json!(null)),
        ("id", json!("7")),
        ("until", json!("tomorrow")),
        ("until", json!("2020-01-31T10:00:00Z")),
        ("quantity", json!(5)),
    ] {
        let refused = post(&server, user, "grants", &with(&wish, name, value.clone())).await;
        assert_eq!((refused.status, &refused.json["code"]), (400, &json!("INVALID_REQUEST")), "{name}: {value}");
    }
    for level in ["GOLD", "FREE", "pro"] {
        post(&server, user, "grants", &with(&wish, "level", json!(level)))
            .await
            .assert_error(400, "INVALID_ENTITLEMENT_LEVEL");
    }
    let signed = json!({ "operator": "robin", "reason": "a mistake" });
    for body in [signed.clone(), with(&with(&signed, "grant", json!("a")), "allManual", json!(true))] {
        post(&server, user, "revocations", &body).await.assert_error(400, "INVALID_REQUEST");
    }
    let from_a_page = client()
        .post(server.admin_url(&format!("/api/admin/entitlements/{user}/grants")))
        .header("Origin", "https://evil.test")
        .json(&wish);
    Answer::of(from_a_page).await.assert_error(403, "FORBIDDEN");
    assert_eq!(server.read(user).await.json["version"], 0);
    assert_eq!(get(&server, user, "/history").await.json, json!({ "history": [], "next": null }));
}

/// Where the application has a table of users, nobody is added to it by hand; and whoever is deleted there leaves no history.
#[tokio::test]
async fn an_applications_users_are_its_own() {
    let world = World::new().await;
    world.database.execute("CREATE TABLE users (id uuid PRIMARY KEY, email text)").await;
    let server = world.serve().await;
    let (user, wish) = (Uuid::new_v4(), gift(Uuid::new_v4()));
    post(&server, user, "grants", &wish).await.assert_error(404, "UNKNOWN_USER");
    world.database.execute(&format!("INSERT INTO users VALUES ('{user}')")).await;
    assert_eq!(post(&server, user, "grants", &wish).await.json["created"], true);
    assert_eq!(get(&server, user, "/history").await.json["history"][0]["version"], 1);
    world.database.execute("DELETE FROM users").await;
    assert_eq!(get(&server, user, "/history").await.json["history"], json!([]));
    assert_eq!(world.database.value("SELECT count(*) FROM entitlement_history").await, "0");
}

/// Sixteen calls of impatient scripts on two replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_for_one_grant_at_once_are_one_grant() {
    let world = World::new().await;
    let (one, two) = tokio::join!(world.serve(), world.serve());
    let (user, wish) = (Uuid::new_v4(), gift(Uuid::new_v4()));
    let calls = (0..16).map(|n| post(if n % 2 == 0 { &one } else { &two }, user, "grants", &wish));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.json["created"] == true).count(), 1);
    for server in [&one, &two] {
        assert_eq!(server.read(user).await.json["version"], 1);
    }
    assert_eq!(world.database.value("SELECT count(*) FROM entitlement_history").await, "1");
}

fn tollgate(server: &TestServer, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .env_clear()
        .env("TOLLGATE_ADMIN_BIND", server.admin.to_string())
        .current_dir(directory.path())
        .output()
        .unwrap()
}

#[track_caller]
fn written(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    std::str::from_utf8(if code == 0 { &output.stdout } else { &output.stderr }).unwrap()
}

#[tokio::test]
async fn the_commands_give_take_and_tell() {
    let shop = Shop::new();
    let server = shop.serve().await;
    let (user, id) = (Uuid::new_v4(), Uuid::new_v4());
    let (of, named) = (user.to_string(), id.to_string());
    let run = |words: &[&str]| tollgate(&server, &[&["entitlements"], words].concat());
    let signed = ["--user", &of, "--reason", "a prize"];
    let robin = ["--operator", "robin"];
    let grant = [&["grant", "--level", "PRO", "--for", "400d", "--id", &named], signed.as_slice(), &robin].concat();

    let unsigned = run(&grant[..grant.len() - 2]);
    assert!(written(&unsigned, 1).contains("--operator NAME"), "{unsigned:?}");
    let given = run(&grant);
    assert!(written(&given, 0).starts_with("granted\nPRO active until "), "{given:?}");
    assert!(written(&given, 0).contains(&format!("manual {named}")), "{given:?}");
    let other = run(&grant);
    assert!(written(&other, 1).contains("GRANT_ID_TAKEN"), "its end is another by now: {other:?}");
    assert_eq!(server.read(user).await.json["entitlementLevel"], "PRO");

    let taken = run(&[&["revoke", "--grant", &named], signed.as_slice(), &robin].concat());
    assert!(written(&taken, 0).starts_with("revoked\nPRO revoked until "), "{taken:?}");
    let again = run(&[&["revoke", "--all-manual"], signed.as_slice(), &robin].concat());
    assert_eq!(written(&again, 0), "nothing was left to revoke\n");
    let unknown = run(&[&["revoke", "--grant", "cs_1"], signed.as_slice(), &robin].concat());
    assert!(written(&unknown, 1).contains("the user has no such grant"), "{unknown:?}");
    assert_eq!(server.read(user).await.json["entitlementLevel"], "FREE");

    let history = run(&["history", "--user", &of]);
    let told = written(&history, 0);
    assert!(told.find("FREE") < told.find("PRO until ") && told.contains("operator  robin  manual:"), "{told}");
    assert_eq!(told.matches("a prize").count(), 2, "{told}");
    assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    let json: Value =
        serde_json::from_str(written(&run(&["history", "--user", &of, "--limit", "1", "--json"]), 0)).unwrap();
    assert_eq!((&json["history"][0]["version"], &json["next"]), (&json!(2), &json!(2)));
    let nobody = run(&["history", "--user", &named]);
    assert_eq!(written(&nobody, 0), "no history\n");
    let down = run(&[grant.as_slice(), &["--admin-url", "http://127.0.0.1:1"]].concat());
    assert!(written(&down, 1).contains(&format!("--id {named} --until ")), "how to ask again is told: {down:?}");
}
