//! Each check sees what it is for: a history in order has no violation, and each thing planted in it is found by the check it concerns.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    Bounds, Change, Claim, EndState, Grant, History, InboxRow, Mark, Operation, Record, Shown, State, What, check,
};
use crate::harness::server::Answer;

const USER: Uuid = Uuid::from_u128(1);

fn began() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn level_end() -> DateTime<Utc> {
    began() + TimeDelta::seconds(60)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn delivery(id: usize, event: &str, at: u64, outcome: Claim) -> Operation {
    Operation {
        id,
        client: 0,
        replica: 0,
        what: What::Deliver { event: event.into(), user: Some(USER), object: "aa".into() },
        invoked: ms(at),
        returned: Some(ms(at + 10)),
        status: Some(200),
        outcome: Some(outcome),
        version: None,
        level: None,
        expires_at: None,
    }
}

fn read(id: usize, at: u64, version: u64, level: &str) -> Operation {
    Operation {
        what: What::Read { user: USER, min_version: None },
        outcome: None,
        version: Some(version),
        level: Some(level.into()),
        expires_at: (level != "FREE").then(level_end),
        ..delivery(id, "", at, Claim::Recorded)
    }
}

/// One user buys TRIAL and then PRO, and is read before, between and after.
fn in_order() -> (Record, EndState) {
    let operations = vec![
        read(0, 0, 0, "FREE"),
        delivery(1, "evt_1", 100, Claim::Processed),
        read(2, 200, 1, "TRIAL"),
        delivery(3, "evt_2", 300, Claim::Processed),
        read(4, 400, 2, "PRO"),
        delivery(5, "evt_1", 500, Claim::Idempotent),
    ];
    let inbox = |event: &str| InboxRow {
        event: event.into(),
        user: Some(USER),
        outcome: "applied".into(),
        object: Some("aa".into()),
    };
    let grant = |event: &str, level: &str| Grant {
        user: USER,
        level: level.into(),
        event: Some(event.into()),
        source: event.replace("evt", "cs"),
        expires_at: level_end(),
    };
    let change = |event: &str, version: u64, level: &str| Change {
        user: USER,
        version,
        level: level.into(),
        expires_at: Some(level_end()),
        event: Some(event.into()),
    };
    let shown = |text: &str| Some(text.to_owned());
    let end = EndState {
        at: began() + TimeDelta::seconds(1),
        epoch: "an-epoch".into(),
        inbox: vec![inbox("evt_1"), inbox("evt_2")],
        grants: vec![grant("evt_1", "TRIAL"), grant("evt_2", "PRO")],
        states: vec![State { user: USER, level: "PRO".into(), expires_at: Some(level_end()), version: 2 }],
        history: vec![change("evt_1", 1, "TRIAL"), change("evt_2", 2, "PRO")],
        shown: BTreeMap::from([(
            USER,
            Shown { plain: shown("PRO"), level: shown("PRO"), version: Some(2), epoch: shown("an-epoch") },
        )]),
        marks: BTreeMap::from([("evt_2".into(), Mark { epoch: "an-epoch".into(), ttl: 86_400 })]),
        waiting: vec![0],
    };
    (Record { began_at: began(), operations }, end)
}

/// The invariants that are violated once something was planted.
fn found(plant: impl FnOnce(&mut Vec<Operation>, &mut EndState)) -> Vec<&'static str> {
    found_within(&Bounds::default(), plant)
}

fn found_within(bounds: &Bounds, plant: impl FnOnce(&mut Vec<Operation>, &mut EndState)) -> Vec<&'static str> {
    let (mut record, mut end) = in_order();
    plant(&mut record.operations, &mut end);
    let violations =
        check::all(&record, &end, bounds, &|_, events| if events.contains("evt_2") { "PRO" } else { "TRIAL" });
    let mut found: Vec<_> = violations.iter().map(|violation| violation.invariant).collect();
    found.dedup();
    found
}

#[test]
fn what_is_in_order_has_no_violation() {
    assert_eq!(found(|_, _| {}), [""; 0]);
}

#[test]
fn an_acknowledged_event_that_is_lost_is_found() {
    assert!(found(|_, end| drop(end.inbox.remove(0))).contains(&"I1"));
    assert!(found(|_, end| end.inbox[0].outcome = "parked".into()).contains(&"I1"));
}

#[test]
fn a_double_effect_is_found() {
    assert_eq!(found(|_, end| end.grants[1].event = Some("evt_1".into())), ["I2"]);
    assert_eq!(found(|_, end| end.grants[1].source = "cs_1".into()), ["I2"]);
    assert!(found(|_, end| end.history[1].event = Some("evt_1".into())).contains(&"I2"));
}

#[test]
fn what_was_never_sent_is_found() {
    assert_eq!(found(|_, end| end.inbox[0].object = Some("bb".into())), ["I3"]);
    assert!(found(|_, end| end.inbox[0].event = "evt_3".into()).contains(&"I3"));
}

#[test]
fn a_gap_between_versions_is_found() {
    assert!(found(|_, end| end.states[0].version = 3).contains(&"I4"));
    assert!(found(|_, end| end.history[1].version = 3).contains(&"I4"));
    assert!(found(|_, end| end.states.clear()).contains(&"I4"));
}

#[test]
fn a_state_that_is_not_the_fold_is_found() {
    assert_eq!(found(|_, end| end.grants[1].expires_at = began()), ["I5"]);
    assert_eq!(found(|_, end| end.states[0].expires_at = Some(level_end() + TimeDelta::seconds(1))), ["I5"]);
    // Ledger and Redis agree on what the events do not give.
    let taken = |_: &mut Vec<Operation>, end: &mut EndState| {
        end.inbox[1].outcome = "superseded".into();
        end.states[0].version = 1;
        end.history.pop();
    };
    assert!(found(taken).contains(&"I5"));
}

#[test]
fn an_answer_older_than_asked_for_is_found() {
    let asked =
        |least| found(move |operations, _| operations[2].what = What::Read { user: USER, min_version: Some(least) });
    assert_eq!(asked(2), ["I7"]);
    assert_eq!(asked(1), [""; 0]);
}

#[test]
fn a_stale_answer_is_found_and_granted_its_bound() {
    let stale = |operations: &mut Vec<Operation>, _: &mut EndState| operations[4] = read(4, 400, 1, "TRIAL");
    assert_eq!(found(stale), ["I8"]);
    // Acknowledged at 310, read at 400.
    let healthy = |healthy| Bounds { healthy: ms(healthy), ..Bounds::default() };
    assert_eq!(found_within(&healthy(89), stale), ["I8"]);
    assert_eq!(found_within(&healthy(91), stale), [""; 0]);
    let faulty =
        |until, after_heal| Bounds { healthy: ms(0), after_heal: ms(after_heal), faults: vec![(ms(305), ms(until))] };
    assert_eq!(found_within(&faulty(350, 50), stale), [""; 0]);
    assert_eq!(found_within(&faulty(350, 49), stale), ["I8"]);
    let before_the_fault = Bounds { faults: vec![(ms(311), ms(500))], ..Bounds::default() };
    assert_eq!(found_within(&before_the_fault, stale), ["I8"]);
}

#[test]
fn a_level_that_nobody_gave_is_found() {
    assert_eq!(found(|operations, _| operations[2] = read(2, 200, 1, "PRO")), ["I9"]);
    assert_eq!(found(|operations, _| operations[0] = read(0, 0, 0, "PRO")), ["I9"]);
    assert_eq!(found(|operations, _| operations[2].expires_at = Some(level_end() + TimeDelta::seconds(1))), ["I9"]);
}

#[test]
fn a_level_that_is_over_is_found() {
    assert_eq!(found(|operations, _| operations.push(read(6, 61_001, 2, "PRO"))), ["I10"]);
    assert_eq!(found(|operations, _| operations.push(read(6, 60_999, 2, "PRO"))), [""; 0]);
}

#[test]
fn another_state_in_redis_is_found() {
    let shown = |plant: fn(&mut Shown)| found(move |_, end| plant(end.shown.get_mut(&USER).unwrap()));
    assert_eq!(shown(|shown| shown.plain = Some("TRIAL".into())), ["I11"]);
    assert_eq!(shown(|shown| shown.level = Some("TRIAL".into())), ["I11"]);
    assert_eq!(shown(|shown| shown.version = Some(1)), ["I11"]);
    assert_eq!(shown(|shown| shown.plain = None), [""; 0]);
    assert_eq!(found(|_, end| end.shown.clear()), [""; 0]);
}

#[test]
fn a_mark_of_what_had_no_effect_is_found() {
    let mark = |epoch: &str, ttl| Mark { epoch: epoch.into(), ttl };
    let marked = |event: &'static str, mark| found(move |_, end| drop(end.marks.insert(event.into(), mark)));
    assert_eq!(marked("evt_3", mark("an-epoch", 60)), ["I12"]);
    assert_eq!(marked("evt_1", mark("another", 60)), ["I12"]);
    assert_eq!(marked("evt_1", mark("an-epoch", -1)), ["I12"]);
    assert_eq!(marked("evt_1", mark("an-epoch", 86_401)), ["I12"]);
    assert_eq!(marked("evt_1", mark("an-epoch", 60)), [""; 0]);
}

#[test]
fn a_cache_write_that_waits_is_found() {
    assert_eq!(found(|_, end| end.waiting.push(1)), ["I13"]);
}

#[test]
fn dishonest_answers_are_found() {
    assert_eq!(found(|operations, _| operations[5].outcome = Some(Claim::Processed)), ["I16"]);
    assert_eq!(found(|operations, _| operations[5].status = Some(503)), ["I16"]);
}

#[test]
fn answers_are_written_down_as_they_are_understood() {
    let history = History::new();
    let answered = |what: What, status: u16, json: serde_json::Value| {
        let id = history.begin(3, 1, what);
        let answer = Answer { status, headers: Default::default(), text: json.to_string(), json };
        history.end(id, Some(&answer));
        history.record().operations[id].clone()
    };
    let sent = || What::Deliver { event: "evt_1".into(), user: None, object: "aa".into() };
    for (json, expected) in [
        (json!({ "ok": true, "idempotent": true }), Some(Claim::Idempotent)),
        (json!({ "ok": true, "idempotent": false, "processed": true }), Some(Claim::Processed)),
        (json!({ "ok": true, "idempotent": false, "processed": false, "parked": true }), Some(Claim::Parked)),
        (json!({ "ok": true, "idempotent": false, "processed": false }), Some(Claim::Recorded)),
        (json!({ "error": "Try again", "code": "UNAVAILABLE" }), None),
    ] {
        assert_eq!(answered(sent(), 200, json).outcome, expected);
    }
    let wanted = What::Read { user: USER, min_version: Some(7) };
    let json = json!({ "entitlementLevel": "PRO", "version": 7, "expiresAt": "2027-01-27T12:00:00Z" });
    let read = answered(wanted, 200, json);
    assert_eq!((read.version, read.level.as_deref(), read.returned.is_some()), (Some(7), Some("PRO"), true));
    let line = serde_json::to_value(&read).unwrap();
    assert_eq!(
        (&line["op"], &line["client"], &line["expires_at"]),
        (&json!("read"), &json!(3), &json!("2027-01-27T12:00:00Z"))
    );
    let unanswered = history.begin(0, 0, sent());
    history.end(unanswered, None);
    assert!(history.record().operations[unanswered].returned.is_none());
}
