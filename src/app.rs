//! The composition root: every part is made here, once, and stopped here, in order.
//!
//! Start: ledger (migrated, checked) → cache → actors → listeners → upkeep. Stop: readiness goes red, listeners finish what is under
//! way, upkeep leaves nothing behind, then actors and lanes end. No 200 is ever sent without a commit, so a stop at any
//! moment loses nothing that was acknowledged.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_web::{App, HttpServer, dev::Server};
use anyhow::{Context, bail};
use async_trait::async_trait;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use secrecy::ExposeSecret;
use stripe_gateway::{GatewayConfig, StripeGateway};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::{
    activity::Activity,
    actor::{ActorLimits, Entitlements},
    auth::{ServiceTokens, SessionVerifier},
    billing::Billing,
    cache::{BreakerState, Cache, RedisCache, RedisSettings},
    config::{Config, StripeMode},
    domain::plan::Catalogue,
    http::{self, Dependency, DependencyState, Readiness, ReadyReport, RequestId, State},
    intake::{
        Interpreter,
        signature::{Tolerance, WebhookSecrets},
    },
    ledger::{
        Ledger,
        postgres::{Limits, PostgresLedger},
    },
    reader::EntitlementReader,
    telemetry::{self, Telemetry},
    upkeep::{Rhythm, Upkeep},
};

/// Entries that may wait for a lane: what a few commits take in.
const LANE_QUEUE: usize = 8192;
/// Reads that a cold cache may cause at once.
const LEDGER_READS: usize = 64;
/// For one answer of Redis, where nobody waits for it with a limit of his own.
const REDIS_RESPONSE: Duration = Duration::from_secs(1);
/// What a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(800);
/// How often observations are counted into their buckets.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// Beyond the configured limit of a stop, for what is not a request.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Answers requests until SIGTERM or SIGINT. To be run within an actix `System`.
///
/// # Errors
/// What kept it from starting, with the way to mend it.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let telemetry = Arc::new(telemetry::init(&config.server.log, io::stdout())?);
    for warning in &config.warnings {
        tracing::warn!(warning, "a setting is risky");
    }
    let prometheus = install_metrics(Arc::clone(&telemetry))?;

    let ledger = open_ledger(&config).await?;
    // A client's limit below the request's would cut the allowance short.
    let limits = RedisSettings { response: config.cache.deadline.max(REDIS_RESPONSE), ..RedisSettings::default() };
    let redis = RedisCache::new(config.cache.redis_url.expose_secret(), limits).context("REDIS_URL cannot be used")?;
    let cache = Cache::from(redis);
    let activity = Activity::unwatched();
    let entitlements = Entitlements::start(Arc::clone(&ledger), cache.clone(), activity.clone(), actor_limits(&config));
    let reader = EntitlementReader::new(cache.clone(), Arc::clone(&ledger), config.cache.deadline, LEDGER_READS);
    let livemode = config.stripe.mode().map(StripeMode::livemode);
    let interpreter = Interpreter::new(config.catalogue.clone(), livemode);
    let upkeep = Upkeep::new(
        Uuid::new_v4(),
        Arc::clone(&ledger),
        cache.clone(),
        entitlements.clone(),
        interpreter.clone(),
        Rhythm::default(),
    );

    let stopping = Arc::new(AtomicBool::new(false));
    let probe = Probe {
        ledger: Arc::clone(&ledger),
        cache: cache.clone(),
        webhook_configured: !config.stripe.webhook_secrets.is_empty(),
        stopping: Arc::clone(&stopping),
    };
    let state = State::new(http::Parts {
        entitlements: entitlements.clone(),
        reader,
        billing: Billing::new(
            open_gateway(&config)?,
            Arc::clone(&ledger),
            config.catalogue.clone(),
            &config.server.app_url,
            &config.checkout,
        ),
        interpreter,
        webhook_secrets: webhook_secrets(&config)?,
        tolerance: Tolerance::STRIPE,
        activity,
        sessions: SessionVerifier::new(&config.auth.jwt_secret, config.auth.issuer.clone()),
        service_tokens: ServiceTokens::new(&config.auth.service_tokens),
        catalogue: config.catalogue.clone(),
        readiness: Arc::new(probe),
        render_metrics: Arc::new(move || prometheus.render()),
        admin_token: config.auth.admin_token.clone(),
        limits: http::Limits {
            body_timeout: config.server.body_timeout,
            webhooks_in_flight_max: config.actor.webhooks_in_flight_max,
        },
    });
    let (public, public_addr) = listen_public(&config, state.clone())?;
    let (admin, admin_addr) = listen_admin(&config, state)?;
    let upkeep = upkeep.start();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        public = %public_addr,
        admin = %admin_addr,
        stripe = stripe_mode(&config),
        "listening"
    );

    let (public_handle, admin_handle) = (public.handle(), admin.handle());
    let public = tokio::task::spawn_local(public);
    let admin = tokio::task::spawn_local(admin);
    let ended_by = until_told_to_stop().await?;
    tracing::info!(signal = ended_by, "stopping");
    stopping.store(true, Ordering::Relaxed);
    let limit = config.server.shutdown_timeout + STOP_GRACE;
    let stop = async {
        public_handle.stop(true).await;
        upkeep.stop().await;
        entitlements.stop();
        admin_handle.stop(true).await;
        let _both_have_ended = tokio::join!(public, admin);
    };
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        () = tokio::time::sleep(limit) => bail!("stopping took longer than {limit:?}: gave up what was under way"),
        again = until_told_to_stop() => bail!("told to stop twice ({}): gave up what was under way", again?),
    }
    Ok(())
}

async fn open_ledger(config: &Config) -> anyhow::Result<Arc<dyn Ledger>> {
    let url = config.ledger.database_url.expose_secret();
    if config.ledger.migrate_on_start {
        let report = PostgresLedger::migrate(url, &config.catalogue).await.context("DATABASE_URL")?;
        if !report.applied.is_empty() || !report.levels_added.is_empty() {
            tracing::info!(applied = ?report.applied, levels_added = ?report.levels_added, "migrated the database");
        }
    }
    let limits = Limits {
        statement: config.ledger.statement_timeout,
        lock: config.ledger.lock_timeout,
        transaction: config.ledger.commit_timeout,
        pool_size: config.ledger.pool_size,
        ..Limits::default()
    };
    let ledger = PostgresLedger::connect(url, limits, config.catalogue.clone()).await.context("DATABASE_URL")?;
    check_durability(&ledger, config).await?;
    check_catalogue(&ledger, &config.catalogue).await?;
    Ok(Arc::new(ledger))
}

/// A 200 promises durable custody; a database that may forget acknowledged commits cannot keep that promise.
async fn check_durability(ledger: &PostgresLedger, config: &Config) -> anyhow::Result<()> {
    let durability = ledger.durability().await.context("asking the database how durable it is")?;
    if !durability.synchronous_commit {
        if config.stripe.mode() == Some(StripeMode::Live) {
            bail!(
                "DATABASE_URL: synchronous_commit is off, so acknowledged payments may be lost in a crash; \
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
async fn check_catalogue(ledger: &PostgresLedger, catalogue: &Catalogue) -> anyhow::Result<()> {
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

fn open_gateway(config: &Config) -> anyhow::Result<Option<StripeGateway>> {
    let Some(key) = &config.stripe.key else { return Ok(None) };
    let gateway = GatewayConfig {
        api_base: config.stripe.api_base.to_string(),
        attempts: config.checkout.stripe_attempts,
        timeout: config.checkout.stripe_timeout,
        total_timeout: config.checkout.stripe_timeout,
        ..GatewayConfig::new(key.secret.clone())
    };
    Ok(Some(StripeGateway::new(gateway).context("STRIPE_API_BASE")?))
}

fn webhook_secrets(config: &Config) -> anyhow::Result<Option<WebhookSecrets>> {
    if config.stripe.webhook_secrets.is_empty() {
        tracing::warn!("STRIPE_WEBHOOK_SECRET is not set: webhooks are answered 500 until it is");
        return Ok(None);
    }
    Ok(Some(WebhookSecrets::new(&config.stripe.webhook_secrets).context("STRIPE_WEBHOOK_SECRET")?))
}

fn actor_limits(config: &Config) -> ActorLimits {
    ActorLimits {
        arbiters: config.actor.threads,
        idle: config.actor.idle,
        live_max: config.actor.live_max,
        per_user_max: u32::try_from(config.actor.mailbox).unwrap_or(u32::MAX),
        reply_timeout: config.actor.reply_timeout,
        commit_timeout: config.ledger.commit_timeout.saturating_add(Duration::from_millis(500)),
        cache_budget: config.cache.deadline,
        lanes: config.ledger.lanes.unwrap_or(config.actor.threads),
        queue_max: LANE_QUEUE,
        batch_max: config.ledger.batch_max,
    }
}

fn stripe_mode(config: &Config) -> &'static str {
    match config.stripe.mode() {
        Some(StripeMode::Live) => "live",
        Some(StripeMode::Test) => "test",
        None => "no key",
    }
}

fn listen_public(config: &Config, state: State) -> anyhow::Result<(Server, SocketAddr)> {
    let server = HttpServer::new(move || App::new().configure(http::routes(state.clone())).wrap(RequestId))
        .workers(config.server.http_workers)
        .client_request_timeout(config.server.head_timeout)
        .shutdown_timeout(config.server.shutdown_timeout.as_secs())
        .disable_signals()
        .bind(config.server.bind)
        .with_context(|| in_use("TOLLGATE_BIND", config.server.bind))?;
    let address = server.addrs().first().copied().context("TOLLGATE_BIND: no address")?;
    Ok((server.run(), address))
}

fn listen_admin(config: &Config, state: State) -> anyhow::Result<(Server, SocketAddr)> {
    let server = HttpServer::new(move || App::new().configure(http::admin_routes(state.clone())).wrap(RequestId))
        .workers(1)
        .client_request_timeout(config.server.head_timeout)
        .shutdown_timeout(1)
        .disable_signals()
        .bind(config.server.admin_bind)
        .with_context(|| in_use("TOLLGATE_ADMIN_BIND", config.server.admin_bind))?;
    let address = server.addrs().first().copied().context("TOLLGATE_ADMIN_BIND: no address")?;
    Ok((server.run(), address))
}

fn in_use(setting: &str, address: SocketAddr) -> String {
    format!(
        "{setting}: cannot listen on {address}; choose another, for example {setting}=127.0.0.1:0 for any free port"
    )
}

/// Histograms with fixed buckets, so that replicas can be added up.
fn install_metrics(telemetry: Arc<Telemetry>) -> anyhow::Result<PrometheusHandle> {
    const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
    const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES))
        .and_then(PrometheusBuilder::install_recorder)
        .context("setting up metrics")?;
    let handle = prometheus.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP);
        loop {
            // Observations are kept one by one until they are counted into their buckets: also when nobody asks for them.
            ticks.tick().await;
            handle.run_upkeep();
            let dropped = u32::try_from(telemetry.dropped_lines()).unwrap_or(u32::MAX);
            metrics::gauge!("tollgate_log_lines_dropped").set(f64::from(dropped));
        }
    });
    Ok(prometheus)
}

/// Waits for a signal that ends the service and gives its name.
async fn until_told_to_stop() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Asks every dependency how it is.
struct Probe {
    ledger: Arc<dyn Ledger>,
    cache: Cache,
    webhook_configured: bool,
    stopping: Arc<AtomicBool>,
}

#[async_trait]
impl Readiness for Probe {
    async fn check(&self) -> ReadyReport {
        let (ledger, cache) = tokio::join!(self.check_ledger(), self.check_cache());
        let webhook = if self.webhook_configured {
            dependency("webhook", DependencyState::Ready, None)
        } else {
            dependency("webhook", DependencyState::Unready, Some("STRIPE_WEBHOOK_SECRET is not set"))
        };
        let mut dependencies = vec![ledger, cache, webhook];
        if self.stopping.load(Ordering::Relaxed) {
            dependencies.push(dependency("server", DependencyState::Unready, Some("stopping")));
        }
        ReadyReport::new(dependencies)
    }
}

impl Probe {
    async fn check_ledger(&self) -> Dependency {
        match tokio::time::timeout(PROBE_TIMEOUT, self.ledger.now()).await {
            Ok(Ok(_)) => dependency("ledger", DependencyState::Ready, None),
            Ok(Err(_)) => dependency("ledger", DependencyState::Unready, Some("out of reach")),
            Err(_) => dependency("ledger", DependencyState::Unready, Some("too slow")),
        }
    }

    async fn check_cache(&self) -> Dependency {
        if self.cache.breaker().state() == BreakerState::Open {
            return dependency("cache", DependencyState::Degraded, Some("out of reach"));
        }
        match tokio::time::timeout(PROBE_TIMEOUT, self.cache.ping()).await {
            Ok(Ok(())) => dependency("cache", DependencyState::Ready, None),
            Ok(Err(_)) | Err(_) => dependency("cache", DependencyState::Degraded, Some("out of reach")),
        }
    }
}

const fn dependency(name: &'static str, status: DependencyState, detail: Option<&'static str>) -> Dependency {
    Dependency { name, status, detail }
}
