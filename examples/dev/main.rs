//! The service beside real neighbours, with nothing to set up: a throw-away PostgreSQL, a throw-away Redis, and the built-in sandbox
//! in Stripe's place. Everything is gone when it ends. `scripts/dev` installs what is missing and runs this.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use tollgate::config::Config;

mod harness;

const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
const SERVICE_TOKEN: &str = "a-service-token-for-development";

fn main() -> anyhow::Result<()> {
    tollgate::cli::install_tls();
    actix_rt::System::new().block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let postgres = harness::postgres::PostgresServer::start_own_with(&[("fsync", "on")]).await;
    let redis = harness::redis::RedisServer::start().await;
    let data = tempfile::tempdir()?;

    let world = BTreeMap::from([
        ("DATABASE_URL", postgres.url("postgres")),
        ("REDIS_URL", redis.url()),
        ("TOLLGATE_SANDBOX", "true".to_owned()),
        ("TOLLGATE_DATA", data.path().display().to_string()),
        ("TOLLGATE_SERVICE_TOKEN", SERVICE_TOKEN.to_owned()),
    ]);
    // What is set outside wins, for example TOLLGATE_BIND.
    let setting = |name: &str| std::env::var(name).ok().or_else(|| world.get(name).cloned());
    let config = Config::from_lookup(&setting)?;
    explain(&config, &redis.url(), data.path()).context("writing to the terminal")?;
    tollgate::app::serve(config).await
}

fn explain(config: &Config, redis: &str, data: &Path) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stderr().lock();
    let data = data.display();
    writeln!(out, "Tollgate beside a PostgreSQL and a Redis of its own. Everything is gone when you press Ctrl-C.")?;
    writeln!(out, "In another terminal, in this folder:\n")?;
    writeln!(out, "  USER_ID={USER}; URL=http://{}", config.server.bind)?;
    writeln!(out, "  TOKEN=$(cargo run -q -- token --user $USER_ID --data {data})")?;
    writeln!(
        out,
        "  cargo run -q -- trigger checkout.session.completed --user $USER_ID --url $URL --times 2 --data {data}"
    )?;
    writeln!(out, "  redis-cli -u {redis} GET entitlements:$USER_ID")?;
    writeln!(out, "  curl $URL/api/entitlements -H \"Authorization: Bearer $TOKEN\"")?;
    writeln!(out, "  curl $URL/api/entitlements/$USER_ID -H 'Authorization: Bearer {SERVICE_TOKEN}'")
}
