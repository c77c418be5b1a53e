//! Every metric there is, in one list: described for whoever scrapes them, and counters begin with 0.
//!
//! A counter that appeared with its first count would have no increase that an alert could see. Those with labels appear when they
//! first count, unless the room that counts makes them at its start. A test holds this list, the sources, docs/OPERATIONS.md and
//! docs/alerts.yml to each other.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// By Prometheus' conventions: unit last, then `_total` for counters.
    pub name: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// What sets one of its series apart from another.
    pub labels: &'static [&'static str],
    /// For whoever reads it at `/metrics`.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It grows.
    Counter,
    /// It is what it is.
    Gauge,
    /// Observations in buckets, of this unit.
    Histogram(Unit),
}

const fn count(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Meter {
    Meter { name, kind: Kind::Counter, labels, help }
}

const fn level(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Meter {
    Meter { name, kind: Kind::Gauge, labels, help }
}

const fn observed(name: &'static str, unit: Unit, labels: &'static [&'static str], help: &'static str) -> Meter {
    Meter { name, kind: Kind::Histogram(unit), labels, help }
}

/// All of them, by name.
pub const METERS: &[Meter] = &[
    count("tollgate_actor_panics_total", &[], "Panics caught in an actor's work."),
    count("tollgate_actor_refusals_total", &["reason"], "Changes that no actor could take."),
    count("tollgate_actor_resends_total", &[], "Messages sent once more because an actor was gone."),
    count("tollgate_actor_threads_died_total", &[], "Threads of actors that ended and were begun afresh."),
    count("tollgate_actors_died_total", &[], "Actors found dead and started afresh."),
    count("tollgate_actors_let_go_total", &[], "Idle actors that were let go."),
    level("tollgate_actors_live", &[], "Users with a live actor."),
    count("tollgate_actors_reloaded_total", &[], "Actors started again because an outcome was unknown."),
    level("tollgate_build_info", &["version"], "Always 1; the version is a label."),
    level("tollgate_cache_breaker_open", &[], "1 while Redis is not asked."),
    count("tollgate_cache_breaker_opened_total", &[], "How often Redis began not to be asked."),
    count("tollgate_cache_drift_total", &[], "States that the comparison found missing or older in the cache."),
    count("tollgate_cache_failures_total", &[], "Commands that Redis did not answer, or not in time."),
    count("tollgate_cache_memory_lost_total", &[], "How often Redis had lost what was acknowledged."),
    count("tollgate_cache_redriven_total", &[], "States shown to readers again."),
    count("tollgate_cache_writes_deferred_total", &[], "Cache writes that failed and wait."),
    level("tollgate_cache_writes_waiting", &[], "Users whose newest state readers have not been shown."),
    count("tollgate_catalogue_reloads_total", &["outcome"], "Catalogues read at SIGHUP."),
    level("tollgate_clock_skew_seconds", &[], "By how much this machine's clock is ahead of the database's."),
    count("tollgate_entitlements_lapsed_total", &[], "Levels whose end this replica made a change."),
    count("tollgate_event_panics_total", &[], "Tries of an event that panicked."),
    count("tollgate_events_conflicting_total", &[], "Known event ids that came with another object."),
    count("tollgate_events_not_taken_total", &["reason"], "Events answered 5xx, by what kept them out."),
    level("tollgate_events_parked", &["reason"], "Events that are parked."),
    level("tollgate_events_parked_oldest_seconds", &["reason"], "For how long the oldest parked event has waited."),
    count("tollgate_events_poisoned_total", &[], "Events that panicked as often as they may, and were parked."),
    count("tollgate_events_unparked_total", &[], "Parked events that were applied after all."),
    level("tollgate_fetches_given_up", &["reason"], "Questions to Stripe that nobody asks any more."),
    level("tollgate_fetches_oldest_seconds", &["reason"], "For how long the oldest question to Stripe has waited."),
    count("tollgate_fetches_total", &["reason", "outcome"], "Questions to Stripe, by how they ended."),
    level("tollgate_fetches_waiting", &["reason"], "Questions to Stripe that are to be asked."),
    level("tollgate_http_body_bytes", &[], "What the bodies of all requests under way take."),
    level("tollgate_http_connections", &[], "Connections of the public listener."),
    count("tollgate_http_connections_refused_total", &[], "Connections closed as they came, since there were so many."),
    count("tollgate_http_panics_total", &[], "Handlers of requests that panicked."),
    observed(
        "tollgate_http_request_duration_seconds",
        Unit::Seconds,
        &["route"],
        "From a request's head to its answer.",
    ),
    count("tollgate_http_requests_total", &["route", "status"], "Answers on either listener."),
    count("tollgate_ledger_aborted_total", &[], "Transactions that did not commit, after retries."),
    count("tollgate_ledger_alone_total", &[], "Changes whose user was locked by another transaction."),
    observed("tollgate_ledger_batch_size", Unit::Count, &[], "Entries handed to a lane at once."),
    count("tollgate_ledger_connections_total", &[], "Connections opened by lanes."),
    count("tollgate_ledger_in_doubt_total", &[], "Spans of a batch whose COMMIT was not answered."),
    count("tollgate_ledger_lane_panics_total", &[], "Panics of a lane; its batch was in doubt."),
    count("tollgate_ledger_lanes_died_total", &[], "Lanes found ended and started afresh."),
    count("tollgate_ledger_replies_lost_total", &[], "Entries whose lane ended before it had answered: in doubt."),
    count("tollgate_log_lines_dropped_total", &[], "Log lines dropped because the output was too slow."),
    count("tollgate_refunds_unmeasured_total", &[], "Refunds of payments whose amount nobody has told."),
    count("tollgate_router_failures_total", &[], "Starts of an actor that a router did not answer in time."),
    count("tollgate_routers_died_total", &[], "Routers found dead and started afresh."),
    count("tollgate_sessions_fetched_total", &["outcome"], "Sessions that a buyer's page asked Stripe about."),
    level("tollgate_start_time_seconds", &[], "When the process started, in seconds since 1970."),
    count("tollgate_streams_dropped_total", &[], "Streams whose client took nothing."),
    level("tollgate_streams_open", &[], "Streams of entitlements that are open."),
    level("tollgate_streams_subscribed", &[], "1 while this replica hears through Redis what others change."),
    count("tollgate_subscriptions_tied_total", &[], "Subscriptions of whose events of one second none is the last."),
    count("tollgate_supervision_panics_total", &[], "Panics of the supervision of actors, which was begun again."),
    observed(
        "tollgate_thread_delay_seconds",
        Unit::Seconds,
        &["thread"],
        "How late threads came to a task that was due.",
    ),
    level("tollgate_threads_held_up", &[], "Threads that do not come to their next task."),
    count("tollgate_upkeep_panics_total", &[], "Loops of the upkeep that panicked and were begun again."),
    count("tollgate_webhook_events_total", &["outcome"], "Deliveries by how they ended."),
    level("tollgate_webhooks_in_flight", &[], "Signed webhooks under way."),
];

/// Describes all metrics to the recorder, lets counters without labels begin with 0, and says which version runs since when.
pub(crate) fn describe() {
    for meter in METERS {
        match meter.kind {
            Kind::Counter => {
                describe_counter!(meter.name, meter.help);
                if meter.labels.is_empty() {
                    counter!(meter.name).absolute(0);
                }
            }
            Kind::Gauge => describe_gauge!(meter.name, meter.help),
            Kind::Histogram(unit) => describe_histogram!(meter.name, unit, meter.help),
        }
    }
    gauge!("tollgate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let started = chrono::Utc::now().timestamp();
    gauge!("tollgate_start_time_seconds").set(f64::from(u32::try_from(started).unwrap_or(u32::MAX)));
}
