//! The EventRouter: one per arbiter. It starts users' actors on its arbiter and puts them into the registry. Its handlers never
//! await, so that a slow user never holds up another one's start.
//!
//! With the registry it is the real supervisor: an uncaught panic ends an actor *and* its actix Supervisor, which restarts only
//! after `ctx.stop()`. The next message finds the registry's address disconnected, and the router starts a fresh actor.

use std::{sync::Arc, time::Duration};

use actix::{Actor, AsyncContext, Context, Handler, Supervised, Supervisor};

use super::{
    entitlement::{EntitlementActor, Tools},
    error::ApplyError,
    message::Start,
    registry::Registry,
};
use crate::fail_point::{self, Point};

/// How often idle actors are looked for.
const PASSIVATION_EVERY: Duration = Duration::from_secs(1);

/// Starts waiting at a router; beyond that callers wait, and their own limit of time holds.
const MAILBOX: usize = 4096;

/// See the [module](self).
pub(super) struct EventRouter {
    registry: Arc<Registry>,
    tools: Arc<Tools>,
    /// One router looks after passivation for all.
    lets_go: bool,
}

impl EventRouter {
    pub(super) const fn new(registry: Arc<Registry>, tools: Arc<Tools>, lets_go: bool) -> Self {
        Self { registry, tools, lets_go }
    }
}

impl Actor for EventRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if self.lets_go {
            ctx.run_interval(PASSIVATION_EVERY, |router, _| {
                router.registry.let_go_idle();
                let live = u32::try_from(router.registry.len()).unwrap_or(u32::MAX);
                metrics::gauge!("tollgate_actors_live").set(f64::from(live));
            });
        }
    }
}

impl Supervised for EventRouter {}

impl Handler<Start> for EventRouter {
    type Result = Result<(), ApplyError>;

    fn handle(&mut self, Start(user): Start, _ctx: &mut Self::Context) -> Self::Result {
        fail_point::pass_now(Point::ActorStart, || user.to_string());
        let tools = &self.tools;
        let there = self.registry.start(user, || {
            let tools = Arc::clone(tools);
            Supervisor::start(move |_| EntitlementActor::new(user, tools))
        });
        if there { Ok(()) } else { Err(ApplyError::Busy) }
    }
}
