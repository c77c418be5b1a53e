//! Everything that runs: PostgreSQL with fsync, Redis, release servers, and what has been delivered so far.

use std::{cell::Cell, time::Duration};

use crate::{
    Mode, Options,
    ceilings::{CeilingServer, Commits, commit_rows},
    deliveries::{Event, Mint},
    driver::{Answers, Load, drive},
    harness::{
        PostgresServer, RedisServer, TestDatabase,
        server::{REDIS_DEADLINE_AS_SHIPPED, TestServer, World},
        stripe::StandInStripe,
    },
    proc::{Groups, Meter, Used},
    report::Target,
};

/// Settings of the release servers that are not the defaults. Empty: as if it were not set, unlike in tests.
const SETTINGS: &[(&str, &str)] = &[("TOLLGATE_LOG", ""), ("TOLLGATE_LOG_FORMAT", ""), REDIS_DEADLINE_AS_SHIPPED];

/// See the [module](self).
pub(crate) struct Bench {
    pub(crate) postgres: PostgresServer,
    pub(crate) world: World,
    /// For ceiling (b): another database of the same cluster.
    pub(crate) ceiling_database: TestDatabase,
    pub(crate) ceiling_server: CeilingServer,
    /// What the servers stand on.
    pub(crate) mode: Mode,
    pub(crate) servers: Vec<TestServer>,
    pub(crate) mint: Mint,
    /// Every event that a server of this mode has been asked to apply.
    pub(crate) delivered: Vec<Event>,
    settings: Vec<(String, String)>,
    /// SQLite files made so far: each embedded server has one of its own.
    files: Cell<u32>,
}

impl Bench {
    pub(crate) async fn start(options: &Options) -> Self {
        let postgres = PostgresServer::start_durable(&pairs(&options.postgres)).await;
        let world = World {
            database: TestDatabase::on(&postgres).await,
            redis: RedisServer::start().await,
            stripe: StandInStripe::start().await,
        };
        let ceiling_database = TestDatabase::on(&postgres).await;
        Self {
            postgres,
            world,
            ceiling_database,
            ceiling_server: CeilingServer::start(),
            mode: Mode::Production,
            servers: Vec::new(),
            mint: Mint::new(),
            delivered: Vec::new(),
            settings: options.set.clone(),
            files: Cell::new(0),
        }
    }

    /// Starts the servers of a mode; those of the mode before end.
    pub(crate) async fn serve_in(&mut self, mode: Mode, options: &Options) {
        self.mode = mode;
        self.servers.clear();
        self.delivered.clear();
        let servers = match mode {
            Mode::Production => options.servers,
            Mode::Embedded => 1,
        };
        for _ in 0..servers {
            let server = self.serve_with(&[]).await;
            self.servers.push(server);
        }
    }

    /// A release server with the default settings, those of the command line, and these.
    pub(crate) async fn serve_with(&self, settings: &[(&str, &str)]) -> TestServer {
        let file = self.sqlite_file();
        let embedded = [("DATABASE_URL", ""), ("REDIS_URL", ""), ("TOLLGATE_LEDGER", file.as_str())];
        let neighbours: &[_] = match self.mode {
            Mode::Production => &[],
            Mode::Embedded => &embedded,
        };
        self.world.serve_with(&[SETTINGS, neighbours, &pairs(&self.settings), settings].concat()).await
    }

    /// A fresh one on the file system of PostgreSQL's data.
    fn sqlite_file(&self) -> String {
        self.files.set(self.files.get() + 1);
        let name = format!("ledger-{}.sqlite3", self.files.get());
        format!("sqlite:{}", self.postgres.directory().join("embedded").join(name).display())
    }

    /// Aims are the production mode's; the embedded mode's figures stand beside them.
    pub(crate) const fn aim(&self, target: Target) -> Target {
        match self.mode {
            Mode::Production => target,
            Mode::Embedded => Target::None,
        }
    }

    /// Whose processor time is told apart while these servers answer.
    fn groups(&self, servers: Vec<u32>) -> Groups {
        Groups { servers, postgres: self.postgres.pid(), redis: self.world.redis.pid() }
    }

    /// Drives the load at the release servers.
    pub(crate) async fn drive(&self, load: Load) -> (Answers, Option<Used>) {
        let meter = Meter::start(self.groups(self.servers.iter().map(TestServer::pid).collect()));
        let answers = drive(Load { servers: self.servers.iter().map(|server| server.public).collect(), ..load }).await;
        (answers, meter.stop())
    }

    /// Drives the load at the ceiling server.
    pub(crate) async fn drive_ceiling(&self, load: Load) -> (Answers, Option<Used>) {
        let meter = Meter::start(self.groups(vec![self.ceiling_server.pid()]));
        let answers = drive(Load { servers: vec![self.ceiling_server.address], ..load }).await;
        (answers, meter.stop())
    }

    /// Single rows committed by PostgreSQL alone.
    pub(crate) async fn commit_rows(&self, connections: usize, warm_up: Duration, limit: Duration) -> Commits {
        commit_rows(&self.ceiling_database, connections, warm_up, limit).await
    }
}

fn pairs(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
