//! Exactly once? Asked of PostgreSQL and Redis when everything has been answered.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{report::Report, world::Bench};

/// Users whose level is looked up one by one.
const SAMPLE: usize = 1_000;

/// A cache write that missed its 50 ms is done again by the server's own upkeep.
const PATIENCE: Duration = Duration::from_secs(30);

/// Violations of one kind that are told one by one.
const TOLD: usize = 3;

/// Compares what was delivered with what is there.
pub(crate) async fn exactly_once(bench: &Bench, report: &mut Report) {
    inbox(bench, report).await;
    states(bench, report).await;
    cache(bench, report).await;
}

/// Every event is in the inbox, applied, with one grant; and nothing else is.
async fn inbox(bench: &Bench, report: &mut Report) {
    let rows = bench
        .world
        .database
        .query(
            "SELECT e.id, e.outcome, count(u.stripe_event_id) FROM stripe_events e \
             LEFT JOIN user_entitlements u ON u.stripe_event_id = e.id GROUP BY e.id",
        )
        .await;
    let mut missing: HashSet<&str> = bench.delivered.iter().map(|event| event.id.as_str()).collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let field = |place: usize| row.get(place).and_then(Option::as_deref).unwrap_or_default();
        let (id, outcome, grants) = (field(0), field(1), field(2));
        if !missing.remove(id) {
            wrong.push(format!("{id} is in the inbox and was not delivered"));
        }
        if (outcome, grants) != ("applied", "1") {
            wrong.push(format!("{id} is {outcome} with {grants} grants, not applied with one"));
        }
    }
    wrong.extend(missing.iter().map(|id| format!("{id} was delivered and is not in the inbox")));
    let grants = bench.world.database.value("SELECT count(*) FROM user_entitlements").await;
    if grants != bench.delivered.len().to_string() {
        wrong.push(format!("{grants} grants for {} events", bench.delivered.len()));
    }
    tell(report, wrong);
    report.note(format!("checked in PostgreSQL: {} events, each applied once with one grant", bench.delivered.len()));
}

/// A user's version is the number of his events.
async fn states(bench: &Bench, report: &mut Report) {
    let mut expected = events_by_user(bench);
    let users = expected.len();
    let mut wrong = Vec::new();
    for row in bench.world.database.query("SELECT user_id, level, version FROM entitlement_state").await {
        let field = |place: usize| row.get(place).and_then(Option::as_deref).unwrap_or_default();
        let (user, level, version) = (field(0), field(1), field(2));
        let events = user.parse().ok().and_then(|user: Uuid| expected.remove(&user)).unwrap_or(0);
        if level != "PRO" || version != events.to_string() {
            wrong.push(format!("user {user} has {level} in version {version} after {events} events"));
        }
    }
    wrong.extend(expected.keys().map(|user| format!("user {user} has no state")));
    tell(report, wrong);
    report.note(format!("checked in PostgreSQL: {users} users, each with PRO in the version of its number of events"));
}

/// Applications find the level in Redis.
async fn cache(bench: &Bench, report: &mut Report) {
    let step = (bench.delivered.len() / SAMPLE).max(1);
    let users: HashSet<Uuid> = bench.delivered.iter().step_by(step).map(|event| event.user).collect();
    let keys: Vec<String> = users.iter().map(|user| format!("entitlements:{user}")).collect();
    let command: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    let start = Instant::now();
    let mut late = None;
    let wrong = loop {
        let levels: Vec<Option<String>> =
            if keys.is_empty() { Vec::new() } else { bench.world.redis.command(&command).await };
        let wrong: Vec<String> = keys
            .iter()
            .zip(&levels)
            .filter(|(_, level)| level.as_deref() != Some("PRO"))
            .map(|(key, level)| format!("{key} is {level:?} in Redis, not PRO"))
            .collect();
        late.get_or_insert(wrong.len());
        if wrong.is_empty() || start.elapsed() > PATIENCE {
            break wrong;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    report.note(format!(
        "checked in Redis: {} users, each PRO; {} of them were late and came within {:.1} s",
        keys.len(),
        late.unwrap_or(0),
        start.elapsed().as_secs_f64(),
    ));
    tell(report, wrong);
}

/// The same where nobody but the server reads the ledger: asked of the server.
pub(crate) async fn exactly_once_by_http(bench: &Bench, report: &mut Report) {
    let Some(server) = bench.servers.first() else { return };
    let expected = events_by_user(bench);
    let mut wrong = Vec::new();
    for (user, events) in expected.iter().take(SAMPLE) {
        let read = server.read(*user).await.json;
        let (level, version) = (read["entitlementLevel"].as_str(), read["version"].as_u64());
        if (level, version) != (Some("PRO"), Some(*events)) {
            wrong.push(format!("user {user} has {level:?} in version {version:?} after {events} events"));
        }
    }
    tell(report, wrong);
    report.note(format!(
        "checked over HTTP: {} of {} users, each with PRO in the version of the number of its events",
        expected.len().min(SAMPLE),
        expected.len()
    ));
}

/// A user's version is the number of his events.
fn events_by_user(bench: &Bench) -> HashMap<Uuid, u64> {
    let mut expected: HashMap<Uuid, u64> = HashMap::new();
    for event in &bench.delivered {
        *expected.entry(event.user).or_default() += 1;
    }
    expected
}

fn tell(report: &mut Report, wrong: Vec<String>) {
    let more = wrong.len().saturating_sub(TOLD);
    for violation in wrong.into_iter().take(TOLD) {
        report.violation(violation);
    }
    if more > 0 {
        report.violation(format!("… and {more} more of this kind"));
    }
}
