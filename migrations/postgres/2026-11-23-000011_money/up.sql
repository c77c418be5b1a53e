-- What is known of Stripe's objects that are no grants: payments (their parent is the invoice they paid), invoices (their parent is the
-- subscription; period_end is that of the newest period they have paid) and customers. Facts are refunds, disputes and charges, as JSON.
CREATE TABLE IF NOT EXISTS stripe_objects (
    id         text PRIMARY KEY,
    parent     text,
    period_end timestamptz,
    facts      text NOT NULL
);

CREATE INDEX IF NOT EXISTS stripe_objects_parent ON stripe_objects (parent, period_end) WHERE parent IS NOT NULL;

-- What reports said of a grant, where money makes it something else: status is how it stands, for whoever reads the table.
ALTER TABLE user_entitlements ADD COLUMN IF NOT EXISTS reported_status text;

-- Refunds and disputes find whom they concern by the payment.
CREATE INDEX IF NOT EXISTS idx_user_entitlements_payment_intent ON user_entitlements (payment_intent)
    WHERE payment_intent IS NOT NULL;

DO $$
DECLARE
    web_role text;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname IN ('anon', 'authenticated')) THEN
        RETURN;
    END IF;
    ALTER TABLE stripe_objects ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON stripe_objects FROM PUBLIC;
    FOR web_role IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON stripe_objects FROM %I', web_role);
    END LOOP;
END $$;
