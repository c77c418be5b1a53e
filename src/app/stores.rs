//! Ledger and cache, as the settings choose them, and what must hold before they are used.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    cache::{Cache, MemoryCache, MemorySettings, RedisCache, RedisSettings},
    config::{CacheStore, Config, LedgerConfig, LedgerStore, StripeMode},
    domain::{live::LiveCatalogue, plan::Catalogue},
    ledger::{
        Ledger, MigrationReport,
        postgres::{self, PostgresLedger},
        sqlite::{self, Purpose, SqliteLedger},
    },
};

/// For one answer of Redis, where nobody waits for it with a limit of his own.
const REDIS_RESPONSE: Duration = Duration::from_secs(1);

/// Opens the ledger, migrated and fit for the catalogue.
pub(super) async fn open_ledger(config: &Config, catalogue: &LiveCatalogue) -> anyhow::Result<Arc<dyn Ledger>> {
    let ledger: Arc<dyn Ledger> = match &config.ledger.store {
        LedgerStore::Postgres(url) => {
            Arc::new(open_postgres(url, config, catalogue.clone()).await.context("DATABASE_URL")?)
        }
        LedgerStore::Sqlite(path) => {
            let purpose = if config.sandbox.is_some() { Purpose::Sandbox } else { Purpose::Stripe };
            if purpose == Purpose::Stripe && !path.exists() {
                let path = path.display();
                tracing::warn!(%path, "a new, empty ledger is made: is this the file that was meant?");
            }
            let limits = sqlite_limits(&config.ledger);
            let (ledger, report) = SqliteLedger::open(path, purpose, limits, catalogue.clone())
                .await
                .context("TOLLGATE_LEDGER, --data")?;
            log(&report);
            Arc::new(ledger)
        }
    };
    check_catalogue(ledger.as_ref(), &config.catalogue).await?;
    Ok(ledger)
}

async fn open_postgres(
    url: &SecretString,
    config: &Config,
    catalogue: LiveCatalogue,
) -> anyhow::Result<PostgresLedger> {
    let url = url.expose_secret();
    if config.ledger.migrate_on_start {
        log(&PostgresLedger::migrate(url, &config.catalogue).await?);
    }
    let ledger = PostgresLedger::connect(url, postgres_limits(&config.ledger), catalogue).await?;
    check_durability(&ledger, config).await?;
    Ok(ledger)
}

fn postgres_limits(config: &LedgerConfig) -> postgres::Limits {
    postgres::Limits {
        statement: config.statement_timeout,
        lock: config.lock_timeout,
        transaction: config.commit_timeout,
        pool_size: config.pool_size,
        ..postgres::Limits::default()
    }
}

fn sqlite_limits(config: &LedgerConfig) -> sqlite::Limits {
    sqlite::Limits {
        busy: config.lock_timeout,
        transaction: config.commit_timeout,
        readers: config.pool_size,
        ..sqlite::Limits::default()
    }
}

fn log(report: &MigrationReport) {
    if !report.applied.is_empty() || !report.levels_added.is_empty() {
        tracing::info!(applied = ?report.applied, levels_added = ?report.levels_added, "migrated the database");
    }
}

/// A 200 promises durable custody; a database that may forget acknowledged commits cannot keep that promise.
async fn check_durability(ledger: &PostgresLedger, config: &Config) -> anyhow::Result<()> {
    let durability = ledger.durability().await.context("asking the database how durable it is")?;
    if !durability.synchronous_commit {
        if config.stripe.mode() == Some(StripeMode::Live) {
            bail!(
                "synchronous_commit is off, so acknowledged payments may be lost in a crash; \
                 switch it on (ALTER ROLE … SET synchronous_commit = on) before using a live Stripe key"
            );
        }
        tracing::warn!("synchronous_commit is off: acknowledged events may be lost in a crash");
    }
    if !durability.fsync {
        tracing::warn!("fsync is off: a crash of the machine may destroy the database");
    }
    Ok(())
}

/// A catalogue without a level that people have paid for would serve them FREE.
async fn check_catalogue(ledger: &dyn Ledger, catalogue: &Catalogue) -> anyhow::Result<()> {
    let in_use = ledger.levels_in_use().await.context("asking which levels are in use")?;
    let missing: Vec<&str> =
        in_use.iter().filter(|level| catalogue.plan(level).is_none()).map(|level| level.as_str()).collect();
    if !missing.is_empty() {
        bail!(
            "TOLLGATE_CATALOGUE: there are live grants of {}, which the catalogue does not have; \
             keep a plan for each until its last grant has ended",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Prepares the cache. Redis need not be there yet.
pub(super) fn open_cache(config: &Config) -> anyhow::Result<Cache> {
    match &config.cache.store {
        CacheStore::Redis(url) => {
            // A client's limit below the request's would cut the allowance short.
            let response = config.cache.deadline.max(REDIS_RESPONSE);
            let settings = RedisSettings { response, ..RedisSettings::default() };
            Ok(RedisCache::new(url.expose_secret(), settings).context("REDIS_URL cannot be used")?.into())
        }
        CacheStore::Memory { life_max } => {
            Ok(MemoryCache::new(MemorySettings { life_max: *life_max, ..MemorySettings::default() }).into())
        }
    }
}
