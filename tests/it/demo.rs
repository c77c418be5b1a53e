//! The demo's stream over real connections: a page that is closed makes room, and a server that stops does not wait for pages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpServer, dev::ServerHandle};
use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollgate::activity::{Activity, Step};
use tollgate::demo::{self, Deliveries, Demo, Parts};
use tollgate::domain::id::UserId;
use tollgate::http::RequestId;
use tollgate::sandbox::{Delivery, Happening, SandboxError, Switches};

use crate::harness::eventually;

const LONG: Duration = Duration::from_secs(30);

/// A sandbox in which nothing happens.
struct Quiet;

#[async_trait]
impl Deliveries for Quiet {
    async fn redeliver(&self, _event: &str) -> Result<Delivery, SandboxError> {
        Err(SandboxError::UnknownEvent)
    }

    async fn happen(&self, _user: UserId, _happening: Happening) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn open_portal(&self, _user: UserId, _return_url: &str) -> Result<String, SandboxError> {
        Err(SandboxError::Impossible("there are no customers"))
    }

    fn now(&self) -> i64 {
        0
    }

    fn switches(&self) -> Switches {
        Switches::default()
    }

    fn set_switches(&self, _switches: Switches) {}
}

struct Site {
    demo: Demo,
    activity: Activity,
    address: SocketAddr,
    server: ServerHandle,
}

impl Site {
    fn start() -> Self {
        let activity = Activity::watched();
        let issue_token = Arc::new(|_| anyhow::bail!("nobody signs in"));
        let app = "http://localhost:3000".parse().unwrap();
        let demo = Demo::new(Parts { issue_token, deliveries: Arc::new(Quiet), activity: activity.clone(), app });
        let served = demo.clone();
        let server =
            HttpServer::new(move || App::new().configure(demo::routes(served.clone())).wrap(RequestId::default()))
                .workers(1)
                .shutdown_timeout(2 * LONG.as_secs())
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Self { demo, activity, address, server: handle }
    }

    /// A connection to the stream, if there is room for it.
    async fn watch(&self) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(b"GET /demo/activity HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        match &status {
            b"HTTP/1.1 200" => Some(stream),
            b"HTTP/1.1 503" => None,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
}

#[actix_rt::test]
async fn a_page_that_is_closed_makes_room() {
    let site = Site::start();
    let mut pages = vec![];
    while let Some(page) = site.watch().await {
        pages.push(page);
    }
    drop(pages.pop().expect("there is room for some"));
    eventually(LONG, "there is room again", async || {
        // That it is gone shows when something is written to it.
        site.activity.tell(None, || Step::DuplicateSkipped { event: "evt_1".to_owned() });
        site.watch().await.is_some()
    })
    .await;
}

#[actix_rt::test]
async fn a_stop_does_not_wait_for_pages_that_watch() {
    let site = Site::start();
    let mut page = site.watch().await.expect("room");
    site.demo.stop();
    timeout(LONG, site.server.stop(true)).await.expect("a stop that is not held up");
    let mut rest = String::new();
    page.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "a proper end: {rest}");
}
