//! What is left when all is over: dumps of the ledger and of Redis.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::super::{RedisServer, TestDatabase};

/// All of it. Ids of users are texts, as the stores hold them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EndState {
    /// By the database's clock.
    pub(crate) at: DateTime<Utc>,
    pub(crate) epoch: String,
    pub(crate) inbox: Vec<InboxRow>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) states: Vec<State>,
    /// By user and version.
    pub(crate) history: Vec<Change>,
    /// What readers of Redis find, by user.
    pub(crate) shown: BTreeMap<Uuid, Shown>,
    /// Events that Redis knows to have had their effect.
    pub(crate) marks: BTreeMap<String, Mark>,
    /// Cache writes that wait, per replica; whoever dumps asks the replicas.
    pub(crate) waiting: Vec<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct InboxRow {
    pub(crate) event: String,
    pub(crate) user: Option<Uuid>,
    pub(crate) outcome: String,
    pub(crate) object: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Grant {
    pub(crate) user: Uuid,
    pub(crate) level: String,
    pub(crate) event: Option<String>,
    /// Kind and id: `checkout_session:cs_…`.
    pub(crate) source: String,
    /// In the past unless the grant is live.
    pub(crate) expires_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct State {
    pub(crate) user: Uuid,
    pub(crate) level: String,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) version: u64,
}

/// A version that changed what a user may do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Change {
    pub(crate) user: Uuid,
    pub(crate) version: u64,
    pub(crate) level: String,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) event: Option<String>,
}

/// A user in Redis.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Shown {
    /// For applications; gone when its hour is over.
    pub(crate) plain: Option<String>,
    pub(crate) level: Option<String>,
    pub(crate) version: Option<u64>,
    pub(crate) epoch: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Mark {
    pub(crate) epoch: String,
    /// In seconds; negative without an end.
    pub(crate) ttl: i64,
}

impl EndState {
    /// Reads everything. Nobody may write meanwhile.
    pub(crate) async fn read(database: &TestDatabase, redis: &RedisServer) -> Self {
        let rows = async |sql: &str| database.query(sql).await;
        let inbox =
            rows("SELECT id, user_id, outcome, encode(object_hash, 'hex') FROM stripe_events ORDER BY id").await;
        let grants = rows(&format!(
            "SELECT user_id, entitlement_level, stripe_event_id, source_kind || ':' || source_id, {} \
             FROM user_entitlements ORDER BY user_id, 4",
            micros("expires_at")
        ))
        .await;
        let states = rows(&format!(
            "SELECT user_id, level, {}, version FROM entitlement_state ORDER BY user_id",
            micros("expires_at")
        ))
        .await;
        let history = rows(&format!(
            "SELECT user_id, version, level, {}, event_id FROM entitlement_history ORDER BY user_id, version",
            micros("expires_at")
        ))
        .await;
        let (shown, marks) = read_redis(redis).await;
        Self {
            at: moment(&database.value(&format!("SELECT {}", micros("now()"))).await),
            // A server's own word; the database's is a part of it.
            epoch: database.value("SELECT epoch FROM tollgate_ledger").await,
            inbox: inbox.into_iter().map(inbox_row).collect(),
            grants: grants.into_iter().map(grant).collect(),
            states: states.into_iter().map(state).collect(),
            history: history.into_iter().map(change).collect(),
            shown,
            marks,
            waiting: Vec::new(),
        }
    }
}

type Row = Vec<Option<String>>;

fn micros(column: &str) -> String {
    format!("(extract(epoch FROM {column}) * 1000000)::bigint")
}

fn moment(micros: &str) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros.parse().expect("a number")).expect("a moment")
}

fn text(row: &Row, column: usize) -> String {
    row[column].clone().expect("not null")
}

fn user(row: &Row, column: usize) -> Uuid {
    text(row, column).parse().expect("a user's id")
}

fn end(row: &Row, column: usize) -> Option<DateTime<Utc>> {
    row[column].as_deref().map(moment)
}

fn number(row: &Row, column: usize) -> u64 {
    text(row, column).parse().expect("a number")
}

fn inbox_row(row: Row) -> InboxRow {
    let user = row[1].as_ref().map(|_| user(&row, 1));
    InboxRow { event: text(&row, 0), user, outcome: text(&row, 2), object: row[3].clone() }
}

fn grant(row: Row) -> Grant {
    Grant {
        user: user(&row, 0),
        level: text(&row, 1),
        event: row[2].clone(),
        source: text(&row, 3),
        expires_at: moment(&text(&row, 4)),
    }
}

fn state(row: Row) -> State {
    State { user: user(&row, 0), level: text(&row, 1), expires_at: end(&row, 2), version: number(&row, 3) }
}

fn change(row: Row) -> Change {
    Change {
        user: user(&row, 0),
        version: number(&row, 1),
        level: text(&row, 2),
        expires_at: end(&row, 3),
        event: row[4].clone(),
    }
}

async fn read_redis(redis: &RedisServer) -> (BTreeMap<Uuid, Shown>, BTreeMap<String, Mark>) {
    let mut connection = redis.connect().await.expect("Redis answers");
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("keys");
    let (mut shown, mut marks) = (BTreeMap::new(), BTreeMap::new());
    for key in keys {
        if let Some(user) = key.strip_prefix("{entitlements:").and_then(|rest| rest.strip_suffix("}:meta")) {
            let mut pipe = ::redis::pipe();
            pipe.cmd("HGETALL").arg(&key).cmd("GET").arg(format!("entitlements:{user}"));
            let (mut meta, plain): (HashMap<String, String>, Option<String>) =
                pipe.query_async(&mut connection).await.expect("a hash and a text");
            let version = meta.remove("version").and_then(|version| version.parse().ok());
            let (level, epoch) = (meta.remove("level"), meta.remove("epoch"));
            shown.insert(user.parse().expect("a user's id"), Shown { plain, level, version, epoch });
        } else if let Some(event) = key.strip_prefix("webhook:event:evt_") {
            let mut pipe = ::redis::pipe();
            pipe.cmd("GET").arg(&key).cmd("TTL").arg(&key);
            let (epoch, ttl): (String, i64) = pipe.query_async(&mut connection).await.expect("a text and its life");
            marks.insert(format!("evt_{event}"), Mark { epoch, ttl });
        }
    }
    (shown, marks)
}
