//! The demo: a page at `/` that buys, watches and breaks things, so that a newcomer sees in a minute what the service does.
//!
//! The page is a frontend like any other: it reads entitlements and opens checkout sessions over the public interface, with a
//! session token. What only a demo may do is here: hand out such a token to whoever asks, show everybody's steps, and let
//! deliveries misbehave. So every answer of this room is for the machine it runs on, and for no other (`guard.rs`).
//!
//! Pages, styles and scripts are part of the program; they load nothing from elsewhere.

mod deliveries;
mod error;
mod feed;
mod guard;
mod life;
mod pages;
mod visitor;

use std::{fmt, sync::Arc};

use actix_web::{
    FromRequest, Handler, HttpResponse, Resource, Responder, Route,
    dev::HttpServiceFactory,
    guard as methods,
    middleware::from_fn,
    web::{self, Data, ServiceConfig},
};
use tokio::sync::{Semaphore, watch};
use url::Url;

pub use self::deliveries::Deliveries;
use self::error::DemoError;
use crate::{activity::Activity, domain::id::UserId, http::ApiError};

/// Most pages that watch at once: each holds a connection.
const STREAMS_MAX: usize = 64;

/// Everything the demo stands on, as the composition root has made it.
pub struct Parts {
    /// Issues a session token as the sign-in service would, with a short life: the page asks again.
    pub issue_token: IssueToken,
    /// The sandbox, whose deliveries the page repeats and disturbs.
    pub deliveries: Arc<dyn Deliveries>,
    /// What is shown as it happens; it must be a watched one.
    pub activity: Activity,
    /// Where buyers are sent back to.
    pub app: Url,
}

/// Makes a session token for a user.
pub type IssueToken = Arc<dyn Fn(UserId) -> anyhow::Result<String> + Send + Sync>;

/// What the demo's handlers work with. Clones share everything, so limits hold for all threads together.
#[derive(Clone)]
pub struct Demo(Arc<Shared>);

/// As handlers see it.
struct Shared {
    parts: Parts,
    streams: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl Demo {
    /// Nothing is started.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self(Arc::new(Shared { parts, streams, stopping: watch::Sender::new(false) }))
    }

    /// Ends all streams: they have no end of their own, and a server that stops would wait for them.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }
}

impl fmt::Debug for Demo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Demo")
    }
}

/// The demo's share of the public listener. To be given to `App::configure` beside the routes of `http`.
pub fn routes(demo: Demo) -> impl FnOnce(&mut ServiceConfig) {
    move |app| {
        app.app_data(Data::from(demo.0))
            .service(site("/", READ, [read(pages::home)]))
            .service(site("/checkout/success", READ, [read(pages::success)]))
            .service(site("/checkout/cancel", READ, [read(pages::cancel)]))
            .service(site("/demo/assets/{file}", READ, [read(pages::asset)]))
            .service(site("/demo/users", READ, [read(visitor::users)]))
            .service(site("/demo/session", "POST", [web::post().to(visitor::session)]))
            .service(site("/demo/activity", READ, [read(feed::stream)]))
            .service(site("/demo/deliver-again", "POST", [web::post().to(deliveries::again)]))
            .service(site("/demo/life", "GET, HEAD, POST", [read(life::time), web::post().to(life::happen)]))
            .service(site("/demo/portal", "POST", [web::post().to(life::portal)]))
            .service(site(
                "/demo/switches",
                "GET, HEAD, POST",
                [read(deliveries::switches), web::post().to(deliveries::set_switches)],
            ));
    }
}

/// The methods of [`read`].
const READ: &str = "GET, HEAD";

/// An address with its methods, for this machine only.
fn site<const N: usize>(path: &str, allow: &'static str, routes: [Route; N]) -> impl HttpServiceFactory + use<N> {
    let refuse = move || async move { Err::<HttpResponse, _>(DemoError::from(ApiError::MethodNotAllowed(allow))) };
    let resource = web::resource(path).default_service(web::to(refuse));
    routes.into_iter().fold(resource, Resource::route).wrap(from_fn(guard::local_only))
}

/// `HEAD` as well: the server leaves the body out.
fn read<F, Args>(handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::route().guard(methods::Any(methods::Get()).or(methods::Head())).to(handler)
}

#[cfg(test)]
mod tests;
