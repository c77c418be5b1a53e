//! What happens, in the order in which it happens. Made of our payloads of both API versions, with the fields set that a story changes.

use serde_json::{Map, Value, json};

use super::{
    super::{
        subscription::tests::{sample, set},
        tests::FIXTURES,
    },
    money_tests,
};

pub(super) const DAY: i64 = 86_400;
pub(super) const START: i64 = 1_790_000_000;

pub(super) const ROBIN: &str = "3c2b1a90-8f7e-4d6c-9b5a-0e1f2d3c4b5a";
pub(super) const SASHA: &str = "7f6a3e2c-5d1b-4c8e-9a60-2f1d0c9b8a71";
pub(super) const NEVER_SEEN: &str = "00000000-0000-4000-8000-000000000000";

/// What happens, at most six events.
pub(super) struct Script {
    pub(super) name: String,
    pub(super) events: Vec<Value>,
    pub(super) users: &'static [&'static str],
    /// When it is looked at what the users may do.
    pub(super) moments: &'static [i64],
}

impl Script {
    fn first(&self, count: usize) -> Self {
        Self { name: format!("{}, {count} events", self.name), events: self.events[..count].to_vec(), ..*self }
    }
}

/// Days after the start.
const fn day<const N: usize>(days: [i64; N]) -> [i64; N] {
    let mut moments = [0; N];
    let mut place = 0;
    while place < N {
        moments[place] = START + days[place] * DAY;
        place += 1;
    }
    moments
}

const MOMENTS: &[i64] = &day([1, 8, 15, 31, 34, 61, 62, 64, 94, 366, 400]);

/// A session's event, some days after the start.
pub(super) fn session(kind: &str, shape: &str, id: &str, days: i64, fields: &[(&str, Value)]) -> Value {
    let name = format!("checkout.session.completed.payment.{shape}");
    let bytes = FIXTURES.iter().find(|(known, _)| *known == name).unwrap().1;
    let mut event: Value = serde_json::from_slice(bytes).unwrap();
    let object = [("id", json!(format!("cs_{id}"))), ("client_reference_id", json!(null))];
    for (field, value) in object.iter().chain(fields) {
        set(&mut event, &format!("/data/object/{field}"), value.clone());
    }
    set(&mut event, "/type", json!(format!("checkout.session.{kind}")));
    set(&mut event, "/created", json!(START + days * DAY));
    event
}

pub(super) fn buys(user: &str, level: &str) -> (&'static str, Value) {
    ("metadata", json!({"userId": user, "entitlementLevel": level}))
}

/// A subscription as Stripe keeps it: each event carries all of it, and an update what it was before.
pub(super) struct Life {
    shape: &'static str,
    object: Value,
    pub(super) events: Vec<Value>,
}

impl Life {
    pub(super) fn of(shape: &'static str, id: &str, customer: &str, user: Option<&str>) -> Self {
        let mut object = sample("created", shape)["data"]["object"].take();
        let metadata = user.map_or(json!({}), |user| json!({"userId": user, "entitlementLevel": "PRO"}));
        for (field, value) in [("id", json!(id)), ("customer", json!(customer)), ("metadata", metadata)] {
            set(&mut object, &format!("/{field}"), value);
        }
        Self { shape, object, events: Vec::new() }
    }

    /// The session in which it is bought.
    fn checkout(mut self, user: &str, payment_status: &str) -> Self {
        let fields = [
            buys(user, "PRO"),
            ("mode", json!("subscription")),
            ("payment_status", json!(payment_status)),
            ("subscription", self.object["id"].clone()),
            ("customer", self.object["customer"].clone()),
            ("payment_intent", json!(null)),
        ];
        let id = self.object["id"].as_str().unwrap().to_owned();
        self.events.push(session("completed", self.shape, &id, 0, &fields));
        self
    }

    /// What happens to it on a day, in a period of months (30 days) counted from the start.
    pub(super) fn then(mut self, kind: &str, day: i64, period: i64, status: &str, fields: &[(&str, Value)]) -> Self {
        let before = self.object.clone();
        set(&mut self.object, "/status", json!(status));
        fields.iter().for_each(|(field, value)| set(&mut self.object, &format!("/{field}"), value.clone()));
        let place = if self.shape == "endive" { "/items/data/0" } else { "" };
        for (field, month) in [("current_period_start", period), ("current_period_end", period + 1)] {
            set(&mut self.object, &format!("{place}/{field}"), json!(START + 30 * month * DAY));
        }
        let mut event = sample("created", self.shape);
        set(&mut event, "/type", json!(format!("customer.subscription.{kind}")));
        set(&mut event, "/created", json!(START + day * DAY));
        set(&mut event, "/data/object", self.object.clone());
        if kind == "updated" {
            let now = self.object.as_object().unwrap();
            let changed = before.as_object().unwrap().iter().filter(|(field, value)| now.get(*field) != Some(*value));
            let previous: Map<String, Value> = changed.map(|(field, value)| (field.clone(), value.clone())).collect();
            set(&mut event, "/data/previous_attributes", json!(previous));
        }
        self.events.push(event);
        self
    }
}

fn invoice(number: u32) -> (&'static str, Value) {
    ("latest_invoice", json!(format!("in_{number}")))
}

pub(super) fn script(
    name: &str,
    shape: &str,
    users: &'static [&'static str],
    events: impl IntoIterator<Item = Value>,
) -> Script {
    let mut events: Vec<Value> = events.into_iter().collect();
    for (number, event) in events.iter_mut().enumerate() {
        set(event, "/id", json!(format!("evt_{number}")));
    }
    Script { name: format!("{name} ({shape})"), events, users, moments: MOMENTS }
}

/// All stories in both shapes, and all their beginnings: what was given on the way counts as well.
pub(super) fn scripts() -> Vec<Script> {
    let stories = ["acacia", "endive"]
        .into_iter()
        .flat_map(|shape| of_shape(shape).into_iter().chain(money_tests::of_shape(shape)));
    stories.flat_map(|story| (1..=story.events.len()).map(move |events| story.first(events))).collect()
}

fn of_shape(shape: &'static str) -> Vec<Script> {
    let life = |user| Life::of(shape, "sub_1", "cus_1", user);
    let renewed_and_ended = life(Some(ROBIN))
        .checkout(ROBIN, "paid")
        .then("created", 0, 0, "incomplete", &[invoice(1)])
        .then("updated", 0, 0, "active", &[])
        .then("updated", 30, 1, "active", &[invoice(2)])
        .then("updated", 60, 2, "past_due", &[invoice(3)])
        .then("deleted", 60, 2, "canceled", &[("ended_at", json!(START + 60 * DAY))]);
    let first_weeks = ("trial_end", json!(START + 14 * DAY));
    let tried_and_left = life(Some(ROBIN))
        .checkout(ROBIN, "no_payment_required")
        .then("created", 0, 0, "trialing", std::slice::from_ref(&first_weeks))
        .then("trial_will_end", 11, 0, "trialing", std::slice::from_ref(&first_weeks))
        .then("updated", 14, 0, "active", &[invoice(1)])
        .then("updated", 14, 0, "active", &[("cancel_at_period_end", json!(true))]);
    let paused_and_resumed = life(Some(ROBIN))
        .then("created", 0, 0, "active", &[invoice(1)])
        .then("paused", 10, 0, "paused", &[])
        .then("resumed", 20, 0, "active", &[])
        .then("updated", 30, 1, "unpaid", &[invoice(2)])
        .then("updated", 31, 1, "active", &[])
        .then("updated", 32, 1, "active", &[("cancel_at", json!(START + 61 * DAY))]);
    let never_paid = life(Some(ROBIN))
        .then("created", 0, 0, "incomplete", &[invoice(1)])
        .then("updated", 1, 0, "incomplete_expired", &[])
        .then("updated", 2, 0, "active", &[("cancel_at_period_end", json!(true))]);
    let nameless = life(None)
        .checkout(ROBIN, "paid")
        .then("created", 0, 0, "incomplete", &[invoice(1)])
        .then("updated", 0, 0, "active", &[])
        .then("updated", 30, 1, "active", &[invoice(2)])
        .then("updated", 60, 2, "past_due", &[invoice(3)]);
    let old = life(Some(ROBIN)).then("created", 0, 0, "active", &[]).then("deleted", 40, 1, "canceled", &[]);
    let new = Life::of(shape, "sub_2", "cus_1", Some(ROBIN)).then("created", 31, 1, "active", &[]).events;
    let of_customer = Life::of(shape, "sub_2", "cus_1", None).then("created", 31, 1, "active", &[]);
    let others = Life::of(shape, "sub_3", "cus_3", None).checkout(SASHA, "paid").then("created", 0, 0, "active", &[]);
    let pays_late = |kind, days, status: &str| {
        let fields = [buys(ROBIN, "TEAM"), ("payment_status", json!(status))];
        session(kind, shape, "late", days, &fields)
    };
    let tries = |id, days| {
        session("completed", shape, id, days, &[buys(ROBIN, "TRIAL"), ("payment_status", json!("no_payment_required"))])
    };
    let of_robin_alone = &[ROBIN];
    let mixed = life(Some(ROBIN)).checkout(ROBIN, "paid").then("created", 0, 0, "active", &[invoice(1)]).then(
        "deleted",
        20,
        0,
        "canceled",
        &[],
    );
    vec![
        script("bought, renewed, not paid, ended", shape, of_robin_alone, renewed_and_ended.events),
        script("tried, paid, to be ended", shape, of_robin_alone, tried_and_left.events),
        script("paused, resumed, given up, paid, to be ended", shape, of_robin_alone, paused_and_resumed.events),
        script(
            "never paid, whatever comes after, and a trial",
            shape,
            of_robin_alone,
            never_paid.events.into_iter().chain([tries("trial", 5)]),
        ),
        script("bought by name, told without one", shape, of_robin_alone, nameless.events),
        script(
            "the end of an old subscription and a new one",
            shape,
            of_robin_alone,
            old.events.into_iter().chain(new),
        ),
        script(
            "a subscription of a known customer, and somebody else's",
            shape,
            &[ROBIN, SASHA],
            life(Some(ROBIN))
                .then("created", 0, 0, "active", &[])
                .then("deleted", 30, 1, "canceled", &[])
                .events
                .into_iter()
                .chain(of_customer.events)
                .chain(others.events),
        ),
        script(
            "paid late, told twice, two trials",
            shape,
            of_robin_alone,
            [
                tries("trial_2", 7),
                pays_late("completed", 8, "unpaid"),
                pays_late("async_payment_succeeded", 9, "paid"),
                pays_late("async_payment_succeeded", 10, "paid"),
                tries("trial_1", 0),
            ],
        ),
        script(
            "not paid after all, then a trial",
            shape,
            of_robin_alone,
            [pays_late("completed", 1, "unpaid"), pays_late("async_payment_failed", 2, "unpaid"), tries("trial", 1), {
                let mut expired = tries("other", 3);
                set(&mut expired, "/type", json!("checkout.session.expired"));
                expired
            }],
        ),
        script(
            "a subscription that ended, a trial, the best level paid once",
            shape,
            of_robin_alone,
            mixed.events.into_iter().chain([
                tries("trial", 15),
                session("completed", shape, "team", 1, &[buys(ROBIN, "TEAM"), ("payment_status", json!("paid"))]),
            ]),
        ),
    ]
}
