//! An HTTP server of a test's own, in a thread with a runtime of its own, so that it outlives and outpaces whatever the test does to
//! its own runtime.

use std::{net::SocketAddr, thread::JoinHandle};

use actix_web::dev::{Server, ServerHandle};
use tokio::sync::oneshot;

/// A running server. Dropping it stops it.
pub(crate) struct Served {
    pub(crate) addresses: Vec<SocketAddr>,
    server: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// `bind` makes the server, on the thread that runs it, and tells where it listens.
    pub(crate) async fn start(bind: impl FnOnce() -> (Vec<SocketAddr>, Server) + Send + 'static) -> Self {
        let (started, start) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let (addresses, server) = bind();
                started.send((addresses, server.handle())).ok();
                server.await.expect("the server runs");
            });
        });
        let (addresses, server) = start.await.expect("the server starts");
        Self { addresses, server, thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The command is sent at once; only its confirmation would have to be awaited, and the thread's end is that.
        drop(self.server.stop(false));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
