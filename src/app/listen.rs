//! Sockets and servers.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener},
    time::Duration,
};

use actix_web::{App, HttpServer, dev::Server, middleware::from_fn};
use anyhow::{Context, anyhow};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::connections::Connections;
use crate::{
    config::ServerConfig,
    demo::{self, Demo},
    http::{self, Cors, RequestId, State, UnderWay},
    watchdog::Watchdog,
};

/// Connections that wait to be taken.
const BACKLOG: u32 = 1024;

/// A socket that listens already: what is in use is told before anything else is touched, and a free port is known by number.
pub(super) struct Socket {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl From<Socket> for TcpListener {
    fn from(socket: Socket) -> Self {
        socket.listener
    }
}

impl Socket {
    /// `setting` is the one to be changed if the address cannot be had.
    pub(super) fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let listen = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?.into_std()?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        listen().map_err(|error: io::Error| {
            let way_out = format!("choose another address, for example {setting}={}:0 for any free port", address.ip());
            match error.kind() {
                io::ErrorKind::AddrInUse => anyhow!(
                    "{setting}: {address} is taken by another program, perhaps by another Tollgate: stop that one, or {way_out}"
                ),
                _ => anyhow::Error::new(error).context(format!("{setting}: cannot listen on {address}; {way_out}")),
            }
        })
    }
}

/// The public listener's server, with the demo's pages where there is a demo.
pub(super) fn public(
    socket: Socket,
    config: &ServerConfig,
    state: State,
    demo: Option<Demo>,
    under_way: UnderWay,
    watchdog: Watchdog,
) -> anyhow::Result<Server> {
    let cors = Cors::new(&config.cors_origins);
    let unread_timeout = config.unread_timeout;
    let connections = Connections::new(config.connections_max);
    let server = HttpServer::new(move || {
        let (demo, cors) = (demo.clone(), cors.clone());
        // This runs on each of the workers' threads.
        actix_web::rt::spawn(watchdog.watch("http"));
        App::new()
            .configure(|app| demo.into_iter().for_each(|demo| demo::routes(demo)(app)))
            .configure(http::routes(state.clone()))
            .wrap(from_fn(move |request, next| cors.clone().pass(request, next)))
            .wrap(RequestId::from(under_way.clone()))
    })
    .on_connect(move |connection, kept| {
        let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
        match connections.admit() {
            // Given back with the connection.
            Some(place) => drop(kept.insert(place)),
            None => close(stream),
        }
        end_if_unread(stream, unread_timeout);
    })
    .workers(config.http_workers)
    // Each worker's own limit, at which the listener would stop accepting: out of reach of those that have a place.
    .max_connections(config.connections_max + usize::try_from(BACKLOG)?)
    .client_request_timeout(config.head_timeout)
    // A stream whose client has gone is over at once, not at the next heartbeat. Whoever closes his side after a request gets
    // no answer; hardly any client does.
    .h1_allow_half_closed(false)
    .shutdown_timeout(config.shutdown_timeout.saturating_sub(config.drain_delay).as_secs())
    .disable_signals()
    .listen(socket.listener)
    .context("TOLLGATE_BIND")?;
    Ok(server.run())
}

/// The operators' listener's server.
pub(super) fn admin(socket: Socket, config: &ServerConfig, state: State) -> anyhow::Result<Server> {
    let server =
        HttpServer::new(move || App::new().configure(http::admin_routes(state.clone())).wrap(RequestId::default()))
            .workers(1)
            .client_request_timeout(config.head_timeout)
            .shutdown_timeout(1)
            .disable_signals()
            .listen(socket.listener)
            .context("TOLLGATE_ADMIN_BIND")?;
    Ok(server.run())
}

/// Both directions: the library finds an end, and lets go of it.
fn close(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).shutdown(Shutdown::Both) {
        tracing::debug!(%error, "a connection beyond the limit was gone already");
    }
}

/// Has the kernel end a connection whose client takes nothing for so long: only it knows, and what waits there is written by
/// nobody any more.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn end_if_unread(stream: &TcpStream, timeout: Duration) {
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(timeout)) {
        tracing::debug!(%error, "a connection has no limit for what is not read");
    }
}

/// Elsewhere the kernel's own limits have to do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn end_if_unread(_stream: &TcpStream, _timeout: Duration) {}
