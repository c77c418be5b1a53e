//! What the same machine can do in the same minute without Tollgate: the numbers that a phase's rate is held against.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use secrecy::SecretString;
use tokio::task::JoinSet;
use tollgate::intake::signature::{Tolerance, WebhookSecrets, verify};

use crate::{
    driver::per_second,
    harness::{TestDatabase, server::WEBHOOK_SECRET},
};

/// The flag that makes this program the server of ceilings (a) and (c).
pub(crate) const SERVER_FLAG: &str = "--ceiling-server";

/// Bytes of a row's payload: about what the inbox keeps of an event.
const ROW_BYTES: usize = 200;

/// A server from the same library that only reads the body and verifies the signature, in a process of its own. It ends when
/// this value is dropped, and with this process, however that ends.
pub(crate) struct CeilingServer {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl CeilingServer {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .arg(SERVER_FLAG)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the ceiling server says where it listens");
        let address = line.trim().parse().expect("an address");
        Self { child, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for CeilingServer {
    fn drop(&mut self) {
        // Its stdin closes, and it ends by itself.
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// What the flag makes of this program. As many workers as the release server has by default.
pub(crate) fn serve() -> std::io::Result<()> {
    std::thread::spawn(|| {
        // Ends with the pipe, which the kernel closes whatever becomes of the parent.
        let _end = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let secrets =
        WebhookSecrets::new(&[SecretString::from(WEBHOOK_SECRET)]).expect("the secret of all test servers is good");
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(secrets.clone()))
                .app_data(web::PayloadConfig::new(1024 * 1024))
                .route("/", web::get().to(async || HttpResponse::Ok().body("{}")))
                .route("/api/webhooks/stripe", web::post().to(check_only))
        })
        .workers(workers)
        .bind("127.0.0.1:0")?;
        let address = server.addrs().first().copied().expect("it is bound");
        println!("{address}");
        server.run().await
    })
}

async fn check_only(request: HttpRequest, body: Bytes, secrets: web::Data<WebhookSecrets>) -> HttpResponse {
    let header = request.headers().get("Stripe-Signature").map(|value| value.as_bytes()).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    match verify(&secrets, header, body, now, Tolerance::STRIPE) {
        Ok(_) => HttpResponse::Ok().content_type("application/json").body(r#"{"ok":true}"#),
        Err(_) => HttpResponse::BadRequest().finish(),
    }
}

/// PostgreSQL's own speed: single rows, each its own transaction.
pub(crate) struct Commits {
    pub(crate) rate: f64,
    pub(crate) latencies: Vec<Duration>,
}

/// Commits single rows over so many connections at once, in a table of its own.
pub(crate) async fn commit_rows(
    database: &TestDatabase,
    connections: usize,
    warm_up: Duration,
    limit: Duration,
) -> Commits {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    database.execute("CREATE TABLE IF NOT EXISTS bench_rows (id text PRIMARY KEY, payload text NOT NULL)").await;
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = database.connect().await.expect("PostgreSQL takes so many connections");
        let insert = client.prepare("INSERT INTO bench_rows (id, payload) VALUES ($1, $2)").await.expect("it prepares");
        clients.push((client, insert));
    }
    let payload: Arc<str> = "x".repeat(ROW_BYTES).into();
    let start = Instant::now();
    let (counted_from, end) = (start + warm_up, start + warm_up + limit);
    let mut tasks = JoinSet::new();
    for (client, insert) in clients {
        let payload = Arc::clone(&payload);
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut now = Instant::now();
            while now < end {
                let sent = now;
                let id = format!("row_{:015}", NEXT.fetch_add(1, Ordering::Relaxed));
                client.execute(&insert, &[&id, &&*payload]).await.expect("a row is committed");
                now = Instant::now();
                if now >= counted_from {
                    latencies.push(now - sent);
                }
            }
            latencies
        });
    }
    let latencies: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    Commits { rate: per_second(latencies.len(), (Instant::now() - counted_from).as_secs_f64()), latencies }
}
