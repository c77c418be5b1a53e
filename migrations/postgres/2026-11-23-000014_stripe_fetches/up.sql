-- What events left open and Stripe is to be asked: an object and why. A row is there until it is answered; asked_at names the one who asks
-- (due_at is then the end of that lease), given_up_at tells that nobody asks any more.
CREATE TABLE IF NOT EXISTS stripe_fetches (
    object_id   text        NOT NULL,
    reason      text        NOT NULL,
    wanted_at   timestamptz NOT NULL DEFAULT now(),
    due_at      timestamptz NOT NULL,
    attempts    integer     NOT NULL DEFAULT 0,
    asked_at    timestamptz,
    given_up_at timestamptz,
    PRIMARY KEY (object_id, reason)
);

CREATE INDEX IF NOT EXISTS stripe_fetches_due ON stripe_fetches (due_at) WHERE given_up_at IS NULL;

-- Subscriptions about to lapse.
CREATE INDEX IF NOT EXISTS idx_user_entitlements_lapsing ON user_entitlements (period_end)
    WHERE source_kind = 'subscription' AND status = 'active';

DO $$
DECLARE
    web_role text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname IN ('anon', 'authenticated')) THEN
        RETURN;
    END IF;
    ALTER TABLE stripe_fetches ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON stripe_fetches FROM PUBLIC;
    FOR web_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON stripe_fetches FROM %I', web_role);
    END LOOP;
END $$;
