//! Sweeps over the ledger: levels whose time is over become a change of their own, parked events are tried again.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::MissedTickBehavior;

use super::Upkeep;
use crate::{
    domain::{
        change::{Cause, Change, Effect},
        event::{Outcome, ParkReason},
        id::UserId,
    },
    fail_point::{self, Point},
    ledger::{FetchCount, FetchReason, Lapsed, ParkedCount},
    trial::{Retried, Will},
};

const PARKED_AT_ONCE: u32 = 100;
const IN_FLIGHT: usize = 32;
const LAPSES_IN_FLIGHT: u32 = 256;

/// Makes the end of a level a change: `FREE` gets a newer version than the `PRO` it replaces. Every replica does, and the ledger lets one of
/// them: a replica that is frozen ends nobody's level late. Nor does a user whose lock somebody holds, or of whom this replica cannot decide: it
/// goes through all whose time is over, and then begins again with the oldest.
pub(super) async fn lapsed(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.sweep);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut begun, mut under_way, mut place) = (HashSet::new(), FuturesUnordered::new(), None);
    loop {
        tokio::select! {
            Some(user) = under_way.next() => {
                begun.remove(&user);
            }
            _ = ticks.tick() => {
                let room = LAPSES_IN_FLIGHT.saturating_sub(u32::try_from(begun.len()).unwrap_or(u32::MAX));
                if room == 0 {
                    continue;
                }
                let Ok(page) = upkeep.ledger.lapsed(place, room).await else { continue };
                place = page.last().copied().filter(|_| page.len() >= usize::try_from(room).unwrap_or(usize::MAX));
                for Lapsed { user, version, .. } in page {
                    if begun.insert(user) {
                        under_way.push(lapse(&upkeep, user, version));
                    }
                }
            }
        }
    }
}

async fn lapse(upkeep: &Upkeep, user: UserId, version: u64) -> UserId {
    let change = Change { user, found_by: None, cause: Cause::Time, effect: Effect::Lapse { version } };
    fail_point::pass(Point::SweepLapse, || user.to_string()).await;
    match upkeep.entitlements.apply(change).await {
        Ok(Outcome::Applied) => metrics::counter!("tollgate_entitlements_lapsed_total").increment(1),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, user.id = %user, "a lapse waits for the next sweep"),
    }
    user
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
                fail_point::pass(Point::SweepParked, || event.id.to_string()).await;
                match upkeep.trials.retry(&event.id, &event.payload, Will::Sweep).await {
                    Ok(Retried::Tried(user, Outcome::Applied)) => {
                        metrics::counter!("tollgate_events_unparked_total").increment(1);
                        tracing::info!(event.id = %event.id, user.id = user.map(tracing::field::display), "applied parked event");
                    }
                    Ok(retried) => tracing::debug!(event.id = %event.id, ?retried, "a parked event was tried"),
                    Err(error) => {
                        tracing::debug!(event.id = %event.id, %error, "a parked event waits for the next try");
                    }
                }
            })
            .await;
    }
}

/// Tells how many events wait, by reason: each is somebody who paid and has nothing. Every replica tells the same.
pub(super) async fn count_parked(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.count);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::try_join!(upkeep.ledger.parked(), upkeep.ledger.now()) {
            Ok((counts, now)) => show_parked(&counts, now),
            Err(error) => tracing::debug!(%error, "parked events were not counted"),
        }
    }
}

/// Tells how many questions to Stripe wait, how many were given up, and for how long the oldest has waited. Every replica tells the same.
pub(super) async fn count_fetches(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(upkeep.rhythm.count);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::try_join!(upkeep.ledger.fetches(), upkeep.ledger.now()) {
            Ok((counts, now)) => show_fetches(&counts, now),
            Err(error) => tracing::debug!(%error, "questions to Stripe were not counted"),
        }
    }
}

/// A reason for which nothing waits any more must not stand there with its last number.
fn show_fetches(counts: &[FetchCount], now: DateTime<Utc>) {
    for reason in FetchReason::ALL.map(FetchReason::as_str) {
        let count = counts.iter().find(|count| count.reason == reason);
        let oldest = count.and_then(|count| count.oldest).map_or(0, |oldest| (now - oldest).num_seconds());
        let oldest = number(u64::try_from(oldest).unwrap_or(0));
        metrics::gauge!("tollgate_fetches_waiting", "reason" => reason)
            .set(number(count.map_or(0, |count| count.waiting)));
        metrics::gauge!("tollgate_fetches_given_up", "reason" => reason)
            .set(number(count.map_or(0, |count| count.given_up)));
        metrics::gauge!("tollgate_fetches_oldest_seconds", "reason" => reason).set(oldest);
    }
}

/// A reason that nothing waits for any more must not stand there with its last number.
fn show_parked(counts: &[ParkedCount], now: DateTime<Utc>) {
    let show = |reason: &'static str, counted: &dyn Fn(&str) -> bool| {
        let counts = || counts.iter().filter(|parked| counted(&parked.reason));
        let oldest = counts().map(|parked| (now - parked.oldest).num_seconds()).max().unwrap_or(0);
        metrics::gauge!("tollgate_events_parked", "reason" => reason)
            .set(number(counts().map(|parked| parked.count).sum()));
        metrics::gauge!("tollgate_events_parked_oldest_seconds", "reason" => reason)
            .set(number(u64::try_from(oldest).unwrap_or(0)));
    };
    for reason in ParkReason::ALL {
        show(reason.as_str(), &|word| word == reason.as_str());
    }
    // Of a newer version, while both run.
    show("other", &|word| ParkReason::ALL.iter().all(|reason| reason.as_str() != word));
}

fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::clock;

    #[test]
    fn a_reason_that_nothing_waits_for_any_more_counts_none() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = |counts: &[(&str, u64)]| {
            let counts: Vec<_> = counts
                .iter()
                .map(|(reason, count)| ParkedCount {
                    reason: (*reason).to_owned(),
                    count: *count,
                    oldest: clock::now(),
                })
                .collect();
            metrics::with_local_recorder(&recorder, || show_parked(&counts, clock::now()));
            recorder.handle().render()
        };
        let before = shown(&[("unknown_level", 3), ("of_a_newer_version", 2)]);
        assert!(before.contains("{reason=\"unknown_level\"} 3") && before.contains("{reason=\"other\"} 2"), "{before}");
        let after = shown(&[("unknown_user", 1)]);
        assert!(after.contains("{reason=\"unknown_level\"} 0") && after.contains("{reason=\"other\"} 0"), "{after}");
        assert!(after.contains("{reason=\"unknown_user\"} 1"), "{after}");
    }
}
