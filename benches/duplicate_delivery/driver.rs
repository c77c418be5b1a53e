//! The load generator: keep-alive connections over plain TCP, one request in flight on each.
//!
//! It shares the cores with what it measures, so it does as little as it can: requests are bytes that were put together
//! before the clock starts, and of an answer only the status, the length and a word or two of the body are read.

use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Longer than any answer takes; what comes later counts as an error.
const PATIENCE: Duration = Duration::from_secs(30);

/// Errors whose text is kept.
const ERRORS_KEPT: usize = 5;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// 200, and the event was applied by this very delivery.
    Applied,
    /// 200, and exactly the body of a duplicate.
    Duplicate,
    /// 200, and PRO out of the cache.
    FromCache,
    /// 200, and PRO out of the database.
    FromDatabase,
    /// 200, with another body.
    Plain,
    /// Anything else.
    Wrong,
}

impl Verdict {
    fn of(status: u16, body: &[u8]) -> Self {
        if status != 200 {
            Self::Wrong
        } else if body == br#"{"ok":true,"idempotent":true}"# {
            Self::Duplicate
        } else if has(body, br#""idempotent":false"#) {
            if has(body, br#""processed":true"#) { Self::Applied } else { Self::Wrong }
        } else if has(body, br#""entitlementLevel":"PRO""#) {
            if has(body, br#""source":"cache""#) { Self::FromCache } else { Self::FromDatabase }
        } else {
            Self::Plain
        }
    }
}

fn has(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|window| window == word)
}

/// What is to be sent.
pub(crate) struct Load {
    /// Whole requests, head and body.
    pub(crate) requests: Arc<Vec<Vec<u8>>>,
    /// How often each is sent, one right after the other and so at the same time over different connections; `None`: all
    /// of them again and again until the time is over.
    pub(crate) copies: Option<usize>,
    /// Where to: connections are spread evenly.
    pub(crate) servers: Vec<SocketAddr>,
    /// Connections, each with one request in flight.
    pub(crate) connections: usize,
    /// How long a connection rests after an answer that is wrong, refusals included.
    pub(crate) rest: Duration,
    /// Answers during this time are not counted.
    pub(crate) warm_up: Duration,
    /// How long it goes on after that.
    pub(crate) limit: Duration,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Place in [`Load::requests`].
    pub(crate) request: usize,
    pub(crate) verdict: Verdict,
    /// When it was there, after the start.
    pub(crate) at: Duration,
    pub(crate) latency: Duration,
}

/// Everything that came back.
pub(crate) struct Answers {
    /// In the order of time.
    pub(crate) all: Vec<Answer>,
    /// Where counting begins.
    counted_from: Duration,
    /// Texts of the first answers that were wrong, and of broken connections.
    pub(crate) errors: Vec<String>,
    /// How many there were of these.
    pub(crate) failed: usize,
}

impl Answers {
    /// Those that came after the warm-up.
    pub(crate) fn counted(&self) -> &[Answer] {
        let first = self.all.partition_point(|answer| answer.at < self.counted_from);
        &self.all[first..]
    }

    /// Seconds that [`counted`](Self::counted) stands for.
    pub(crate) fn seconds(&self) -> f64 {
        self.all.last().map_or(0.0, |last| last.at.saturating_sub(self.counted_from).as_secs_f64())
    }

    /// Counted answers of one kind per second.
    pub(crate) fn rate_of(&self, verdict: Verdict) -> f64 {
        per_second(self.counted().iter().filter(|answer| answer.verdict == verdict).count(), self.seconds())
    }

    /// Counted answers per second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.counted().len(), self.seconds())
    }

    /// How many of all answers were of one kind.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.all.iter().filter(|answer| answer.verdict == verdict).count()
    }

    /// How many requests were taken up: the first so many of [`Load::requests`].
    pub(crate) fn sent(&self) -> usize {
        self.all.iter().map(|answer| answer.request + 1).max().unwrap_or(0)
    }

    pub(crate) fn latencies(&self) -> Vec<Duration> {
        self.counted().iter().map(|answer| answer.latency).collect()
    }
}

/// A count as a rate; nothing per no time is nothing.
pub(crate) fn per_second(count: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Sends it all and waits for the last answer. Connections are open before the clock starts.
pub(crate) async fn drive(load: Load) -> Answers {
    let mut connections = Vec::new();
    for server in load.servers.iter().cycle().take(load.connections) {
        connections.push(Connection::open(*server).await.expect("the server accepts connections"));
    }
    let total = load.copies.map_or(usize::MAX, |copies| load.requests.len() * copies);
    let queue = Arc::new(Queue { requests: load.requests, copies: load.copies, total, next: AtomicUsize::new(0) });
    let start = Instant::now();
    let end = start + load.warm_up + load.limit;
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(connection.work(Arc::clone(&queue), load.rest, start, end));
    }
    let mut answers = Answers { all: Vec::new(), counted_from: load.warm_up, errors: Vec::new(), failed: 0 };
    while let Some(done) = tasks.join_next().await {
        let mut part = done.expect("the driver does not panic");
        answers.all.append(&mut part.all);
        answers.failed += part.failed;
        answers.errors.append(&mut part.errors);
    }
    answers.errors.truncate(ERRORS_KEPT);
    answers.all.sort_by_key(|answer| answer.at);
    // A run that is over soon still counts most of itself.
    let whole = answers.all.last().map_or(Duration::ZERO, |last| last.at);
    answers.counted_from = answers.counted_from.min(whole / 5);
    answers
}

struct Queue {
    requests: Arc<Vec<Vec<u8>>>,
    copies: Option<usize>,
    total: usize,
    next: AtomicUsize,
}

impl Queue {
    fn take(&self) -> Option<usize> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (next < self.total).then(|| match self.copies {
            Some(copies) => next / copies,
            None => next % self.requests.len(),
        })
    }
}

/// What one connection brings home.
#[derive(Default)]
struct Part {
    all: Vec<Answer>,
    errors: Vec<String>,
    failed: usize,
}

impl Part {
    fn fail(&mut self, text: String) {
        self.failed += 1;
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(text);
        }
    }
}

struct Connection {
    server: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(server: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self { server, stream, buffer: vec![0; 16 * 1024] })
    }

    async fn work(mut self, queue: Arc<Queue>, rest: Duration, start: Instant, end: Instant) -> Part {
        let mut part = Part::default();
        let mut now = Instant::now();
        while now < end
            && let Some(request) = queue.take()
        {
            let sent = now;
            let answer = tokio::time::timeout(PATIENCE, self.ask(&queue.requests[request])).await;
            now = Instant::now();
            let verdict = match answer {
                Ok(Ok((Verdict::Wrong, text))) => {
                    part.fail(text);
                    Verdict::Wrong
                }
                Ok(Ok((verdict, _))) => verdict,
                Ok(Err(error)) => {
                    part.fail(format!("request {request}: {error}"));
                    match Self::open(self.server).await {
                        Ok(fresh) => self = fresh,
                        Err(_) => return part,
                    }
                    Verdict::Wrong
                }
                Err(_) => {
                    part.fail(format!("request {request}: no answer within {PATIENCE:?}"));
                    return part;
                }
            };
            part.all.push(Answer { request, verdict, at: now - start, latency: now - sent });
            if verdict == Verdict::Wrong && !rest.is_zero() {
                tokio::time::sleep(rest).await;
                now = Instant::now();
            }
        }
        part
    }

    /// One request and its answer. The text is only there for a wrong one.
    async fn ask(&mut self, request: &[u8]) -> Result<(Verdict, String), Error> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let (status, body_start, end) = loop {
            filled += self.fill(filled).await?;
            if let Some(head) = read_head(&self.buffer[..filled])? {
                break head;
            }
        };
        if end > self.buffer.len() {
            self.buffer.resize(end, 0);
        }
        while filled < end {
            filled += self.fill(filled).await?;
        }
        let body = &self.buffer[body_start..end];
        let verdict = Verdict::of(status, body);
        let text = match verdict {
            Verdict::Wrong => format!("{status} {}", String::from_utf8_lossy(body)),
            _ => String::new(),
        };
        Ok((verdict, text))
    }

    async fn fill(&mut self, filled: usize) -> Result<usize, Error> {
        match self.stream.read(&mut self.buffer[filled..]).await? {
            0 => Err(Error::new(ErrorKind::UnexpectedEof, "the connection ended, or the head is too long")),
            read => Ok(read),
        }
    }
}

/// Status, start and end of the body, once the head is there.
fn read_head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, Error> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let strange = || Error::new(ErrorKind::InvalidData, "an answer that the driver cannot read");
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| strange())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).ok_or_else(strange)?;
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(strange)?;
    Ok(Some((status, end + 4, end + 4 + length)))
}
