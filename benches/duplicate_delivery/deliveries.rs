//! What is delivered: paid Checkout Sessions as Stripe writes them, and requests with them as bytes.

use std::sync::Arc;

use secrecy::SecretString;
use tollgate::intake::signature;
use uuid::Uuid;

use crate::harness::server::{WEBHOOK_SECRET, session_token, unix_now};

/// An event of the newest API version with all its fields, indented as Stripe sends it. What differs between events is replaced.
const FIXTURE: &str = include_str!("../../tests/fixtures/stripe/events/checkout.session.completed.payment.endive.json");

const EVENT: &str = "evt_1FxE08QmTollgateTest";
const USER: &str = "3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5a";
const SESSION: &str = "cs_test_b1EPay8dKq2ZrWvYpLmNt5XhGfEs";
const PAYMENT_INTENT: &str = "pi_3FxEPayQm7Ty";
const LEVEL: &str = r#""TEAM""#;
const CREATED: &str = "1790000062";

/// One event: a user has bought PRO in a session of its own.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) user: Uuid,
    body: Arc<str>,
}

/// Makes events that were never made before.
pub(crate) struct Mint {
    template: String,
    made: u64,
}

impl Mint {
    pub(crate) fn new() -> Self {
        for varying in [EVENT, USER, SESSION, PAYMENT_INTENT, LEVEL, CREATED] {
            assert!(FIXTURE.contains(varying), "the fixture has changed: {varying} is not in it");
        }
        Self { template: FIXTURE.replace(CREATED, &unix_now().to_string()).replace(LEVEL, r#""PRO""#), made: 0 }
    }

    /// So many events, of which each user gets `per_user`.
    pub(crate) fn events(&mut self, count: usize, per_user: usize) -> Vec<Event> {
        let mut user = Uuid::new_v4();
        (0..count)
            .map(|index| {
                if index % per_user == 0 {
                    user = Uuid::new_v4();
                }
                self.event(user)
            })
            .collect()
    }

    fn event(&mut self, user: Uuid) -> Event {
        self.made += 1;
        let number = self.made;
        let id = format!("evt_bench{number:015}");
        let body = self
            .template
            .replace(EVENT, &id)
            .replace(USER, &user.to_string())
            .replace(SESSION, &format!("cs_test_b1bench{number:021}"))
            .replace(PAYMENT_INTENT, &format!("pi_bench{number:07}"));
        Event { id, user, body: body.into() }
    }
}

/// The size of a body, for the report.
pub(crate) fn body_bytes() -> usize {
    FIXTURE.len()
}

/// Webhook requests, signed now. They are good for five minutes.
pub(crate) fn webhooks(events: &[Event]) -> Arc<Vec<Vec<u8>>> {
    let secret = SecretString::from(WEBHOOK_SECRET);
    let now = unix_now();
    let request = |event: &Event| {
        let body = event.body.as_bytes();
        let signature = signature::sign(&secret, now, body);
        let mut request = format!(
            "POST /api/webhooks/stripe HTTP/1.1\r\nHost: bench\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n\
             Accept: */*; q=0.5, application/xml\r\nCache-Control: no-cache\r\nContent-Type: application/json; charset=utf-8\r\n\
             Content-Length: {}\r\nStripe-Signature: {signature}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        request
    };
    Arc::new(events.iter().map(request).collect())
}

/// Requests of users for their own entitlements, with session tokens.
pub(crate) fn reads(users: &[Uuid]) -> Arc<Vec<Vec<u8>>> {
    let request = |user: &Uuid| {
        let token = session_token(*user);
        format!("GET /api/entitlements HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
    };
    Arc::new(users.iter().map(request).collect())
}

/// A request without anything to check.
pub(crate) fn bare_get() -> Arc<Vec<Vec<u8>>> {
    Arc::new(vec![b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n".to_vec()])
}
