//! The hot SQL. Written as typed, cached statements over arrays: diesel prepares its own `INSERT … VALUES (many)`, `UPDATE`
//! and `ON CONFLICT DO UPDATE` anew on every call, one more round trip each.
//!
//! All of them are prepared when a lane connects ([`super::apply::warm`]). That is not only speed: statements of one
//! transaction are pipelined, and only prepared ones are sent in the order in which they are written.

use chrono::{DateTime, Utc};
use diesel::{
    pg::Pg,
    sql_types::{Array, BigInt, Bool, Bytea, Integer, Nullable, Text, Timestamptz},
};
use uuid::Uuid;

use super::super::statement::typed_statement;

macro_rules! statement {
    ($(#[$doc:meta])* $name:ident -> $out:ty { $($sql:literal $(, $field:ident : [$rust:ty] as $bind:ty)? ;)+ }) => {
        typed_statement! {
            Pg; $(#[$doc])* $name -> $out { $($sql $(, $field: &'a [$rust] as Array<$bind>)? ;)+ }
        }
    };
}

statement! {
    /// Takes the locks that nobody else holds, in the order given, and remembers for the statements after it, within the
    /// transaction, which places of the batch got all of theirs. Place 0 (no lock) is always held. `OFFSET 0` keeps the taking apart from
    /// the grouping, which would have an order of its own.
    TryLocks -> Text {
        "SELECT set_config('tollgate.held', (SELECT array_agg(h.i)::text FROM (\
           SELECT 0::bigint AS i UNION ALL \
           SELECT l.i FROM (SELECT k.i, CASE WHEN k.shared THEN pg_try_advisory_xact_lock_shared(k.key) \
               ELSE pg_try_advisory_xact_lock(k.key) END AS is_held FROM unnest(", places: [i64] as BigInt;
        ", ", keys: [i64] as BigInt;
        ", ", shared: [bool] as Bool;
        ") AS k(i, key, shared) OFFSET 0) AS l GROUP BY l.i HAVING bool_and(l.is_held)) AS h), true)";
    }
}

statement! {
    /// The same, waiting for each lock.
    WaitLocks -> Text {
        "SELECT set_config('tollgate.held', (SELECT array_agg(h.i)::text FROM (\
           SELECT 0::bigint AS i UNION ALL \
           SELECT l.i FROM (SELECT k.i, CASE WHEN k.shared THEN pg_advisory_xact_lock_shared(k.key) \
               ELSE pg_advisory_xact_lock(k.key) END IS NOT NULL AS is_held FROM unnest(", places: [i64] as BigInt;
        ", ", keys: [i64] as BigInt;
        ", ", shared: [bool] as Bool;
        ") AS k(i, key, shared) OFFSET 0) AS l GROUP BY l.i HAVING bool_and(l.is_held)) AS h), true)";
    }
}

statement! {
    /// Keeps the users from being deleted before the end of the transaction: what depends on them is deleted with them, and would be waited for
    /// while they are waited for. One that is being deleted is waited for here, and is not there for the statements after it.
    HoldUsers -> diesel::sql_types::Uuid {
        "SELECT id FROM users WHERE id = ANY(", users: [Uuid] as diesel::sql_types::Uuid;
        ") ORDER BY id FOR KEY SHARE";
    }
}

statement! {
    /// Writes into the inbox what is not there yet, in id order, for the places that are held. Who gets the row back is the
    /// first.
    InsertEvents -> Text {
        "INSERT INTO stripe_events (id, type, object_id, created, livemode, api_version, object_hash, user_id, outcome, \
           reason, payload, processed_at) \
         SELECT e.id, e.type, e.object_id, e.created, e.livemode, e.api_version, e.object_hash, e.user_id, e.outcome, \
           e.reason, e.payload, now() FROM unnest(", places: [i64] as BigInt;
        ", ", ids: [&'a str] as Text;
        ", ", kinds: [&'a str] as Text;
        ", ", object_ids: [Option<&'a str>] as Nullable<Text>;
        ", ", created: [Option<DateTime<Utc>>] as Nullable<Timestamptz>;
        ", ", livemodes: [Option<bool>] as Nullable<Bool>;
        ", ", api_versions: [Option<&'a str>] as Nullable<Text>;
        ", ", hashes: [Option<&'a [u8]>] as Nullable<Bytea>;
        ", ", users: [Option<Uuid>] as Nullable<diesel::sql_types::Uuid>;
        ", ", outcomes: [&'a str] as Text;
        ", ", reasons: [Option<&'a str>] as Nullable<Text>;
        ", ", payloads: [Option<&'a str>] as Nullable<Text>;
        ") AS e(i, id, type, object_id, created, livemode, api_version, object_hash, user_id, outcome, reason, payload) \
         JOIN unnest(current_setting('tollgate.held')::bigint[]) AS h(i) USING (i) \
         ORDER BY e.id ON CONFLICT (id) DO NOTHING RETURNING id";
    }
}

statement! {
    /// Claims waiting events for being applied: whoever gets the row back applies it, once.
    ClaimEvents -> Text {
        "UPDATE stripe_events AS e SET outcome = 'applied', reason = NULL, payload = NULL, processed_at = now(), \
           user_id = r.user_id, object_id = r.object_id, object_hash = r.hash \
         FROM unnest(", places: [i64] as BigInt;
        ", ", ids: [&'a str] as Text;
        ", ", users: [Option<Uuid>] as Nullable<diesel::sql_types::Uuid>;
        ", ", object_ids: [Option<&'a str>] as Nullable<Text>;
        ", ", hashes: [Option<&'a [u8]>] as Nullable<Bytea>;
        ") AS r(i, id, user_id, object_id, hash) JOIN unnest(current_setting('tollgate.held')::bigint[]) AS h(i) USING (i) \
         WHERE e.id = r.id AND e.outcome IN ('parked', 'ignored') RETURNING e.id";
    }
}

statement! {
    /// How events stand that were in the inbox already.
    FindEvents -> (Text, Text, Nullable<Bytea>) {
        "SELECT id, outcome, object_hash FROM stripe_events WHERE id = ANY(", ids: [&'a str] as Text;
        ")";
    }
}

statement! {
    /// Everything about the users, as of now: one row per grant, or one without. To be run after the locks, in a statement of
    /// its own: a statement that locks and reads sees what was there before it waited.
    ///
    /// A row without a source is another program's: the one that Tollgate replaces may go on selling for a while after the
    /// migration. Such a row, and one that the migration found, ends when that program says, for it may renew it. Its rows of FREE are
    /// no grants; that of a subscription is one that gave nothing when its price was not known.
    ReadAccounts -> (
        BigInt, Timestamptz, Bool, Nullable<Text>, Nullable<Timestamptz>, (Nullable<BigInt>, Nullable<Integer>),
        Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Timestamptz>, Nullable<Timestamptz>,
        Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>, Nullable<Text>,
    ) {
        "SELECT u.i, clock_timestamp(), x.id IS NOT NULL, s.level, s.expires_at, s.version, s.quantity, \
           coalesce(g.source_kind, 'legacy') || ':' || coalesce(g.source_id, g.id::text), g.entitlement_level::text, \
           coalesce(g.reported_status || ' ' || g.status, g.status), \
           CASE WHEN g.source_kind <> 'legacy' THEN g.period_end ELSE g.expires_at END, \
           coalesce(g.reported_at, g.created_at, to_timestamp(0)), \
           g.stripe_event_id, g.checkout_session, g.payment_intent, g.customer, g.snapshots \
         FROM unnest(", users: [Uuid] as diesel::sql_types::Uuid;
        ") WITH ORDINALITY AS u(id, i) \
         LEFT JOIN users AS x ON x.id = u.id \
         LEFT JOIN entitlement_state AS s ON s.user_id = u.id \
         LEFT JOIN user_entitlements AS g ON g.user_id = u.id \
           AND (g.entitlement_level <> 'FREE' OR g.source_kind = 'subscription')";
    }
}

statement! {
    /// What reports reach: of each place the objects named, those above them, and who depends on any of them. The same before and behind the
    /// locks. `LATERAL` with `OFFSET 0`, here and below, is a look-up along the whole index however little the server knows of the tables:
    /// a plan that was made while they were empty went through all subscriptions, and through all payments.
    ReadReaches -> (BigInt, Nullable<Text>, Nullable<diesel::sql_types::Uuid>) {
        "WITH named AS (SELECT * FROM unnest(", places: [i64] as BigInt;
        ", ", names: [&'a str] as Text;
        ") AS n(i, id)), \
         invoices AS (SELECT * FROM named UNION \
           SELECT n.i, o.parent FROM named AS n JOIN stripe_objects AS o ON o.id = n.id AND o.parent IS NOT NULL), \
         reached AS (SELECT * FROM invoices UNION \
           SELECT n.i, o.parent FROM invoices AS n JOIN stripe_objects AS o ON o.id = n.id AND o.parent IS NOT NULL) \
         SELECT i, id, NULL FROM reached \
         UNION ALL SELECT r.i, NULL, g.user_id FROM reached AS r JOIN LATERAL (\
           SELECT user_id FROM user_entitlements WHERE source_kind = 'subscription' AND source_id = r.id OFFSET 0) AS g ON true \
         UNION ALL SELECT r.i, NULL, g.user_id FROM reached AS r JOIN user_entitlements AS g ON g.payment_intent = r.id \
         UNION ALL SELECT r.i, NULL, g.user_id FROM reached AS r JOIN user_entitlements AS g ON g.customer = r.id";
    }
}

statement! {
    /// What is known of the objects that are named, of those that the users' grants depend on, and of what is above and below them: of a
    /// subscription the invoices of the newest paid period, of an invoice its payments.
    ReadObjects -> (Text, Nullable<Text>, Nullable<Timestamptz>, Text) {
        "WITH grants AS (SELECT g.source_kind, g.source_id, g.payment_intent, g.customer FROM unnest(", users: [Uuid] as diesel::sql_types::Uuid;
        ") AS u(id) JOIN user_entitlements AS g ON g.user_id = u.id), \
         named AS (SELECT * FROM unnest(", names: [&'a str] as Text;
        ") AS n(id) UNION SELECT source_id FROM grants WHERE source_kind = 'subscription' \
           UNION SELECT payment_intent FROM grants WHERE payment_intent IS NOT NULL \
           UNION SELECT customer FROM grants WHERE customer IS NOT NULL), \
         invoices AS (SELECT id FROM named UNION \
           SELECT o.parent FROM named AS n JOIN stripe_objects AS o ON o.id = n.id AND o.parent IS NOT NULL), \
         subscriptions AS (SELECT id FROM invoices UNION \
           SELECT o.parent FROM invoices AS n JOIN stripe_objects AS o ON o.id = n.id AND o.parent IS NOT NULL), \
         newest AS (SELECT id FROM subscriptions UNION \
           SELECT o.id FROM subscriptions AS s JOIN stripe_objects AS o ON o.parent = s.id \
             AND o.period_end = (SELECT max(p.period_end) FROM stripe_objects AS p WHERE p.parent = s.id)) \
         SELECT o.id, o.parent, o.period_end, o.facts FROM newest AS n JOIN stripe_objects AS o ON o.id = n.id \
         UNION SELECT o.* FROM newest AS n JOIN LATERAL (\
           SELECT id, parent, period_end, facts FROM stripe_objects WHERE parent = n.id AND period_end IS NULL OFFSET 0) AS o ON true";
    }
}

statement! {
    /// Writes what was learnt of objects, whose locks are held.
    WriteObjects -> Integer {
        "INSERT INTO stripe_objects AS o (id, parent, period_end, facts) SELECT * FROM unnest(", ids: [&'a str] as Text;
        ", ", parents: [Option<&'a str>] as Nullable<Text>;
        ", ", period_ends: [Option<DateTime<Utc>>] as Nullable<Timestamptz>;
        ", ", facts: [String] as Text;
        ") ON CONFLICT (id) DO UPDATE SET parent = coalesce(o.parent, excluded.parent), period_end = excluded.period_end, \
           facts = excluded.facts RETURNING 1";
    }
}

statement! {
    /// Writes what is to be asked of Stripe, and forgets what events have answered. Whoever asks at the moment has asked too early.
    WriteFetches -> Integer {
        "WITH answered AS (DELETE FROM stripe_fetches AS f USING unnest(", answered_objects: [&'a str] as Text;
        ", ", answered_reasons: [&'a str] as Text;
        ") AS a(object_id, reason) WHERE f.object_id = a.object_id AND f.reason = a.reason) \
         INSERT INTO stripe_fetches AS f (object_id, reason, due_at) \
         SELECT n.object_id, n.reason, now() + n.delay * interval '1 second' FROM unnest(", objects: [&'a str] as Text;
        ", ", reasons: [&'a str] as Text;
        ", ", delays: [i32] as Integer;
        ") AS n(object_id, reason, delay) \
         ON CONFLICT (object_id, reason) DO UPDATE SET wanted_at = now(), due_at = excluded.due_at, attempts = 0, \
           asked_at = NULL, given_up_at = NULL RETURNING 1";
    }
}

statement! {
    /// Who has the subscriptions, and who bought anything as the customers: the subject's place, whether by the subscription, and the
    /// user.
    ReadOwners -> (BigInt, Bool, diesel::sql_types::Uuid) {
        "WITH s AS (SELECT * FROM unnest(", subscriptions: [&'a str] as Text;
        ", ", customers: [Option<&'a str>] as Nullable<Text>;
        ") WITH ORDINALITY AS s(subscription, customer, i)) \
         SELECT s.i, true, g.user_id FROM s JOIN LATERAL (\
           SELECT user_id FROM user_entitlements WHERE source_kind = 'subscription' AND source_id = s.subscription OFFSET 0) AS g ON true \
         UNION \
         SELECT s.i, false, g.user_id FROM s JOIN user_entitlements AS g ON g.customer = s.customer";
    }
}

statement! {
    /// Writes users, grants, states, their history and expired sessions. What must never happen violates a constraint, so that the pipelined
    /// `COMMIT` after it becomes a rollback: a grant's business key that belongs to another user gives a status that is none
    /// ([`FOREIGN_SOURCE`]), a version that does not grow gives one that is not positive.
    WriteAccounts -> BigInt {
        "WITH new_users AS (\
           INSERT INTO users (id) SELECT * FROM unnest(", new_users: [Uuid] as diesel::sql_types::Uuid;
        ") ON CONFLICT DO NOTHING), \
         grants AS (\
           INSERT INTO user_entitlements AS g (user_id, entitlement_level, expires_at, stripe_event_id, source_kind, source_id, \
             status, reported_status, period_end, reported_at, checkout_session, payment_intent, customer, snapshots) \
           SELECT n.user_id, n.level::user_entitlement_level, CASE WHEN n.status = 'active' THEN n.period_end ELSE now() END, \
             n.event, n.source_kind, n.source_id, n.status, n.reported_status, n.period_end, n.reported_at, n.session, n.payment_intent, n.customer, \
             n.snapshots \
           FROM unnest(", grant_users: [Uuid] as diesel::sql_types::Uuid;
        ", ", levels: [&'a str] as Text;
        ", ", events: [Option<&'a str>] as Nullable<Text>;
        ", ", source_kinds: [&'a str] as Text;
        ", ", source_ids: [&'a str] as Text;
        ", ", statuses: [&'a str] as Text;
        ", ", reported_statuses: [Option<&'a str>] as Nullable<Text>;
        ", ", period_ends: [DateTime<Utc>] as Timestamptz;
        ", ", reported_ats: [DateTime<Utc>] as Timestamptz;
        ", ", sessions: [Option<&'a str>] as Nullable<Text>;
        ", ", payment_intents: [Option<&'a str>] as Nullable<Text>;
        ", ", customers: [Option<&'a str>] as Nullable<Text>;
        ", ", snapshots: [Option<String>] as Nullable<Text>;
        ") AS n(user_id, level, event, source_kind, source_id, status, reported_status, period_end, reported_at, session, payment_intent, \
             customer, snapshots) \
           ON CONFLICT ON CONSTRAINT user_entitlements_source_key DO UPDATE SET \
             entitlement_level = excluded.entitlement_level, stripe_event_id = excluded.stripe_event_id, \
             status = CASE WHEN g.user_id = excluded.user_id THEN excluded.status ELSE 'foreign' END, \
             reported_status = excluded.reported_status, \
             period_end = excluded.period_end, reported_at = excluded.reported_at, \
             checkout_session = excluded.checkout_session, payment_intent = excluded.payment_intent, \
             customer = excluded.customer, snapshots = excluded.snapshots, updated_at = now(), \
             expires_at = CASE WHEN excluded.status = 'active' THEN excluded.period_end ELSE g.created_at END), \
         states AS (\
           INSERT INTO entitlement_state AS s (user_id, level, expires_at, version, quantity, changed_at) \
           SELECT n.user_id, n.level, n.expires_at, n.version, n.quantity, clock_timestamp() \
           FROM unnest(", state_users: [Uuid] as diesel::sql_types::Uuid;
        ", ", state_levels: [&'a str] as Text;
        ", ", state_ends: [Option<DateTime<Utc>>] as Nullable<Timestamptz>;
        ", ", state_versions: [i64] as BigInt;
        ", ", state_quantities: [i32] as Integer;
        ") AS n(user_id, level, expires_at, version, quantity) \
           ON CONFLICT (user_id) DO UPDATE SET level = excluded.level, expires_at = excluded.expires_at, \
             quantity = excluded.quantity, \
             version = CASE WHEN s.version < excluded.version THEN excluded.version ELSE 0 END, \
             changed_at = excluded.changed_at), \
         history AS (\
           INSERT INTO entitlement_history (user_id, version, level, expires_at, quantity, cause, event_id, operator, reason, source) \
           SELECT * FROM unnest(", past_users: [Uuid] as diesel::sql_types::Uuid;
        ", ", past_versions: [i64] as BigInt;
        ", ", past_levels: [&'a str] as Text;
        ", ", past_ends: [Option<DateTime<Utc>>] as Nullable<Timestamptz>;
        ", ", past_quantities: [i32] as Integer;
        ", ", past_causes: [&'a str] as Text;
        ", ", past_events: [Option<&'a str>] as Nullable<Text>;
        ", ", past_operators: [Option<&'a str>] as Nullable<Text>;
        ", ", past_reasons: [Option<&'a str>] as Nullable<Text>;
        ", ", past_sources: [Option<String>] as Nullable<Text>;
        ")), \
         expired AS (\
           UPDATE checkout_sessions SET state = 'expired' WHERE id = ANY(", expired_sessions: [&'a str] as Text;
        ")) \
         SELECT 1::bigint";
    }
}

statement! {
    /// Corrects what became of events: the inbox row was written before it was known.
    CorrectEvents -> Integer {
        "UPDATE stripe_events AS e SET outcome = n.outcome, reason = n.reason, payload = n.payload \
         FROM unnest(", ids: [&'a str] as Text;
        ", ", outcomes: [&'a str] as Text;
        ", ", reasons: [Option<&'a str>] as Nullable<Text>;
        ", ", payloads: [Option<&'a str>] as Nullable<Text>;
        ") AS n(id, outcome, reason, payload) WHERE e.id = n.id RETURNING 1";
    }
}

statement! {
    /// Makes parked events due again: somebody delivered them once more.
    WakeEvents -> Integer {
        "UPDATE stripe_events SET processed_at = '-infinity' WHERE outcome = 'parked' AND id = ANY(", ids: [&'a str] as Text;
        ") RETURNING 1";
    }
}

/// The constraints that [`WriteAccounts`] violates when a grant's business key, or its event, belongs to another user.
pub(super) const FOREIGN_SOURCE: [&str; 2] =
    ["user_entitlements_status_check", "user_entitlements_stripe_event_id_key"];
