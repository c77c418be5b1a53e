//! The EventRouter: one per arbiter. It starts users' actors on its arbiter and puts them into the registry. Its handlers never
//! await, so that a slow user never holds up another one's start.
//!
//! With the registry it is the real supervisor: an uncaught panic ends an actor *and* its actix Supervisor, which restarts only
//! after `ctx.stop()`. The next message finds the registry's address disconnected, and the router starts a fresh actor.

use std::sync::Arc;

use actix::{Actor, Addr, Arbiter, Context, Handler, MessageResult, Supervised, Supervisor};

use super::{
    entitlement::{EntitlementActor, Tools},
    message::Start,
    registry::Registry,
    shards::Pulse,
};
use crate::fail_point::{self, Point};

/// Starts waiting at a router; beyond that callers wait, and their own limit of time holds.
const MAILBOX: usize = 4096;

/// See the [module](self).
pub(super) struct EventRouter {
    registry: Arc<Registry>,
    tools: Arc<Tools>,
    _pulse: Arc<Pulse>,
}

/// Starts a router on a thread.
pub(super) fn start_router(
    arbiter: &Arbiter,
    registry: &Arc<Registry>,
    tools: &Arc<Tools>,
    pulse: Arc<Pulse>,
) -> Addr<EventRouter> {
    let (registry, tools) = (Arc::clone(registry), Arc::clone(tools));
    Supervisor::start_in_arbiter(&arbiter.handle(), move |_| EventRouter { registry, tools, _pulse: pulse })
}

impl Actor for EventRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Supervised for EventRouter {}

impl Handler<Start> for EventRouter {
    type Result = MessageResult<Start>;

    fn handle(&mut self, Start(user): Start, _ctx: &mut Self::Context) -> Self::Result {
        fail_point::pass_now(Point::ActorStart, || user.to_string());
        MessageResult(self.registry.start(user, || {
            let tools = Arc::clone(&self.tools);
            Supervisor::start(move |_| EntitlementActor::new(user, tools))
        }))
    }
}
