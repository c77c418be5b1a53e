-- How many were bought of what gives the level. A replica of the version before leaves it as it is.
ALTER TABLE entitlement_state ADD COLUMN IF NOT EXISTS quantity integer NOT NULL DEFAULT 1;

-- How users' entitlements changed, and whose doing it was: an event's, a person's, or time's. A user's history goes with the user. It
-- begins with this migration; changes that a replica of the version before makes are not in it.
CREATE TABLE IF NOT EXISTS entitlement_history (
    user_id    uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    version    bigint NOT NULL,
    level      text NOT NULL,
    expires_at timestamptz,
    quantity   integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    cause      text NOT NULL,
    event_id   text,
    operator   text,
    reason     text,
    source     text,
    PRIMARY KEY (user_id, version)
);

-- As for the tables before it: not for those who come over the web.
DO $$
DECLARE
    web_role text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname IN ('anon', 'authenticated')) THEN
        RETURN;
    END IF;
    ALTER TABLE entitlement_history ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON entitlement_history FROM PUBLIC;
    FOR web_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON entitlement_history FROM %I', web_role);
    END LOOP;
END $$;
