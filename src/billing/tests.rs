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

use super::{standing::refusal, *};
use crate::{
    domain::{
        change::{Owner, Subject},
        entitlement::Entitlement,
        event::ParkReason,
        grant::{Grant, GrantStatus, Source, SourceKind},
        id::{CustomerId, EventId, SubscriptionId},
        plan,
        subscription::{Attributes, Snapshot, Snapshots, SubscriptionStatus},
    },
    ledger::{
        ChangedState, Epoch, Fetch, FetchCount, FetchEnd, HistoryEntry, InboxEvent, InboxFilter, Instance, KeyClaim,
        Lane, Lapsed, LedgerError, ParkedCount, ParkedEvent, SessionRecord, Standing, StoredEvent, TryEnd,
    },
};

mod sell_tests;

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
    async fn history(&self, _: UserId, _: Option<u64>, _: u32) -> Result<Vec<HistoryEntry>, LedgerError> {
        Ok(vec![])
    }

    async fn owner(&self, _: &Subject) -> Result<Owner, LedgerError> {
        unreachable()
    }
    async fn versions(&self, _: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
        Ok(Vec::new())
    }
    async fn changed_between(
        &self,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: u32,
    ) -> Result<Vec<ChangedState>, LedgerError> {
        unreachable()
    }
    async fn lapsed(&self, _: Option<Lapsed>, _: u32) -> Result<Vec<Lapsed>, LedgerError> {
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
    async fn park_for(&self, _: &EventId, _: ParkReason) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn begin_try(&self, _: &EventId, _: bool) -> Result<Option<u32>, LedgerError> {
        Ok(Some(1))
    }

    async fn end_try(&self, _: &EventId, _: TryEnd) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn count_panic(&self, _: &EventId) -> Result<u32, LedgerError> {
        Ok(1)
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
    async fn session_opened_by(&self, user: UserId, key: &str) -> Result<Option<SessionRecord>, LedgerError> {
        let sessions = self.sessions.lock().unwrap();
        let is_it = |session: &&SessionRecord| session.user == user && session.opened_by.as_deref() == Some(key);
        Ok(sessions.iter().find(is_it).cloned())
    }
    async fn customer(&self, _: UserId) -> Result<Option<CustomerId>, LedgerError> {
        Ok(self.grants.lock().unwrap().iter().find_map(|grant| grant.customer.clone()))
    }
    async fn claim_key(
        &self,
        user: UserId,
        key_hash: [u8; 32],
        wish: &str,
        attempt: u32,
    ) -> Result<KeyClaim, LedgerError> {
        let mut keys = self.keys.lock().unwrap();
        Ok(keys.entry((user, key_hash)).or_insert(KeyClaim { wish: wish.to_owned(), attempt }).clone())
    }
    async fn move_key(&self, user: UserId, key_hash: [u8; 32], from: u32, to: u32) -> Result<(), LedgerError> {
        let mut keys = self.keys.lock().unwrap();
        if let Some(claim) = keys.get_mut(&(user, key_hash)).filter(|claim| claim.attempt == from) {
            claim.attempt = to;
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
    async fn fetches_due(&self, _: u32, _: Duration) -> Result<Vec<Fetch>, LedgerError> {
        unreachable()
    }
    async fn end_fetch(&self, _: &Fetch, _: FetchEnd) -> Result<(), LedgerError> {
        unreachable()
    }
    async fn find_lapsing(&self, _: u32) -> Result<(), LedgerError> {
        unreachable()
    }
    async fn fetches(&self) -> Result<Vec<FetchCount>, LedgerError> {
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
const OTHER: &str = r#"{"id":"cs_test_2","url":"https://pay.test/2","expires_at":1900000000}"#;
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
    let is_entitled = |grants: &[Grant], plan| refusal(grants, plan, now) == Some(CheckoutError::AlreadyEntitled);
    let entitled =
        |level: &str, grant: Grant| is_entitled(&[grant], catalogue.plan(&Level::parse(level).unwrap()).unwrap());
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
        assert_eq!(is_entitled(&[subscribed(status, "cs_test_1")], &once), was_had, "{status:?}");
    }
}

#[test]
fn what_still_renews_or_is_being_paid_is_not_sold_again() {
    let now = Utc::now();
    let catalogue = plan::tests::catalogue();
    let pro = catalogue.plan(&Level::parse("PRO").unwrap()).unwrap();
    let refused = |grant: Grant, at| refusal(&[grant], pro, at);
    let much_later = now + TimeDelta::days(20);
    for (status, reason) in [
        (SubscriptionStatus::PastDue, Some(CheckoutError::AlreadyEntitled)),
        (SubscriptionStatus::Unpaid, Some(CheckoutError::AlreadyEntitled)),
        (SubscriptionStatus::Incomplete, Some(CheckoutError::PaymentPending)),
        (SubscriptionStatus::Paused, None),
        (SubscriptionStatus::Active, None),
        (SubscriptionStatus::Canceled, None),
    ] {
        assert_eq!(refused(subscribed(status, "cs_test_1"), much_later), reason, "{status:?}, beyond its end");
    }
    let pending = |level| grant(level, SourceKind::Checkout, GrantStatus::Pending, now);
    assert_eq!(refused(pending("PRO"), now), Some(CheckoutError::PaymentPending));
    assert_eq!(refused(pending("TEAM"), now), None, "another level");
    assert_eq!(refused(pending("PRO"), now + TimeDelta::days(61)), None, "it does not come any more");
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
        quantity: None,
        fetched_at: None,
    };
    let id = SubscriptionId::parse("sub_1").unwrap();
    Grant { session: SessionId::parse(session).ok(), ..Grant::of_subscription(&id, None, snapshot) }
}

#[tokio::test]
async fn how_a_session_stands_whose_subscription_has_gone_on() {
    let ledger = Arc::<MemoryLedger>::default();
    let shop = closed_shop(Arc::clone(&ledger));
    let expires_at = Utc::now();
    let id = SessionId::parse("cs_test_1").unwrap();
    *ledger.sessions.lock().unwrap() = vec![recorded(false, expires_at)];
    for (status, state) in [
        (SubscriptionStatus::Active, SessionState::Complete),
        (SubscriptionStatus::Paused, SessionState::Complete),
        (SubscriptionStatus::Canceled, SessionState::Complete),
        (SubscriptionStatus::Incomplete, SessionState::Pending),
        (SubscriptionStatus::IncompleteExpired, SessionState::Expired),
    ] {
        *ledger.grants.lock().unwrap() = vec![subscribed(status, "cs_test_1")];
        let look = shop.look(user(1), &id).await.unwrap();
        assert_eq!((look.view.state, look.is_settled), (state, state != SessionState::Pending), "{status:?}");
    }
}

#[tokio::test]
async fn how_a_session_stands() {
    let ledger = Arc::<MemoryLedger>::default();
    let shop = closed_shop(Arc::clone(&ledger));
    let now = Utc::now();
    let later = now + TimeDelta::hours(1);
    for (expired, expires_at, status, state, is_settled) in [
        (false, later, None, SessionState::Open, false),
        (true, later, None, SessionState::Expired, true),
        (false, now, None, SessionState::Expired, false),
        (false, now, Some(GrantStatus::Active), SessionState::Complete, true),
        (false, later, Some(GrantStatus::Pending), SessionState::Pending, false),
        (false, later, Some(GrantStatus::Revoked), SessionState::Expired, true),
    ] {
        *ledger.sessions.lock().unwrap() = vec![recorded(expired, expires_at)];
        *ledger.grants.lock().unwrap() =
            status.map(|status| grant("PRO", SourceKind::Checkout, status, later)).into_iter().collect();
        let look = shop.look(user(1), &recorded(expired, later).id).await.unwrap();
        assert_eq!((look.view.state, look.is_settled), (state, is_settled), "{status:?}");
        assert_eq!(look.view.granted, state == SessionState::Complete);
    }
    for (who, id) in [(user(2), "cs_test_1"), (user(1), "cs_test_2")] {
        let look = shop.look(who, &SessionId::parse(id).unwrap()).await;
        assert_eq!(look.map(|look| look.view), Err(CheckoutError::NotFound), "{id}");
    }
}

fn recorded(expired: bool, expires_at: DateTime<Utc>) -> SessionRecord {
    SessionRecord {
        id: SessionId::parse("cs_test_1").unwrap(),
        user: user(1),
        level: Level::parse("PRO").unwrap(),
        interval: None,
        expired,
        expires_at,
        url: None,
        opened_by: None,
    }
}
