//! Delivers events as Stripe does: signed at the time of sending, again and again until 2xx, in no promised order.
//!
//! Deliveries are independent of each other: an endpoint that does not answer holds up no other, and no other event. What is
//! pending is in the file, so a restart goes on where it was.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use reqwest::{Client, redirect::Policy};
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Delivery, Pace, SandboxError, clocks,
    events::{self, now, now_ms},
    objects::{Endpoint, Event},
    state::{Pending, Shared, State},
};
use crate::{activity::Step, intake::signature};

/// As long as Stripe is believed to wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Most attempts at one endpoint at a time.
const AT_ONCE_MAX: usize = 16;
/// How much of an answer is looked at.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// How long the courier sleeps at most: clocks are set.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Sends events.
pub(super) struct Courier {
    shared: Arc<Shared>,
    client: Client,
    /// Signs for the service's own endpoint.
    own_secret: SecretString,
    pace: Pace,
}

/// What is to be sent now.
#[derive(Default)]
struct Work {
    deliveries: Vec<String>,
    /// Deliveries of events that were held, newest event first.
    overtaken: Vec<Vec<String>>,
    /// When there is more to do, in Unix milliseconds.
    next: Option<i64>,
}

/// One attempt, with all that it needs.
struct Parcel {
    event: Event,
    url: String,
    secret: SecretString,
    /// Which attempt of its delivery it is, from 1.
    attempt: usize,
}

impl Courier {
    pub(super) fn new(shared: Arc<Shared>, own_secret: SecretString, pace: Pace) -> anyhow::Result<Self> {
        let client = Client::builder()
            .user_agent("Stripe/1.0 (+https://stripe.com/docs/webhooks)")
            .timeout(ANSWER_WITHIN)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            // Endpoints are on this machine, and a connection belongs to the thread that opened it.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { shared, client, own_secret, pace })
    }

    /// Delivers what becomes due, and expires sessions, until it is dropped.
    pub(super) async fn run(self: &Arc<Self>) {
        loop {
            let (work, _kept_later) = self.shared.change(|state| {
                let has_more = clocks::step(state, now());
                state.forget_old(now());
                (take_work(state, now_ms()), has_more)
            });
            let (work, has_more) = work;
            for id in work.deliveries {
                tokio::spawn(Arc::clone(self).attempt(id));
            }
            if !work.overtaken.is_empty() {
                tokio::spawn(Arc::clone(self).overtake(work.overtaken));
            }
            if has_more {
                // One thing at a time: each is kept by itself.
                tokio::task::yield_now().await;
                continue;
            }
            let pause = work.next.map_or(PAUSE_MAX, |next| millis(next.saturating_sub(now_ms())).min(PAUSE_MAX));
            // Whether time or a change ended the wait: both are looked at.
            let _woken = timeout(pause, self.shared.changed.notified()).await;
        }
    }

    /// Sends events in the given order; each one goes out once the one before has been answered, or has had its time.
    async fn overtake(self: Arc<Self>, events: Vec<Vec<String>>) {
        for deliveries in events {
            let attempts = deliveries.into_iter().map(|id| tokio::spawn(Arc::clone(&self).attempt(id)));
            let _answered_in_time = timeout(self.pace.hold, join_all(attempts)).await;
        }
    }

    /// One attempt of a delivery.
    async fn attempt(self: Arc<Self>, id: String) {
        let (begun, receipt) = self.shared.change(|state| self.begin(state, &id));
        let Some((parcel, endpoint)) = begun else {
            // Its endpoint is gone, or switched off.
            let ((), _kept_later) = self.shared.change(|state| drop_delivery(state, &id));
            self.shared.answered.notify_waiters();
            return;
        };
        // Nobody hears of an event that a restart would not know.
        let answer = match receipt.kept().await {
            Ok(()) => self.post(&parcel).await.ok(),
            Err(_) => None,
        };
        // If this is lost, the event is delivered once more.
        let ((), _kept_later) = self.shared.change(|state| {
            tell(state, &parcel, answer.as_ref());
            self.settle(state, &id, &endpoint, answer.is_some_and(|answer| answer.is_success()));
        });
        // A place is free, whatever was written.
        self.shared.changed.notify_one();
        self.shared.answered.notify_waiters();
    }

    /// What a delivery needs. The event is written once more, so that the receipt is about it.
    fn begin(&self, state: &mut State, id: &str) -> Option<(Parcel, String)> {
        let pending = state.pending.get(id)?;
        let endpoint = state.endpoints.get(&pending.endpoint)?.clone();
        let event = state.events.get(&pending.event)?.clone();
        let attempt = pending.failed.saturating_add(1);
        if !endpoint.enabled {
            return None;
        }
        let (url, secret) = self.address(state, &endpoint)?;
        state.put(event.clone());
        Some((Parcel { event, url, secret, attempt }, endpoint.id))
    }

    fn address(&self, state: &State, endpoint: &Endpoint) -> Option<(String, SecretString)> {
        let url = state.url(endpoint)?.to_owned();
        let secret = endpoint.target.as_ref().map_or_else(|| self.own_secret.clone(), |to| to.secret.clone().into());
        Some((url, secret))
    }

    /// After an attempt: done, due again, or given up.
    fn settle(&self, state: &mut State, id: &str, endpoint: &str, succeeded: bool) {
        end_under_way(state, endpoint);
        let Some(mut pending) = state.pending.get(id).cloned() else { return };
        if succeeded {
            state.remove::<Pending>(id);
            if let Some(mut event) = state.events.get(&pending.event).cloned() {
                event.undelivered = event.undelivered.saturating_sub(1);
                state.put(event);
            }
        } else if let Some(pause) = self.pace.retries.get(pending.failed) {
            pending.failed = pending.failed.saturating_add(1);
            pending.due = now_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
            state.due.insert((pending.due, pending.id.clone()));
            state.put(pending);
        } else {
            tracing::warn!(event = pending.event, "the sandbox has given up a delivery");
            state.remove::<Pending>(id);
        }
    }

    async fn post(&self, parcel: &Parcel) -> Result<Delivery, reqwest::Error> {
        let body = parcel.event.body();
        let mut response = self
            .client
            .post(&parcel.url)
            .header("Content-Type", "application/json; charset=utf-8")
            .header("Stripe-Signature", signature::sign(&parcel.secret, now(), &body))
            .body(body)
            .send()
            .await?;
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while let Some(piece) = response.chunk().await? {
            answer.extend_from_slice(&piece);
            if answer.len() >= ANSWER_BYTES_MAX {
                answer.truncate(ANSWER_BYTES_MAX);
                break;
            }
        }
        Ok(Delivery { status, body: String::from_utf8_lossy(&answer).into_owned() })
    }

    /// Delivers an event once more to the service's own endpoint, or else to the first that takes it. Nothing pending is
    /// touched: as at Stripe, a delivery by hand stops no retries.
    pub(super) async fn redeliver(&self, id: &str) -> Result<Delivery, SandboxError> {
        let (begun, receipt) = self.shared.change(|state| -> Result<Parcel, SandboxError> {
            let event = state.events.get(id).ok_or(SandboxError::UnknownEvent)?.clone();
            let takes = |endpoint: &&Endpoint| endpoint.takes(&event.kind) && state.url(endpoint).is_some();
            let taker = state.endpoints.iter().filter(takes).min_by_key(|endpoint| endpoint.target.is_some());
            let no_taker = || SandboxError::Undelivered("no endpoint takes it".to_owned());
            let (url, secret) = taker.and_then(|taker| self.address(state, taker)).ok_or_else(no_taker)?;
            state.put(event.clone());
            Ok(Parcel { event, url, secret, attempt: 1 })
        });
        let parcel = begun?;
        receipt.kept().await.map_err(|error| SandboxError::Undelivered(error.to_string()))?;
        let outcome = self.post(&parcel).await;
        tell(&self.shared.look(), &parcel, outcome.as_ref().ok());
        outcome.map_err(|error| SandboxError::Undelivered(innermost(&error)))
    }
}

impl Delivery {
    const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// Takes out what is due and may go.
fn take_work(state: &mut State, now: i64) -> Work {
    let mut work = Work::default();
    if state.switches.withhold {
        return work;
    }
    if state.pile.as_ref().is_some_and(|pile| pile.until <= now) {
        for event in state.pile.take().into_iter().flat_map(|pile| pile.events).rev() {
            let (begun, waiting) = event.into_iter().partition(|id| begin_under_way(state, id));
            state.due.extend(Vec::into_iter(waiting).map(|id| (now, id)));
            work.overtaken.push(begun);
        }
    }
    let may_go = |(_, id): &&(i64, String)| has_room(state, id);
    let due: Vec<(i64, String)> = state.due.iter().take_while(|(at, _)| *at <= now).filter(may_go).cloned().collect();
    for entry in due {
        if begin_under_way(state, &entry.1) {
            state.due.remove(&entry);
            work.deliveries.push(entry.1);
        }
    }
    // What is due and has no room is looked at when a place becomes free.
    let next_due = state.due.iter().map(|(at, _)| *at).find(|at| *at > now);
    let shift = state.now().saturating_sub(events::now());
    let next_own = clocks::next_due(state).map(|at| at.saturating_sub(shift).saturating_mul(1000));
    work.next = [next_due, next_own, state.pile.as_ref().map(|pile| pile.until)].into_iter().flatten().min();
    work
}

/// Whether a delivery may go now. One whose endpoint is gone may: it ends there.
fn has_room(state: &State, id: &str) -> bool {
    let Some(endpoint) = state.pending.get(id).and_then(|pending| state.endpoints.get(&pending.endpoint)) else {
        return true;
    };
    let under_way = state.under_way.get(&endpoint.id).copied().unwrap_or_default();
    state.url(endpoint).is_some() && under_way < AT_ONCE_MAX
}

/// Takes a place for a delivery; `false` if there is none.
fn begin_under_way(state: &mut State, id: &str) -> bool {
    let has_room = has_room(state, id);
    if let Some(pending) = state.pending.get(id).filter(|_| has_room) {
        let under_way = state.under_way.entry(pending.endpoint.clone()).or_default();
        *under_way = under_way.saturating_add(1);
    }
    has_room
}

fn end_under_way(state: &mut State, endpoint: &str) {
    if let Some(under_way) = state.under_way.get_mut(endpoint) {
        *under_way = under_way.saturating_sub(1);
    }
}

/// Ends a delivery that nobody takes any more.
fn drop_delivery(state: &mut State, id: &str) {
    if let Some(pending) = state.remove::<Pending>(id) {
        end_under_way(state, &pending.endpoint);
    }
}

fn tell(state: &State, Parcel { event, attempt, .. }: &Parcel, answer: Option<&Delivery>) {
    state.activity.tell(event.user(), || Step::EventDelivered {
        event: event.id.clone(),
        kind: event.kind.clone(),
        attempt: *attempt,
        status: answer.map_or(0, |answer| answer.status),
        idempotent: answer.is_some_and(|answer| is_idempotent(&answer.body)),
    });
}

fn is_idempotent(body: &str) -> bool {
    let answer: Option<Value> = serde_json::from_str(body).ok();
    answer.as_ref().and_then(|answer| answer.get("idempotent")).and_then(Value::as_bool).unwrap_or_default()
}

fn millis(count: i64) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or_default())
}

/// The cause that helps: refused, timed out.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
