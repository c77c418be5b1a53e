//! `tollgate migrate`: the database's schema, and the catalogue's levels in it.

use anyhow::Context;
use secrecy::ExposeSecret;
use serde::Serialize;

use super::{Failure, block_on, print};
use crate::{
    config::MigrationConfig,
    ledger::{MigrationReport, postgres::PostgresLedger},
};

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What was done, for scripts.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done<'a> {
    applied: &'a [String],
    levels_added: &'a [String],
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = MigrationConfig::from_env()?;
    let report =
        block_on(async { Ok(PostgresLedger::migrate(config.database_url.expose_secret(), &config.catalogue).await?) })?;
    let text = if args.json { as_json(&report)? } else { as_lines(&report) };
    Ok(print(text)?)
}

fn as_json(report: &MigrationReport) -> anyhow::Result<String> {
    let MigrationReport { applied, levels_added } = report;
    serde_json::to_string(&Done { applied, levels_added }).context("the report cannot be written as JSON")
}

fn as_lines(report: &MigrationReport) -> String {
    let applied = report.applied.iter().map(|version| format!("applied {version}"));
    let added = report.levels_added.iter().map(|level| format!("added level {level}"));
    let lines: Vec<String> = applied.chain(added).collect();
    if lines.is_empty() { "nothing to do: the schema is up to date".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_was_done_is_told() {
        let report = MigrationReport { applied: vec!["1".into(), "2".into()], levels_added: vec!["TEAM".into()] };
        assert_eq!(as_lines(&report), "applied 1\napplied 2\nadded level TEAM");
        assert_eq!(as_json(&report).unwrap(), r#"{"applied":["1","2"],"levelsAdded":["TEAM"]}"#);
        let nothing = MigrationReport { applied: vec![], levels_added: vec![] };
        assert_eq!(as_lines(&nothing), "nothing to do: the schema is up to date");
    }
}
