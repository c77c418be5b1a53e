//! A network that fails on demand: a TCP proxy before PostgreSQL or Redis. It works on bytes and knows of the protocols only what
//! a `COMMIT` looks like.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// How both PostgreSQL's clients ask for a commit, and PostgreSQL tells of one.
const COMMIT: &[u8] = b"COMMIT\0";

/// Where a message is lost on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The `COMMIT` never reaches the server, and the connection breaks.
    Request,
    /// The server has committed, and the connection breaks before its answer has come.
    Reply,
    /// The server has committed, and nothing comes any more.
    ReplyInSilence,
}

/// A proxy, and what it does to connections. It ends with the test.
pub(crate) struct Proxy {
    url: String,
    line: watch::Sender<Line>,
    counts: Arc<Counts>,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    /// The port of the server behind it.
    server: u16,
    state: State,
    /// How long each piece of an answer is kept back.
    delay: Duration,
    /// Grows whenever what is connected is disconnected.
    cuts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Silent,
    Refusing,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    lost: AtomicUsize,
    to_lose: Mutex<Option<(Loss, usize)>>,
}

impl Proxy {
    /// A proxy before the server of this address, such as `redis://127.0.0.1:6379`.
    pub(crate) async fn before(url: &str) -> Self {
        let (start, rest) = url.split_once("127.0.0.1:").expect("a server on this machine");
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (server, end) = rest.split_at(digits);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let line = Line { server: server.parse().unwrap(), state: State::Open, delay: Duration::ZERO, cuts: 0 };
        let (line, changes) = watch::channel(line);
        let counts = Arc::new(Counts::default());
        tokio::spawn(accept(listener, changes, Arc::clone(&counts)));
        Self { url: format!("{start}127.0.0.1:{port}{end}"), line, counts }
    }

    /// The server's address by way of the proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Passes everything on again. What was connected in silence stays dead: nothing ever comes back on it.
    pub(crate) fn heal(&self) {
        self.line.send_modify(|line| (line.state, line.delay) = (State::Open, Duration::ZERO));
    }

    /// Accepts, and passes nothing on any more, as a network that has lost its way: neither end is told.
    pub(crate) fn silence(&self) {
        self.line.send_modify(|line| line.state = State::Silent);
    }

    /// Disconnects whoever is connected, and whoever comes, at once.
    pub(crate) fn refuse(&self) {
        self.line.send_modify(|line| (line.state, line.cuts) = (State::Refusing, line.cuts + 1));
    }

    /// Keeps back each piece of an answer for so long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.line.send_modify(|line| line.delay = delay);
    }

    /// Another server takes the address over.
    pub(crate) fn lead_to(&self, port: u16) {
        self.line.send_modify(|line| (line.server, line.cuts) = (port, line.cuts + 1));
    }

    /// Loses the next commits.
    pub(crate) fn lose_commits(&self, loss: Loss, count: usize) {
        *self.counts.to_lose() = Some((loss, count));
    }

    /// How many commits have been lost.
    pub(crate) fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// How many connections have been accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }
}

impl Counts {
    fn to_lose(&self) -> std::sync::MutexGuard<'_, Option<(Loss, usize)>> {
        self.to_lose.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to the commit that has just been asked for.
    fn take_loss(&self) -> Option<Loss> {
        let mut to_lose = self.to_lose();
        let (loss, count) = to_lose.as_mut().filter(|(_, count)| *count > 0)?;
        *count -= 1;
        self.lost.fetch_add(1, Ordering::Relaxed);
        Some(*loss)
    }
}

async fn accept(listener: TcpListener, mut changes: watch::Receiver<Line>, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    let template = changes.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(client, template.clone(), Arc::clone(&counts)));
            }
            Some(_) = connections.join_next() => {}
            // The proxy is gone, and with it all connections.
            Err(_) = changes.wait_for(|_| false) => return,
        }
    }
}

/// How a connection ends.
enum End {
    Closed,
    Broken,
    Silent,
}

async fn serve(client: TcpStream, mut changes: watch::Receiver<Line>, counts: Arc<Counts>) {
    let begun = *changes.borrow_and_update();
    let is_cut = async |changes: &mut watch::Receiver<Line>| {
        let _proxy_is_gone = changes.wait_for(|line| line.cuts > begun.cuts).await;
    };
    if begun.state == State::Silent {
        is_cut(&mut changes).await;
    }
    let server = match begun.state {
        State::Open => TcpStream::connect((Ipv4Addr::LOCALHOST, begun.server)).await.ok(),
        State::Silent | State::Refusing => None,
    };
    let Some(server) = server else { return reset(&client) };
    // A piece is passed on as it came: waiting for more would be a fault of its own.
    for stream in [&client, &server] {
        let _closed_already = stream.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (asked, lines) = (Asked::default(), changes.clone());
    let mut watching = changes.clone();
    let end = tokio::select! {
        end = pass_questions(&from_client, &to_server, &counts, &asked) => end,
        end = pass_answers(&from_server, &to_client, &lines, &asked) => end,
        () = is_cut(&mut changes) => End::Broken,
        _ = watching.wait_for(|line| line.state == State::Silent) => End::Silent,
    };
    if matches!(end, End::Silent) {
        is_cut(&mut changes).await;
    }
    if !matches!(end, End::Closed) {
        reset(from_client.as_ref());
        reset(from_server.as_ref());
    }
}

/// Dropped after this, it is gone without a farewell.
fn reset(stream: &TcpStream) {
    let _closed_already = stream.set_zero_linger();
}

/// What a connection's client has asked for that is to be lost.
#[derive(Default)]
struct Asked {
    commit: AtomicBool,
    in_silence: AtomicBool,
}

async fn pass_questions(from: &OwnedReadHalf, to: &OwnedWriteHalf, counts: &Counts, asked: &Asked) -> End {
    let mut finder = Finder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Some(piece) = read(from, &mut buffer).await else { return End::Closed };
        if finder.finds(COMMIT, piece)
            && let Some(loss) = counts.take_loss()
        {
            if loss == Loss::Request {
                return End::Broken;
            }
            asked.in_silence.store(loss == Loss::ReplyInSilence, Ordering::Relaxed);
            asked.commit.store(true, Ordering::Relaxed);
        }
        if write(to, piece).await.is_none() {
            return End::Closed;
        }
    }
}

async fn pass_answers(from: &OwnedReadHalf, to: &OwnedWriteHalf, lines: &watch::Receiver<Line>, asked: &Asked) -> End {
    let mut finder = Finder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Some(piece) = read(from, &mut buffer).await else { return End::Closed };
        if finder.finds(COMMIT, piece) && asked.commit.load(Ordering::Relaxed) {
            return if asked.in_silence.load(Ordering::Relaxed) { End::Silent } else { End::Broken };
        }
        let delay = lines.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if write(to, piece).await.is_none() {
            return End::Closed;
        }
    }
}

async fn read<'a>(from: &OwnedReadHalf, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        from.readable().await.ok()?;
        match from.try_read(buffer) {
            Ok(0) => return None,
            Ok(count) => return buffer.get(..count),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

async fn write(to: &OwnedWriteHalf, mut piece: &[u8]) -> Option<()> {
    while !piece.is_empty() {
        to.writable().await.ok()?;
        match to.try_write(piece) {
            Ok(count) => piece = piece.get(count..)?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// Finds bytes in a stream, also where they lie in two pieces.
#[derive(Default)]
struct Finder {
    tail: Vec<u8>,
}

impl Finder {
    fn finds(&mut self, needle: &[u8], piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        let found = self.tail.windows(needle.len()).any(|window| window == needle);
        let kept = self.tail.len().min(needle.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
        found
    }
}

/// A server that takes whatever comes in Redis' protocol and says the same to all of it, such as `-LOADING Redis is loading`. Gives its
/// port.
pub(crate) async fn redis_that_says(answer: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut buffer, mut waiting) = (vec![0; 64 * 1024], Vec::new());
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    waiting.extend_from_slice(&buffer[..count]);
                    let commands = take_commands(&mut waiting);
                    if stream.write_all(format!("{answer}\r\n").repeat(commands).as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Takes whole commands (`*2\r\n$3\r\nGET\r\n$1\r\na\r\n`) and gives how many there were.
fn take_commands(bytes: &mut Vec<u8>) -> usize {
    fn number(bytes: &[u8], mark: u8) -> Option<(usize, &[u8])> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        assert_eq!(bytes[0], mark, "a client speaks in arrays of strings");
        Some((std::str::from_utf8(&bytes[1..end]).unwrap().parse().unwrap(), &bytes[end + 2..]))
    }
    fn command(bytes: &[u8]) -> Option<&[u8]> {
        let (words, mut rest) = number(bytes, b'*')?;
        for _ in 0..words {
            let (length, word) = number(rest, b'$')?;
            rest = word.get(length + 2..)?;
        }
        Some(rest)
    }
    let mut count = 0;
    while let Some(rest) = command(bytes) {
        *bytes = rest.to_vec();
        count += 1;
    }
    count
}
