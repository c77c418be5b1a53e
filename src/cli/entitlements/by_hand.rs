//! Giving and taking levels by hand.

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        admin::{self, Client, Connection, Refusal},
        print,
    },
    Grant,
};
use crate::{
    config::{self, AdminConfig},
    domain::{by_hand::Line, id::UserId, level::Level},
};

/// Whose doing it is, and why.
#[derive(Debug, clap::Args)]
struct Signature {
    /// Why, in one line of at most 200 characters
    #[arg(long, value_parser = line)]
    reason: Line,
    /// Who does it [default: the account's name, from USER]
    #[arg(long, value_name = "NAME", value_parser = line)]
    operator: Option<Line>,
}

impl Signature {
    fn operator(&self) -> anyhow::Result<Line> {
        let account = || Line::parse(&std::env::var("USER").ok()?);
        self.operator.clone().or_else(account).context("USER is not set: say who does it with --operator NAME")
    }
}

/// Arguments of `entitlements grant`.
#[derive(Debug, clap::Args)]
pub struct GrantArgs {
    #[command(flatten)]
    connection: Connection,
    /// To whom: a UUID
    #[arg(long, value_name = "UUID", value_parser = UserId::parse)]
    user: UserId,
    /// A level of the catalogue, such as PRO
    #[arg(long, value_parser = Level::parse)]
    level: Level,
    #[command(flatten)]
    end: End,
    #[command(flatten)]
    signature: Signature,
    /// The grant's own id: with that of an attempt before, it is the same grant [default: a new one]
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct End {
    /// The moment when it ends, such as 2026-01-31T10:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<DateTime<Utc>>,
    /// How long it lasts from now on, such as 30d or 12h
    #[arg(long = "for", value_name = "TIME", value_parser = from_now)]
    lasts: Option<DateTime<Utc>>,
}

/// Arguments of `entitlements revoke`.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    connection: Connection,
    /// From whom: a UUID
    #[arg(long, value_name = "UUID", value_parser = UserId::parse)]
    user: UserId,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    signature: Signature,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The grant with this id; `entitlements get` shows them
    #[arg(long, value_name = "ID")]
    grant: Option<String>,
    /// All that was given by hand
    #[arg(long)]
    all_manual: bool,
}

#[derive(Deserialize)]
struct Granted {
    created: bool,
    grant: Grant,
}

#[derive(Deserialize)]
struct Revoked {
    revoked: Vec<Grant>,
}

pub(super) async fn grant(args: &GrantArgs, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    let end = args.end.until.or(args.end.lasts).context("say --until or --for")?;
    let (id, until) = (args.id.unwrap_or_else(Uuid::new_v4), end.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    let Signature { reason, .. } = &args.signature;
    let request = json!({
        "id": id, "level": args.level.as_str(), "until": until,
        "operator": args.signature.operator()?.as_str(), "reason": reason.as_str(),
    });
    let answer = client.post(&format!("entitlements/{}/grants", args.user), &request).await;
    let answer: Value = answer.map_err(|error| {
        if is_certain(&error) {
            return error;
        }
        error.context(format!("it may have been granted; to ask again: the same with --id {id} --until {until}"))
    })?;
    if args.connection.json {
        return print(admin::json(&answer, false)?);
    }
    let Granted { created, grant } = Granted::deserialize(answer)?;
    print(format_args!("{}\n{grant}", if created { "granted" } else { "was granted before" }))
}

pub(super) async fn revoke(args: &RevokeArgs, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    let Signature { reason, .. } = &args.signature;
    let request = json!({
        "grant": args.which.grant, "allManual": args.which.all_manual,
        "operator": args.signature.operator()?.as_str(), "reason": reason.as_str(),
    });
    let answer = client.post(&format!("entitlements/{}/revocations", args.user), &request).await;
    let answer: Value = answer.map_err(|error| match error.downcast_ref::<Refusal>() {
        Some(refusal) if refusal.code == "NOT_FOUND" => error.context("the user has no such grant"),
        _ => error,
    })?;
    if args.connection.json {
        return print(admin::json(&answer, false)?);
    }
    let Revoked { revoked } = Revoked::deserialize(answer)?;
    if revoked.is_empty() {
        return print("nothing was left to revoke");
    }
    print("revoked")?;
    revoked.iter().try_for_each(print)
}

/// Whether the server has said that nothing happened.
fn is_certain(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| !matches!(&*refusal.code, "UNAVAILABLE" | "INTERNAL"))
}

fn line(text: &str) -> Result<Line, &'static str> {
    Line::parse(text).ok_or("expected one line of 1 to 200 characters")
}

fn moment(text: &str) -> Result<DateTime<Utc>, &'static str> {
    let moment = DateTime::parse_from_rfc3339(text).map_err(|_| "expected a moment such as 2026-01-31T10:00:00Z")?;
    Ok(moment.to_utc())
}

fn from_now(text: &str) -> Result<DateTime<Utc>, &'static str> {
    config::duration(text)
        .and_then(|time| Utc::now().checked_add_signed(TimeDelta::from_std(time).ok()?))
        .ok_or("expected how long, such as 30d or 12h")
}
