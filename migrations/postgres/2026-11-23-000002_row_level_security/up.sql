-- Supabase serves every table of the schema over HTTP to the roles `anon` and `authenticated`. Where these roles exist, each
-- table of ours gets row-level security and nothing is granted to them; the service connects as the tables' owner, whom
-- row-level security does not bind. Users go on reading their own grants through the application's own SELECT policy.
DO $$
DECLARE
    web_role text;
    tbl      text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname IN ('anon', 'authenticated')) THEN
        RETURN;
    END IF;
    FOREACH tbl IN ARRAY ARRAY['tollgate_ledger', 'stripe_events', 'entitlement_state', 'checkout_sessions', 'checkout_keys',
                               'instances', 'user_entitlements', '__diesel_schema_migrations'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tbl);
        IF tbl <> 'user_entitlements' THEN
            EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', tbl);
        END IF;
    END LOOP;
    IF (SELECT owns_users FROM tollgate_ledger) THEN
        ALTER TABLE users ENABLE ROW LEVEL SECURITY;
    END IF;
    FOR web_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        FOREACH tbl IN ARRAY ARRAY['tollgate_ledger', 'stripe_events', 'entitlement_state', 'checkout_sessions',
                                   'checkout_keys', 'instances', '__diesel_schema_migrations'] LOOP
            EXECUTE format('REVOKE ALL ON %I FROM %I', tbl, web_role);
        END LOOP;
        -- A table with a policy is the application's: its users go on reading. One without is ours.
        IF EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = 'user_entitlements'::regclass) THEN
            EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON user_entitlements FROM %I', web_role);
        ELSE
            EXECUTE format('REVOKE ALL ON user_entitlements FROM %I', web_role);
        END IF;
        IF (SELECT owns_users FROM tollgate_ledger) THEN
            EXECUTE format('REVOKE ALL ON users FROM %I', web_role);
        END IF;
    END LOOP;
END $$;
