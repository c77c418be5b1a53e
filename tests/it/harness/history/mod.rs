//! What clients did and saw, and what was left at the end; [`check`] tells from both whether anything was lost, done twice or made up.
//!
//! An operation is written down when it begins and when it ends, from any number of tasks at once. Times are of one monotonic clock, so that
//! what ended before something else began is known to have. Where a check fails, all of it is written as JSON lines.

pub(crate) mod check;
#[cfg(test)]
mod check_tests;
mod end_state;

use std::{
    io::Write,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::RequestBuilder;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub(crate) use self::check::{Bounds, Violation};
pub(crate) use self::end_state::{Change, EndState, Grant, InboxRow, Mark, Shown, State};
use super::server::{Answer, SERVICE_TOKEN, TestServer, client};

/// What a client wanted.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum What {
    /// An event, with the hash of its object.
    Deliver { event: String, user: Option<Uuid>, object: String },
    /// A user's state, never older than a version.
    Read { user: Uuid, min_version: Option<u64> },
}

/// What the service said of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Claim {
    /// It had its effect now.
    Processed,
    /// It was there before.
    Idempotent,
    /// It is kept until it can be applied.
    Parked,
    /// It is in the ledger, and changed nothing.
    Recorded,
}

/// One operation of one client.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Operation {
    pub(crate) id: usize,
    pub(crate) client: usize,
    pub(crate) replica: usize,
    #[serde(flatten)]
    pub(crate) what: What,
    /// Since the history began.
    pub(crate) invoked: Duration,
    /// The same; without, nobody knows what became of it.
    pub(crate) returned: Option<Duration>,
    pub(crate) status: Option<u16>,
    pub(crate) outcome: Option<Claim>,
    pub(crate) version: Option<u64>,
    pub(crate) level: Option<String>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

/// See the [module](self).
pub(crate) struct History {
    began: Instant,
    began_at: DateTime<Utc>,
    operations: Mutex<Vec<Operation>>,
}

/// All operations of a history, and when it began.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) began_at: DateTime<Utc>,
    pub(crate) operations: Vec<Operation>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), began_at: Utc::now(), operations: Mutex::default() }
    }

    /// The clock of its times: for when a fault began and ended.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Delivers an event through a replica. `None` if there was no answer.
    pub(crate) async fn deliver(
        &self,
        client_id: usize,
        replica: usize,
        server: &TestServer,
        event: &Value,
    ) -> Option<Answer> {
        let object = &event["data"]["object"];
        let what = What::Deliver {
            event: event["id"].as_str().expect("an event has an id").to_owned(),
            user: object["metadata"]["userId"].as_str().and_then(|user| user.parse().ok()),
            object: hex::encode(Sha256::digest(serde_json::to_vec(object).expect("JSON"))),
        };
        let body = serde_json::to_vec(event).expect("JSON");
        let signature = server.sign(&body);
        let request = client().post(server.url("/api/webhooks/stripe")).header("Stripe-Signature", signature);
        self.ask(client_id, replica, what, request.body(body)).await
    }

    /// Reads a user's state from a replica. `None` if there was no answer.
    pub(crate) async fn read(
        &self,
        client_id: usize,
        replica: usize,
        server: &TestServer,
        user: Uuid,
        min_version: Option<u64>,
    ) -> Option<Answer> {
        let at_least = min_version.map_or_else(String::new, |version| format!("?minVersion={version}"));
        let request = client().get(server.url(&format!("/api/entitlements/{user}{at_least}")));
        self.ask(client_id, replica, What::Read { user, min_version }, request.bearer_auth(SERVICE_TOKEN)).await
    }

    /// Sends a request that is an operation.
    pub(crate) async fn ask(
        &self,
        client_id: usize,
        replica: usize,
        what: What,
        request: RequestBuilder,
    ) -> Option<Answer> {
        let id = self.begin(client_id, replica, what);
        let answer = Answer::try_of(request).await.ok();
        self.end(id, answer.as_ref());
        answer
    }

    /// Notes that an operation begins, and gives its id.
    pub(crate) fn begin(&self, client: usize, replica: usize, what: What) -> usize {
        let mut operations = self.operations();
        let id = operations.len();
        operations.push(Operation {
            id,
            client,
            replica,
            what,
            invoked: self.now(),
            returned: None,
            status: None,
            outcome: None,
            version: None,
            level: None,
            expires_at: None,
        });
        id
    }

    /// Notes what an operation was answered, if it was.
    pub(crate) fn end(&self, id: usize, answer: Option<&Answer>) {
        let Some(answer) = answer else { return };
        let returned = self.now();
        let json = &answer.json;
        let mut operations = self.operations();
        let operation = &mut operations[id];
        operation.returned = Some(returned);
        operation.status = Some(answer.status);
        operation.outcome = claim(json);
        operation.version = json["version"].as_u64();
        operation.level = json["entitlementLevel"].as_str().map(str::to_owned);
        operation.expires_at = json["expiresAt"].as_str().and_then(|end| end.parse().ok());
    }

    /// What has happened so far.
    pub(crate) fn record(&self) -> Record {
        Record { began_at: self.began_at, operations: self.operations().clone() }
    }

    fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer claims, whatever its status.
fn claim(json: &Value) -> Option<Claim> {
    match (json["idempotent"].as_bool(), json["processed"].as_bool(), json["parked"].as_bool()) {
        (Some(true), ..) => Some(Claim::Idempotent),
        (_, Some(true), _) => Some(Claim::Processed),
        (.., Some(true)) => Some(Claim::Parked),
        (_, Some(false), _) => Some(Claim::Recorded),
        _ => json["ok"].as_bool().map(|_| Claim::Recorded),
    }
}

/// Panics if there are violations, with the first of them; the whole history and the end state are then in
/// `histories/<name>.jsonl` in the target directory.
#[track_caller]
pub(crate) fn assert_none(violations: &[Violation], name: &str, record: &Record, end: &EndState) {
    if violations.is_empty() {
        return;
    }
    let path = write(name, record, end).expect("the target directory can be written to");
    let first: Vec<String> = violations.iter().take(10).map(ToString::to_string).collect();
    panic!("{} violations, all of it is in {}:\n{}", violations.len(), path.display(), first.join("\n"));
}

fn write(name: &str, record: &Record, end: &EndState) -> std::io::Result<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("histories");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{name}.jsonl"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    for operation in &record.operations {
        writeln!(file, "{}", serde_json::to_string(operation)?)?;
    }
    writeln!(file, "{}", serde_json::to_string(end)?)?;
    file.flush()?;
    Ok(path)
}
