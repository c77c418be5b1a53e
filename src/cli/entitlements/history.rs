//! How a user's entitlement changed, and whose doing it was.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{
    admin::{self, Client, Connection, plain},
    events::table::when,
    print,
};
use crate::{config::AdminConfig, domain::id::UserId};

/// Arguments of `entitlements history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Whose: a UUID
    #[arg(long, value_name = "UUID", value_parser = UserId::parse)]
    user: UserId,
    /// Only what came before this version
    #[arg(long, value_name = "VERSION")]
    before: Option<u64>,
    /// Most changes
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Deserialize)]
struct Page {
    history: Vec<Value>,
    next: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    version: u64,
    entitlement_level: String,
    expires_at: Option<DateTime<Utc>>,
    quantity: u32,
    changed_at: DateTime<Utc>,
    cause: String,
    event_id: Option<String>,
    operator: Option<String>,
    reason: Option<String>,
    source: Option<String>,
}

pub(super) async fn run(args: &Args, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    let (history, next) = admin::pages(args.limit, args.before, async |limit, before: Option<u64>| {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(before.map(|version| ("before", version.to_string())));
        let Page { history, next } = client.get(&format!("entitlements/{}/history", args.user), &query).await?;
        Ok((history, next))
    })
    .await?;
    if args.connection.json {
        return print(admin::json(&json!({ "history": history, "next": next }), false)?);
    }
    if history.is_empty() {
        print("no history")?;
    }
    for entry in &history {
        print(shown(&Entry::deserialize(entry)?))?;
    }
    match next {
        Some(version) => print(format_args!("there is more: say a larger --limit, or --before {version}")),
        None => Ok(()),
    }
}

/// Two or three lines: what began when, whose doing it was, and why.
fn shown(entry: &Entry) -> String {
    let Entry { version, quantity, changed_at, .. } = entry;
    let end = entry.expires_at.map(|end| format!(" until {} UTC", when(end))).unwrap_or_default();
    let many = if *quantity > 1 { format!(" × {quantity}") } else { String::new() };
    let said = |text: &Option<String>| text.as_deref().map(plain);
    let parties = [said(&entry.event_id), said(&entry.operator), said(&entry.source)];
    let by = std::iter::once(plain(&entry.cause)).chain(parties.into_iter().flatten()).collect::<Vec<_>>().join("  ");
    let level = plain(&entry.entitlement_level);
    let reason = said(&entry.reason).map(|reason| format!("\n{:21}{reason}", "")).unwrap_or_default();
    format!("{}  {version:>5}  {level}{many}{end}\n{:21}{by}{reason}", when(*changed_at), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_did_is_shown_with_the_reason_and_commands_nothing() {
        let entry: Entry = serde_json::from_value(json!({
            "version": 7, "entitlementLevel": "PRO", "expiresAt": "2026-12-24T00:00:00Z", "quantity": 5,
            "changedAt": "2026-11-23T16:44:25.120Z", "cause": "operator", "eventId": null, "operator": "robin",
            "reason": "a gift\u{1b}[2J", "source": "manual:7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71",
        }))
        .unwrap();
        let text = shown(&entry);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "2026-11-23 16:44:25      7  PRO × 5 until 2026-12-24 00:00:00 UTC");
        assert_eq!(lines[1].trim(), "operator  robin  manual:7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71");
        assert_eq!(lines[2].trim(), "a gift\\u{1b}[2J");
    }
}
