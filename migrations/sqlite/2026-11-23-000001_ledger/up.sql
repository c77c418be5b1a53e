-- The ledger in a file. The tables are those of migrations/postgres, without what is there only because another program had
-- tables before: users are ours, and every grant has a source. Moments are microseconds since 1970, UTC; UUIDs are text in lower
-- case with hyphens.

-- One row, written when the file is first opened: which ledger this is, and whether Stripe or the sandbox filled it. What is
-- play money in one would be access for nothing beside the other.
CREATE TABLE tollgate_ledger (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    epoch     TEXT NOT NULL,
    purpose   TEXT NOT NULL CHECK (purpose IN ('sandbox', 'stripe'))
) STRICT;

CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Grants. expires_at in the future means live: one that is not active ends when it began, its true end is in period_end.
CREATE TABLE user_entitlements (
    id                INTEGER PRIMARY KEY,
    user_id           TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    entitlement_level TEXT NOT NULL,
    expires_at        INTEGER NOT NULL,
    stripe_event_id   TEXT UNIQUE,
    source_kind       TEXT NOT NULL,
    source_id         TEXT NOT NULL,
    status            TEXT NOT NULL CHECK (status IN ('pending', 'active', 'suspended', 'revoked')),
    period_end        INTEGER NOT NULL,
    reported_at       INTEGER NOT NULL,
    checkout_session  TEXT,
    payment_intent    TEXT,
    customer          TEXT,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    UNIQUE (source_kind, source_id)
) STRICT;

CREATE INDEX user_entitlements_user_id ON user_entitlements (user_id);
CREATE INDEX user_entitlements_expires_at ON user_entitlements (expires_at);

-- The inbox: every event that was ever answered with 200.
CREATE TABLE stripe_events (
    id           TEXT PRIMARY KEY,
    type         TEXT NOT NULL,
    object_id    TEXT,
    created      INTEGER,
    livemode     INTEGER,
    api_version  TEXT,
    object_hash  BLOB,
    user_id      TEXT,
    outcome      TEXT NOT NULL CHECK (outcome IN ('applied', 'superseded', 'ignored', 'parked')),
    reason       TEXT,
    attempts     INTEGER NOT NULL DEFAULT 1,
    payload      TEXT,
    received_at  INTEGER NOT NULL,
    processed_at INTEGER NOT NULL
) STRICT;

CREATE INDEX stripe_events_parked ON stripe_events (processed_at) WHERE outcome = 'parked';

-- The fold of each user's grants.
CREATE TABLE entitlement_state (
    user_id    TEXT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    level      TEXT NOT NULL,
    expires_at INTEGER,
    version    INTEGER NOT NULL CHECK (version > 0),
    changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX entitlement_state_changed_at ON entitlement_state (changed_at);
CREATE INDEX entitlement_state_expires_at ON entitlement_state (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE checkout_sessions (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL,
    level      TEXT NOT NULL,
    interval   TEXT,
    state      TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'expired')),
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX checkout_sessions_user_id ON checkout_sessions (user_id);

-- Callers' idempotency keys: which level a key was used for, and how many answers of Stripe's were stored failures.
CREATE TABLE checkout_keys (
    user_id    TEXT NOT NULL,
    key_hash   BLOB NOT NULL,
    level      TEXT NOT NULL,
    attempt    INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, key_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX checkout_keys_created_at ON checkout_keys (created_at);

-- Processes that run, or ran and left cache writes behind: one at a time writes here, but Redis may outlive it.
CREATE TABLE instances (
    id          TEXT PRIMARY KEY,
    last_seen   INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    shown_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
