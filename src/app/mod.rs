//! The composition root: every part is made here, once, and stopped here, in order.
//!
//! Start: sockets → ledger (migrated, checked) → cache → sandbox, if there is one → actors → listeners → upkeep. Stop: readiness goes
//! red, and after the time that balancers need to see it the sandbox delivers no more, listeners finish what is under way, upkeep leaves nothing behind, then actors and lanes end. No 200 is ever sent without a commit, so a stop at any
//! moment loses nothing that was acknowledged.

mod account;
mod banner;
mod connections;
mod listen;
mod probe;
mod reload;
mod stores;

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use chrono::Utc;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use url::Url;
use uuid::Uuid;

use self::{
    account::Account,
    banner::{Addresses, Banner},
    listen::Socket,
    probe::Probe,
    reload::Reloader,
};
use crate::{
    activity::Activity,
    actor::{ActorLimits, Entitlements},
    auth::{self, ServiceTokens, SessionVerifier},
    billing::{Billing, Fulfilment},
    clock,
    config::{CacheStore, Config, LedgerStore, SandboxKeys},
    demo::{self, Demo},
    domain::live::LiveCatalogue,
    fetch::Fetcher,
    http::{self, Clients, State, UnderWay},
    intake::{Interpreter, signature::Tolerance},
    operators::Operators,
    reader::EntitlementReader,
    sandbox::Sandbox,
    telemetry::{self, Telemetry},
    trial::Trials,
    upkeep::{Rhythm, Upkeep},
    watch::{self, Hub, Watch},
    watchdog::Watchdog,
};

/// Entries that may wait for a lane: what a few commits take in.
const LANE_QUEUE: usize = 8192;
/// Reads that a cold cache may cause at once.
const LEDGER_READS: usize = 64;
/// How long a session of the demo lasts; the page asks for the next one.
const DEMO_SESSION: Duration = Duration::from_secs(600);
/// How often observations are counted into their buckets.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// After the last handler's end: for answers on their way. Whoever has not read his by then does not hold up a stop.
const LAST_BYTES: Duration = Duration::from_secs(2);
/// A thread that does not come to its next task for so long is told of.
const HELD_UP: Duration = Duration::from_secs(1);
/// Beyond the configured limit of a stop, for what is not a request.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Answers requests until SIGTERM or SIGINT; SIGHUP has the catalogue read again. To be run within an actix `System`.
///
/// # Errors
/// What kept it from starting, with the way to mend it.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let telemetry = Arc::new(telemetry::init(&config.server.log, io::stdout())?);
    #[cfg(feature = "fail-points")]
    {
        tracing::warn!("built with fail points: for tests alone");
        crate::fail_point::from_environment().map_err(anyhow::Error::msg).context("FAIL_POINTS")?;
    }
    for warning in &config.warnings {
        tracing::warn!(warning, "a setting is risky");
    }
    let prometheus = install_metrics(Arc::clone(&telemetry))?;

    // First of all: a port in use is told before anything else is touched.
    let public = Socket::bind("TOLLGATE_BIND", config.server.bind)?;
    let admin = Socket::bind("TOLLGATE_ADMIN_BIND", config.server.admin_bind)?;
    let sandbox = config.sandbox.as_ref().map(|sandbox| Socket::bind("TOLLGATE_SANDBOX_BIND", sandbox.bind));
    let sandbox = sandbox.transpose()?;
    let app = match &config.server.app_url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{}", public.address)).context("TOLLGATE_BIND")?,
    };

    // From here on SIGHUP does not end the process.
    let hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let catalogue = LiveCatalogue::from(config.catalogue.clone());
    let ledger = stores::open_ledger(&config, &catalogue).await?;
    let cache = stores::open_cache(&config)?;
    let activity = if config.sandbox.is_some() { Activity::watched() } else { Activity::unwatched() };
    let sandbox = match config.sandbox.as_ref().zip(sandbox) {
        Some((settings, socket)) => {
            Some(account::start_sandbox(settings, socket, &activity, tell_ahead(&config)).await?)
        }
        None => None,
    };
    let account = match &sandbox {
        Some((sandbox, keys)) => Account::of_sandbox(sandbox, keys, &config.checkout)?,
        None => Account::of_stripe(&config)?,
    };
    let hub = Hub::new(config.server.streams_max);
    let entitlements =
        Entitlements::start(Arc::clone(&ledger), cache.clone(), hub.clone(), activity.clone(), actor_limits(&config));
    let watchdog = Watchdog::new(HELD_UP);
    watchdog.look_out().context("starting the watchdog")?;
    entitlements.watched_by(&watchdog);
    tokio::spawn(watchdog.watch("main"));
    let interpreter = Interpreter::new(catalogue.clone(), account.livemode);
    let trials = Trials::new(Arc::clone(&ledger), entitlements.clone(), interpreter.clone());
    let upkeep = Upkeep::new(
        Uuid::new_v4(),
        Arc::clone(&ledger),
        cache.clone(),
        entitlements.clone(),
        trials.clone(),
        Rhythm::default(),
    );
    let fetcher = account
        .gateway
        .as_ref()
        .map(|gateway| Fetcher::new(gateway, Arc::clone(&ledger), entitlements.clone(), interpreter.clone()));
    let tolerance = Tolerance::STRIPE;
    let compared = has_a_clock(&config).then_some(tolerance);
    let upkeep = upkeep.asking(fetcher).comparing_clocks(compared);

    let under_way = UnderWay::default();
    let probe = Probe {
        ledger: Arc::clone(&ledger),
        cache: cache.clone(),
        webhook_configured: account.webhook_secrets.is_some(),
        tolerance: compared,
        under_way: under_way.clone(),
        pulse: upkeep.pulse(),
    };
    let sandbox_jwt_secret = sandbox.as_ref().map(|(_, keys)| &keys.jwt_secret);
    let jwt_secret = config.auth.jwt_secret.as_ref().or(sandbox_jwt_secret).context("SUPABASE_JWT_SECRET")?;
    let operators = Operators::new(Arc::clone(&ledger), entitlements.clone(), trials.clone());
    // Where memory may be served for as long as in Redis, no other process writes.
    if !matches!(config.cache.store, CacheStore::Memory { life_max: None }) {
        tokio::spawn(watch::listen(hub.clone(), cache.clone(), Arc::clone(&ledger)));
    }
    let reader = EntitlementReader::new(cache, Arc::clone(&ledger), config.cache.deadline, LEDGER_READS);
    let billing = Billing::new(account.gateway, Arc::clone(&ledger), catalogue.clone(), &app, &config.checkout);
    let state = State::new(http::Parts {
        fulfilment: Fulfilment::new(billing.clone(), interpreter, entitlements.clone()),
        billing,
        entitlements: entitlements.clone(),
        watch: Watch::new(hub.clone(), reader.clone(), Arc::clone(&ledger)),
        reader,
        trials,
        webhook_secrets: account.webhook_secrets,
        tolerance,
        activity: activity.clone(),
        operators,
        sessions: SessionVerifier::new(jwt_secret, config.auth.issuer.clone()),
        service_tokens: ServiceTokens::new(&config.auth.service_tokens),
        catalogue: catalogue.clone(),
        readiness: Arc::new(probe),
        render_metrics: Arc::new(move || prometheus.render()),
        admin_token: config.auth.admin_token.clone(),
        clients: Clients::new(&config.server.trusted_proxies, config.server.checkouts_per_address_per_minute),
        limits: http::Limits {
            body_timeout: config.server.body_timeout,
            bodies_bytes_max: config.server.bodies_bytes_max,
            webhooks_in_flight_max: config.actor.webhooks_in_flight_max,
        },
    });
    let demo = sandbox.as_ref().and_then(|(sandbox, keys)| demo(&config, sandbox, keys, activity, &app));
    let addresses = Addresses {
        app,
        public: public.address,
        admin: admin.address,
        sandbox: sandbox.as_ref().map(|(sandbox, _)| sandbox.address()),
    };
    upkeep.announce().await;
    let public = listen::public(public, &config.server, state.clone(), demo.clone(), under_way.clone(), watchdog)?;
    let admin = listen::admin(admin, &config.server, state)?;
    if let Some((sandbox, _)) = &sandbox {
        sandbox.deliver_to(&format!("http://{}/api/webhooks/stripe", addresses.public));
    }
    let upkeep = upkeep.start();
    let reloader = Reloader { source: config.catalogue_source.clone(), catalogue, ledger };
    let reloading = tokio::spawn(reloader.run(hangups));
    Banner::new(&config, &addresses, demo.is_some()).show();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        public = %addresses.public,
        admin = %addresses.admin,
        sandbox = addresses.sandbox.map(tracing::field::display),
        "listening"
    );

    let (public_handle, admin_handle) = (public.handle(), admin.handle());
    let public = tokio::task::spawn_local(public);
    let admin = tokio::task::spawn_local(admin);
    let mut ends = Ends::listen()?;
    let ended_by = ends.next().await;
    tracing::info!(signal = ended_by, "stopping");
    under_way.leave();
    reloading.abort();
    let limit = config.server.shutdown_timeout + STOP_GRACE;
    let stop = async {
        // Requests that were on their way when readiness went red are answered like any others.
        tokio::time::sleep(config.server.drain_delay).await;
        if let Some((sandbox, _)) = &sandbox {
            sandbox.stop().await;
        }
        if let Some(demo) = &demo {
            demo.stop();
        }
        // They have no end of their own, and the listener would wait for them.
        hub.stop();
        let all_read = public_handle.stop(true);
        let all_answered = async {
            under_way.none().await;
            tokio::time::sleep(LAST_BYTES).await;
        };
        tokio::select! {
            () = all_read => {}
            () = all_answered => tracing::warn!("answers that nobody reads are given up"),
        }
        public.abort();
        upkeep.stop().await;
        entitlements.stop();
        admin_handle.stop(true).await;
        let _both_have_ended = tokio::join!(public, admin);
    };
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        () = tokio::time::sleep(limit) => bail!("stopping took longer than {limit:?}: gave up what was under way"),
        again = ends.next() => bail!("told to stop twice ({again}): gave up what was under way"),
    }
    Ok(())
}

/// The demo's pages. They make anybody any user, and so only sessions of the sandbox's own.
fn demo(config: &Config, sandbox: &Sandbox, keys: &SandboxKeys, activity: Activity, app: &Url) -> Option<Demo> {
    if config.auth.jwt_secret.is_some() {
        return None;
    }
    let (key, issuer) = (keys.jwt_secret.clone(), config.auth.issuer.clone());
    Some(Demo::new(demo::Parts {
        issue_token: Arc::new(move |user| {
            auth::issue(&key, issuer.as_deref(), user, DEMO_SESSION, Utc::now().timestamp())
        }),
        deliveries: Arc::new(sandbox.clone()),
        activity,
        app: app.clone(),
    }))
}

/// Whether the ledger has a clock of its own. A file's is this process's.
const fn has_a_clock(config: &Config) -> bool {
    matches!(config.ledger.store, LedgerStore::Postgres(_))
}

/// Who is told of the sandbox's time. A ledger's own clock nobody puts ahead.
const fn tell_ahead(config: &Config) -> fn(i64) {
    if has_a_clock(config) { |_| {} } else { clock::put_ahead }
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
        lanes: config.ledger.lanes.unwrap_or(match config.ledger.store {
            LedgerStore::Postgres(_) => config.actor.threads,
            // The file has one writer: a second lane would only wait for the first.
            LedgerStore::Sqlite(_) => 1,
        }),
        queue_max: LANE_QUEUE,
        batch_max: config.ledger.batch_max,
    }
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
    telemetry::describe();
    let handle = prometheus.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP);
        loop {
            // Observations are kept one by one until they are counted into their buckets: also when nobody asks for them.
            ticks.tick().await;
            handle.run_upkeep();
            let dropped = u64::try_from(telemetry.dropped_lines()).unwrap_or(u64::MAX);
            metrics::counter!("tollgate_log_lines_dropped_total").absolute(dropped);
        }
    });
    Ok(prometheus)
}

/// The signals that end the service. Both are heard from the moment when this is made: one that comes right after another is not missed.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Waits for the next one and gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
