//! `tollgate events replay`: parked events are tried again, by their ids or all that wait.

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    cli::{
        admin::{self, Client, Connection, Refusal, plain},
        print,
    },
    config::AdminConfig,
    domain::id::EventId,
};

/// Arguments of `events replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Their ids
    #[arg(value_name = "EVT", value_parser = EventId::parse, required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<EventId>,
    /// Everything that is parked
    #[arg(long)]
    all: bool,
    /// Of that, only what is parked for this reason, such as unknown_level
    #[arg(long, requires = "all", conflicts_with = "ids")]
    reason: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Answer {
    id: String,
    outcome: String,
    reason: Option<String>,
    explanation: Option<String>,
}

#[derive(Default, Deserialize, Serialize)]
struct Counts {
    tried: u64,
    applied: u64,
    superseded: u64,
    parked: u64,
    failed: u64,
    #[serde(skip_serializing)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Summary {
    parked: Vec<Parked>,
}

#[derive(Deserialize)]
struct Parked {
    reason: String,
    count: u64,
}

/// What is parked after all was to be tried is a failure, told when all has been.
pub(super) async fn run(args: &Args, config: AdminConfig) -> anyhow::Result<()> {
    let client = Client::new(&args.connection, config)?;
    if args.all { all(args, &client).await } else { named(args, &client).await }
}

async fn named(args: &Args, client: &Client) -> anyhow::Result<()> {
    let progress = progress(u64::try_from(args.ids.len()).unwrap_or(u64::MAX))?;
    let mut not_applied = 0_u32;
    for id in &args.ids {
        let answer: anyhow::Result<Answer> = client.post(&format!("events/{id}/replay"), &json!({})).await;
        progress.inc(1);
        let (line, is_settled) = match answer {
            Ok(answer) if args.connection.json => (admin::json(&answer, false)?, answer.outcome != "parked"),
            Ok(Answer { outcome, reason: None, .. }) => (format!("{id} {}", plain(&outcome)), true),
            Ok(Answer { reason: Some(reason), explanation, .. }) => {
                let explanation = explanation.map(|text| format!(" ({})", plain(text.trim_start_matches("parked: "))));
                let explanation = explanation.unwrap_or_default();
                (format!("{id} still parked: {}{explanation}", plain(&reason)), false)
            }
            Err(error) => match error.downcast_ref::<Refusal>() {
                // The others may be tried all the same.
                Some(refusal) if matches!(refusal.code.as_str(), "NOT_FOUND" | "NOT_PARKED") => {
                    let line = match args.connection.json {
                        true => admin::json(&json!({ "id": id, "refusal": refusal }), false)?,
                        false if refusal.code == "NOT_FOUND" => format!("{id} is not in the inbox"),
                        false => format!("{id} is not parked"),
                    };
                    (line, false)
                }
                _ => return Err(error),
            },
        };
        progress.suspend(|| print(line))?;
        not_applied += u32::from(!is_settled);
    }
    progress.finish_and_clear();
    if not_applied > 0 {
        bail!("{not_applied} of {} events could not be applied", args.ids.len());
    }
    Ok(())
}

async fn all(args: &Args, client: &Client) -> anyhow::Result<()> {
    let Summary { parked } = client.get("summary", &[]).await?;
    let is_asked_for = |parked: &&Parked| args.reason.as_ref().is_none_or(|reason| *reason == parked.reason);
    let progress = progress(parked.iter().filter(is_asked_for).map(|parked| parked.count).sum())?;
    let mut all = Counts::default();
    loop {
        let body = json!({ "reason": args.reason, "cursor": all.next });
        let some: Counts = client.post("events/replay", &body).await?;
        progress.inc(some.tried);
        all.tried += some.tried;
        all.applied += some.applied;
        all.superseded += some.superseded;
        all.parked += some.parked;
        all.failed += some.failed;
        all.next = some.next;
        if all.next.is_none() {
            break;
        }
    }
    progress.finish_and_clear();
    let Counts { tried, applied, superseded, parked, failed, .. } = &all;
    print(if args.connection.json {
        admin::json(&all, false)?
    } else {
        format!("tried {tried}: {applied} applied, {superseded} superseded, {parked} still parked, {failed} failed")
    })?;
    if parked + failed > 0 {
        bail!("{} of {tried} events could not be applied", parked + failed);
    }
    Ok(())
}

/// A bar on standard error, where that is a terminal and there is more than one to be tried.
fn progress(length: u64) -> anyhow::Result<ProgressBar> {
    if length < 2 {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left")?;
    Ok(ProgressBar::new(length).with_style(style))
}
