//! Events as a table that fits into 100 columns: two lines each, since ids are to be copied and must stand there whole.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::plain;

/// Longest type that is shown whole.
const TYPE_WIDTH: usize = 40;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    id: String,
    r#type: String,
    user_id: Option<String>,
    outcome: String,
    reason: Option<String>,
    attempts: u32,
    received_at: DateTime<Utc>,
}

/// The table, without the end of its last line.
pub(in crate::cli) fn events(events: &[Value]) -> anyhow::Result<String> {
    if events.is_empty() {
        return Ok("no events".to_owned());
    }
    let mut table = format!("{:<19}  {:<10}  {:<17}  {:>5}  EVENT", "RECEIVED (UTC)", "OUTCOME", "REASON", "TRIES");
    for event in events {
        let Event { id, r#type, user_id, outcome, reason, attempts, received_at } = Event::deserialize(event)?;
        let (outcome, reason, id) = (plain(&outcome), reason.map(|reason| plain(&reason)), plain(&id));
        let reason = reason.as_deref().unwrap_or("-");
        let (kind, user) = (clipped(&plain(&r#type)), user_id.map(|user| plain(&user)).unwrap_or_default());
        write!(table, "\n{}  {outcome:<10}  {reason:<17}  {attempts:>5}  {id}", when(received_at))?;
        write!(table, "\n{}", format!("{:19}  {kind:<TYPE_WIDTH$}  {user}", "").trim_end())?;
    }
    Ok(table)
}

/// A moment for people, in UTC.
pub(in crate::cli) fn when(moment: DateTime<Utc>) -> impl std::fmt::Display {
    moment.format("%Y-%m-%d %H:%M:%S")
}

fn clipped(text: &str) -> String {
    if text.chars().count() <= TYPE_WIDTH {
        return text.to_owned();
    }
    text.chars().take(TYPE_WIDTH - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_widest_event_of_stripes_fits_and_commands_nothing() {
        let event = json!({
            "id": "evt_1ST408649ff95a1b564786de", "type": "checkout.session.async_payment_succeeded\u{1b}[2J",
            "objectId": null, "userId": "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71", "outcome": "parked",
            "reason": "incomplete_object", "attempts": 99_999, "created": null,
            "receivedAt": "2026-11-23T16:44:25.120Z", "processedAt": null,
        });
        let table = events(&[event]).unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        assert_eq!(table.lines().count(), 3);
        assert!(table.lines().all(|line| !line.contains(char::is_control)), "{table:?}");
        assert!(table.contains("evt_1ST408649ff95a1b564786de") && table.contains("2026-11-23 16:44:25"), "{table}");
        assert_eq!(events(&[]).unwrap(), "no events");
    }
}
