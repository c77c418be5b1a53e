//! Throw-away PostgreSQL: one cluster for all tests of a process with a database for each, and clusters of their own
//! for tests of outages.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use uuid::Uuid;

use super::ports::free_port;
use super::programs;
use super::supervised::{Kind, PATIENCE, StartError, Supervised};
use super::wait::{eventually, until_ok};

const KIND: Kind = Kind {
    name: "postgres",
    // Immediate shutdown: no checkpoint, but shared memory is given back.
    last_signal: "QUIT",
    never_as_root: true,
};

/// Durability against power loss is given up for speed. Everything a killed process can show stays as in production.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "on"),
    ("max_connections", "300"),
    ("shared_buffers", "128MB"),
    ("max_locks_per_transaction", "128"),
    ("timezone", "UTC"),
    // In the data directory, where it goes away with everything else even after SIGKILL.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %d "),
];

/// A PostgreSQL cluster on a port of its own, which it keeps for all its life.
#[derive(Clone)]
pub(crate) struct PostgresServer {
    cluster: Arc<Cluster>,
}

struct Cluster {
    server: Supervised,
    port: u16,
    /// What `env` is told.
    line: Vec<String>,
}

impl PostgresServer {
    /// The cluster that all tests of this process share. Not to be stopped: others use it.
    pub(crate) async fn shared() -> Self {
        static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
        SHARED.get_or_init(Self::start_own).await.clone()
    }

    /// A cluster for one test, to be broken as it likes. Takes about a second.
    pub(crate) async fn start_own() -> Self {
        Self::start_own_with(&[]).await
    }

    /// As [`Self::start_own`], with settings of `postgresql.conf` that differ, such as `("max_connections", "10")`.
    pub(crate) async fn start_own_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(&[], settings).await
    }

    /// As [`Self::start_own_with`], in an environment with more in it, such as another clock.
    pub(crate) async fn start_in(environment: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        Self::start_supervised(Supervised::new(&KIND), environment, settings).await
    }

    /// On a disk of so many megabytes, to be filled. `None`, said aloud, where none can be made.
    pub(crate) async fn start_on_small_disk(megabytes: u32) -> Option<Self> {
        let server = Supervised::with_small_disk(&KIND, megabytes)?;
        Some(Self::start_supervised(server, &[], &[]).await)
    }

    async fn start_supervised(mut server: Supervised, environment: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        initdb(&server).await;
        loop {
            let port = free_port();
            let mut line: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
            line.push(programs::find("postgres").to_str().expect("a path in UTF-8").into());
            line.extend(arguments(server.directory(), port, settings));
            let cluster = Cluster { server, port, line };
            match cluster.start().await {
                Ok(()) => {
                    return Self { cluster: Arc::new(cluster) };
                }
                Err(StartError::PortInUse) => server = cluster.server,
                Err(StartError::Failed(log)) => panic!("PostgreSQL does not start:\n{log}"),
            }
        }
    }

    /// A cluster that keeps what it has committed through a power failure, as in production, with settings that differ:
    /// for measuring.
    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) async fn start_durable(settings: &[(&str, &str)]) -> Self {
        Self::start_own_with(&[&[("fsync", "on"), ("full_page_writes", "on")], settings].concat()).await
    }

    pub(crate) fn port(&self) -> u16 {
        self.cluster.port
    }

    /// The first process; all others are its children.
    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) fn pid(&self) -> u32 {
        self.cluster.server.pid()
    }

    /// Where its files are.
    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) fn directory(&self) -> &Path {
        self.cluster.server.directory()
    }

    /// Where clients find a database of this cluster.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.cluster.port)
    }

    /// What the server has written since its cluster was made.
    pub(crate) fn log(&self) -> String {
        self.cluster.server.log()
    }

    /// Starts it again after [`Self::stop`] or [`Self::sigkill`], on the same port with the same data.
    pub(crate) async fn start(&self) {
        until_ok(PATIENCE, "PostgreSQL gets its port back", || async {
            match self.cluster.start().await {
                Ok(()) => Ok(()),
                Err(StartError::PortInUse) => Err("the port is in use"),
                Err(StartError::Failed(log)) => panic!("PostgreSQL does not start:\n{log}"),
            }
        })
        .await;
    }

    /// Stops it in good order; clients are disconnected ("fast" shutdown).
    pub(crate) async fn stop(&self) {
        let server = &self.cluster.server;
        server.signal("INT", &[server.pid()]).await;
        server.ended().await;
    }

    /// Stops it without a farewell; the next start recovers ("immediate" shutdown).
    pub(crate) async fn stop_immediately(&self) {
        let server = &self.cluster.server;
        server.signal("QUIT", &[server.pid()]).await;
        server.ended().await;
    }

    /// Whether it runs: a crash that it does not recover from ends it.
    pub(crate) fn is_running(&self) -> bool {
        self.cluster.server.is_running()
    }

    /// Leaves no room on its disk: only where that is a small one.
    pub(crate) async fn fill_disk(&self) {
        self.cluster.server.run(Path::new("sh"), &["-c", "! cat /dev/zero >data/ballast"]).await;
    }

    /// Ends [`Self::fill_disk`].
    pub(crate) async fn empty_disk(&self) {
        self.cluster.server.run(Path::new("rm"), &["data/ballast"]).await;
    }

    pub(crate) async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// What a crash of the machine looks like to clients: every process ends at once, and the next start recovers.
    pub(crate) async fn sigkill(&self) {
        let server = &self.cluster.server;
        // The first process is stopped first, so that it starts no more while the others are counted.
        let pids = self.stopped_family().await;
        server.signal("KILL", &pids).await;
        server.ended().await;
        // A new one refuses to start beside the last of the old one's, which may have a moment more to go.
        eventually(PATIENCE, "every process has ended", || async {
            let running = running().await;
            !pids.iter().any(|pid| running.iter().any(|process| process.pid == *pid))
        })
        .await;
    }

    /// Freezes every process: connections are accepted by the kernel and never answered.
    pub(crate) async fn pause(&self) {
        self.stopped_family().await;
    }

    /// Ends [`Self::pause`].
    pub(crate) async fn resume(&self) {
        let server = &self.cluster.server;
        let pid = server.pid();
        let mut family = children(pid).await;
        family.push(pid);
        server.signal("CONT", &family).await;
    }

    async fn stopped_family(&self) -> Vec<u32> {
        let server = &self.cluster.server;
        let pid = server.pid();
        server.signal("STOP", &[pid]).await;
        eventually(PATIENCE, "the first process stands still", async || {
            running().await.iter().any(|process| process.pid == pid && process.state.starts_with('T'))
        })
        .await;
        let mut family = children(pid).await;
        server.signal("STOP", &family).await;
        family.push(pid);
        family
    }
}

impl Cluster {
    async fn start(&self) -> Result<(), StartError> {
        let line: Vec<&str> = self.line.iter().map(String::as_str).collect();
        self.server.start(Path::new("/usr/bin/env"), &line, async |pid| says_ready(&self.pid_file(pid), pid)).await
    }

    /// A small disk is seen by the processes on it alone.
    fn pid_file(&self, pid: u32) -> PathBuf {
        let file = self.server.directory().join("data/postmaster.pid");
        if file.exists() { file } else { PathBuf::from(format!("/proc/{pid}/root{}", file.display())) }
    }
}

async fn initdb(server: &Supervised) {
    let data = server.directory().join("data");
    let arguments = [
        "--pgdata",
        data.to_str().expect("a path in UTF-8"),
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ];
    server.run(&programs::find("initdb"), &arguments).await;
}

fn arguments(directory: &Path, port: u16, settings: &[(&str, &str)]) -> Vec<String> {
    let directory = directory.display();
    let mut arguments =
        vec![format!("-D{directory}/data"), format!("-p{port}"), format!("-k{directory}"), String::from("-h127.0.0.1")];
    for (name, value) in SETTINGS.iter().chain(settings) {
        arguments.push(String::from("-c"));
        arguments.push(format!("{name}={value}"));
    }
    arguments
}

/// Reads the state that the server keeps in its pid file, as `pg_ctl` does. Asking over TCP could reach a server of
/// another test process that was quicker to take the port.
fn says_ready(pid_file: &Path, pid: u32) -> bool {
    let content = std::fs::read_to_string(pid_file).unwrap_or_default();
    let mut lines = content.lines().map(str::trim);
    lines.next() == Some(pid.to_string().as_str()) && lines.nth(6) == Some("ready")
}

/// A process of this machine, as `ps` shows it.
struct Listed {
    pid: u32,
    parent: u32,
    state: String,
}

/// All that have not ended.
async fn running() -> Vec<Listed> {
    let output = tokio::task::spawn_blocking(|| {
        std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output()
    });
    let listing = match output.await.expect("ps is waited for") {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        // Slim containers have no ps, but they have /proc.
        _ => processes_of_proc(),
    };
    listing
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let mut number = || fields.next()?.parse().ok();
            let (pid, parent) = (number()?, number()?);
            Some(Listed { pid, parent, state: fields.next()?.to_owned() })
        })
        // What has ended and was not yet waited for holds nothing.
        .filter(|process| !process.state.starts_with('Z'))
        .collect()
}

/// Each backend leads a process group of its own, so the family is known only by its parent's id.
async fn children(parent: u32) -> Vec<u32> {
    running().await.into_iter().filter(|process| process.parent == parent).map(|process| process.pid).collect()
}

/// A line "pid ppid state" for every process.
fn processes_of_proc() -> String {
    let entries = Path::new("/proc").read_dir().expect("ps or /proc is needed");
    let mut listing = String::new();
    for entry in entries.flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // "pid (name) state ppid …", where the name may hold anything.
        if let Some((_, after_name)) = stat.rsplit_once(") ")
            && let [state, parent, ..] = after_name.split(' ').collect::<Vec<_>>()[..]
        {
            listing.push_str(&format!("{} {parent} {state}\n", entry.file_name().to_string_lossy()));
        }
    }
    listing
}

/// An empty database for one test, dropped with this value.
pub(crate) struct TestDatabase {
    server: PostgresServer,
    name: String,
    on_shared: bool,
}

impl TestDatabase {
    /// A database on the cluster that all tests share.
    pub(crate) async fn new() -> Self {
        Self::create(PostgresServer::shared().await, true).await
    }

    /// A database on a cluster of the test's own.
    pub(crate) async fn on(server: &PostgresServer) -> Self {
        Self::create(server.clone(), false).await
    }

    async fn create(server: PostgresServer, on_shared: bool) -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let admin = connect(&server.url("postgres")).await.expect("the cluster is up");
        // template0: a template that somebody is connected to cannot be copied.
        admin
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .expect("a database is created");
        Self { server, name, on_shared }
    }

    /// What the code under test gets as `DATABASE_URL`.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// A connection of the test's own; it closes when the client is dropped.
    pub(crate) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        connect(&self.url()).await
    }

    /// Runs statements that must succeed.
    pub(crate) async fn execute(&self, sql: &str) {
        self.query(sql).await;
    }

    /// Runs statements that must succeed, and gives all rows as text, NULL as `None`.
    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        match self.try_query(sql).await {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}\n{error}: {:?}", error.as_db_error()),
        }
    }

    /// The only value of the only row, as text.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let rows = self.query(sql).await;
        match rows.as_slice() {
            [row] => match row.as_slice() {
                [Some(value)] => value.clone(),
                _ => panic!("{sql}\nshould give one value, gave {row:?}"),
            },
            _ => panic!("{sql}\nshould give one row, gave {}", rows.len()),
        }
    }

    /// As [`Self::query`], for statements of which the failure is the point.
    pub(crate) async fn try_query(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let messages = self.connect().await?.simple_query(sql).await?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }
}

impl Drop for TestDatabase {
    /// Best effort, and never in the test's way: what is left goes away with the cluster.
    fn drop(&mut self) {
        if self.on_shared {
            // The send fails only when the janitor is gone, and then so is this process.
            let _ = JANITOR.send((self.server.url("postgres"), self.name.clone()));
        }
    }
}

/// Drops databases one after the other, on a thread with a runtime of its own: the test's runtime is ending.
static JANITOR: LazyLock<Sender<(String, String)>> = LazyLock::new(|| {
    let (sender, receiver) = channel::<(String, String)>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime for the janitor");
        for (admin_url, name) in receiver {
            let dropping = async {
                let admin = connect(&admin_url).await?;
                admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
            };
            if let Ok(Err(error)) =
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), dropping).await })
            {
                eprintln!("test database {name} was not dropped: {error}");
            }
        }
    });
    sender
});

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends when the client is dropped, or with an error that the client's next call reports.
    tokio::spawn(connection);
    Ok(client)
}
