//! The tables as diesel sees them, in the form `diesel print-schema` gives. A test compares this with a migrated database.

diesel::table! {
    checkout_keys (user_id, key_hash) {
        user_id -> Uuid,
        key_hash -> Bytea,
        level -> Text,
        attempt -> Int4,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    checkout_sessions (id) {
        id -> Text,
        user_id -> Uuid,
        level -> Text,
        interval -> Nullable<Text>,
        state -> Text,
        expires_at -> Timestamptz,
        created_at -> Timestamptz,
        url -> Nullable<Text>,
        opened_by -> Nullable<Text>,
    }
}

diesel::table! {
    entitlement_history (user_id, version) {
        user_id -> Uuid,
        version -> Int8,
        level -> Text,
        expires_at -> Nullable<Timestamptz>,
        quantity -> Int4,
        changed_at -> Timestamptz,
        cause -> Text,
        event_id -> Nullable<Text>,
        operator -> Nullable<Text>,
        reason -> Nullable<Text>,
        source -> Nullable<Text>,
    }
}

diesel::table! {
    entitlement_state (user_id) {
        user_id -> Uuid,
        level -> Text,
        expires_at -> Nullable<Timestamptz>,
        version -> Int8,
        changed_at -> Timestamptz,
        quantity -> Int4,
    }
}

diesel::table! {
    instances (id) {
        id -> Uuid,
        last_seen -> Timestamptz,
        started_at -> Timestamptz,
        shown_until -> Timestamptz,
    }
}

diesel::table! {
    stripe_events (id) {
        id -> Text,
        object_id -> Nullable<Text>,
        created -> Nullable<Timestamptz>,
        user_id -> Nullable<Uuid>,
        outcome -> Text,
        reason -> Nullable<Text>,
        attempts -> Int4,
        payload -> Nullable<Text>,
        received_at -> Timestamptz,
        processed_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    tollgate_ledger (singleton) {
        singleton -> Bool,
        epoch -> Uuid,
        owns_users -> Bool,
    }
}
