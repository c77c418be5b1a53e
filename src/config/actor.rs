//! How many users are worked for at once, and for how long.

use std::time::Duration;

use super::{
    parse::{duration_in, number_in},
    reader::Reader,
    server::{MINUTE, SHORTEST, cores},
    setting,
};

/// Limits of the actors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorConfig {
    /// Threads that actors live on.
    pub threads: usize,
    /// Idle time after which an actor ends.
    pub idle: Duration,
    /// Most live actors.
    pub live_max: usize,
    /// Changes of one user that may wait; at least 64.
    pub mailbox: usize,
    /// How long a caller waits for an answer.
    pub reply_timeout: Duration,
    /// Most webhooks under way.
    pub webhooks_in_flight_max: usize,
}

impl ActorConfig {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let threads = reader.optional(&setting::ACTOR_THREADS, number_in(1..=256));
        let idle =
            reader.value(&setting::ACTOR_IDLE, duration_in(Duration::from_secs(1)..=Duration::from_secs(86_400)));
        let live_max = reader.value(&setting::ACTORS_MAX, number_in(1..=10_000_000));
        let mailbox = reader.value(&setting::MAILBOX, number_in(64..=65_536));
        let reply_timeout = reader.value(&setting::REPLY_TIMEOUT, duration_in(SHORTEST..=MINUTE));
        let webhooks_in_flight_max = reader.value(&setting::WEBHOOKS_IN_FLIGHT, number_in(1..=1_000_000));
        Some(Self {
            threads: threads?.unwrap_or_else(|| cores().div_ceil(2)),
            idle: idle?,
            live_max: live_max?,
            mailbox: mailbox?,
            reply_timeout: reply_timeout?,
            webhooks_in_flight_max: webhooks_in_flight_max?,
        })
    }
}
