//! The shop with a ledger in memory and a Stripe that says what it is told to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use stripe_gateway::GatewayConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        change::{Owner, Subject},
        entitlement::Entitlement,
        event::ParkReason,
        grant::Source,
        id::SubscriptionId,
        plan,
        subscription::{Attributes, Snapshot, Snapshots, SubscriptionStatus},
    },
    ledger::{
        ChangedState, Epoch, InboxEvent, InboxFilter, Instance, KeyClaim, Lane, LedgerError, ParkedCount, ParkedEvent,
        Standing, StoredEvent,
    },
};

/// What checkout needs of a ledger, in memory; everything else is out of reach.
#[derive(Default)]
pub(crate) struct MemoryLedger {
    pub(crate) grants: Mutex<Vec<Grant>>,
    pub(crate) sessions: Mutex<Vec<SessionRecord>>,
    keys: Mutex<HashMap<(UserId, [u8; 32]), KeyClaim>>,
    refuse_sessions: Mutex<bool>,
}

fn unreachable<T>() -> Result<T, LedgerError> {
    Err(LedgerError::Unavailable("only in memory".into()))
}

struct NoLane;

#[async_trait]
impl Lane for NoLane {
    async fn commit(&mut self, _: Vec<crate::ledger::Ticket>) {}
}

#[async_trait]
impl Ledger for MemoryLedger {
    fn epoch(&self) -> Epoch {
        Epoch::new("memory")
    }
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(NoLane)
    }
    async fn entitlement(&self, _: UserId) -> Result<Entitlement, LedgerError> {
        unreachable()
    }
    async fn grants(&self, _: UserId) -> Result<Vec<Grant>, LedgerError> {
        Ok(self.grants.lock().unwrap().clone())
    }
    async fn owner(&self, _: &Subject) -> Result<Owner, LedgerError> {
        unreachable()
    }
    async fn versions(&self, _: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
        unreachable()
    }
    async fn changed_between(
        &self,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: u32,
    ) -> Result<Vec<ChangedState>, LedgerError> {
        unreachable()
    }
    async fn lapsed(&self, _: u32) -> Result<Vec<(UserId, u64)>, LedgerError> {
        unreachable()
    }
    async fn parked_due(&self, _: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
        unreachable()
    }
    async fn events(&self, _: &InboxFilter, _: u32) -> Result<Vec<InboxEvent>, LedgerError> {
        unreachable()
    }
    async fn event(&self, _: &str) -> Result<Option<StoredEvent>, LedgerError> {
        unreachable()
    }
    async fn parked(&self) -> Result<Vec<ParkedCount>, LedgerError> {
        unreachable()
    }
    async fn received_since(&self, _: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError> {
        unreachable()
    }
    async fn levels_in_use(&self) -> Result<Vec<Level>, LedgerError> {
        unreachable()
    }
    async fn levels_lacking(&self, _: &[Level]) -> Result<Vec<Level>, LedgerError> {
        unreachable()
    }
    async fn wake_parked(&self, _: ParkReason) -> Result<usize, LedgerError> {
        unreachable()
    }
    async fn record_session(&self, session: &SessionRecord) -> Result<(), LedgerError> {
        if *self.refuse_sessions.lock().unwrap() {
            return unreachable();
        }
        self.sessions.lock().unwrap().push(session.clone());
        Ok(())
    }
    async fn session(&self, user: UserId, id: &SessionId) -> Result<Option<SessionRecord>, LedgerError> {
        let sessions = self.sessions.lock().unwrap();
        Ok(sessions.iter().find(|session| session.user == user && session.id == *id).cloned())
    }
    async fn claim_key(&self, user: UserId, key_hash: [u8; 32], wish: &str) -> Result<KeyClaim, LedgerError> {
        let mut keys = self.keys.lock().unwrap();
        Ok(keys.entry((user, key_hash)).or_insert(KeyClaim { wish: wish.to_owned(), attempt: 1 }).clone())
    }
    async fn fail_key(&self, user: UserId, key_hash: [u8; 32], attempt: u32) -> Result<(), LedgerError> {
        if let Some(claim) = self.keys.lock().unwrap().get_mut(&(user, key_hash)) {
            claim.attempt = attempt + 1;
        }
        Ok(())
    }
    async fn beat(&self, _: Uuid, _: Duration) -> Result<Vec<Instance>, LedgerError> {
        unreachable()
    }
    async fn instances(&self) -> Result<Vec<Instance>, LedgerError> {
        unreachable()
    }
    async fn forget_instance(&self, _: Uuid) -> Result<(), LedgerError> {
        unreachable()
    }
    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        unreachable()
    }
}

/// Answers every request with the next of the answers, and keeps what was asked.
#[derive(Clone)]
struct Stripe {
    base: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Stripe {
    async fn answering(answers: Vec<(u16, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                let text = loop {
                    request.resize(request.len() + 4096, 0);
                    let start = request.len() - 4096;
                    let read = stream.read(&mut request[start..]).await.unwrap();
                    request.truncate(start + read);
                    let text = String::from_utf8(request.clone()).unwrap();
                    if text.contains("cancel_url") || read == 0 {
                        break text;
                    }
                };
                seen.lock().unwrap().push(text);
                let head =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(body.as_bytes()).await.unwrap();
            }
        });
        Self { base, requests }
    }

    /// The idempotency keys of all requests.
    fn keys(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let key = |request: &String| {
            let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with("idempotency-key: "))?;
            line.split_once(": ").map(|(_, key)| key.to_owned())
        };
        requests.iter().filter_map(key).collect()
    }
}

const OPEN: &str = r#"{"id":"cs_test_1","url":"https://pay.test/1","expires_at":1900000000}"#;
const ERROR: &str = r#"{"error":{"type":"card_error","message":"secret words of Stripe"}}"#;

fn user(number: u128) -> UserId {
    Uuid::from_u128(number).into()
}

pub(crate) fn config(per_minute: u32) -> CheckoutConfig {
    CheckoutConfig {
        per_user_per_minute: per_minute.try_into().unwrap(),
        stripe_timeout: Duration::from_secs(5),
        stripe_attempts: 1,
    }
}

/// A shop without Stripe.
pub(crate) fn closed_shop(ledger: Arc<MemoryLedger>) -> Billing {
    let app_url = "https://app.test/".parse().unwrap();
    Billing::new(None, ledger, plan::tests::catalogue(), &app_url, &config(100))
}

fn shop(stripe: &Stripe, ledger: &Arc<MemoryLedger>) -> Billing {
    let mut settings = GatewayConfig::new("sk_test_0123456789".to_owned().into());
    settings.api_base.clone_from(&stripe.base);
    settings.attempts = 1;
    let app_url = "https://app.test/".parse().unwrap();
    let gateway = StripeGateway::new(settings).unwrap();
    Billing::new(Some(gateway), ledger.clone(), plan::tests::catalogue(), &app_url, &config(100))
}

fn grant(level: &str, kind: SourceKind, status: GrantStatus, period_end: DateTime<Utc>) -> Grant {
    Grant {
        source: Source { kind, id: "id".into() },
        level: Level::parse(level).unwrap(),
        status,
        period_end,
        reported_at: Utc::now(),
        event: None,
        session: SessionId::parse("cs_test_1").ok(),
        payment_intent: None,
        customer: None,
        hold: None,
        snapshots: Snapshots::default(),
    }
}

#[tokio::test]
async fn a_session_is_opened_and_recorded() {
    let (stripe, ledger) = (Stripe::answering(vec![(200, OPEN)]).await, Arc::default());
    let started = shop(&stripe, &ledger).start_checkout(user(1), "PRO", None, None).await.unwrap();
    assert_eq!((started.session_id.as_str(), started.url.as_str()), ("cs_test_1", "https://pay.test/1"));
    assert_eq!(started.expires_at.timestamp(), 1_900_000_000);
    let sessions = ledger.sessions.lock().unwrap();
    assert_eq!((sessions[0].user, sessions[0].level.as_str()), (user(1), "PRO"));
    let request = stripe.requests.lock().unwrap()[0].clone();
    for part in [
        "https://app.test/checkout/success?session_id={CHECKOUT_SESSION_ID}",
        "https://app.test/checkout/cancel",
        "client_reference_id=00000000-0000-0000-0000-000000000001",
        "mode=subscription",
    ] {
        let decoded = percent_encoding::percent_decode_str(&request).decode_utf8().unwrap();
        assert!(decoded.contains(part), "{part} in {decoded}");
    }
}

#[tokio::test]
async fn one_key_one_session() {
    let answers = vec![(200, OPEN), (200, OPEN), (200, OPEN), (200, OPEN)];
    let (stripe, ledger) = (Stripe::answering(answers).await, Arc::default());
    let shop = shop(&stripe, &ledger);
    for key in [Some("k"), Some("k"), None, None] {
        shop.start_checkout(user(1), "PRO", None, key).await.unwrap();
    }
    let keys = stripe.keys();
    assert_eq!(keys[0], keys[1]);
    assert!(keys[1] != keys[2] && keys[2] != keys[3], "{keys:?}");
    assert_eq!(shop.start_checkout(user(1), "TEAM", None, Some("k")).await, Err(CheckoutError::IdempotencyConflict));
    assert_eq!(shop.start_checkout(user(1), "PRO", None, Some("")).await, Err(CheckoutError::InvalidKey));
}

#[tokio::test]
async fn a_stored_failure_gets_another_key_and_a_passing_one_the_same() {
    let answers = vec![(429, ERROR), (402, ERROR), (200, r#"{"id":"odd","url":"","expires_at":1}"#), (200, OPEN)];
    let (stripe, ledger) = (Stripe::answering(answers).await, Arc::default());
    let shop = shop(&stripe, &ledger);
    for _ in 0..3 {
        assert_eq!(shop.start_checkout(user(1), "PRO", None, Some("k")).await, Err(CheckoutError::Stripe));
    }
    shop.start_checkout(user(1), "PRO", None, Some("k")).await.unwrap();
    let keys = stripe.keys();
    assert_eq!(keys[0], keys[1], "429 is not stored");
    assert!(keys[1] != keys[2] && keys[2] != keys[3], "{keys:?}");
}

#[tokio::test]
async fn a_session_that_was_not_recorded_is_given_again() {
    let (stripe, ledger) = (Stripe::answering(vec![(200, OPEN), (200, OPEN)]).await, Arc::<MemoryLedger>::default());
    let shop = shop(&stripe, &ledger);
    *ledger.refuse_sessions.lock().unwrap() = true;
    assert_eq!(shop.start_checkout(user(1), "PRO", None, Some("k")).await, Err(CheckoutError::Unavailable));
    *ledger.refuse_sessions.lock().unwrap() = false;
    assert!(shop.start_checkout(user(1), "PRO", None, Some("k")).await.is_ok());
    let keys = stripe.keys();
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test]
async fn only_what_is_for_sale() {
    let shop = closed_shop(Arc::default());
    for level in ["FREE", "pro", "GOLD", "", "PRO "] {
        assert_eq!(shop.start_checkout(user(1), level, None, None).await, Err(CheckoutError::InvalidLevel), "{level}");
    }
    assert_eq!(shop.start_checkout(user(1), "PRO", None, None).await, Err(CheckoutError::NotConfigured));
}

#[test]
fn nobody_pays_twice() {
    let now = Utc::now();
    let (later, before) = (now + TimeDelta::days(1), now - TimeDelta::days(1));
    let catalogue = plan::tests::catalogue();
    let entitled =
        |level: &str, grant: Grant| is_entitled(&[grant], catalogue.plan(&Level::parse(level).unwrap()).unwrap(), now);
    use GrantStatus::{Active, Pending, Revoked};
    use SourceKind::{Checkout, Subscription};
    assert!(entitled("TRIAL", grant("TRIAL", Checkout, Active, later)));
    assert!(entitled("TRIAL", grant("TRIAL", Checkout, Active, before)), "once per user, also when it is over");
    assert!(!entitled("TRIAL", grant("TRIAL", Checkout, Revoked, later)), "the payment failed");
    assert!(!entitled("TRIAL", grant("PRO", Subscription, Active, later)));
    assert!(entitled("PRO", grant("PRO", Subscription, Active, later)));
    assert!(!entitled("PRO", grant("PRO", Subscription, Active, before)));
    assert!(!entitled("PRO", grant("PRO", Subscription, Pending, later)));
    assert!(!entitled("PRO", grant("PRO", Checkout, Active, later)), "a one-off purchase may become a subscription");
    assert!(!entitled("TEAM", grant("TEAM", Checkout, Active, later)), "a one-off purchase may be repeated");
    assert!(!entitled("PRO", subscribed(SubscriptionStatus::Canceled, "cs_test_1")), "who has left may come back");
    let mut once = catalogue.plan(&Level::parse("PRO").unwrap()).unwrap().clone();
    once.once_per_user = true;
    for (status, was_had) in [
        (SubscriptionStatus::Canceled, true),
        (SubscriptionStatus::Unpaid, true),
        (SubscriptionStatus::IncompleteExpired, false),
    ] {
        assert_eq!(is_entitled(&[subscribed(status, "cs_test_1")], &once, now), was_had, "{status:?}");
    }
}

/// The grant of a subscription to PRO that was bought in this session.
fn subscribed(status: SubscriptionStatus, session: &str) -> Grant {
    let now = Utc::now();
    let snapshot = Snapshot {
        status,
        ends_at: now + TimeDelta::days(1),
        level: Level::parse("PRO").ok(),
        created: now,
        started_at: now,
        values: Attributes::new(),
        before: Attributes::new(),
    };
    let id = SubscriptionId::parse("sub_1").unwrap();
    Grant { session: SessionId::parse(session).ok(), ..Grant::of_subscription(&id, None, snapshot) }
}

#[tokio::test]
async fn how_a_session_stands_whose_subscription_has_gone_on() {
    let ledger = Arc::<MemoryLedger>::default();
    let shop = closed_shop(Arc::clone(&ledger));
    let expires_at = Utc::now();
    let (id, level) = (SessionId::parse("cs_test_1").unwrap(), Level::parse("PRO").unwrap());
    *ledger.sessions.lock().unwrap() =
        vec![SessionRecord { id, user: user(1), level, interval: None, expired: false, expires_at }];
    for (status, state) in [
        (SubscriptionStatus::Active, SessionState::Complete),
        (SubscriptionStatus::Paused, SessionState::Complete),
        (SubscriptionStatus::Canceled, SessionState::Complete),
        (SubscriptionStatus::Incomplete, SessionState::Pending),
        (SubscriptionStatus::IncompleteExpired, SessionState::Expired),
    ] {
        *ledger.grants.lock().unwrap() = vec![subscribed(status, "cs_test_1")];
        assert_eq!(shop.session(user(1), "cs_test_1").await.unwrap().state, state, "{status:?}");
    }
}

#[tokio::test]
async fn how_a_session_stands() {
    let ledger = Arc::<MemoryLedger>::default();
    let shop = closed_shop(Arc::clone(&ledger));
    let now = Utc::now();
    let session = |expired, expires_at| SessionRecord {
        id: SessionId::parse("cs_test_1").unwrap(),
        user: user(1),
        level: Level::parse("PRO").unwrap(),
        interval: None,
        expired,
        expires_at,
    };
    let later = now + TimeDelta::hours(1);
    for (record, status, state, granted) in [
        (session(false, later), None, SessionState::Open, false),
        (session(true, later), None, SessionState::Expired, false),
        (session(false, now), None, SessionState::Expired, false),
        (session(false, now), Some(GrantStatus::Active), SessionState::Complete, true),
        (session(false, later), Some(GrantStatus::Pending), SessionState::Pending, false),
        (session(false, later), Some(GrantStatus::Revoked), SessionState::Expired, false),
    ] {
        *ledger.sessions.lock().unwrap() = vec![record];
        *ledger.grants.lock().unwrap() =
            status.map(|status| grant("PRO", SourceKind::Checkout, status, later)).into_iter().collect();
        let view = shop.session(user(1), "cs_test_1").await.unwrap();
        assert_eq!((view.state, view.granted), (state, granted), "{status:?}");
    }
    for (who, id) in [(user(2), "cs_test_1"), (user(1), "cs_test_2"), (user(1), "../x")] {
        assert_eq!(shop.session(who, id).await, Err(CheckoutError::NotFound), "{id}");
    }
}
