-- The first version of the ledger. Runs on an empty database, on one that already has the tables of the application
-- Tollgate replaces (with rows in them), and twice. Never names a schema: the connection's search_path decides.

-- Levels of the built-in catalogue; `tollgate migrate` adds those of tollgate.toml.
DO $$
BEGIN
    CREATE TYPE user_entitlement_level AS ENUM ('FREE', 'TRIAL', 'PRO');
EXCEPTION WHEN duplicate_object THEN
    NULL;
END $$;

-- One row: which ledger this is. The epoch goes into every mark and cached value, so that those of another database
-- (restored, recreated, or a second environment on the same Redis) count for nothing.
CREATE TABLE IF NOT EXISTS tollgate_ledger (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch      uuid    NOT NULL DEFAULT gen_random_uuid(),
    owns_users boolean NOT NULL
);

-- Whose table `users` is. Where the application has one, an event of an unknown user waits for the user to appear;
-- where it has none, this one is ours and users are added as they buy.
INSERT INTO tollgate_ledger (owns_users) VALUES (to_regclass('users') IS NULL) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS users (
    id         uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Grants. The first seven columns are the original's.
CREATE TABLE IF NOT EXISTS user_entitlements (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    entitlement_level user_entitlement_level NOT NULL,
    expires_at        timestamptz NOT NULL,
    stripe_event_id   text,
    created_at        timestamptz DEFAULT now(),
    updated_at        timestamptz DEFAULT now()
);

ALTER TABLE user_entitlements
    ADD COLUMN IF NOT EXISTS stripe_event_id  text,
    ADD COLUMN IF NOT EXISTS source_kind      text,
    ADD COLUMN IF NOT EXISTS source_id        text,
    ADD COLUMN IF NOT EXISTS status           text NOT NULL DEFAULT 'active',
    ADD COLUMN IF NOT EXISTS period_end       timestamptz,
    ADD COLUMN IF NOT EXISTS reported_at      timestamptz,
    ADD COLUMN IF NOT EXISTS checkout_session text,
    ADD COLUMN IF NOT EXISTS payment_intent   text,
    ADD COLUMN IF NOT EXISTS customer         text;

-- The original allowed one row per user, and a trigger of its gives every new user a FREE row: the first purchase then
-- fails and was reported as a success. A ledger has one row per grant.
DO $$
DECLARE
    harmful record;
BEGIN
    FOR harmful IN
        SELECT c.conname
        FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attname = 'user_id'
        WHERE c.conrelid = 'user_entitlements'::regclass AND c.contype = 'u' AND c.conkey = ARRAY[a.attnum]
    LOOP
        EXECUTE format('ALTER TABLE user_entitlements DROP CONSTRAINT %I', harmful.conname);
    END LOOP;
    -- Whoever may write here may sell himself PRO.
    FOR harmful IN
        SELECT p.polname FROM pg_policy p
        WHERE p.polrelid = 'user_entitlements'::regclass AND p.polcmd <> 'r'
    LOOP
        EXECUTE format('DROP POLICY %I ON user_entitlements', harmful.polname);
    END LOOP;
    IF NOT EXISTS (SELECT 1 FROM pg_constraint
                   WHERE conrelid = 'user_entitlements'::regclass AND conname = 'user_entitlements_stripe_event_id_key') THEN
        ALTER TABLE user_entitlements ADD CONSTRAINT user_entitlements_stripe_event_id_key UNIQUE (stripe_event_id);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_constraint
                   WHERE conrelid = 'user_entitlements'::regclass AND conname = 'user_entitlements_status_check') THEN
        ALTER TABLE user_entitlements ADD CONSTRAINT user_entitlements_status_check
            CHECK (status IN ('pending', 'active', 'suspended', 'revoked'));
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_constraint
                   WHERE conrelid = 'user_entitlements'::regclass AND conname = 'user_entitlements_source_key') THEN
        ALTER TABLE user_entitlements ADD CONSTRAINT user_entitlements_source_key UNIQUE (source_kind, source_id);
    END IF;
END $$;

CREATE INDEX IF NOT EXISTS idx_user_entitlements_user_id ON user_entitlements (user_id);

-- What was bought before Tollgate stays bought. FREE rows (of the original's trigger) are no grants and stay as they are.
UPDATE user_entitlements
SET source_kind = 'legacy', source_id = id::text, period_end = expires_at, reported_at = coalesce(created_at, now())
WHERE source_kind IS NULL AND entitlement_level <> 'FREE';

-- The inbox: every event that was ever answered with 200.
CREATE TABLE IF NOT EXISTS stripe_events (
    id           text PRIMARY KEY,
    type         text NOT NULL,
    object_id    text,
    created      timestamptz,
    livemode     boolean,
    api_version  text,
    object_hash  bytea,
    user_id      uuid,
    outcome      text NOT NULL CHECK (outcome IN ('applied', 'superseded', 'ignored', 'parked')),
    reason       text,
    attempts     integer NOT NULL DEFAULT 1,
    payload      text,
    received_at  timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz
);

CREATE INDEX IF NOT EXISTS stripe_events_parked ON stripe_events (processed_at) WHERE outcome = 'parked';

-- Events that the original has applied: Stripe may still deliver them again.
INSERT INTO stripe_events (id, type, user_id, outcome, reason, processed_at)
SELECT stripe_event_id, 'checkout.session.completed', user_id, 'applied', 'before_tollgate', now()
FROM user_entitlements
WHERE source_kind = 'legacy' AND stripe_event_id IS NOT NULL
ON CONFLICT DO NOTHING;

-- The fold of each user's grants. The version is allotted under the user's lock.
CREATE TABLE IF NOT EXISTS entitlement_state (
    user_id    uuid PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    level      text NOT NULL,
    expires_at timestamptz,
    version    bigint NOT NULL CHECK (version > 0),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX IF NOT EXISTS entitlement_state_changed_at ON entitlement_state (changed_at);
CREATE INDEX IF NOT EXISTS entitlement_state_expires_at ON entitlement_state (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS checkout_sessions (
    id         text PRIMARY KEY,
    user_id    uuid NOT NULL,
    level      text NOT NULL,
    interval   text,
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'expired')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS checkout_sessions_user_id ON checkout_sessions (user_id);

-- Callers' idempotency keys: which level a key was used for, and how many answers of Stripe's were stored failures.
CREATE TABLE IF NOT EXISTS checkout_keys (
    user_id    uuid NOT NULL,
    key_hash   bytea NOT NULL,
    level      text NOT NULL,
    attempt    integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key_hash)
);

CREATE INDEX IF NOT EXISTS checkout_keys_created_at ON checkout_keys (created_at);

-- Replicas that run, or ran and left cache writes behind.
CREATE TABLE IF NOT EXISTS instances (
    id         uuid PRIMARY KEY,
    last_seen  timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz NOT NULL DEFAULT now()
);
