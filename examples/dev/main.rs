//! A whole world to try Tollgate in: the service itself, with a throw-away PostgreSQL, a throw-away Redis, and the tests' stand-in for
//! Stripe's API. Everything is gone when it ends. `scripts/dev` installs what is missing and runs this.

use std::collections::BTreeMap;

use anyhow::Context;
use tollgate::config::Config;

mod harness;

const USER: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";

fn main() -> anyhow::Result<()> {
    tollgate::cli::install_tls();
    actix_rt::System::new().block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let postgres = harness::postgres::PostgresServer::start_own_with(&[("fsync", "on")]).await;
    let redis = harness::redis::RedisServer::start().await;
    let stripe = harness::stripe::StandInStripe::start().await;

    let world = BTreeMap::from([
        ("DATABASE_URL", postgres.url("postgres")),
        ("REDIS_URL", redis.url()),
        ("STRIPE_API_BASE", stripe.url().to_owned()),
        ("STRIPE_SECRET_KEY", "sk_test_51TollgateDevelopment".to_owned()),
        ("STRIPE_WEBHOOK_SECRET", "whsec_development0123456789abcdef".to_owned()),
        ("SUPABASE_JWT_SECRET", "a-secret-for-development-only-0123456789".to_owned()),
        ("TOLLGATE_SERVICE_TOKEN", "a-service-token-for-development".to_owned()),
    ]);
    // What is set outside wins, for example TOLLGATE_BIND.
    let setting = |name: &str| std::env::var(name).ok().or_else(|| world.get(name).cloned());
    let config = Config::from_lookup(&setting)?;
    explain(&config, &redis.url(), &world).context("writing to the terminal")?;
    tollgate::app::serve(config).await
}

fn explain(config: &Config, redis: &str, world: &BTreeMap<&str, String>) -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stderr().lock();
    let secret = |name: &str| world.get(name).cloned().unwrap_or_default();
    writeln!(out, "A world to try Tollgate in. Everything in it is gone when you press Ctrl-C.")?;
    writeln!(out, "In another terminal, in this folder:\n")?;
    writeln!(out, "  export SUPABASE_JWT_SECRET={}", secret("SUPABASE_JWT_SECRET"))?;
    writeln!(out, "  export STRIPE_WEBHOOK_SECRET={}", secret("STRIPE_WEBHOOK_SECRET"))?;
    writeln!(out, "  USER_ID={USER}; URL=http://{}", config.server.bind)?;
    writeln!(out, "  TOKEN=$(cargo run -q -- token --user $USER_ID)")?;
    writeln!(
        out,
        "  curl -X POST $URL/api/checkout/session -H \"Authorization: Bearer $TOKEN\" \\\n    \
           -H 'Content-Type: application/json' -d '{{\"entitlementLevel\":\"PRO\"}}'"
    )?;
    writeln!(out, "  cargo run -q -- trigger checkout.session.completed --user $USER_ID --url $URL --times 2")?;
    writeln!(out, "  redis-cli -u {redis} GET entitlements:$USER_ID")?;
    writeln!(out, "  curl $URL/api/entitlements -H \"Authorization: Bearer $TOKEN\"")?;
    writeln!(
        out,
        "  curl $URL/api/entitlements/$USER_ID -H 'Authorization: Bearer {}'",
        secret("TOLLGATE_SERVICE_TOKEN")
    )?;
    writeln!(
        out,
        "\nThe interface is described at $URL/docs, metrics are at http://{}/metrics.\n",
        config.server.admin_bind
    )
}
