//! SIGHUP: the catalogue is read again. It takes the old one's place everywhere at once, or not at all.

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::signal::unix::Signal;

use crate::{
    config::catalogue::Source,
    domain::{event::ParkReason, level::Level, live::LiveCatalogue},
    ledger::Ledger,
};

/// Reads the catalogue again when told to.
pub(super) struct Reloader {
    pub(super) source: Source,
    pub(super) catalogue: LiveCatalogue,
    pub(super) ledger: Arc<dyn Ledger>,
}

impl Reloader {
    /// Goes on until it is dropped. What is wrong with a catalogue is logged, and the old one stays.
    pub(super) async fn run(self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            let outcome = match self.reload().await {
                Ok(()) => "applied",
                Err(error) => {
                    tracing::error!(error = %format_args!("{error:#}"), "catalogue refused: the old one stays");
                    "refused"
                }
            };
            metrics::counter!("tollgate_catalogue_reloads_total", "outcome" => outcome).increment(1);
        }
    }

    async fn reload(&self) -> anyhow::Result<()> {
        let source = self.source.clone();
        let (next, warning) =
            tokio::task::spawn_blocking(move || source.load()).await.context("reading it panicked")??;
        if let Some(warning) = warning {
            tracing::warn!(warning, "a setting is risky");
        }
        let held = self.ledger.levels_in_use().await.context("asking which levels are in use")?;
        next.may_replace(&self.catalogue.get(), &held)?;
        let levels: Vec<Level> = next.plans().iter().map(|plan| plan.level.clone()).collect();
        let lacking = self.ledger.levels_lacking(&levels).await.context("asking which levels the database has")?;
        if !lacking.is_empty() {
            let lacking: Vec<&str> = lacking.iter().map(Level::as_str).collect();
            bail!("the database has no level {}: run tollgate migrate, then try again", lacking.join(", "));
        }

        self.catalogue.replace(next);
        tracing::info!(levels = levels.len(), "catalogue replaced");
        // Only once it is in force: what is woken is read by it.
        for reason in [ParkReason::UnknownLevel, ParkReason::UnknownPrice] {
            match self.ledger.wake_parked(reason).await {
                Ok(0) => {}
                Ok(events) => tracing::info!(events, %reason, "woke events that waited for the catalogue"),
                Err(error) => tracing::warn!(%error, %reason, "parked events are tried again in their own time"),
            }
        }
        Ok(())
    }
}
