//! A ledger without a database that keeps its books in memory and fails exactly where a test says so.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Barrier, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tollgate::{
    actor::ActorLimits,
    domain::{
        change::{Cause, Change, Effect, Owner, Subject},
        entitlement::Entitlement,
        event::{EventRecord, Outcome, ParkReason},
        grant::{Grant, GrantStatus, Source, SourceKind},
        id::{CustomerId, EventId, ObjectId, SessionId, UserId},
        level::Level,
        subscription::Snapshots,
    },
    ledger::{
        ChangedState, Committed, Epoch, Fetch, FetchCount, FetchEnd, FetchReason, HistoryEntry, InboxEvent,
        InboxFilter, Instance, KeyClaim, Lane, Lapsed, Ledger, LedgerError, ParkedCount, ParkedEvent, SessionRecord,
        Standing, StoredEvent, Ticket, TryEnd,
    },
};
use uuid::Uuid;

/// What happens to one entry instead of its commit.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The lane panics with the whole batch in its hands.
    LanePanics,
    /// The entry gets this answer; nothing is written.
    Answers(LedgerError),
    /// It is written, and the answer is lost.
    CommitsInDoubt,
    /// It holds up its whole thread until somebody else waits there, too; then it is written.
    BlocksThread(Arc<Barrier>),
    /// The lane's thread ends with the whole batch in its hands.
    ThreadEnds,
    /// It is written, and the lane's thread ends before the answer.
    ThreadEndsCommitted,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(crate) struct ScriptedLedger {
    books: Arc<Mutex<Books>>,
    /// Closed: batches that have been taken wait.
    gate: Arc<watch::Sender<bool>>,
}

struct Books {
    epoch: Epoch,
    states: HashMap<UserId, Entitlement>,
    inbox: HashSet<EventId>,
    faults: HashMap<EventId, Fault>,
    owners: VecDeque<Owner>,
    batches: Vec<Vec<(UserId, EventId)>>,
    reads: Vec<UserId>,
    clock_failures: u32,
    lane_panics: u32,
    sweep_panics: u32,
    sweeps: u32,
    endless_questions: bool,
    lapsing_sought: u32,
    beats: u32,
    pages_asked_for: u32,
    versions_asked_for: u32,
}

impl ScriptedLedger {
    pub(crate) fn new() -> Self {
        let books = Books {
            epoch: Epoch::new("first"),
            states: HashMap::new(),
            inbox: HashSet::new(),
            faults: HashMap::new(),
            owners: VecDeque::new(),
            batches: Vec::new(),
            reads: Vec::new(),
            clock_failures: 0,
            lane_panics: 0,
            sweep_panics: 0,
            sweeps: 0,
            endless_questions: false,
            lapsing_sought: 0,
            beats: 0,
            pages_asked_for: 0,
            versions_asked_for: 0,
        };
        Self { books: Arc::new(Mutex::new(books)), gate: Arc::new(watch::Sender::new(true)) }
    }

    /// The fault that the entry of this event meets, once.
    pub(crate) fn fail(&self, event: &str, fault: Fault) {
        self.books().faults.insert(EventId::parse(event).unwrap(), fault);
    }

    /// Whose the subject is that is asked about, time after time; then nobody's.
    pub(crate) fn owned_by(&self, owners: impl IntoIterator<Item = Owner>) {
        self.books().owners.extend(owners);
    }

    /// From now on batches are taken and not decided, and reads find what there is and do not answer.
    pub(crate) fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Every batch that any lane has taken, decided or not.
    pub(crate) fn batches(&self) -> Vec<Vec<(UserId, EventId)>> {
        self.books().batches.clone()
    }

    /// Whose states were asked for, answered or not.
    pub(crate) fn reads(&self) -> Vec<UserId> {
        self.books().reads.clone()
    }

    /// How often a lane was asked about this event.
    pub(crate) fn asked_about(&self, event: &str) -> usize {
        self.batches().iter().flatten().filter(|(_, id)| id.as_str() == event).count()
    }

    pub(crate) fn has(&self, event: &str) -> bool {
        self.books().inbox.contains(&EventId::parse(event).unwrap())
    }

    /// As after a restore from a backup.
    pub(crate) fn set_epoch(&self, epoch: &str) {
        self.books().epoch = Epoch::new(epoch);
    }

    /// As when the application deletes a user.
    pub(crate) fn forget_user(&self, user: UserId) {
        self.books().states.remove(&user);
    }

    /// A state that some other replica has written.
    pub(crate) fn write(&self, user: UserId, entitlement: Entitlement) {
        self.books().states.insert(user, entitlement);
    }

    /// The clock cannot be asked, so many times.
    pub(crate) fn fail_clock(&self, times: u32) {
        self.books().clock_failures = times;
    }

    /// No lane can be made without a panic, so many times.
    pub(crate) fn panic_in_lanes(&self, times: u32) {
        self.books().lane_panics = times;
    }

    /// A user's newest version.
    pub(crate) fn version(&self, user: UserId) -> u64 {
        self.books().states.get(&user).map_or(0, |state| state.version)
    }

    /// The sweep over levels whose time is over panics, so many times.
    pub(crate) fn panic_in_sweeps(&self, times: u32) {
        self.books().sweep_panics = times;
    }

    /// Sweeps that ended well.
    pub(crate) fn sweeps(&self) -> u32 {
        self.books().sweeps
    }

    /// From now on as many questions to Stripe are due as are asked for: about a subscription that nobody has any more.
    pub(crate) fn question_without_end(&self) {
        self.books().endless_questions = true;
    }

    /// How often subscriptions were looked for that are about to lapse.
    pub(crate) fn lapsing_sought(&self) -> u32 {
        self.books().lapsing_sought
    }

    /// How often a replica has told that it lives.
    pub(crate) fn beats(&self) -> u32 {
        self.books().beats
    }

    /// How often it was asked for versions, answered or not.
    pub(crate) fn versions_asked_for(&self) -> u32 {
        self.books().versions_asked_for
    }

    /// How often it was asked for what has changed, answered or not.
    pub(crate) fn pages_asked_for(&self) -> u32 {
        self.books().pages_asked_for
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Books {
    fn commit(&mut self, user: UserId, event: &EventId) -> Committed {
        let state = self.states.entry(user).or_insert_with(Entitlement::none);
        let outcome = if self.inbox.insert(event.clone()) {
            let version = state.version + 1;
            let expires_at = Some(Utc::now() + TimeDelta::days(30));
            *state = Entitlement { level: Level::parse("PRO").unwrap(), expires_at, quantity: 1, version };
            Outcome::Applied
        } else {
            Outcome::Duplicate
        };
        Committed { outcome, entitlement: Some(state.clone()), others: Vec::new() }
    }
}

struct ScriptedLane {
    ledger: ScriptedLedger,
}

#[async_trait]
impl Lane for ScriptedLane {
    async fn commit(&mut self, batch: Vec<Ticket>) {
        let named = |ticket: &Ticket| {
            let event = ticket.entry.event().expect("tests deliver events").id.clone();
            // A report names no user.
            (ticket.entry.user().unwrap_or(UserId::from(Uuid::nil())), event)
        };
        self.ledger.books().batches.push(batch.iter().map(named).collect());
        self.ledger.gate.subscribe().wait_for(|open| *open).await.expect("the gate lives as long as the ledger");
        for ticket in batch {
            let (user, event) = named(&ticket);
            let fault = self.ledger.books().faults.remove(&event);
            let result = match fault {
                None => Ok(self.ledger.books().commit(user, &event)),
                Some(Fault::BlocksThread(barrier)) => {
                    barrier.wait();
                    Ok(self.ledger.books().commit(user, &event))
                }
                Some(Fault::LanePanics) => panic!("the script says so"),
                Some(Fault::Answers(error)) => Err(error),
                Some(Fault::CommitsInDoubt) => {
                    self.ledger.books().commit(user, &event);
                    Err(LedgerError::InDoubt)
                }
                Some(Fault::ThreadEnds) => return end_thread().await,
                Some(Fault::ThreadEndsCommitted) => {
                    self.ledger.books().commit(user, &event);
                    return end_thread().await;
                }
            };
            (ticket.reply)(result);
        }
    }
}

/// Ends the thread it is called on, and does not return: a batch in the hands of the caller is dropped with the thread.
async fn end_thread() {
    actix::Arbiter::current().stop();
    std::future::pending().await
}

#[async_trait]
impl Ledger for ScriptedLedger {
    fn epoch(&self) -> Epoch {
        self.books().epoch.clone()
    }

    fn lane(&self) -> Box<dyn Lane> {
        let mut books = self.books();
        if books.lane_panics > 0 {
            books.lane_panics -= 1;
            panic!("the script says so");
        }
        drop(books);
        Box::new(ScriptedLane { ledger: self.clone() })
    }

    async fn entitlement(&self, user: UserId) -> Result<Entitlement, LedgerError> {
        let found = {
            let mut books = self.books();
            books.reads.push(user);
            books.states.get(&user).cloned().unwrap_or_else(Entitlement::none)
        };
        self.gate.subscribe().wait_for(|open| *open).await.expect("the gate lives as long as the ledger");
        Ok(found)
    }

    async fn grants(&self, _: UserId) -> Result<Vec<Grant>, LedgerError> {
        Ok(vec![])
    }

    async fn history(&self, _: UserId, _: Option<u64>, _: u32) -> Result<Vec<HistoryEntry>, LedgerError> {
        Ok(vec![])
    }

    async fn owner(&self, _: &Subject) -> Result<Owner, LedgerError> {
        Ok(self.books().owners.pop_front().unwrap_or(Owner::Nobody))
    }

    async fn versions(&self, users: &[UserId]) -> Result<Vec<(UserId, u64)>, LedgerError> {
        let found = {
            let mut books = self.books();
            books.versions_asked_for += 1;
            users.iter().filter_map(|user| Some((*user, books.states.get(user)?.version))).collect()
        };
        self.gate.subscribe().wait_for(|open| *open).await.expect("the gate lives as long as the ledger");
        Ok(found)
    }

    async fn changed_between(
        &self,
        _: DateTime<Utc>,
        _: DateTime<Utc>,
        _: u32,
    ) -> Result<Vec<ChangedState>, LedgerError> {
        self.books().pages_asked_for += 1;
        self.gate.subscribe().wait_for(|open| *open).await.expect("the gate lives as long as the ledger");
        let changed = |(user, entitlement): (&UserId, &Entitlement)| ChangedState {
            user: *user,
            entitlement: entitlement.clone(),
            changed_at: Utc::now(),
        };
        Ok(self.books().states.iter().map(changed).collect())
    }

    async fn lapsed(&self, _: Option<Lapsed>, _: u32) -> Result<Vec<Lapsed>, LedgerError> {
        let mut books = self.books();
        if books.sweep_panics > 0 {
            books.sweep_panics -= 1;
            panic!("the script says so");
        }
        books.sweeps += 1;
        Ok(vec![])
    }

    async fn parked_due(&self, _: u32) -> Result<Vec<ParkedEvent>, LedgerError> {
        Ok(vec![])
    }

    async fn events(&self, _: &InboxFilter, _: u32) -> Result<Vec<InboxEvent>, LedgerError> {
        Ok(vec![])
    }

    async fn event(&self, _: &str) -> Result<Option<StoredEvent>, LedgerError> {
        Ok(None)
    }

    async fn parked(&self) -> Result<Vec<ParkedCount>, LedgerError> {
        Ok(vec![])
    }

    async fn received_since(&self, _: DateTime<Utc>) -> Result<Vec<(Standing, u64)>, LedgerError> {
        Ok(vec![])
    }

    async fn levels_in_use(&self) -> Result<Vec<Level>, LedgerError> {
        Ok(vec![])
    }

    async fn levels_lacking(&self, _: &[Level]) -> Result<Vec<Level>, LedgerError> {
        Ok(vec![])
    }

    async fn wake_parked(&self, _: ParkReason) -> Result<usize, LedgerError> {
        Ok(0)
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

    async fn record_session(&self, _: &SessionRecord) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn session(&self, _: UserId, _: &SessionId) -> Result<Option<SessionRecord>, LedgerError> {
        Ok(None)
    }

    async fn session_opened_by(&self, _: UserId, _: &str) -> Result<Option<SessionRecord>, LedgerError> {
        Ok(None)
    }

    async fn customer(&self, _: UserId) -> Result<Option<CustomerId>, LedgerError> {
        Ok(None)
    }

    async fn claim_key(&self, _: UserId, _: [u8; 32], wish: &str, attempt: u32) -> Result<KeyClaim, LedgerError> {
        Ok(KeyClaim { wish: wish.to_owned(), attempt })
    }

    async fn move_key(&self, _: UserId, _: [u8; 32], _: u32, _: u32) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn beat(&self, id: Uuid, behind: Duration) -> Result<Vec<Instance>, LedgerError> {
        let now = Utc::now();
        self.books().beats += 1;
        Ok(vec![Instance { id, last_seen: now, shown_until: now - behind }])
    }

    async fn instances(&self) -> Result<Vec<Instance>, LedgerError> {
        Ok(vec![])
    }

    async fn forget_instance(&self, _: Uuid) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn fetches_due(&self, limit: u32, _: Duration) -> Result<Vec<Fetch>, LedgerError> {
        tokio::task::yield_now().await;
        let (now, count) = (Utc::now(), if self.books().endless_questions { limit } else { 0 });
        let fetch = |_| Fetch {
            object: ObjectId::parse("sub_1").unwrap(),
            reason: FetchReason::Lapsing,
            attempts: 1,
            wanted_at: now,
            asked_at: now,
            known_at: None,
            ends_at: None,
        };
        Ok((0..count).map(fetch).collect())
    }

    async fn end_fetch(&self, _: &Fetch, _: FetchEnd) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn find_lapsing(&self, _: u32) -> Result<(), LedgerError> {
        self.books().lapsing_sought += 1;
        Ok(())
    }

    async fn fetches(&self) -> Result<Vec<FetchCount>, LedgerError> {
        Ok(vec![])
    }

    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        let mut books = self.books();
        if books.clock_failures > 0 {
            books.clock_failures -= 1;
            return Err(LedgerError::Unavailable("the script says so".into()));
        }
        Ok(Utc::now())
    }
}

/// Limits of an actor room that none of its tests should meet unless it sets its own.
pub(crate) const LIMITS: ActorLimits = ActorLimits {
    arbiters: 2,
    idle: Duration::from_secs(60),
    live_max: 1000,
    per_user_max: 64,
    reply_timeout: Duration::from_secs(30),
    commit_timeout: Duration::from_secs(30),
    cache_budget: Duration::from_millis(50),
    lanes: 1,
    queue_max: 8192,
    batch_max: 256,
};

/// A delivery of an event that gives the user PRO for a month.
pub(crate) fn delivery(user: UserId, event: &str) -> Change {
    delivery_after(TimeDelta::zero(), user, event)
}

/// The same, of an event that is as old as this.
pub(crate) fn delivery_after(age: TimeDelta, user: UserId, event: &str) -> Change {
    let id = EventId::parse(event).unwrap();
    let created = Utc::now() - age;
    let record = EventRecord {
        id: id.clone(),
        kind: "checkout.session.completed".into(),
        object_id: None,
        created,
        livemode: false,
        api_version: None,
        object_hash: [0; 32],
        payload: Bytes::new(),
    };
    let grant = Grant {
        source: Source { kind: SourceKind::Checkout, id: event.into() },
        level: Level::parse("PRO").unwrap(),
        status: GrantStatus::Active,
        period_end: created + TimeDelta::days(30),
        reported_at: created,
        event: Some(id),
        session: None,
        payment_intent: None,
        customer: None,
        hold: None,
        snapshots: Snapshots::default(),
    };
    Change { user, found_by: None, cause: Cause::Delivery(record), effect: Effect::Purchase(grant) }
}
