//! A small redis-server for each test: keys of two tests on one server would meet. It starts in some ten milliseconds.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisError, RedisResult};

use super::ports::free_port;
use super::programs;
use super::supervised::{Kind, PATIENCE, StartError, Supervised};
use super::wait::until_ok;

const KIND: Kind = Kind { name: "redis", last_signal: "KILL", never_as_root: false };

/// For an answer to a test.
const ANSWER: Duration = Duration::from_secs(5);

/// A redis-server without persistence, on a port of its own, which it keeps for all its life.
#[derive(Clone)]
pub(crate) struct RedisServer {
    instance: Arc<Instance>,
}

struct Instance {
    server: Supervised,
    program: PathBuf,
    port: u16,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        let mut server = Supervised::new(&KIND);
        let program = programs::find("redis-server");
        loop {
            let port = free_port();
            write_config(&server, port);
            let instance = Instance { server, program: program.clone(), port };
            match instance.start().await {
                Ok(()) => {
                    return Self { instance: Arc::new(instance) };
                }
                Err(StartError::PortInUse) => server = instance.server,
                Err(StartError::Failed(log)) => panic!("Redis does not start:\n{log}"),
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.instance.port
    }

    #[allow(dead_code, reason = "the benches share this harness")]
    pub(crate) fn pid(&self) -> u32 {
        self.instance.server.pid()
    }

    /// What the code under test gets as `REDIS_URL`.
    pub(crate) fn url(&self) -> String {
        self.instance.url()
    }

    /// What the server has written since it was made.
    pub(crate) fn log(&self) -> String {
        self.instance.server.log()
    }

    /// Starts it again after [`Self::stop`] or [`Self::sigkill`], on the same port and empty.
    pub(crate) async fn start_again(&self) {
        until_ok(PATIENCE, "Redis gets its port back", || async {
            match self.instance.start().await {
                Ok(()) => Ok(()),
                Err(StartError::PortInUse) => Err("the port is in use"),
                Err(StartError::Failed(log)) => panic!("Redis does not start:\n{log}"),
            }
        })
        .await;
    }

    /// Stops it in good order.
    pub(crate) async fn stop(&self) {
        self.end_with("TERM").await;
    }

    /// Ends it without a word to its clients.
    pub(crate) async fn sigkill(&self) {
        self.end_with("KILL").await;
    }

    /// Stops and starts it: the same port, no data, no scripts.
    pub(crate) async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Freezes it: connections are accepted by the kernel and never answered.
    pub(crate) async fn pause(&self) {
        let server = &self.instance.server;
        server.signal("STOP", &[server.pid()]).await;
    }

    /// Ends [`Self::pause`].
    pub(crate) async fn resume(&self) {
        let server = &self.instance.server;
        server.signal("CONT", &[server.pid()]).await;
    }

    async fn end_with(&self, signal: &str) {
        let server = &self.instance.server;
        server.signal(signal, &[server.pid()]).await;
        server.ended().await;
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.instance.connect().await
    }

    /// Runs any command that must succeed: `server.command(&["CONFIG", "SET", "maxmemory", "1mb"])`.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        match self.try_command(words).await {
            Ok(answer) => answer,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }

    /// Runs any command, for those of which the failure is the point.
    pub(crate) async fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connect().await?).await
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        self.command(&["GET", key]).await
    }

    pub(crate) async fn set(&self, key: &str, value: &str) {
        self.command(&["SET", key, value]).await
    }

    /// Seconds to live: -1 without an end, -2 without the key.
    pub(crate) async fn ttl(&self, key: &str) -> i64 {
        self.command(&["TTL", key]).await
    }

    pub(crate) async fn hgetall(&self, key: &str) -> HashMap<String, String> {
        self.command(&["HGETALL", key]).await
    }

    /// All keys, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }

    pub(crate) async fn flushall(&self) {
        self.command(&["FLUSHALL"]).await
    }
}

impl Instance {
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // The client's own half a second is too short for a busy machine.
        let patient =
            AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER)).set_connection_timeout(Some(ANSWER));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&patient).await
    }

    async fn start(&self) -> Result<(), StartError> {
        let config = self.server.directory().join("redis.conf");
        let arguments = [config.to_str().expect("a path in UTF-8")];
        self.server
            .start(&self.program, &arguments, async |pid| {
                self.process_id().await.is_ok_and(|answering| answering == pid)
            })
            .await
    }

    /// Who answers on the port. It may be a server of another test process that was quicker to take it.
    async fn process_id(&self) -> Result<u32, RedisError> {
        let mut connection = self.connect().await?;
        let info: redis::InfoDict = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        Ok(info.get("process_id").unwrap_or_default())
    }
}

fn write_config(server: &Supervised, port: u16) {
    let directory = server.directory();
    let config = format!("bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly no\ndir {}\n", directory.display());
    std::fs::write(directory.join("redis.conf"), config).expect("our own directory");
}
