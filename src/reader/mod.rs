//! "What may this user do?" Never touches an actor: the cache, or else the ledger's primary.
//!
//! At most one question per user is on its way to the ledger, however many ask. What was read from the ledger is written to the
//! cache through the version script, without delaying the answer.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use dashmap::{DashMap, Entry};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    cache::{Budget, Cache, CacheError, Publication},
    clock,
    domain::{entitlement::Entitlement, id::UserId},
    fail_point::{self, Point},
    ledger::{Epoch, Ledger, LedgerError},
};

/// Where an answer is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSource {
    /// The cache: Redis, or this process' memory.
    Cache,
    /// The ledger's primary.
    Database,
}

impl ReadSource {
    /// As the contract writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Database => "database",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What the user may do.
    pub entitlement: Entitlement,
    /// Where it is from.
    pub source: ReadSource,
}

/// Why there is no answer. Never a guess instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Neither cache nor ledger can be reached.
    #[error("neither cache nor ledger can be reached")]
    Unavailable,
    /// The ledger has not reached the version that was asked for.
    #[error("the version asked for is not there yet")]
    Older,
}

/// How long a question waits for its turn at the ledger. Without an end, all that asked during an outage would be asked after it, by
/// when nobody waits for the answers.
const TURN: Duration = Duration::from_secs(1);

type Flight = Shared<BoxFuture<'static, Result<Entitlement, LedgerError>>>;

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub struct EntitlementReader {
    inner: Arc<Inner>,
}

struct Inner {
    cache: Cache,
    ledger: Arc<dyn Ledger>,
    cache_budget: Duration,
    flights: DashMap<UserId, Flight>,
    /// Bounds what a cold cache can ask of the ledger at once.
    ledger_reads: Semaphore,
}

impl EntitlementReader {
    /// Takes what it reads from; `ledger_reads` questions may be on their way to the ledger at once.
    #[must_use]
    pub fn new(cache: Cache, ledger: Arc<dyn Ledger>, cache_budget: Duration, ledger_reads: usize) -> Self {
        let ledger_reads = Semaphore::new(ledger_reads.max(1));
        Self { inner: Arc::new(Inner { cache, ledger, cache_budget, flights: DashMap::new(), ledger_reads }) }
    }

    /// Reads a user's state, never one that is over, never one older than `min_version`.
    ///
    /// # Errors
    /// [`ReadError`]: ask again later.
    pub async fn read(&self, user: UserId, min_version: Option<u64>) -> Result<Reading, ReadError> {
        let wanted = min_version.unwrap_or(0);
        let epoch = self.inner.ledger.epoch();
        let mut budget = Budget::new(self.inner.cache_budget);
        let cached = match fail_point::try_pass(Point::ReadCache, || user.to_string()).await {
            Ok(()) => self.inner.cache.get(user, epoch.as_str(), clock::now(), &mut budget).await,
            Err(failed) => Err(CacheError::Failed(failed.to_string())),
        };
        if let Ok(Some(entitlement)) = cached
            && entitlement.version >= wanted
        {
            return Ok(Reading { entitlement, source: ReadSource::Cache });
        }
        let entitlement = self.ask_ledger(user).await?;
        if entitlement.version >= wanted {
            return Ok(Reading { entitlement, source: ReadSource::Database });
        }
        // The question we joined may have been asked before the version we want was committed: ask once ourselves.
        let entitlement = self.ask_ledger(user).await?;
        if entitlement.version >= wanted {
            Ok(Reading { entitlement, source: ReadSource::Database })
        } else {
            Err(ReadError::Older)
        }
    }

    async fn ask_ledger(&self, user: UserId) -> Result<Entitlement, ReadError> {
        fail_point::pass(Point::ReadFlight, || user.to_string()).await;
        let flight = match self.inner.flights.entry(user) {
            Entry::Occupied(flight) => flight.get().clone(),
            Entry::Vacant(vacant) => vacant.insert(self.take_off(user)).clone(),
        };
        flight.await.map_err(|error| {
            tracing::debug!(%error, "a read found no ledger");
            ReadError::Unavailable
        })
    }

    /// Asks the ledger in a task of its own: a caller that hangs up does not cancel the others' answer.
    fn take_off(&self, user: UserId) -> Flight {
        let reader = self.clone();
        let task = tokio::spawn(async move {
            let inner = &reader.inner;
            let turn = timeout(TURN, inner.ledger_reads.acquire()).await;
            let (asked, epoch) = (clock::now(), inner.ledger.epoch());
            let answer = match turn {
                Ok(Ok(_permit)) => {
                    let answer = match fail_point::try_pass(Point::ReadLedger, || user.to_string()).await {
                        Ok(()) => inner.ledger.entitlement(user).await,
                        Err(failed) => Err(LedgerError::Unavailable(failed.to_string())),
                    };
                    fail_point::pass(Point::ReadAnswered, || user.to_string()).await;
                    answer
                }
                Ok(Err(_)) | Err(_) => Err(LedgerError::Unavailable("too many ask already".into())),
            };
            // From here on a new question is a new flight.
            inner.flights.remove(&user);
            if let Ok(entitlement) = &answer {
                let (reader, entitlement) = (reader.clone(), entitlement.clone());
                tokio::spawn(async move { reader.fill(user, &entitlement, &epoch, asked).await });
            }
            answer
        });
        let flights = self.clone();
        async move {
            task.await.unwrap_or_else(|_died| {
                flights.inner.flights.remove(&user);
                Err(LedgerError::Panicked)
            })
        }
        .boxed()
        .shared()
    }

    /// It is as old as the question: the ledger may have gone on while it answered, or be another one by now.
    async fn fill(&self, user: UserId, entitlement: &Entitlement, epoch: &Epoch, asked: DateTime<Utc>) {
        let mut budget = Budget::new(self.inner.cache_budget);
        let publication = Publication { user, entitlement, epoch: epoch.as_str(), mark: None };
        fail_point::pass(Point::ReadFill, || user.to_string()).await;
        if let Err(error) = self.inner.cache.publish(publication, asked, &mut budget).await {
            tracing::debug!(%error, "what was read was not cached");
        }
        fail_point::pass(Point::ReadFilled, || user.to_string()).await;
    }
}
