//! An HTTP server of a test's own, in a thread with a runtime of its own, so that it outlives and outpaces whatever the test does to
//! its own runtime.

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle};

use actix_web::{
    App, FromRequest, Handler, HttpServer, Responder,
    dev::{Server, ServerHandle},
    web::{self, Data},
};
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

    /// Has one handler answer every request, on a free port of 127.0.0.1.
    pub(crate) async fn answering<S, H, Args>(state: &Arc<S>, handler: H) -> Self
    where
        S: Send + Sync + 'static,
        H: Handler<Args> + Send + Clone,
        H::Output: Responder + 'static,
        Args: FromRequest + 'static,
    {
        let state = Data::from(Arc::clone(state));
        Self::start(move || {
            let app = move || App::new().app_data(state.clone()).default_service(web::to(handler.clone()));
            let server = HttpServer::new(app).workers(1).disable_signals().bind(("127.0.0.1", 0)).expect("a free port");
            (server.addrs(), server.run())
        })
        .await
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
