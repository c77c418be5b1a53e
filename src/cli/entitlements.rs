//! `tollgate entitlements`: what a user has and had, and why; giving and taking by hand.

mod by_hand;
mod history;

use std::{fmt, path::Path};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Failure,
    admin::{self, Client, Connection, plain},
    block_on,
    events::table::{self, when},
    print,
};
use crate::{config::AdminConfig, domain::id::UserId};

/// What can be done with entitlements.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a user has, and why
    Get(GetArgs),
    /// Give a level by hand
    Grant(by_hand::GrantArgs),
    /// Take back what was given by hand
    Revoke(by_hand::RevokeArgs),
    /// Show how a user's entitlement changed, and whose doing it was
    History(history::Args),
}

/// Arguments of `entitlements get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    #[command(flatten)]
    connection: Connection,
    /// Whose: a UUID
    #[arg(value_name = "UUID", value_parser = UserId::parse)]
    user: UserId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    entitlement_level: String,
    expires_at: Option<DateTime<Utc>>,
    version: u64,
    grants: Vec<Grant>,
    events: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Grant {
    source: String,
    source_id: String,
    level: String,
    status: String,
    period_end: DateTime<Utc>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, source_id, level, status, period_end } = self;
        let (level, status, source, id) = (plain(level), plain(status), plain(source), plain(source_id));
        write!(f, "{level} {status} until {} UTC\n  {source} {id}", when(*period_end))
    }
}

pub(super) fn run(command: &Command, data: Option<&Path>) -> Result<(), Failure> {
    let config = AdminConfig::from_env(data)?;
    Ok(block_on(async {
        match command {
            Command::Get(args) => get(args, config).await,
            Command::Grant(args) => by_hand::grant(args, config).await,
            Command::Revoke(args) => by_hand::revoke(args, config).await,
            Command::History(args) => history::run(args, config).await,
        }
    })?)
}

async fn get(args: &GetArgs, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    let report: Value = client.get(&format!("entitlements/{}", args.user), &[]).await?;
    if args.connection.json {
        return print(admin::json(&report, false)?);
    }
    let Report { entitlement_level, expires_at, version, grants, events } = Report::deserialize(report)?;
    let end = expires_at.map(|end| format!(" until {} UTC", when(end))).unwrap_or_default();
    print(format_args!("{}: {}{end}, version {version}\n", args.user, plain(&entitlement_level)))?;
    if grants.is_empty() {
        print("no grants")?;
    }
    grants.iter().try_for_each(print)?;
    print(format_args!("\n{}", table::events(&events)?))
}
