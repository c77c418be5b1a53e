-- What events left open and Stripe is to be asked: an object and why. A row is there until it is answered; asked_at names the one who asks
-- (due_at is then the end of that lease), given_up_at tells that nobody asks any more.
CREATE TABLE stripe_fetches (
    object_id   TEXT NOT NULL,
    reason      TEXT NOT NULL,
    wanted_at   INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    asked_at    INTEGER,
    given_up_at INTEGER,
    PRIMARY KEY (object_id, reason)
) STRICT, WITHOUT ROWID;

CREATE INDEX stripe_fetches_due ON stripe_fetches (due_at) WHERE given_up_at IS NULL;

-- Subscriptions about to lapse.
CREATE INDEX user_entitlements_lapsing ON user_entitlements (period_end)
    WHERE source_kind = 'subscription' AND status = 'active';
