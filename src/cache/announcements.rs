//! What replicas tell each other through Redis: who has changed, never into what. On a connection of its own, since one that
//! listens can ask nothing else.

use std::time::Duration;

use futures::StreamExt;
use redis::{
    Client, RedisError, Value,
    aio::{PubSubSink, PubSubStream},
};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::key;
use crate::domain::id::UserId;

/// How often a silent Redis is asked whether it is still there: a connection may be gone without either end having been told.
const PING_EVERY: Duration = Duration::from_secs(2);

/// That a user has changed. A hint: it may come late, twice, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// Who.
    pub user: UserId,
    /// The version that readers were shown.
    pub version: u64,
    /// The ledger it is from.
    pub epoch: String,
}

/// What replicas announce, this one included, for as long as the connection lasts.
pub struct Announcements {
    sink: PubSubSink,
    messages: PubSubStream,
    pings: Interval,
    response: Duration,
}

impl Announcements {
    /// Connects and begins to listen; `response` bounds each answer.
    pub(super) async fn open(client: &Client, response: Duration) -> Result<Self, RedisError> {
        let open = async {
            let mut connection = client.get_async_pubsub().await?;
            connection.subscribe(key::CHANGED).await?;
            Ok::<_, RedisError>(connection.split())
        };
        let (sink, messages) = timeout(response, open).await.map_err(|_| too_slow())??;
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { sink, messages, pings, response })
    }

    /// Waits for the next one; `None` if nothing more is heard on this connection.
    pub async fn next(&mut self) -> Option<Announced> {
        loop {
            tokio::select! {
                message = self.messages.next() => {
                    if let Some(announced) = read(message?.get_payload_bytes()) {
                        return Some(announced);
                    }
                }
                _ = self.pings.tick() => {
                    timeout(self.response, self.sink.ping::<Value>()).await.ok()?.ok()?;
                }
            }
        }
    }
}

fn too_slow() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// As `publish.lua` writes it: user, version and epoch, with spaces between.
fn read(payload: &[u8]) -> Option<Announced> {
    let mut words = std::str::from_utf8(payload).ok()?.splitn(3, ' ');
    let (user, version, epoch) = (words.next()?, words.next()?, words.next()?);
    Some(Announced { user: UserId::parse(user).ok()?, version: version.parse().ok()?, epoch: epoch.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_write_is_read() {
        let user = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
        let announced = Announced { user: UserId::parse(user).unwrap(), version: 7, epoch: "e1".into() };
        assert_eq!(read(format!("{user} 7 e1").as_bytes()), Some(announced));
        for wrong in ["", user, &format!("{user} 7"), &format!("{user} -7 e1"), &format!("x{user} 7 e1")] {
            assert_eq!(read(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(read(b"\xff"), None);
    }
}
