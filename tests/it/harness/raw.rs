//! Bytes as a test wants them, over a connection of its own: what no HTTP client would send, or would not leave unread.

use std::{future::Future, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{server::TestServer, supervised::PATIENCE};

/// The head of a webhook whose body is still to come; `more` ends each of its lines.
pub(crate) fn webhook_head(signature: &str, more: &str) -> String {
    format!("POST /api/webhooks/stripe HTTP/1.1\r\nHost: t\r\nStripe-Signature: {signature}\r\n{more}\r\n")
}

/// A webhook with this event in it, signed now.
pub(crate) fn webhook(server: &TestServer, event: &Value) -> String {
    let body = event.to_string();
    let head = webhook_head(&server.sign(body.as_bytes()), &format!("Content-Length: {}\r\n", body.len()));
    format!("{head}{body}")
}

/// A connection to the public listener.
pub(crate) struct Raw(BufReader<TcpStream>);

impl Raw {
    pub(crate) async fn open(server: &TestServer) -> Self {
        Self(BufReader::new(TcpStream::connect(server.public).await.expect("a connection")))
    }

    /// Sends all of it, or as much as the server takes: it may have closed already.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(self.0.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Closes this side; the server may still answer.
    pub(crate) async fn close_half(&mut self) {
        self.0.shutdown().await.expect("the connection is open");
    }

    /// Everything until the server closes.
    pub(crate) async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        // A reset ends it as well: whatever came before counts.
        let _reset = within(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits a moment for the answer's first byte, which stays there.
    pub(crate) async fn has_answer(&self) -> bool {
        timeout(Duration::from_millis(50), self.0.get_ref().peek(&mut [0])).await.is_ok()
    }

    /// Everything up to the end of the first answer's head.
    pub(crate) async fn head(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            match within(self.0.read_until(b'\n', &mut bytes)).await {
                Ok(read) if read > 0 => {}
                _closed => break,
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One whole answer; empty if the server closes.
    pub(crate) async fn answer(&mut self) -> String {
        let mut answer = self.head().await;
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
        if within(self.0.read_exact(&mut body)).await.is_ok() {
            answer += &String::from_utf8_lossy(&body);
        }
        answer
    }

    /// Sends a request and reads until the server closes.
    pub(crate) async fn ask(server: &TestServer, request: impl AsRef<[u8]>) -> String {
        let mut raw = Self::open(server).await;
        raw.send(request).await;
        raw.rest().await
    }
}

/// A server that hangs fails a test instead of the run.
async fn within<T>(io: impl Future<Output = T>) -> T {
    timeout(PATIENCE + Duration::from_secs(5), io).await.expect("the server does something")
}

/// The status of an answer; 0 where there is none.
pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
