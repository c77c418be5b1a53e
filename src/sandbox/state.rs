//! Everything the sandbox knows, in memory; each change goes to the file before anybody is told of it.
//!
//! There is one lock. What is done under it is done at once, which is why a session is paid exactly once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    Switches,
    billing::AfterRetries,
    collection::{Collection, Kept},
    disk::{Disk, Receipt, Row, Write},
    objects::{
        Charge, Clock, Customer, Dispute, Endpoint, Event, Invoice, InvoicePayment, PaymentIntent, Portal, Refund,
        Session, Shift, Status, Subscription,
    },
};
use crate::activity::Activity;

/// How long an idempotency key is remembered, in seconds: as Stripe does.
const ANSWERS_LAST_SECONDS: i64 = 24 * 60 * 60;
/// Events that are kept once they are delivered.
const EVENTS_MAX: usize = 10_000;

/// A delivery that has not been answered 2xx, and may still be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) id: String,
    pub(super) event: String,
    pub(super) endpoint: String,
    /// Attempts that have failed.
    pub(super) failed: usize,
    /// When the next attempt is due, in Unix milliseconds.
    pub(super) due: i64,
}

/// What was answered under an idempotency key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) key: String,
    /// Where the request went.
    pub(super) path: String,
    pub(super) params: Value,
    pub(super) body: Value,
    /// Unix seconds.
    pub(super) at: i64,
}

/// Events that wait so that newer ones overtake them.
#[derive(Debug)]
pub(super) struct Pile {
    /// The deliveries of each event, oldest event first.
    pub(super) events: Vec<Vec<String>>,
    /// When all of them go out, in Unix milliseconds.
    pub(super) until: i64,
}

/// What the lock guards.
pub(super) struct State {
    pub(super) sessions: Collection<Session>,
    pub(super) customers: Collection<Customer>,
    pub(super) events: Collection<Event>,
    pub(super) endpoints: Collection<Endpoint>,
    pub(super) pending: Collection<Pending>,
    pub(super) answers: Collection<Answer>,
    pub(super) subscriptions: Collection<Subscription>,
    pub(super) invoices: Collection<Invoice>,
    pub(super) invoice_payments: Collection<InvoicePayment>,
    pub(super) intents: Collection<PaymentIntent>,
    pub(super) charges: Collection<Charge>,
    pub(super) refunds: Collection<Refund>,
    pub(super) disputes: Collection<Dispute>,
    pub(super) clocks: Collection<Clock>,
    pub(super) shifts: Collection<Shift>,
    pub(super) portals: Collection<Portal>,
    /// When open sessions expire.
    pub(super) open: BTreeSet<(i64, String)>,
    /// When deliveries are due; those under way, or piled up, are not in it.
    pub(super) due: BTreeSet<(i64, String)>,
    pub(super) pile: Option<Pile>,
    /// Attempts under way, by endpoint.
    pub(super) under_way: HashMap<String, usize>,
    /// Where the service's own endpoint is; events for it wait until it is known.
    pub(super) own_url: Option<String>,
    pub(super) switches: Switches,
    pub(super) after_retries: AfterRetries,
    /// How long newer events have to overtake an older one, in milliseconds.
    pub(super) hold: i64,
    pub(super) activity: Activity,
    /// Where the sandbox answers: `http://127.0.0.1:4242`.
    pub(super) base: String,
    next_place: i64,
    unwritten: Vec<Write>,
    /// `None` once it has stopped.
    disk: Option<Disk>,
}

/// A kind of object that the state holds.
pub(super) trait Held: Kept {
    fn all(state: &mut State) -> &mut Collection<Self>;
}

macro_rules! held {
    ($($object:ty, $collection:ident, $kind:literal, $id:ident;)*) => {
        $(impl Kept for $object {
            const KIND: &'static str = $kind;

            fn id(&self) -> &str {
                &self.$id
            }
        }

        impl Held for $object {
            fn all(state: &mut State) -> &mut Collection<Self> {
                &mut state.$collection
            }
        })*

        impl State {
            fn take_in(&mut self, row: &Row) -> anyhow::Result<()> {
                match row.kind.as_str() {
                    $($kind => self.$collection.put(row.seq, serde_json::from_str(&row.json)?),)*
                    _ => anyhow::bail!("unknown kind"),
                }
                Ok(())
            }
        }
    };
}

held! {
    Session, sessions, "session", id;
    Customer, customers, "customer", id;
    Event, events, "event", id;
    Endpoint, endpoints, "endpoint", id;
    Pending, pending, "pending", id;
    Answer, answers, "answer", key;
    Subscription, subscriptions, "subscription", id;
    Invoice, invoices, "invoice", id;
    InvoicePayment, invoice_payments, "invoice_payment", id;
    PaymentIntent, intents, "payment_intent", id;
    Charge, charges, "charge", id;
    Refund, refunds, "refund", id;
    Dispute, disputes, "dispute", id;
    Clock, clocks, "test_clock", id;
    Shift, shifts, "shift", id;
    Portal, portals, "portal", id;
}

impl State {
    /// What the file holds. Deliveries go on where they were.
    pub(super) fn read(disk: Option<Disk>, rows: Vec<Row>, activity: Activity, base: String) -> anyhow::Result<Self> {
        let mut state = Self {
            sessions: Collection::default(),
            customers: Collection::default(),
            events: Collection::default(),
            endpoints: Collection::default(),
            pending: Collection::default(),
            answers: Collection::default(),
            subscriptions: Collection::default(),
            invoices: Collection::default(),
            invoice_payments: Collection::default(),
            intents: Collection::default(),
            charges: Collection::default(),
            refunds: Collection::default(),
            disputes: Collection::default(),
            clocks: Collection::default(),
            shifts: Collection::default(),
            portals: Collection::default(),
            open: BTreeSet::new(),
            due: BTreeSet::new(),
            pile: None,
            under_way: HashMap::new(),
            own_url: None,
            switches: Switches::default(),
            after_retries: AfterRetries::default(),
            hold: 0,
            activity,
            base,
            next_place: 1,
            unwritten: Vec::new(),
            disk,
        };
        for row in rows {
            state.next_place = state.next_place.max(row.seq.saturating_add(1));
            state.take_in(&row).with_context(|| {
                let Row { kind, id, .. } = &row;
                format!("the sandbox's file holds {kind} {id}, which cannot be read; remove the file to begin afresh")
            })?;
        }
        state.open = state.sessions.iter().filter_map(expiry).collect();
        state.due = state.pending.iter().map(|pending| (pending.due, pending.id.clone())).collect();
        Ok(state)
    }

    /// Keeps an object, a new one or a new version of it.
    pub(super) fn put<T: Held>(&mut self, object: T) {
        let id = object.id().to_owned();
        let place = T::all(self).place(&id).unwrap_or_else(|| {
            let place = self.next_place;
            self.next_place = place.saturating_add(1);
            place
        });
        match serde_json::to_string(&object) {
            Ok(json) => self.unwritten.push(Write::Keep(Row { kind: T::KIND.to_owned(), id, seq: place, json })),
            // Texts, numbers and maps with texts for keys: there is nothing in them that JSON cannot say.
            Err(error) => tracing::error!(error = %error, kind = T::KIND, "an object could not be written"),
        }
        T::all(self).put(place, object);
    }

    /// Keeps a session, and looks to its end.
    pub(super) fn put_session(&mut self, session: Session) {
        let before = self.sessions.get(&session.id).and_then(expiry);
        if let Some(before) = before {
            self.open.remove(&before);
        }
        self.open.extend(expiry(&session));
        self.put(session);
    }

    /// Forgets an object.
    pub(super) fn remove<T: Held>(&mut self, id: &str) -> Option<T> {
        let removed = T::all(self).remove(id)?;
        self.unwritten.push(Write::Forget { kind: T::KIND, id: id.to_owned() });
        Some(removed)
    }

    /// What has changed since this was asked last.
    #[cfg(test)]
    pub(super) fn take_unwritten(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.unwritten)
    }

    /// Where an endpoint's events go; `None` while that is not known.
    pub(super) fn url<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a str> {
        match &endpoint.target {
            Some(target) => Some(&target.url),
            None => self.own_url.as_deref(),
        }
    }

    /// Forgets what is no longer needed: old answers, and the oldest of the delivered events.
    pub(super) fn forget_old(&mut self, now: i64) {
        let too_old = |answer: &&Answer| answer.at < now.saturating_sub(ANSWERS_LAST_SECONDS);
        let answers: Vec<String> = self.answers.iter().take_while(too_old).map(|answer| answer.key.clone()).collect();
        for key in answers {
            self.remove::<Answer>(&key);
        }
        let surplus = self.events.len().saturating_sub(EVENTS_MAX);
        if surplus == 0 {
            return;
        }
        let needed: HashSet<&str> = self.pending.iter().map(|pending| pending.event.as_str()).collect();
        let oldest = self.events.iter().take(surplus).filter(|event| !needed.contains(event.id.as_str()));
        let events: Vec<String> = oldest.map(|event| event.id.clone()).collect();
        for id in events {
            self.remove::<Event>(&id);
        }
    }
}

fn expiry(session: &Session) -> Option<(i64, String)> {
    (session.status == Status::Open).then(|| (session.expires_at, session.id.clone()))
}

/// The state behind its lock, shared by the listener, the courier and whoever holds the sandbox.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something may have become due.
    pub(super) changed: Notify,
    /// An attempt has ended, or the sandbox.
    pub(super) answered: Notify,
    /// Told by how many seconds the sandbox's time is ahead.
    tell_ahead: fn(i64),
}

impl Shared {
    pub(super) fn new(state: State, tell_ahead: fn(i64)) -> Self {
        tell_ahead(state.time(0));
        Self { state: Mutex::new(state), changed: Notify::new(), answered: Notify::new(), tell_ahead }
    }

    /// To look at. Never held across a wait.
    pub(super) fn look(&self) -> MutexGuard<'_, State> {
        // Nothing that panics leaves a change half done that matters more than going on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something at once, and sends what it changed to the file, with all that was changed before.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> (T, Receipt) {
        let mut state = self.look();
        let done = act(&mut state);
        let writes = std::mem::take(&mut state.unwritten);
        let has_changed = !writes.is_empty();
        (self.tell_ahead)(state.time(0));
        // Under the lock: the file's order is the order of the changes.
        let receipt = state.disk.as_ref().map_or_else(Receipt::refused, |disk| disk.write(writes));
        drop(state);
        if has_changed {
            self.changed.notify_one();
        }
        (done, receipt)
    }

    /// Ends the way to the file. Who waits for deliveries finds it closed.
    pub(super) fn close(&self) {
        self.look().disk = None;
        self.answered.notify_waiters();
    }
}
