//! Named places at which tests make the process die, panic, fail or wait: each is a moment at which a crash would show a mistake.
//!
//! Only with the feature `fail-points` is there anything behind them; without it every call is an empty function. Points are armed by
//! the variable `FAIL_POINTS` at the start, through the admin listener, or in the same process (`arm`).

use std::fmt;
#[cfg(not(feature = "fail-points"))]
use std::future::{Ready, ready};

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal,)+) => {
        /// A named place, in the order in which a webhook passes them; then those of reads, and of what runs beside requests.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[doc = $doc])+ $point,)+
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// As it is armed.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// P2: the webhook's body has been read.
    BodyRead = "http.body.read",
    /// P3: it has been found signed.
    Signed = "http.signed",
    /// P4: what the event means, or Stripe's answer, is about to be found out. About the event's id, or the object's.
    Meaning = "intake.meaning",
    /// P4, after: it is known. About the event's id.
    Understood = "intake.understood",
    /// P6, before: a change is about to be put into its user's mailbox. About the event's id, else the user.
    Mailbox = "actor.mailbox",
    /// A router is about to start a user's actor. About the user.
    ActorStart = "actor.start",
    /// P6: a user's actor has a change before it. About the event's id, else the user.
    ActorApply = "actor.apply",
    /// P5: Redis is about to be asked whether an older event is marked. About the event's id.
    MarkAsk = "cache.mark.ask",
    /// P5, after: it has answered, or not. About the event's id.
    MarkAnswered = "cache.mark.answered",
    /// P7: a lane has a batch and is about to open its transaction. About the events' ids.
    LedgerBegin = "ledger.begin",
    /// P7, after: locks are held, and what they guard has been read. About the events' ids.
    LedgerLocked = "ledger.locked",
    /// All is read, and what becomes of an entry is about to be decided. About the event's id, else the user.
    LedgerDecide = "ledger.decide",
    /// P8, before: all locks are held and all is decided; the last of it and `COMMIT` are about to be sent. About the events' ids.
    LedgerCommit = "ledger.commit",
    /// P9: the ledger has said that the transaction is committed. About the events' ids.
    LedgerCommitted = "ledger.committed",
    /// P9, after: the user's actor has heard of it. About the user.
    LedgerTold = "ledger.told",
    /// P10: readers are about to be shown a state. About the user.
    CacheShow = "cache.show",
    /// P11: they have been, and the event is marked. About the user.
    CacheShown = "cache.shown",
    /// P12: the webhook's 200 is about to be written. About the event's id.
    Answer = "http.answer",
    /// P8, before, in a file: `COMMIT` is about to run. About the events' ids.
    FileCommit = "file.commit",
    /// P9, in a file: it has run. About the events' ids.
    FileCommitted = "file.committed",
    /// R0: a read is about to ask the cache. About the user.
    ReadCache = "read.cache",
    /// R1: the cache did not know, and the ledger is about to be asked, or somebody joined who asks it. About the user.
    ReadFlight = "read.flight",
    /// R2, before: it is this question's turn at the ledger. About the user.
    ReadLedger = "read.ledger",
    /// R2, after: the ledger has answered, and nobody has been told. About the user.
    ReadAnswered = "read.answered",
    /// R3, before: what was read is about to be put into the cache. About the user.
    ReadFill = "read.fill",
    /// R3, after: it has been. About the user.
    ReadFilled = "read.filled",
    /// P14: a cache write that waited is about to be done. About the user.
    Republish = "actor.republish",
    /// P14: states are about to be shown to readers again. About the users.
    RedriveShow = "redrive.show",
    /// P14: they have been, and it is not noted that nothing is left. About the users.
    RedriveShown = "redrive.shown",
    /// P14: a level that is over is about to be ended. About the user.
    SweepLapse = "sweep.lapse",
    /// P14: a parked event is about to be tried again. About the event's id.
    SweepParked = "sweep.parked",
    /// P14: a replica is about to tell that it lives.
    Beat = "heartbeat.beat",
    /// P14: it has, and is about to look after the others.
    Beaten = "heartbeat.beaten",
    /// P14: a question is leased, and Stripe is about to be asked. About the object.
    FetchAsk = "fetch.ask",
    /// P14: Stripe has answered about a subscription, and nothing has come of it. About the object.
    FetchAnswered = "fetch.answered",
    /// P14: what came of the answer is in the ledger, and the question still stands. About the object.
    FetchApplied = "fetch.applied",
    /// Stripe is about to be asked for a session. About the user.
    CheckoutOpen = "checkout.open",
    /// Stripe has opened one, and the ledger does not know. About the user.
    CheckoutOpened = "checkout.opened",
    /// All of a migration is done but its commit.
    MigrateCommit = "migrate.commit",
    /// It is committed.
    Migrated = "migrate.committed",
    /// The same in a file, before its commit.
    FileMigrate = "file.migrate",
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a point was armed to say instead of going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("made to fail at {0}")]
pub struct Failed(pub Point);

#[cfg(feature = "fail-points")]
pub use self::armed::{arm, disarm, hits};
#[cfg(feature = "fail-points")]
pub(crate) use self::armed::{from_environment, pass, pass_now, try_pass};

/// Passes a point. `about` says what for, to those who armed it for one thing only.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub(crate) fn pass(_point: Point, _about: impl FnOnce() -> String) -> Ready<()> {
    ready(())
}

/// The same where nothing can be awaited.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub(crate) fn pass_now(_point: Point, _about: impl FnOnce() -> String) {}

/// The same where the work may fail.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub(crate) fn try_pass(_point: Point, _about: impl FnOnce() -> String) -> Ready<Result<(), Failed>> {
    ready(Ok(()))
}

#[cfg(feature = "fail-points")]
mod armed;
