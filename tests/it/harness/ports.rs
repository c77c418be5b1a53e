//! Ports for servers that must come back on the same port after an outage.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that Linux (32768) and macOS (49152) take the local ports of outgoing connections from. A port of
/// that range, as binding port 0 gives, could be taken by any client while its server is stopped.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Test processes run side by side, so each starts somewhere else; within one process no port is given twice in a row.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random_range(0..COUNT)));

/// A port of the loopback address that nobody listens on. Another process may still be quicker: whoever starts a
/// server on it tries again with another port if it is in use.
pub(crate) fn free_port() -> u16 {
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT - 1);
}
