//! The command line as others use it: the real binary, its output and its exit codes.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tollgate::{
    auth::SessionVerifier,
    intake::signature::{Tolerance, WebhookSecrets, verify},
};

use crate::harness::{
    TestDatabase,
    server::{JWT_SECRET, WEBHOOK_SECRET, unix_now},
};

const USER: &str = "3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5a";

/// Runs the binary with these settings and no others, where no `.env` of a developer is read.
fn tollgate(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .current_dir(directory.path())
        .output()
        .unwrap()
}

/// The same where a runtime has other things to do meanwhile.
async fn tollgate_aside(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let owned = |text: &&str| (*text).to_owned();
    let settings: BTreeMap<String, String> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let arguments: Vec<String> = arguments.iter().map(owned).collect();
    tokio::task::spawn_blocking(move || {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        tollgate(&settings, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    })
    .await
    .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn a_token_and_nothing_else() {
    let output = tollgate(&[("SUPABASE_JWT_SECRET", JWT_SECRET)], &["token", "--user", USER, "--ttl", "10m"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let token = stdout(&output).strip_suffix('\n').unwrap();
    let session = SessionVerifier::new(&SecretString::from(JWT_SECRET), None).verify(token, unix_now()).unwrap();
    assert_eq!(session.user.to_string(), USER);
    assert!((590..=600).contains(&(session.expires_at - unix_now())));
}

#[test]
fn wrong_settings_and_wrong_arguments_are_told_apart_from_failures() {
    for (arguments, name) in [
        (["token", "--user", USER].as_slice(), "SUPABASE_JWT_SECRET"),
        (&["trigger", "checkout.session.completed", "--user", USER], "STRIPE_WEBHOOK_SECRET"),
        (&["migrate"], "DATABASE_URL"),
    ] {
        let output = tollgate(&[("TOLLGATE_BNID", "x"), ("TOLLGATE_SANDBOX", "false")], arguments);
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{arguments:?}");
        let told = stderr(&output);
        assert!(told.contains(&format!("\n  {name}: expected")), "{told}");
        assert!(told.contains("\n  TOLLGATE_BNID: expected"), "{told}");
    }
    // All that is wrong, at once, also without a command.
    for arguments in [[].as_slice(), &["serve"]] {
        let output = tollgate(&[("TOLLGATE_BIND", "here"), ("TOLLGATE_SANDBOX", "false")], arguments);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        for name in ["TOLLGATE_BIND", "DATABASE_URL", "REDIS_URL", "SUPABASE_JWT_SECRET"] {
            assert!(told.contains(&format!("\n  {name}: ")), "{told}");
        }
    }
    for arguments in [["frobnicate"].as_slice(), &["token", "--user", "robin"]] {
        assert_eq!(tollgate(&[], arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        let output = tollgate(&[], &arguments);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""), "{arguments:?}");
    }
    let unreachable = tollgate(&[("DATABASE_URL", "postgres://u:canary@127.0.0.1:1/db")], &["migrate"]);
    assert_eq!((unreachable.status.code(), stdout(&unreachable)), (Some(1), ""));
    assert!(!stderr(&unreachable).contains("canary"), "{}", stderr(&unreachable));
}

/// Answers each request with the next of these statuses and keeps what came: head and body.
async fn webhook(statuses: &'static [u16]) -> (String, Arc<Mutex<Vec<(String, Bytes)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let (head, body) = loop {
                stream.read_buf(&mut bytes).await.unwrap();
                let text = String::from_utf8_lossy(&bytes);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if Some(body.len()) == length {
                    break (head.to_owned(), Bytes::copy_from_slice(body.as_bytes()));
                }
            };
            seen.lock().unwrap().push((head, body));
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{{\"ok\":true}}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, requests)
}

#[tokio::test]
async fn a_triggered_event_is_signed_and_delivered_again_as_it_is() {
    let (url, requests) = webhook(&[200, 503]).await;
    let rotation = format!("{WEBHOOK_SECRET},whsec_of_yesterday_0123456789");
    let settings = [("STRIPE_WEBHOOK_SECRET", rotation.as_str())];
    let output = tollgate_aside(
        &settings,
        &["trigger", "checkout.session.completed", "--user", USER, "--url", &url, "--times", "2", "--json"],
    )
    .await;
    let lines: Vec<Value> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{output:?}");
    assert_eq!((&lines[0]["status"], &lines[1]["status"]), (&Value::from(200), &Value::from(503)));
    assert_eq!((&lines[0]["delivery"], &lines[0]["body"]["ok"]), (&Value::from(1), &Value::from(true)));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 of 2 deliveries were not accepted"));

    let requests = requests.lock().unwrap();
    let secrets = WebhookSecrets::new(&[SecretString::from(WEBHOOK_SECRET)]).unwrap();
    for (head, body) in requests.iter() {
        assert!(head.starts_with("POST /api/webhooks/stripe HTTP/1.1\r\n"), "{head}");
        let header = head.lines().find_map(|line| line.strip_prefix("stripe-signature: ")).unwrap();
        verify(&secrets, header.as_bytes(), body.clone(), unix_now(), Tolerance::STRIPE).unwrap();
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(event["id"], lines[0]["eventId"]);
    }
    assert_eq!(requests[0].1, requests[1].1, "the same bytes");
}

#[tokio::test]
async fn no_server_is_a_failure() {
    let settings = [("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)];
    let arguments = ["trigger", "checkout.session.expired", "--user", USER, "--url", "http://127.0.0.1:1"];
    let output = tollgate_aside(&settings, &arguments).await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
    assert!(stderr(&output).contains("is the server running?"), "{}", stderr(&output));
    assert!(!stderr(&output).contains(WEBHOOK_SECRET));
}

#[tokio::test]
async fn migrating_tells_what_it_did() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let settings = [("DATABASE_URL", url.as_str())];
    let first = tollgate_aside(&settings, &["migrate", "--json"]).await;
    assert_eq!((first.status.code(), stderr(&first)), (Some(0), ""));
    let done: Value = serde_json::from_str(stdout(&first)).unwrap();
    assert!(!done["applied"].as_array().unwrap().is_empty(), "{done}");
    let second = tollgate_aside(&settings, &["migrate"]).await;
    assert_eq!((second.status.code(), stdout(&second)), (Some(0), "nothing to do: the schema is up to date\n"));
}

#[test]
fn the_interface_is_printed() {
    let output = tollgate(&[], &["openapi"]);
    assert_eq!(output.status.code(), Some(0));
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
}
