//! What is behind the points in a build for tests.

use std::{
    collections::BTreeMap,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;

use super::{Failed, Point};

/// How often a held thread or task looks whether it may go on.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

static STATE: Mutex<State> = Mutex::new(State { arms: Vec::new(), hits: BTreeMap::new(), round: 0 });

struct State {
    arms: Vec<Arm>,
    /// How often each point was passed where it was armed for what passed.
    hits: BTreeMap<&'static str, u64>,
    /// Grows when all is disarmed, which lets go what is held.
    round: u64,
}

/// One point, armed: `point=action[*hits][@about]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arm {
    point: Point,
    action: Action,
    /// How many more times; without, always.
    left: Option<u32>,
    /// Only for what contains this.
    about: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Nothing but the count.
    Count,
    /// The process ends at once: nothing is dropped, flushed or said.
    Abort,
    Panic,
    Fail,
    /// The task waits; its thread goes on.
    Delay(Duration),
    /// The thread waits, as for a call that blocks.
    Block(Duration),
    /// The task waits until all is disarmed.
    Hold,
}

/// Arms points: `point=action[*hits][@about]`, several with `;` between them. Actions are `count`, `abort`, `panic`, `fail`, `hold`,
/// `delay:<ms>` and `block:<ms>`. The newest that fits what passes acts.
///
/// # Errors
/// What could not be read, and why; then nothing is armed.
pub fn arm(text: &str) -> Result<(), String> {
    let arms: Vec<Arm> =
        text.split(';').map(str::trim).filter(|arm| !arm.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    state().arms.extend(arms);
    Ok(())
}

/// Disarms all points, and lets go what is held.
pub fn disarm() {
    let mut state = state();
    state.arms.clear();
    state.round += 1;
}

/// How often each point was passed while armed for what passed.
#[must_use]
pub fn hits() -> BTreeMap<&'static str, u64> {
    state().hits.clone()
}

/// Arms what the variable `FAIL_POINTS` says.
pub(crate) fn from_environment() -> Result<(), String> {
    std::env::var("FAIL_POINTS").map_or(Ok(()), |text| arm(&text))
}

/// Passes a point. `about` says what for, to those who armed it for one thing only.
pub(crate) fn pass(point: Point, about: impl FnOnce() -> String) -> BoxFuture<'static, ()> {
    let passed = try_pass(point, about);
    Box::pin(async move {
        if passed.await.is_err() {
            refuse(point);
        }
    })
}

/// The same where the work may fail.
pub(crate) fn try_pass(point: Point, about: impl FnOnce() -> String) -> BoxFuture<'static, Result<(), Failed>> {
    let hit = hit(point, about);
    Box::pin(async move {
        match hit {
            Some((Action::Delay(time), _)) => tokio::time::sleep(time).await,
            Some((Action::Hold, round)) => {
                while state().round == round {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
            Some((action, _)) => act(point, action)?,
            None => {}
        }
        Ok(())
    })
}

/// The same where nothing can be awaited.
pub(crate) fn pass_now(point: Point, about: impl FnOnce() -> String) {
    match hit(point, about) {
        Some((Action::Hold, round)) => {
            while state().round == round {
                block(LOOK_AGAIN);
            }
        }
        Some((Action::Delay(time), _)) => block(time),
        Some((action, _)) => act(point, action).unwrap_or_else(|_| refuse(point)),
        None => {}
    }
}

fn act(point: Point, action: Action) -> Result<(), Failed> {
    match action {
        Action::Abort => std::process::abort(),
        Action::Panic => provoke(point),
        Action::Fail => return Err(Failed(point)),
        Action::Block(time) => block(time),
        Action::Count | Action::Delay(_) | Action::Hold => {}
    }
    Ok(())
}

/// What is to be done at a point, if anything, and the round in which it was said.
fn hit(point: Point, about: impl FnOnce() -> String) -> Option<(Action, u64)> {
    let mut state = state();
    if !state.arms.iter().any(|arm| arm.point == point) {
        return None;
    }
    let about = about();
    let fits = |arm: &&mut Arm| {
        arm.point == point
            && arm.left != Some(0)
            && arm.about.as_ref().is_none_or(|wanted| about.split(' ').any(|word| word == wanted))
    };
    let arm = state.arms.iter_mut().rev().find(fits)?;
    arm.left = arm.left.map(|left| left - 1);
    let action = arm.action;
    *state.hits.entry(point.name()).or_default() += 1;
    Some((action, state.round))
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::panic, reason = "that is what a test asked for")]
fn provoke(point: Point) {
    panic!("made to panic at {point}");
}

#[expect(clippy::panic, reason = "a test that asks for what cannot be has to hear of it")]
fn refuse(point: Point) {
    panic!("nothing can fail at {point}");
}

#[expect(clippy::disallowed_methods, reason = "to block the thread is what a test asked for")]
fn block(time: Duration) {
    std::thread::sleep(time);
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?}: {why}; it is point=action[*hits][@about]");
        let (name, rest) = text.split_once('=').ok_or_else(|| wrong("there is no ="))?;
        let point = Point::ALL.iter().copied().find(|point| point.name() == name.trim());
        let point = point.ok_or_else(|| wrong("there is no such point"))?;
        let (rest, about) = match rest.split_once('@') {
            Some((rest, about)) => (rest, Some(about.to_owned())),
            None => (rest, None),
        };
        let (action, left) = match rest.split_once('*') {
            Some((action, hits)) => (action, Some(hits.parse().map_err(|_| wrong("the hits are no number"))?)),
            None => (rest, None),
        };
        let (action, time) = action.split_once(':').map_or((action, None), |(action, time)| (action, Some(time)));
        let time = time.map(|time| time.parse().map(Duration::from_millis).map_err(|_| wrong("the time is no number")));
        let action = match (action, time.transpose()?) {
            ("count", None) => Action::Count,
            ("abort", None) => Action::Abort,
            ("panic", None) => Action::Panic,
            ("fail", None) => Action::Fail,
            ("hold", None) => Action::Hold,
            ("delay", Some(time)) => Action::Delay(time),
            ("block", Some(time)) => Action::Block(time),
            _ => return Err(wrong("there is no such action")),
        };
        Ok(Self { point, action, left, about })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_armed_is_said_in_words() {
        let arm = "ledger.committed=delay:50*3@evt_1".parse::<Arm>();
        let (action, left) = (Action::Delay(Duration::from_millis(50)), Some(3));
        assert_eq!(arm, Ok(Arm { point: Point::LedgerCommitted, action, left, about: Some("evt_1".into()) }));
        let arm = "ledger.begin=abort".parse::<Arm>();
        assert_eq!(arm, Ok(Arm { point: Point::LedgerBegin, action: Action::Abort, left: None, about: None }));
        for wrong in [
            "",
            "ledger.begin",
            "no.point=abort",
            "ledger.begin=stop",
            "ledger.begin=delay",
            "ledger.begin=fail:1",
            "ledger.begin=fail*x",
        ] {
            let told = wrong.parse::<Arm>().unwrap_err();
            assert!(told.contains("point=action"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_point_acts_as_often_as_it_was_armed_for_and_for_whom() {
        arm("actor.start=fail*2@of-this-test").unwrap();
        let pass = async |about: &'static str| try_pass(Point::ActorStart, || about.to_owned()).await;
        assert_eq!(pass("another").await, Ok(()));
        for expected in [Err(Failed(Point::ActorStart)), Err(Failed(Point::ActorStart)), Ok(())] {
            assert_eq!(pass("one of-this-test").await, expected);
        }
        assert!(hits()["actor.start"] >= 2);
    }
}
