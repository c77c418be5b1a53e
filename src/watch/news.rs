//! What other replicas have changed: heard of through Redis, or asked of the ledger once a second where nothing can be heard.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::hub::Hub;
use crate::{
    cache::{Announcements, Cache},
    domain::id::UserId,
    ledger::{Ledger, LedgerError},
};

/// How often the ledger is asked while nothing can be heard.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often, in silence, it is looked up whether anybody is interested, and whether the ledger is still the same.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
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
    let epoch = ledger.epoch();
    // What was announced before this began. Without it the silence would be taken for peace: then it is begun again.
    if ask(hub, ledger).await.is_err() {
        return;
    }
    // Another ledger may lack what was announced before it came: then everybody is asked about anew.
    while hub.is_watched() && ledger.epoch() == epoch {
        match timeout(LOOK_UP_EVERY, announcements.next()).await {
            // Two environments on one Redis hear each other.
            Ok(Some(announced)) if announced.epoch == epoch.as_str() => {
                hub.tell(announced.user, &epoch, announced.version);
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => return,
        }
    }
}

/// Asks the ledger about everybody who is watched.
async fn ask(hub: &Hub, ledger: &dyn Ledger) -> Result<(), LedgerError> {
    for users in hub.watched().chunks(PAGE) {
        // Before it answers: what another ledger says under this one's epoch is asked again, but never the other way round.
        let epoch = ledger.epoch();
        let versions: HashMap<UserId, u64> = ledger.versions(users).await?.into_iter().collect();
        for user in users {
            hub.tell(*user, &epoch, versions.get(user).copied().unwrap_or(0));
        }
    }
    Ok(())
}
