//! The tables that the query builder uses. Moments are microseconds since 1970, UUIDs text.

diesel::table! {
    checkout_keys (user_id, key_hash) {
        user_id -> Text,
        key_hash -> Binary,
        level -> Text,
        attempt -> Integer,
        created_at -> BigInt,
    }
}

diesel::table! {
    checkout_sessions (id) {
        id -> Text,
        user_id -> Text,
        level -> Text,
        interval -> Nullable<Text>,
        state -> Text,
        expires_at -> BigInt,
        created_at -> BigInt,
        url -> Nullable<Text>,
        opened_by -> Nullable<Text>,
    }
}

diesel::table! {
    entitlement_history (user_id, version) {
        user_id -> Text,
        version -> BigInt,
        level -> Text,
        expires_at -> Nullable<BigInt>,
        quantity -> Integer,
        changed_at -> BigInt,
        cause -> Text,
        event_id -> Nullable<Text>,
        operator -> Nullable<Text>,
        reason -> Nullable<Text>,
        source -> Nullable<Text>,
    }
}

diesel::table! {
    entitlement_state (user_id) {
        user_id -> Text,
        level -> Text,
        expires_at -> Nullable<BigInt>,
        version -> BigInt,
        changed_at -> BigInt,
        quantity -> Integer,
    }
}

diesel::table! {
    instances (id) {
        id -> Text,
        last_seen -> BigInt,
        started_at -> BigInt,
        shown_until -> BigInt,
    }
}

diesel::table! {
    stripe_events (id) {
        id -> Text,
        object_id -> Nullable<Text>,
        created -> Nullable<BigInt>,
        user_id -> Nullable<Text>,
        outcome -> Text,
        reason -> Nullable<Text>,
        attempts -> Integer,
        payload -> Nullable<Text>,
        received_at -> BigInt,
        processed_at -> BigInt,
    }
}

diesel::table! {
    tollgate_ledger (singleton) {
        singleton -> Integer,
        epoch -> Text,
        purpose -> Text,
    }
}

diesel::table! {
    user_entitlements (id) {
        id -> BigInt,
        entitlement_level -> Text,
        expires_at -> BigInt,
    }
}
