//! What actix does when an actor panics, stops or is forgotten. The actor room is built on it, no documentation of actix promises it, and older
//! versions did otherwise: a version that changes any of it fails here, by name.

use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, Arbiter, AtomicResponse, Context, Handler, MailboxError, Message,
    MessageResult, ResponseFuture, Supervised, Supervisor, WrapFuture,
};
use futures::{future::join_all, poll};
use tokio::sync::{mpsc, oneshot};

use crate::harness::eventually;

const PATIENCE: Duration = Duration::from_secs(30);

/// Counts what it is asked; tells when it begins again, and when it is dropped.
struct Counter {
    count: u32,
    lives: mpsc::UnboundedSender<&'static str>,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Supervised for Counter {
    fn restarting(&mut self, _: &mut Context<Self>) {
        let _nobody_listens = self.lives.send("restarted");
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _nobody_listens = self.lives.send("dropped");
    }
}

/// Supervised, with what it tells of its life.
fn counter(on: &Arbiter) -> (Addr<Counter>, mpsc::UnboundedReceiver<&'static str>) {
    let (lives, told) = mpsc::unbounded_channel();
    (Supervisor::start_in_arbiter(&on.handle(), |_| Counter { count: 0, lives }), told)
}

/// How many times it has been asked.
struct Count;

impl Message for Count {
    type Result = u32;
}

impl Handler<Count> for Counter {
    type Result = MessageResult<Count>;

    fn handle(&mut self, _: Count, _: &mut Context<Self>) -> Self::Result {
        self.count += 1;
        MessageResult(self.count)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    PanicsAtOnce,
    PanicsLater,
    Stops,
}

/// Waits for leave, then does it.
struct Do(Kind, oneshot::Receiver<()>);

impl Message for Do {
    type Result = ();
}

impl Handler<Do> for Counter {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Do(kind, leave): Do, _: &mut Context<Self>) -> Self::Result {
        assert!(!matches!(kind, Kind::PanicsAtOnce), "as it was told");
        let work = async move {
            let _given_up = leave.await;
            assert!(!matches!(kind, Kind::PanicsLater), "as it was told");
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(move |(), _, ctx: &mut Context<Self>| ctx.stop())))
    }
}

/// A panic in a future that is not the actor's.
struct PanicElsewhere;

impl Message for PanicElsewhere {
    type Result = ();
}

impl Handler<PanicElsewhere> for Counter {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: PanicElsewhere, _: &mut Context<Self>) -> Self::Result {
        Box::pin(async { panic!("as it was told") })
    }
}

/// Has an actor do something with five messages waiting behind it; gives what each sender was told.
async fn with_five_waiting(
    addr: &Addr<Counter>,
    kind: Kind,
) -> (Result<(), MailboxError>, Vec<Result<u32, MailboxError>>) {
    let (leave, wait) = oneshot::channel();
    let mut first = Box::pin(addr.send(Do(kind, wait)));
    assert!(poll!(first.as_mut()).is_pending());
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(addr.send(Count))).collect();
    for message in &mut waiting {
        assert!(poll!(message.as_mut()).is_pending());
    }
    drop(leave);
    (first.await, join_all(waiting).await)
}

async fn assert_ends_alone_and_for_good(kind: Kind) {
    let arbiter = Arbiter::new();
    let ((addr, mut told), (neighbour, _told)) = (counter(&arbiter), counter(&arbiter));
    let (first, waiting) = with_five_waiting(&addr, kind).await;
    assert!(matches!(first, Err(MailboxError::Closed)), "{first:?}");
    assert!(waiting.iter().all(|reply| matches!(reply, Err(MailboxError::Closed))), "{waiting:?}");
    assert_eq!(told.recv().await, Some("dropped"), "the supervisor does not begin it again");
    eventually(PATIENCE, "the address says so", || async { !addr.connected() }).await;
    assert!(addr.try_send(Count).is_err() && addr.send(Count).await.is_err());
    assert_eq!(neighbour.send(Count).await.unwrap(), 1, "the thread and its other actors go on");
    assert!(arbiter.alive());
    arbiter.stop();
}

#[actix_web::test]
async fn a_panic_in_a_handler_ends_its_actor_for_good_and_no_neighbour() {
    assert_ends_alone_and_for_good(Kind::PanicsAtOnce).await;
}

#[actix_web::test]
async fn a_panic_in_an_actors_own_future_does_the_same() {
    assert_ends_alone_and_for_good(Kind::PanicsLater).await;
}

#[actix_web::test]
async fn a_panic_in_a_future_beside_the_actor_closes_that_reply_alone() {
    let arbiter = Arbiter::new();
    let (addr, _told) = counter(&arbiter);
    assert!(matches!(addr.send(PanicElsewhere).await, Err(MailboxError::Closed)));
    assert_eq!(addr.send(Count).await.unwrap(), 1);
    arbiter.stop();
}

#[actix_web::test]
async fn a_supervised_actor_that_stops_begins_again_with_its_mailbox_and_its_memory() {
    let arbiter = Arbiter::new();
    let (addr, mut told) = counter(&arbiter);
    assert_eq!(addr.send(Count).await.unwrap(), 1);
    let (first, waiting) = with_five_waiting(&addr, Kind::Stops).await;
    assert!(first.is_ok());
    assert_eq!(waiting.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    assert_eq!(told.recv().await, Some("restarted"));
    arbiter.stop();
}

#[actix_web::test]
async fn an_actor_whose_addresses_are_gone_does_what_waits_and_ends() {
    let arbiter = Arbiter::new();
    let (addr, mut told) = counter(&arbiter);
    let (leave, wait) = oneshot::channel();
    let (mut first, mut second) = (Box::pin(addr.send(Do(Kind::Stops, wait))), Box::pin(addr.send(Count)));
    assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
    assert!(told.try_recv().is_err(), "it lives");
    drop(addr);
    drop(leave);
    // The stop ends it: nobody could send any more. What had been sent before is not lost without a word.
    assert!(first.await.is_ok());
    assert!(matches!(second.await, Ok(1) | Err(MailboxError::Closed)));
    assert_eq!(told.recv().await, Some("dropped"));
    arbiter.stop();
}

#[actix_web::test]
async fn a_thread_that_ends_closes_what_waits_on_it() {
    let arbiter = Arbiter::new();
    let (addr, mut told) = counter(&arbiter);
    assert_eq!(addr.send(Count).await.unwrap(), 1);
    let (_leave, wait) = oneshot::channel();
    let mut first = Box::pin(addr.send(Do(Kind::Stops, wait)));
    let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(addr.send(Count))).collect();
    assert!(poll!(first.as_mut()).is_pending());
    for message in &mut waiting {
        assert!(poll!(message.as_mut()).is_pending());
    }
    assert!(arbiter.stop());
    assert!(matches!(first.await, Err(MailboxError::Closed)));
    assert!(join_all(waiting).await.into_iter().all(|reply| matches!(reply, Err(MailboxError::Closed))));
    assert_eq!(told.recv().await, Some("dropped"));
    assert!(!arbiter.alive() && !arbiter.spawn_fn(|| {}));
    let (on_no_thread, _told) = counter(&arbiter);
    assert!(!on_no_thread.connected(), "what is started there is dead at once");
}
