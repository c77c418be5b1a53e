//! A tiny server that webhooks are sent to: it keeps what comes and answers as it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Bytes, Data},
};
use secrecy::SecretString;
use serde_json::Value;
use tollgate::intake::signature::{Tolerance, WebhookSecrets, verify};

use super::PATIENCE;
use crate::harness::{eventually, served::Served, server::unix_now};

/// A delivery as it came.
#[derive(Debug, Clone)]
pub(super) struct Got {
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Bytes,
}

impl Got {
    pub(super) fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn kind(&self) -> String {
        self.event()["type"].as_str().unwrap().to_owned()
    }

    /// Asserts that the service would take it.
    #[track_caller]
    pub(super) fn assert_signed(&self, secret: &str) {
        let secrets = WebhookSecrets::new(&[SecretString::from(secret)]).unwrap();
        let header = self.headers["stripe-signature"].as_bytes();
        verify(&secrets, header, self.body.clone(), unix_now(), Tolerance::STRIPE).unwrap();
    }
}

/// How a delivery is answered.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Status(u16, &'static str),
    /// Elsewhere on this server.
    Redirect,
    Hang,
}

#[derive(Default)]
struct Book {
    got: Vec<Got>,
    /// Used up one by one; then 200.
    replies: VecDeque<Reply>,
}

/// A running receiver. Dropping it stops it.
pub(super) struct Receiver {
    pub(super) url: String,
    book: Arc<Mutex<Book>>,
    _served: Served,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let served = Served::answering(&book, receive).await;
        Self { url: format!("http://{}/hook", served.addresses[0]), book, _served: served }
    }

    pub(super) fn reply(&self, replies: &[Reply]) {
        self.book.lock().unwrap().replies.extend(replies.iter().cloned());
    }

    pub(super) fn got(&self) -> Vec<Got> {
        self.book.lock().unwrap().got.clone()
    }

    /// Waits until so many have come, and gives them in the order in which they came.
    pub(super) async fn after(&self, count: usize) -> Vec<Got> {
        eventually(PATIENCE, "deliveries have come", || async { self.got().len() >= count }).await;
        self.got()
    }
}

async fn receive(request: HttpRequest, body: Bytes, book: Data<Mutex<Book>>) -> HttpResponse {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers =
        request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect();
    let reply = {
        let mut book = book.lock().unwrap();
        book.got.push(Got { headers, body });
        book.replies.pop_front()
    };
    match reply {
        None => HttpResponse::Ok().body(r#"{"ok":true,"idempotent":false}"#),
        Some(Reply::Status(status, body)) => HttpResponse::build(StatusCode::from_u16(status).unwrap()).body(body),
        Some(Reply::Redirect) => HttpResponse::TemporaryRedirect().insert_header(("location", "/elsewhere")).finish(),
        Some(Reply::Hang) => std::future::pending().await,
    }
}
