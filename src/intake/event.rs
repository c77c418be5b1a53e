//! Stripe's JSON, as far as it is read: only this file and those below it know the names of its fields.
//!
//! What Stripe may add at any time (fields, values of enums, expanded objects) never fails here; what makes a body no event at
//! all does. Strings are borrowed from the body unless they hold escapes. `data.object` is kept as its raw text: it is hashed, and
//! parsed a second time only where its meaning is asked for.

pub(super) mod money;
pub(super) mod subscription;

use std::{borrow::Cow, fmt, marker::PhantomData};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{error::Category, value::RawValue};
use sha2::{Digest, Sha256};

use crate::domain::{
    event::EventRecord,
    id::EventId,
    plan::{Interval, Terms},
};

/// `object` of an event that carries a snapshot of what it is about.
const SNAPSHOT: &str = "event";
/// `object` of a thin event, which only names what it is about.
const THIN: &str = "v2.core.event";

/// Longest `type` that is read. Stripe's longest has about sixty characters.
const KIND_LEN_MAX: usize = 128;
/// Longest `api_version` that is kept.
const VERSION_LEN_MAX: usize = 64;

/// Why signed bytes are no event. Names the place and what belongs there, never what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// JSON is UTF-8 (RFC 8259, 8.1).
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Not JSON at all, or it ends too early.
    #[error("the body is not JSON: see line {line}, column {column}")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON, but a field that is read has another type, or stands there twice.
    #[error("the body is not an event: wrong type or repeated field at line {line}, column {column}")]
    WrongType {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// A field that makes it an event is missing, or not what it must be.
    #[error("the body is not an event: `{field}` must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
}

impl PayloadError {
    fn from_json(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            Category::Data => Self::WrongType { line, column },
            Category::Io | Category::Syntax | Category::Eof => Self::NotJson { line, column },
        }
    }
}

/// A string, borrowed where it can be. The wrapper is what makes `Option<Text>` borrow: serde does not look for a `Cow` inside
/// of an `Option`.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object. Without this wrapper serde reads a struct from an array as well, by position.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// The envelope as it is written.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    /// Unix seconds in a snapshot event, RFC 3339 in a thin one.
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    livemode: Option<bool>,
    #[serde(borrow)]
    api_version: Option<Text<'a>>,
    #[serde(borrow)]
    account: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<Object<Data<'a>>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    previous_attributes: Option<&'a RawValue>,
}

/// What an event carries.
pub(super) enum Content<'a> {
    /// The text of `data.object`, and that of `data.previous_attributes` if the event is an update.
    Snapshot(&'a str, Option<&'a str>),
    /// Nothing.
    Thin,
}

/// An event whose envelope is right.
pub(super) struct Event<'a> {
    /// For the ledger; the object's id is not known yet.
    pub(super) record: EventRecord,
    /// Whether it belongs to a connected account.
    pub(super) is_connected: bool,
    /// What it carries.
    pub(super) content: Content<'a>,
    /// What tells it from another event under the same id.
    hashed: &'a str,
}

impl<'a> Event<'a> {
    /// The record with its hash: made only for events that go on to the ledger.
    pub(super) fn into_record(self) -> EventRecord {
        EventRecord { object_hash: Sha256::digest(self.hashed).into(), ..self.record }
    }

    /// Reads the envelope. `signed_at` stands in for the time of a thin event that tells none.
    ///
    /// An absent `livemode` is that of test data: a live service takes nothing from such an event.
    ///
    /// # Errors
    /// [`PayloadError`] if it is no event.
    pub(super) fn parse(body: &'a Bytes, signed_at: Option<i64>) -> Result<Self, PayloadError> {
        let text = std::str::from_utf8(body).map_err(|_| PayloadError::NotUtf8)?;
        let wire: Wire<'a> = object(text)?;
        let (created, content, hashed) = match wire.object.as_ref().map(Text::as_str) {
            Some(SNAPSHOT) => {
                let created = wire.created.and_then(|raw| unix_time(raw.get().parse().ok()?));
                let Some(Object(Data { object: Some(object), previous_attributes })) = wire.data else {
                    return Err(field("data.object", "there"));
                };
                let object = object.get();
                (created, Content::Snapshot(object, previous_attributes.map(RawValue::get)), object)
            }
            Some(THIN) => {
                let created = wire.created.and_then(rfc3339).or_else(|| unix_time(signed_at?));
                (created, Content::Thin, text)
            }
            _ => return Err(field("object", "\"event\"")),
        };
        let record = EventRecord {
            id: wire.id.and_then(|id| EventId::parse(id.as_str()).ok()).ok_or(field("id", "an id such as evt_1AbC"))?,
            kind: wire
                .kind
                .filter(|kind| is_kind(kind.as_str()))
                .ok_or(field("type", "a type such as checkout.session.completed"))?
                .0
                .into_owned(),
            object_id: None,
            created: created.ok_or(field("created", "a time in Unix seconds"))?,
            livemode: wire.livemode.unwrap_or_default(),
            api_version: wire
                .api_version
                .filter(|version| is_version(version.as_str()))
                .map(|text| text.0.into_owned()),
            object_hash: [0; 32],
            payload: body.clone(),
        };
        Ok(Self { record, is_connected: wire.account.is_some(), content, hashed })
    }
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

const fn field(field: &'static str, expected: &'static str) -> PayloadError {
    PayloadError::Field { field, expected }
}

fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PayloadError> {
    serde_json::from_str(text).map(|Object(object)| object).map_err(|error| PayloadError::from_json(&error))
}

/// Stripe has no events of before 1970; the database's range is wider than chrono's only towards the future.
fn unix_time(seconds: i64) -> Option<DateTime<Utc>> {
    if seconds < 0 { None } else { DateTime::from_timestamp(seconds, 0) }
}

fn rfc3339(raw: &RawValue) -> Option<DateTime<Utc>> {
    let text: Text<'_> = serde_json::from_str(raw.get()).ok()?;
    let time = DateTime::parse_from_rfc3339(text.as_str()).ok()?;
    unix_time(time.timestamp())
}

/// Besides dotted words there are `v2.core.account[requirements].updated` and its like.
fn is_kind(text: &str) -> bool {
    (1..=KIND_LEN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.[]".contains(&b))
}

/// Whatever the version is called, it goes into the ledger as one short word.
fn is_version(text: &str) -> bool {
    (1..=VERSION_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A Checkout Session, as far as it decides anything. Every field may be absent.
#[derive(Deserialize)]
pub(super) struct Session<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) mode: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) status: Option<Text<'a>>,
    pub(super) livemode: Option<bool>,
    #[serde(borrow)]
    pub(super) payment_status: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) client_reference_id: Option<Text<'a>>,
    #[serde(borrow)]
    metadata: Option<Object<Metadata<'a>>>,
    #[serde(borrow)]
    pub(super) subscription: Option<Reference<'a>>,
    #[serde(borrow)]
    pub(super) payment_intent: Option<Reference<'a>>,
    #[serde(borrow)]
    pub(super) customer: Option<Reference<'a>>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, rename = "userId")]
    user_id: Option<Text<'a>>,
    #[serde(borrow, rename = "entitlementLevel")]
    entitlement_level: Option<Text<'a>>,
    #[serde(borrow)]
    interval: Option<Text<'a>>,
    #[serde(borrow, rename = "trialDays")]
    trial_days: Option<Text<'a>>,
}

impl<'a> Session<'a> {
    /// Reads the text of `data.object`; `None` if it is no session.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        object(text).ok()
    }

    /// `metadata.userId`; empty is as good as absent.
    pub(super) fn user_id(&self) -> Option<&str> {
        said(self.metadata.as_ref()?.0.user_id.as_ref())
    }

    /// `metadata.entitlementLevel`; empty is as good as absent.
    pub(super) fn entitlement_level(&self) -> Option<&str> {
        said(self.metadata.as_ref()?.0.entitlement_level.as_ref())
    }

    /// `metadata.interval` and `metadata.trialDays`, as Tollgate writes them; sessions of others say neither.
    pub(super) fn terms(&self) -> Terms {
        let Some(Object(metadata)) = &self.metadata else { return Terms::default() };
        Terms {
            interval: said(metadata.interval.as_ref()).and_then(Interval::from_word),
            trial_days: said(metadata.trial_days.as_ref()).and_then(|days| days.parse().ok()),
        }
    }
}

/// A text that is there and not empty.
pub(super) fn said<'a>(text: Option<&'a Text<'_>>) -> Option<&'a str> {
    text.map(Text::as_str).filter(|text| !text.is_empty())
}

/// Another object: its id or, where the sender expanded it, the object itself.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Reference<'a>(#[serde(borrow)] &'a RawValue);

impl<'a> Reference<'a> {
    /// The id; `None` if there is none in it.
    pub(super) fn id(&self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Expanded<'a> {
            #[serde(borrow)]
            id: Text<'a>,
        }

        let text = self.0.get();
        let id = if text.starts_with('"') {
            serde_json::from_str(text).ok()?
        } else {
            object::<Expanded<'a>>(text).ok()?.id
        };
        let Text(id) = id;
        Some(id)
    }
}
