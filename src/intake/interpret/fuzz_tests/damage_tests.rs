//! What can be wrong with an event: fields missing, of other types, said twice, in another order; words nobody has heard of; bytes that were
//! lost or changed on the way.

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use super::super::{
    subscription::tests::{PRICE, SAMPLES, USER, sample},
    tests::FIXTURES,
};

/// Any of our payloads.
pub(super) fn any_event() -> impl Strategy<Value = Value> {
    let sessions = FIXTURES.iter().map(|(_, body)| serde_json::from_slice(body).unwrap());
    let subscriptions = SAMPLES.iter().map(|(name, shape, _)| sample(name, shape));
    prop::sample::select(sessions.chain(subscriptions).collect::<Vec<Value>>())
}

/// The fields that decide something: they are hit as often as all others together.
const DECIDING: [&str; 32] = [
    "/id",
    "/object",
    "/type",
    "/created",
    "/livemode",
    "/account",
    "/data/previous_attributes",
    "/data/object/id",
    "/data/object/mode",
    "/data/object/status",
    "/data/object/payment_status",
    "/data/object/client_reference_id",
    "/data/object/metadata",
    "/data/object/metadata/userId",
    "/data/object/metadata/entitlementLevel",
    "/data/object/subscription",
    "/data/object/payment_intent",
    "/data/object/customer",
    "/data/object/created",
    "/data/object/current_period_start",
    "/data/object/current_period_end",
    "/data/object/trial_end",
    "/data/object/cancel_at",
    "/data/object/cancel_at_period_end",
    "/data/object/ended_at",
    "/data/object/items",
    "/data/object/items/data",
    "/data/object/items/data/0",
    "/data/object/items/data/0/price/id",
    "/data/object/items/data/0/price/unit_amount",
    "/data/object/items/data/0/price/recurring/interval",
    "/data/object/items/data/0/current_period_end",
];

/// Words, numbers and shapes that mean something somewhere, and some that mean nothing anywhere.
pub(super) fn any_value() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "active",
        "trialing",
        "past_due",
        "canceled",
        "incomplete",
        "incomplete_expired",
        "unpaid",
        "paused",
        "resting",
        "paid",
        "no_payment_required",
        "payment",
        "subscription",
        "setup",
        "event",
        "TRIAL",
        "PRO",
        "TEAM",
        "FREE",
        "GOLD",
        "month",
        "year",
        "usd",
        "sub_1",
        "cs_1",
        "pi_1",
        "cus_1",
        "evt_1",
        "1794700830",
        "a\0b",
        "checkout.session.completed",
        "checkout.session.async_payment_failed",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        PRICE,
        USER,
    ];
    let numbers =
        [0, -1, 1, 1500, 1_794_700_830, 253_402_300_799, 253_402_300_800, 8_210_266_876_799, i64::MAX, i64::MIN];
    prop_oneof![
        6 => prop::sample::select(words.to_vec()).prop_map(|word| json!(word)),
        4 => prop::sample::select(numbers.to_vec()).prop_map(|number| json!(number)),
        1 => any::<i64>().prop_map(|number| json!(number)),
        1 => any::<f64>().prop_map(|number| json!(number)),
        1 => Just(json!(u64::MAX)),
        1 => any::<bool>().prop_map(|truth| json!(truth)),
        1 => ".{0,12}".prop_map(|text| json!(text)),
        1 => Just(json!("a".repeat(300))),
        2 => prop::sample::select(vec![
            json!(null), json!({}), json!([]), json!([null]), json!({"id": "sub_1"}), json!({"id": 1}), json!({"data": [{}]}),
            json!(vec![json!({}); 500]), (0..100).fold(json!(1), |inner, _| json!([inner])),
        ]),
    ]
}

/// What happens to one place.
#[derive(Debug, Clone)]
enum Blow {
    Drop,
    Set(Value),
    /// A number as a string, a string in a list.
    Retype,
    /// The first of a list once more, at its end; a list backwards.
    Repeat,
    Reverse,
}

/// What happens to the bytes.
#[derive(Debug, Clone)]
enum Loss {
    Cut(Index),
    Flip(Index, u8),
    /// Some field a second time, with another value.
    Twice(Index, Value),
    /// Half a character in some text.
    Half(Index),
}

/// Everything that happens to one event.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    blows: Vec<(Result<&'static str, Index>, Blow)>,
    backwards: bool,
    loss: Option<Loss>,
}

pub(super) fn any_damage() -> impl Strategy<Value = Damage> {
    let place = prop_oneof![prop::sample::select(DECIDING.to_vec()).prop_map(Ok), any::<Index>().prop_map(Err)];
    let blow = prop_oneof![
        2 => Just(Blow::Drop),
        6 => any_value().prop_map(Blow::Set),
        1 => Just(Blow::Retype),
        1 => Just(Blow::Repeat),
        1 => Just(Blow::Reverse),
    ];
    let loss = prop_oneof![
        any::<Index>().prop_map(Loss::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(place, byte)| Loss::Flip(place, byte)),
        (any::<Index>(), any_value()).prop_map(|(place, value)| Loss::Twice(place, value)),
        any::<Index>().prop_map(Loss::Half),
    ];
    (prop::collection::vec((place, blow), 0..5), any::<bool>(), prop::option::weighted(0.2, loss))
        .prop_map(|(blows, backwards, loss)| Damage { blows, backwards, loss })
}

impl Damage {
    /// The same, but for what happens to the bytes: what is left is JSON that says one thing.
    pub(super) fn of_fields(self) -> Self {
        Self { loss: None, ..self }
    }

    /// The same, but for what happens outside of the object.
    pub(super) fn of_the_object(self) -> Self {
        let mut damage = self.of_fields();
        damage.blows.retain(|(place, _)| place.is_ok_and(|place| place.starts_with("/data/object/")));
        damage
    }

    pub(super) fn apply(&self, mut event: Value) -> Vec<u8> {
        for (place, blow) in &self.blows {
            let place = match place {
                Ok(place) => (*place).to_owned(),
                Err(index) => {
                    let all = pointers(&event);
                    index.get(&all).clone()
                }
            };
            blow.strike(&mut event, &place);
        }
        let mut body = write(&event, self.backwards);
        if let Some(loss) = &self.loss {
            loss.strike(&mut body);
        }
        body
    }
}

impl Blow {
    fn strike(&self, event: &mut Value, place: &str) {
        let Some((parent, name)) = place.rsplit_once('/') else { return };
        match (self, event.pointer_mut(parent)) {
            (Self::Drop, Some(Value::Object(fields))) => {
                fields.remove(name);
            }
            (Self::Drop, Some(Value::Array(list))) => {
                list.pop();
            }
            // Fields that the payload does not have appear.
            (Self::Set(value), Some(Value::Object(fields))) => {
                fields.insert(name.to_owned(), value.clone());
            }
            _ => {
                let Some(found) = event.pointer_mut(place) else { return };
                match (self, &mut *found) {
                    (Self::Set(value), _) => *found = value.clone(),
                    (Self::Retype, Value::Number(number)) => *found = json!(number.to_string()),
                    (Self::Retype, other) => *found = json!([other.take()]),
                    (Self::Repeat, Value::Array(list)) => list.extend(list.first().cloned()),
                    (Self::Reverse, Value::Array(list)) => list.reverse(),
                    _ => {}
                }
            }
        }
    }
}

impl Loss {
    fn strike(&self, body: &mut Vec<u8>) {
        let places = |body: &[u8], wanted: &[u8]| -> Vec<usize> {
            (0..body.len()).filter(|place| body[*place..].starts_with(wanted)).collect()
        };
        let (index, wanted, put) = match self {
            Self::Cut(index) => return body.truncate(index.index(body.len())),
            Self::Flip(index, byte) => {
                let place = index.index(body.len());
                body[place] ^= byte;
                return;
            }
            Self::Twice(index, value) => {
                let name =
                    index.get(&["id", "created", "status", "metadata", "userId", "entitlementLevel", "data", "price"]);
                (index, &b"{"[..], format!("\"{name}\":{value},"))
            }
            Self::Half(index) => (index, &b":\""[..], "\\ud800".to_owned()),
        };
        let places = places(body, wanted);
        if let Some(place) = (!places.is_empty()).then(|| index.get(&places) + wanted.len()) {
            // An empty object would keep a comma.
            if body.get(place) != Some(&b'}') {
                body.splice(place..place, put.into_bytes());
            }
        }
    }
}

/// All places of a value, the whole first.
pub(super) fn pointers(value: &Value) -> Vec<String> {
    fn walk(value: &Value, place: String, out: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let names = fields.iter();
                out.push(place.clone());
                names.for_each(|(name, value)| {
                    walk(value, format!("{place}/{}", name.replace('~', "~0").replace('/', "~1")), out);
                });
            }
            Value::Array(list) => {
                out.push(place.clone());
                list.iter().enumerate().for_each(|(number, value)| walk(value, format!("{place}/{number}"), out));
            }
            _ => out.push(place),
        }
    }
    let mut out = Vec::new();
    walk(value, String::new(), &mut out);
    out
}

/// The JSON, with the fields of each object in alphabetical order or the other way round.
pub(super) fn write(value: &Value, backwards: bool) -> Vec<u8> {
    fn text(value: &Value, backwards: bool) -> String {
        let join = |parts: Vec<String>| parts.join(",");
        match value {
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| format!("{}:{}", json!(name), text(value, backwards));
                let mut fields: Vec<String> = fields.iter().map(field).collect();
                if backwards {
                    fields.reverse();
                }
                format!("{{{}}}", join(fields))
            }
            Value::Array(list) => format!("[{}]", join(list.iter().map(|value| text(value, backwards)).collect())),
            other => other.to_string(),
        }
    }
    text(value, backwards).into_bytes()
}
