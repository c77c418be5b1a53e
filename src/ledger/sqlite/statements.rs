//! The hot SQL: one row a statement, since a statement costs no round trip here. All of them run inside the write transaction, but for
//! [`ReadAccount`].

use diesel::{
    sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text},
    sqlite::{Sqlite, SqliteConnection},
};

use super::super::statement::typed_statement;

macro_rules! statement {
    ($(#[$doc:meta])* $name:ident -> $out:ty { $($body:tt)+ }) => {
        typed_statement! { Sqlite; $(#[$doc])* $name -> $out { $($body)+ } }

        impl diesel::RunQueryDsl<SqliteConnection> for $name<'_> {}
    };
}

statement! {
    /// Writes an event into the inbox if it is not there yet.
    InsertEvent -> () {
        "INSERT INTO stripe_events (id, type, object_id, created, livemode, api_version, object_hash, user_id, outcome, \
           reason, payload, received_at, processed_at) VALUES (", id: &'a str as Text;
        ", ", kind: &'a str as Text;
        ", ", object_id: Option<&'a str> as Nullable<Text>;
        ", ", created: Option<i64> as Nullable<BigInt>;
        ", ", livemode: Option<bool> as Nullable<Bool>;
        ", ", api_version: Option<&'a str> as Nullable<Text>;
        ", ", object_hash: Option<&'a [u8]> as Nullable<Binary>;
        ", ", user: Option<&'a str> as Nullable<Text>;
        ", ", outcome: &'a str as Text;
        ", ", reason: Option<&'a str> as Nullable<Text>;
        ", ", payload: Option<&'a str> as Nullable<Text>;
        ", ", received_at: i64 as BigInt;
        ", ", processed_at: i64 as BigInt;
        ") ON CONFLICT (id) DO NOTHING";
    }
}

statement! {
    /// Claims a waiting event for being applied: whoever changes the row applies it, once.
    ClaimEvent -> () {
        "UPDATE stripe_events SET outcome = 'applied', reason = NULL, payload = NULL, processed_at = ", now: i64 as BigInt;
        ", user_id = ", user: Option<&'a str> as Nullable<Text>;
        ", object_id = ", object_id: Option<&'a str> as Nullable<Text>;
        ", object_hash = ", object_hash: Option<&'a [u8]> as Nullable<Binary>;
        " WHERE id = ", id: &'a str as Text;
        " AND outcome IN ('parked', 'ignored')";
    }
}

statement! {
    /// How an event stands that was in the inbox already.
    FindEvent -> (Text, Text, Nullable<Binary>) {
        "SELECT id, outcome, object_hash FROM stripe_events WHERE id = ", id: &'a str as Text;
        "";
    }
}

statement! {
    /// Makes a parked event due again: somebody delivered it once more.
    WakeEvent -> () {
        "UPDATE stripe_events SET processed_at = 0 WHERE outcome = 'parked' AND id = ", id: &'a str as Text;
        "";
    }
}

statement! {
    /// Corrects what became of an event: the inbox row was written before it was known.
    CorrectEvent -> () {
        "UPDATE stripe_events SET outcome = ", outcome: &'a str as Text;
        ", reason = ", reason: Option<&'a str> as Nullable<Text>;
        ", payload = ", payload: Option<&'a str> as Nullable<Text>;
        " WHERE id = ", id: &'a str as Text;
        "";
    }
}

statement! {
    /// Everything about a user: one row per grant, or one without.
    ReadAccount -> (
        Bool, Nullable<Text>, Nullable<BigInt>, Nullable<BigInt>, Nullable<Integer>,
        Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<BigInt>, Nullable<BigInt>,
        Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>,
    ) {
        "SELECT x.id IS NOT NULL, s.level, s.expires_at, s.version, s.quantity, \
           g.source_kind || ':' || g.source_id, g.entitlement_level, \
           coalesce(g.reported_status || ' ' || g.status, g.status), g.period_end, g.reported_at, \
           g.stripe_event_id, g.checkout_session, g.payment_intent, g.customer, g.snapshots \
         FROM (SELECT ", user: &'a str as Text;
        " AS id) AS u \
         LEFT JOIN users AS x ON x.id = u.id \
         LEFT JOIN entitlement_state AS s ON s.user_id = u.id \
         LEFT JOIN user_entitlements AS g ON g.user_id = u.id";
    }
}

statement! {
    /// Who has a subscription, and who bought anything as a customer: with whether by the subscription.
    ReadOwner -> (Bool, Text) {
        "SELECT true, user_id FROM user_entitlements WHERE source_kind = 'subscription' AND source_id = ",
            subscription: &'a str as Text;
        " UNION SELECT false, user_id FROM user_entitlements WHERE customer = ", customer: Option<&'a str> as Nullable<Text>;
        "";
    }
}

statement! {
    /// Who depends on an object.
    ReadDependents -> Text {
        "SELECT user_id FROM user_entitlements AS g, (SELECT ", id: &'a str as Text;
        " AS id) AS o WHERE (g.source_kind = 'subscription' AND g.source_id = o.id) OR g.payment_intent = o.id OR g.customer = o.id";
    }
}

statement! {
    /// What is known of an object.
    ReadObject -> (Text, Nullable<Text>, Nullable<BigInt>, Text) {
        "SELECT id, parent, period_end, facts FROM stripe_objects WHERE id = ", id: &'a str as Text;
        "";
    }
}

statement! {
    /// What is below an object: of a subscription the invoices of the newest paid period, of an invoice its payments.
    ReadObjectsBelow -> Text {
        "SELECT o.id FROM stripe_objects AS o, (SELECT ", id: &'a str as Text;
        " AS id) AS p WHERE o.parent = p.id AND (o.period_end IS NULL \
           OR o.period_end = (SELECT max(n.period_end) FROM stripe_objects AS n WHERE n.parent = p.id))";
    }
}

statement! {
    /// Writes what was learnt of an object.
    WriteObject -> () {
        "INSERT INTO stripe_objects AS o (id, parent, period_end, facts) VALUES (", id: &'a str as Text;
        ", ", parent: Option<&'a str> as Nullable<Text>;
        ", ", period_end: Option<i64> as Nullable<BigInt>;
        ", ", facts: &'a str as Text;
        ") ON CONFLICT (id) DO UPDATE SET parent = coalesce(o.parent, excluded.parent), period_end = excluded.period_end, \
           facts = excluded.facts";
    }
}

statement! {
    /// Adds a user.
    InsertUser -> () {
        "INSERT INTO users (id, created_at) VALUES (", id: &'a str as Text;
        ", ", created_at: i64 as BigInt;
        ") ON CONFLICT DO NOTHING";
    }
}

statement! {
    /// Writes a grant. Changes no row if its business key belongs to another user.
    WriteGrant -> () {
        "INSERT INTO user_entitlements AS g (user_id, entitlement_level, stripe_event_id, source_kind, source_id, status, \
           reported_status, period_end, reported_at, checkout_session, payment_intent, customer, snapshots, created_at, updated_at, expires_at) \
         SELECT n.*, n.now, CASE WHEN n.status = 'active' THEN n.period_end ELSE n.now END \
         FROM (SELECT ", user: &'a str as Text;
        " AS user_id, ", level: &'a str as Text;
        " AS level, ", event: Option<&'a str> as Nullable<Text>;
        " AS event, ", source_kind: &'a str as Text;
        " AS source_kind, ", source_id: &'a str as Text;
        " AS source_id, ", status: &'a str as Text;
        " AS status, ", reported_status: Option<&'a str> as Nullable<Text>;
        " AS reported_status, ", period_end: i64 as BigInt;
        " AS period_end, ", reported_at: i64 as BigInt;
        " AS reported_at, ", session: Option<&'a str> as Nullable<Text>;
        " AS session, ", payment_intent: Option<&'a str> as Nullable<Text>;
        " AS payment_intent, ", customer: Option<&'a str> as Nullable<Text>;
        " AS customer, ", snapshots: Option<&'a str> as Nullable<Text>;
        " AS snapshots, ", now: i64 as BigInt;
        " AS now) AS n WHERE true \
         ON CONFLICT (source_kind, source_id) DO UPDATE SET \
           entitlement_level = excluded.entitlement_level, stripe_event_id = excluded.stripe_event_id, \
           status = excluded.status, reported_status = excluded.reported_status, period_end = excluded.period_end, reported_at = excluded.reported_at, \
           checkout_session = excluded.checkout_session, payment_intent = excluded.payment_intent, \
           customer = excluded.customer, snapshots = excluded.snapshots, updated_at = excluded.updated_at, \
           expires_at = CASE WHEN excluded.status = 'active' THEN excluded.period_end ELSE g.created_at END \
         WHERE g.user_id = excluded.user_id";
    }
}

statement! {
    /// Writes a state. Changes no row if its version does not grow.
    WriteState -> () {
        "INSERT INTO entitlement_state AS s (user_id, level, expires_at, version, quantity, changed_at) VALUES (",
            user: &'a str as Text;
        ", ", level: &'a str as Text;
        ", ", expires_at: Option<i64> as Nullable<BigInt>;
        ", ", version: i64 as BigInt;
        ", ", quantity: i32 as Integer;
        ", ", changed_at: i64 as BigInt;
        ") ON CONFLICT (user_id) DO UPDATE SET level = excluded.level, expires_at = excluded.expires_at, \
           version = excluded.version, quantity = excluded.quantity, changed_at = excluded.changed_at WHERE s.version < excluded.version";
    }
}

statement! {
    /// Remembers how a state changed.
    WriteHistory -> () {
        "INSERT INTO entitlement_history (user_id, version, level, expires_at, quantity, changed_at, cause, event_id, operator, \
           reason, source) VALUES (", user: &'a str as Text;
        ", ", version: i64 as BigInt;
        ", ", level: &'a str as Text;
        ", ", expires_at: Option<i64> as Nullable<BigInt>;
        ", ", quantity: i32 as Integer;
        ", ", changed_at: i64 as BigInt;
        ", ", cause: &'a str as Text;
        ", ", event: Option<&'a str> as Nullable<Text>;
        ", ", operator: Option<&'a str> as Nullable<Text>;
        ", ", reason: Option<&'a str> as Nullable<Text>;
        ", ", source: Option<&'a str> as Nullable<Text>;
        ")";
    }
}

statement! {
    /// Notes that a session ended unpaid.
    ExpireSession -> () {
        "UPDATE checkout_sessions SET state = 'expired' WHERE id = ", id: &'a str as Text;
        "";
    }
}

/// The row of [`ReadAccount`].
pub(super) type AccountColumns = (
    bool,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i32>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);
