-- What is known of Stripe's objects that are no grants: payments (their parent is the invoice they paid), invoices (their parent is the
-- subscription; period_end is that of the newest period they have paid) and customers. Facts are refunds, disputes and charges, as JSON.
CREATE TABLE stripe_objects (
    id         TEXT PRIMARY KEY,
    parent     TEXT,
    period_end INTEGER,
    facts      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX stripe_objects_parent ON stripe_objects (parent, period_end) WHERE parent IS NOT NULL;

-- What reports said of a grant, where money makes it something else: status is how it stands, for whoever reads the table.
ALTER TABLE user_entitlements ADD COLUMN reported_status TEXT;

-- Refunds and disputes find whom they concern by the payment.
CREATE INDEX user_entitlements_payment_intent ON user_entitlements (payment_intent) WHERE payment_intent IS NOT NULL;
