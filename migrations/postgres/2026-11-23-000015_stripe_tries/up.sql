-- Events of which a try panicked, or may have ended a process: how many tries, and since when one may be under way. A row is there until a try
-- ends in order, which is before long; a fresh event has none.
CREATE TABLE IF NOT EXISTS stripe_tries (
    event_id   text        NOT NULL PRIMARY KEY,
    tries      integer     NOT NULL,
    begun_at   timestamptz,
    counted_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE
    web_role text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname IN ('anon', 'authenticated')) THEN
        RETURN;
    END IF;
    ALTER TABLE stripe_tries ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON stripe_tries FROM PUBLIC;
    FOR web_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON stripe_tries FROM %I', web_role);
    END LOOP;
END $$;
