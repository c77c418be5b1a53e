//! `tollgate events`: what arrived, what is parked, and trying it again.

mod replay;
pub(super) mod table;

use std::path::Path;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Failure,
    admin::{self, Client, Connection, plain},
    block_on, print,
};
use crate::{
    config::{self, AdminConfig},
    domain::id::{EventId, UserId},
    ledger::Standing,
};

/// What can be done with events.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List events, newest first
    List(ListArgs),
    /// Show one event with what is kept of it
    Show(ShowArgs),
    /// Try parked events again, now
    Replay(replay::Args),
}

/// Arguments of `events list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    connection: Connection,
    /// applied, superseded, ignored or parked
    #[arg(long, value_parser = outcome)]
    outcome: Option<Standing>,
    /// Why they are parked or ignored, such as unknown_level
    #[arg(long)]
    reason: Option<String>,
    /// The type, such as checkout.session.completed
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Whose: a UUID
    #[arg(long, value_name = "UUID", value_parser = UserId::parse)]
    user: Option<UserId>,
    /// Received since then: so long ago, such as 2d, or a moment, such as 2026-01-31T10:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<DateTime<Utc>>,
    /// Most events
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// Arguments of `events show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    connection: Connection,
    /// Its id
    #[arg(value_name = "EVT", value_parser = EventId::parse)]
    id: EventId,
}

pub(super) fn run(command: &Command, data: Option<&Path>) -> Result<(), Failure> {
    let config = AdminConfig::from_env(data)?;
    Ok(block_on(async {
        match command {
            Command::List(args) => list(args, config).await,
            Command::Show(args) => show(args, config).await,
            Command::Replay(args) => replay::run(args, config).await,
        }
    })?)
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Value>,
    next: Option<String>,
}

async fn list(args: &ListArgs, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    let mut filters: Vec<(&str, String)> = Vec::new();
    let mut filter = |name, value: Option<String>| filters.extend(value.map(|value| (name, value)));
    filter("outcome", args.outcome.map(|outcome| outcome.as_str().to_owned()));
    filter("reason", args.reason.clone());
    filter("type", args.kind.clone());
    filter("user", args.user.map(|user| user.to_string()));
    filter("since", args.since.map(|since| since.to_rfc3339_opts(SecondsFormat::Secs, true)));

    let (events, next) = admin::pages(args.limit, None, async |limit, cursor: Option<String>| {
        let mut query = filters.clone();
        query.push(("limit", limit.to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let Page { events, next } = client.get("events", &query).await?;
        Ok((events, next))
    })
    .await?;
    if args.connection.json {
        return print(admin::json(&json!({ "events": events, "next": next }), false)?);
    }
    print(table::events(&events)?)?;
    if next.is_some() {
        print("there are more: say a larger --limit")?;
    }
    Ok(())
}

async fn show(args: &ShowArgs, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    let mut event: Map<String, Value> = client.get(&format!("events/{}", args.id), &[]).await.map_err(unknown)?;
    if args.connection.json {
        return print(admin::json(&event, false)?);
    }
    let payload = event.remove("payload").filter(|payload| !payload.is_null());
    for name in [
        "id",
        "type",
        "objectId",
        "userId",
        "outcome",
        "reason",
        "explanation",
        "attempts",
        "created",
        "receivedAt",
        "processedAt",
    ] {
        let value = match event.get(name) {
            Some(Value::String(text)) => plain(text),
            Some(Value::Null) | None => "-".to_owned(),
            Some(other) => other.to_string(),
        };
        print(format_args!("{name:<12} {value}"))?;
    }
    match payload {
        Some(payload) => print(format_args!("\n{}", admin::json(&payload, true)?)),
        None => Ok(()),
    }
}

/// A 404 says of what.
fn unknown(error: anyhow::Error) -> anyhow::Error {
    if error.downcast_ref::<admin::Refusal>().is_some_and(|refusal| refusal.code == "NOT_FOUND") {
        return error.context("the inbox has no such event");
    }
    error
}

fn outcome(text: &str) -> Result<Standing, &'static str> {
    Standing::from_word(text).ok_or("expected applied, superseded, ignored or parked")
}

fn since(text: &str) -> Result<DateTime<Utc>, anyhow::Error> {
    let ago = config::duration(text).and_then(|ago| Utc::now().checked_sub_signed(TimeDelta::from_std(ago).ok()?));
    let moment = || DateTime::parse_from_rfc3339(text).ok().map(|moment| moment.to_utc());
    ago.or_else(moment)
        .context("expected how long ago, such as 90m, 12h or 2d, or a moment, such as 2026-01-31T10:00:00Z")
}
