//! A local Stripe look-alike: API, pay page, signed webhooks with retries and duplicates. Loopback only.

mod api;
mod billing;
mod changes;
mod checkout;
mod clocks;
mod collection;
mod control;
mod courier;
mod disk;
mod events;
pub mod form;
mod happenings;
mod life;
mod objects;
mod params;
mod pay;
pub mod pay_page;
mod payments;
mod portal;
mod refusal;
mod server;
mod state;

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use secrecy::SecretString;
use tokio::sync::{oneshot, watch};

pub use self::{billing::AfterRetries, life::Happening};
use self::{
    courier::Courier,
    disk::{Disk, NotKept},
    objects::Endpoint,
    server::Site,
    state::{Shared, State},
};
use crate::activity::Activity;

/// In seconds.
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// What a sandbox is started with.
#[derive(Debug)]
pub struct SandboxSettings {
    /// Where API and pay pages answer: on loopback.
    pub listener: TcpListener,
    /// The file that sessions, customers and events are kept in.
    pub file: PathBuf,
    /// The API key that callers must present: `sk_test_…`.
    pub secret_key: SecretString,
    /// Signs deliveries to the service's own endpoint: `whsec_…`.
    pub webhook_secret: SecretString,
    /// Is told by how many seconds the sandbox's time is ahead of the real one, before any event of that time is delivered.
    pub tell_ahead: fn(i64),
}

/// How deliveries misbehave, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switches {
    /// How often each event is delivered: 1 to 5.
    pub copies: u8,
    /// Whether newer events overtake older ones.
    pub reorder: bool,
    /// Whether deliveries are held back until this is switched off.
    pub withhold: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self { copies: 1, reorder: false, withhold: false }
    }
}

/// How an endpoint answered a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The HTTP status.
    pub status: u16,
    /// The body, cut off at a few kilobytes.
    pub body: String,
}

/// Why the sandbox did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// There is no such event.
    #[error("there is no such event")]
    UnknownEvent,
    /// No endpoint takes this event, or none could be reached.
    #[error("the event could not be delivered: {0}")]
    Undelivered(String),
    /// There is nothing it could happen to; the sentence says what is missing.
    #[error("{0}")]
    Impossible(&'static str),
    /// What happened may not be in the file.
    #[error("the sandbox's file could not be written")]
    NotKept,
}

impl From<NotKept> for SandboxError {
    fn from(_: NotKept) -> Self {
        Self::NotKept
    }
}

/// How fast things happen that take hours at Stripe.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The pauses before each further attempt of a delivery; after the last it is given up.
    pub retries: Vec<Duration>,
    /// How long newer events have to overtake an older one.
    pub hold: Duration,
}

impl Default for Pace {
    /// Stripe tries for three days, ever more rarely; this is a little more than an hour of the same shape.
    fn default() -> Self {
        let retries = [1, 5, 30, 2 * 60, 5 * 60, 10 * 60, 20 * 60, 30 * 60];
        Self { retries: retries.map(Duration::from_secs).into(), hold: Duration::from_millis(1500) }
    }
}

/// A running sandbox. Clones share everything; it stops when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Sandbox(Arc<Running>);

struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    courier: Arc<Courier>,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Opens the file and answers, on threads of its own. Deliveries that a run before has left go on.
    ///
    /// # Errors
    /// The address is not a loopback one; the file cannot be read, or another sandbox has it.
    pub async fn start(settings: SandboxSettings, activity: Activity) -> anyhow::Result<Self> {
        Self::start_at(Pace::default(), settings, activity).await
    }

    /// As [`start`](Self::start), faster or slower.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_at(pace: Pace, settings: SandboxSettings, activity: Activity) -> anyhow::Result<Self> {
        let listener = settings.listener;
        let address = listener.local_addr().context("asking for the sandbox's address")?;
        if !address.ip().is_loopback() {
            bail!("the sandbox answers on this machine only: bind it to 127.0.0.1 or [::1], not {}", address.ip());
        }
        let file = settings.file.clone();
        let (disk, rows, writer) = tokio::task::spawn_blocking(move || Disk::open(&file)).await??;

        let mut state = State::read(Some(disk), rows, activity, format!("http://{address}"))?;
        state.hold = i64::try_from(pace.hold.as_millis()).unwrap_or(i64::MAX);
        if state.endpoints.iter().all(|endpoint| endpoint.target.is_some()) {
            state.put(Endpoint::own(events::now()));
        }
        let shared = Arc::new(Shared::new(state, settings.tell_ahead));
        let courier = Arc::new(Courier::new(Arc::clone(&shared), settings.webhook_secret, pace)?);
        let site = Site::new(Arc::clone(&shared), Arc::clone(&courier), &settings.secret_key);

        let (stop, told_to_stop) = watch::channel(false);
        let (has_stopped, stopped) = watch::channel(false);
        let (started, start) = oneshot::channel();
        let run = Run { listener, site, writer, started, told_to_stop, has_stopped };
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || run.until_stopped())
            .context("starting the sandbox's thread")?;
        start.await.context("the sandbox's thread ended")??;
        Ok(Self(Arc::new(Running { address, shared, courier, stop, stopped })))
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Delivers events to this address from now on, and those that wait as well.
    pub fn deliver_to(&self, webhook_url: &str) {
        self.0.shared.look().own_url = Some(webhook_url.to_owned());
        self.0.shared.changed.notify_one();
    }

    /// Delivers an event once more, at once, whatever the switches say.
    ///
    /// # Errors
    /// There is no such event, no endpoint takes it, or the one that does gave no answer.
    pub async fn redeliver(&self, event: &str) -> Result<Delivery, SandboxError> {
        self.0.courier.redeliver(event).await
    }

    /// How deliveries misbehave now.
    #[must_use]
    pub fn switches(&self) -> Switches {
        self.0.shared.look().switches
    }

    /// Lets deliveries misbehave from now on. Copies outside 1 to 5 become the nearest; they count for events to come.
    pub fn set_switches(&self, switches: Switches) {
        switch(&self.0.shared, switches);
    }

    /// Ends deliveries and the listener, and waits until the file is closed.
    pub async fn stop(&self) {
        self.0.stop.send_replace(true);
        // An error means that the thread is gone, which is what is waited for.
        let _stopped = self.0.stopped.clone().wait_for(|stopped| *stopped).await.is_ok();
    }
}

/// Sets the switches, and gives them as they are then.
fn switch(shared: &Shared, switches: Switches) -> Switches {
    let switches = Switches { copies: switches.copies.clamp(1, 5), ..switches };
    shared.look().switches = switches;
    shared.changed.notify_one();
    // What is held back is not waited for.
    shared.answered.notify_waiters();
    switches
}

/// What the sandbox's thread is started with.
struct Run {
    listener: TcpListener,
    site: Site,
    writer: JoinHandle<()>,
    started: oneshot::Sender<std::io::Result<()>>,
    told_to_stop: watch::Receiver<bool>,
    has_stopped: watch::Sender<bool>,
}

impl Run {
    /// Serves and delivers until it is told to stop, or nobody is left who could tell.
    fn until_stopped(self) {
        let Self { listener, site, writer, started, mut told_to_stop, has_stopped } = self;
        let (shared, courier) = (Arc::clone(&site.shared), Arc::clone(&site.courier));
        actix_web::rt::System::new().block_on(async {
            let server = match server::serve(listener, site) {
                Ok(server) => server,
                Err(error) => {
                    // Whoever started it and went away does not want to know.
                    let _gone = started.send(Err(error));
                    return;
                }
            };
            let handle = server.handle();
            let serving = actix_web::rt::spawn(server);
            let _gone = started.send(Ok(()));
            tokio::select! {
                _ = told_to_stop.wait_for(|stop| *stop) => {}
                () = courier.run() => {}
            }
            handle.stop(true).await;
            let _ended = serving.await;
        });
        shared.close();
        if writer.join().is_err() {
            tracing::error!("the sandbox's file was not closed in order");
        }
        has_stopped.send_replace(true);
    }
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod tests;
