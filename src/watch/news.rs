//! What other replicas have changed: heard of through Redis, or asked of the ledger once a second where nothing can be heard.

use std::{sync::Arc, time::Duration};

use super::hub::Hub;
use crate::{
    cache::{Announcements, Cache},
    ledger::{Ledger, LedgerError},
};

/// How often the ledger is asked while nothing can be heard.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Users asked about at once.
const PAGE: usize = 1000;

/// Tells the hub what other replicas have changed, until the hub stops. Not needed where no other process writes.
pub async fn listen(hub: Hub, cache: Cache, ledger: Arc<dyn Ledger>) {
    tokio::select! {
        () = hub.stopped() => {}
        () = keep_listening(&hub, &cache, ledger.as_ref()) => {}
    }
}

async fn keep_listening(hub: &Hub, cache: &Cache, ledger: &dyn Ledger) {
    loop {
        hub.until_watched().await;
        if let Some(announcements) = cache.announcements().await {
            metrics::gauge!("tollgate_streams_subscribed").set(1.0);
            hear(hub, announcements, ledger).await;
            metrics::gauge!("tollgate_streams_subscribed").set(0.0);
            if !hub.is_watched() {
                continue;
            }
        }
        if let Err(error) = ask(hub, ledger).await {
            tracing::debug!(%error, "who watches is not told of changes for now");
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Listens for as long as anything can be heard and anybody is interested.
async fn hear(hub: &Hub, mut announcements: Announcements, ledger: &dyn Ledger) {
    // What was announced before this began. Without it the silence would be taken for peace: then it is begun again.
    if ask(hub, ledger).await.is_err() {
        return;
    }
    while hub.is_watched() {
        let Some(announced) = announcements.next().await else { return };
        // Two environments on one Redis hear each other.
        let epoch = ledger.epoch();
        if announced.epoch == epoch.as_str() {
            hub.tell(announced.user, &epoch, announced.version);
        }
    }
}

/// Asks the ledger about everybody who is watched.
async fn ask(hub: &Hub, ledger: &dyn Ledger) -> Result<(), LedgerError> {
    for users in hub.watched().chunks(PAGE) {
        for (user, version) in ledger.versions(users).await? {
            hub.tell(user, &ledger.epoch(), version);
        }
    }
    Ok(())
}
