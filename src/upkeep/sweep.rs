//! Sweeps over the ledger: levels whose time is over become a change of their own, parked events are tried again.

use futures::StreamExt;
use tokio::time::MissedTickBehavior;

use super::Upkeep;
use crate::{
    domain::{
        change::{Cause, Change, Effect},
        event::Outcome,
    },
    intake::Meaning,
};

const LAPSES_AT_ONCE: u32 = 500;
const PARKED_AT_ONCE: u32 = 100;
const IN_FLIGHT: usize = 32;

/// Makes the end of a level a change: `FREE` gets a newer version than the `PRO` it replaces.
pub(super) async fn lapsed(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(lapsed) = upkeep.ledger.lapsed(LAPSES_AT_ONCE).await else { continue };
        futures::stream::iter(lapsed)
            .for_each_concurrent(IN_FLIGHT, async |(user, version)| {
                let change = Change { user, found_by: None, cause: Cause::Time, effect: Effect::Lapse { version } };
                match upkeep.entitlements.apply(change).await {
                    Ok(Outcome::Applied) => metrics::counter!("tollgate_entitlements_lapsed_total").increment(1),
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, user.id = %user, "a lapse waits for the next sweep"),
                }
            })
            .await;
    }
}

/// Tries parked events again that are due.
pub(super) async fn parked(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(due) = upkeep.ledger.parked_due(PARKED_AT_ONCE).await else { continue };
        // Together: one that takes long must not keep the others from being applied within seconds.
        futures::stream::iter(due)
            .for_each_concurrent(IN_FLIGHT, async |event| {
                let result = match upkeep.read_parked(&event.payload) {
                    Some(Meaning::Change(change)) => {
                        let user = change.user;
                        upkeep.entitlements.apply(change).await.map(|outcome| (Some(user), outcome))
                    }
                    Some(Meaning::Unowned(unowned)) => upkeep.entitlements.apply_unowned(unowned).await,
                    Some(Meaning::Note(_)) | None => return,
                };
                match result {
                    Ok((Some(user), Outcome::Applied)) => {
                        metrics::counter!("tollgate_events_unparked_total").increment(1);
                        tracing::info!(event.id = %event.id, user.id = %user, "applied parked event");
                    }
                    Ok((_, outcome)) => tracing::debug!(event.id = %event.id, ?outcome, "a parked event was tried"),
                    Err(error) => {
                        tracing::debug!(event.id = %event.id, %error, "a parked event waits for the next try");
                    }
                }
            })
            .await;
    }
}
