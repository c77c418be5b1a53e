//! Named places at which tests make the process die, panic, fail or wait: each is a moment at which a crash would show a mistake.
//!
//! Only with the feature `fail-points` is there anything behind them; without it every call is an empty function. Points are armed by
//! the variable `FAIL_POINTS` at the start, through the admin listener, or in the same process ([`arm`]).

use std::fmt;
#[cfg(not(feature = "fail-points"))]
use std::future::{Ready, ready};

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal,)+) => {
        /// A named place, in the order in which a webhook passes them.
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
    /// P4: what the event means, or Stripe's answer, is about to be found out. About the event's id, or the object's.
    Meaning = "intake.meaning",
    /// A router is about to start a user's actor. About the user.
    ActorStart = "actor.start",
    /// P6: a user's actor has a change before it. About the event's id, else the user.
    ActorApply = "actor.apply",
    /// P7: a lane has a batch and is about to open its transaction. About the events' ids.
    LedgerBegin = "ledger.begin",
    /// All is read, and what becomes of an entry is about to be decided. About the event's id, else the user.
    LedgerDecide = "ledger.decide",
    /// P8, before: all locks are held and all is decided; the last of it and `COMMIT` are about to be sent. About the events' ids.
    LedgerCommit = "ledger.commit",
    /// P9: the ledger has said that the transaction is committed. About the events' ids.
    LedgerCommitted = "ledger.committed",
    /// P10: readers are about to be shown a state. About the user.
    CacheShow = "cache.show",
    /// P11: they have been, and the event is marked. About the user.
    CacheShown = "cache.shown",
    /// P12: the webhook's 200 is about to be written. About the event's id.
    Answer = "http.answer",
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
