//! A stand-in for Stripe's API, in this process: strict about requests where Stripe is, and able to fail on demand.
//!
//! It implements `POST /v1/checkout/sessions` and `POST /v1/billing_portal/sessions` with the idempotency rules of
//! <https://docs.stripe.com/api/idempotent_requests>, and `GET /v1/checkout/sessions/{id}`, and gives what tests put there of other kinds; everything else is 404. New sessions are
//! checked against the schema in `tests/fixtures/stripe`, made from Stripe's own types.

mod answers;
mod idempotency;
pub(crate) mod schema;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;
use tollgate::sandbox::form;

use self::answers::Answer;
use self::idempotency::{Lookup, Stored};
use super::served::Served;

/// One request as the stand-in received it.
#[derive(Debug, Clone)]
pub(crate) struct RecordedRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// The decoded parameters: `line_items[0][quantity]=1` is `{"line_items": [{"quantity": 1}]}`. Null where the
    /// body is not a form.
    pub(crate) params: Value,
    /// The status it was answered with; `None` for a request left hanging.
    pub(crate) status: Option<u16>,
}

impl RecordedRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A failure to come, used up by one request each.
enum Fault {
    Answer(u16, String),
    Redirect,
    Hang,
}

/// What is asked for.
enum Endpoint {
    Sessions,
    Session(String),
    Object(String),
    Portal,
}

#[derive(Default)]
struct State {
    requests: Vec<RecordedRequest>,
    violations: Vec<String>,
    faults: VecDeque<Fault>,
    stored: idempotency::Store,
    sessions: BTreeMap<String, Value>,
    deleted_customers: BTreeSet<String>,
    /// Answers to other reads, by path.
    objects: BTreeMap<String, Value>,
    url: String,
}

/// A running stand-in. Dropping it stops the server.
pub(crate) struct StandInStripe {
    url: String,
    state: Arc<Mutex<State>>,
    _served: Served,
}

impl StandInStripe {
    /// Starts on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let served = Served::answering(&state, serve).await;
        let address = served.addresses[0];
        let url = format!("http://{address}");
        state.lock().unwrap().url.clone_from(&url);
        Self { url, state, _served: served }
    }

    /// The API base, without `/v1`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All requests so far, in the order in which they came.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.state().requests.clone()
    }

    /// What was wrong with requests that Stripe would not have accepted as they were. A test that expects none
    /// asserts that this is empty.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Answers the next `times` valid requests with this status and body. A 500 or 402 comes from the running
    /// endpoint and is stored under the idempotency key like a success; other statuses (409, 429, 502 ...) come from
    /// before it and are not.
    pub(crate) fn fail_next(&self, status: u16, body: &str, times: usize) {
        self.add_faults(times, || Fault::Answer(status, body.to_owned()));
    }

    /// Never answers the next `times` valid requests, as if they had been lost on their way.
    pub(crate) fn hang_next(&self, times: usize) {
        self.add_faults(times, || Fault::Hang);
    }

    /// Answers the next valid request with a redirect to another path of this server.
    pub(crate) fn redirect_next(&self) {
        self.add_faults(1, || Fault::Redirect);
    }

    /// How many sessions were opened.
    pub(crate) fn sessions_opened(&self) -> usize {
        self.state().sessions.len()
    }

    /// How often somebody asked how a session stands.
    pub(crate) fn fetches(&self) -> usize {
        self.state().requests.iter().filter(|request| request.method == "GET").count()
    }

    /// Has a session go on: these fields of it are as given from now on.
    pub(crate) fn change_session(&self, id: &str, changes: &Value) {
        let mut state = self.state();
        let session = state.sessions.get_mut(id).expect("a session that was opened here");
        for (name, value) in changes.as_object().expect("fields") {
            session[name] = value.clone();
        }
    }

    /// Has this at a path below `/v1/` from now on: an object, or a list whatever it is filtered by.
    pub(crate) fn have(&self, path: &str, object: &Value) {
        self.state().objects.insert(format!("/v1/{path}"), object.clone());
    }

    /// How often something at a path below `/v1/` was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        let path = format!("/v1/{path}");
        self.state().requests.iter().filter(|request| request.path == path).count()
    }

    /// Deletes a customer, whether there was one or not.
    pub(crate) fn delete_customer(&self, id: &str) {
        self.state().deleted_customers.insert(id.to_owned());
    }

    fn add_faults(&self, times: usize, fault: impl Fn() -> Fault) {
        let faults = std::iter::repeat_with(fault).take(times);
        self.state().faults.extend(faults);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn serve(request: HttpRequest, body: web::Bytes, state: web::Data<Mutex<State>>) -> HttpResponse {
    let answer = state.lock().unwrap().answer(&request, &body);
    let Some(answer) = answer else {
        return std::future::pending().await;
    };
    let status = StatusCode::from_u16(answer.status).expect("a status that exists");
    let mut response = HttpResponse::build(status);
    response.content_type("application/json");
    response.insert_header(("request-id", "req_standin"));
    if let Some(location) = &answer.location {
        response.insert_header((LOCATION, location.as_str()));
    }
    if answer.replayed {
        response.insert_header(("idempotent-replayed", "true"));
    }
    response.body(answer.body)
}

impl State {
    /// Records the request and decides its answer; `None` means none, ever.
    fn answer(&mut self, request: &HttpRequest, body: &[u8]) -> Option<Answer> {
        let decoded = form::decode(body).map(|params| schema::with_types(&params)).map_err(|error| error.to_string());
        let answer = self.decide(request, &decoded);
        self.requests.push(RecordedRequest {
            method: request.method().as_str().to_owned(),
            path: request.path().to_owned(),
            headers: plain(request.headers()),
            params: decoded.unwrap_or(Value::Null),
            status: answer.as_ref().map(|answer| answer.status),
        });
        answer
    }

    fn decide(&mut self, request: &HttpRequest, decoded: &Result<Value, String>) -> Option<Answer> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let session = request.path().strip_prefix("/v1/checkout/sessions/");
        let endpoint = match (request.method().as_str(), request.path(), session) {
            ("POST", "/v1/checkout/sessions", _) => Endpoint::Sessions,
            ("POST", "/v1/billing_portal/sessions", _) => Endpoint::Portal,
            ("GET", _, Some(id)) => Endpoint::Session(id.to_owned()),
            ("GET", path, None) if is_read(path) => Endpoint::Object(path.to_owned()),
            _ => return Some(self.violation(404, "unrecognized request URL")),
        };
        let key = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !key.is_some_and(|key| key.starts_with("sk_test_") || key.starts_with("rk_test_")) {
            return Some(self.violation(401, "no test-mode key as bearer token"));
        }
        if request.method() == "POST" && header("content-type") != Some("application/x-www-form-urlencoded") {
            return Some(self.violation(400, "the body is not announced as a form"));
        }
        let params = match decoded {
            Ok(params) => params,
            Err(sentence) => return Some(self.violation(400, sentence)),
        };
        let idempotency_key = header("idempotency-key");
        if idempotency_key.is_some_and(|key| key.is_empty() || key.len() > 255) {
            return Some(self.violation(400, "an idempotency key has 1 to 255 characters"));
        }
        match self.stored.look_up(idempotency_key, params) {
            Lookup::New => {}
            Lookup::Replay(answer) => return Some(answer),
            Lookup::OtherParams => return Some(answers::idempotency_error()),
        }
        let violations = if matches!(endpoint, Endpoint::Sessions) { schema::violations(params) } else { Vec::new() };
        if let Some(first) = violations.first() {
            let answer = answers::invalid_request(400, first);
            self.violations.extend(violations);
            return Some(answer);
        }
        let answer = match self.faults.pop_front() {
            None => self.endpoint(&endpoint, params),
            Some(Fault::Answer(status, body)) => Answer::of(status, body),
            Some(Fault::Redirect) => answers::redirect(format!("{}/elsewhere", self.url)),
            Some(Fault::Hang) => return None,
        };
        if let (Some(key), 200 | 402 | 500) = (idempotency_key, answer.status) {
            let stored = Stored { params: params.clone(), answer: answer.clone() };
            self.stored.keep(key, stored);
        }
        Some(answer)
    }

    fn endpoint(&mut self, endpoint: &Endpoint, params: &Value) -> Answer {
        if params["customer"].as_str().is_some_and(|customer| self.deleted_customers.contains(customer)) {
            return answers::missing(400, "customer");
        }
        match endpoint {
            Endpoint::Sessions => {
                let session = answers::session(params);
                let id = session["id"].as_str().expect("an id").to_owned();
                self.sessions.insert(id, session.clone());
                Answer::of(200, session.to_string())
            }
            Endpoint::Portal => answers::portal(params),
            Endpoint::Session(id) => match self.sessions.get(id) {
                Some(session) => Answer::of(200, session.to_string()),
                None => answers::missing(404, "session"),
            },
            Endpoint::Object(path) => match self.objects.get(path) {
                Some(object) => Answer::of(200, object.to_string()),
                None => answers::missing(404, "id"),
            },
        }
    }

    fn violation(&mut self, status: u16, sentence: &str) -> Answer {
        self.violations.push(sentence.to_owned());
        answers::invalid_request(status, sentence)
    }
}

/// What can be had by [`StandInStripe::have`].
fn is_read(path: &str) -> bool {
    ["subscriptions", "payment_intents", "invoices", "invoice_payments"]
        .iter()
        .any(|kind| path.strip_prefix("/v1/").is_some_and(|path| path.starts_with(kind)))
}

fn plain(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}
