-- How many were bought of what gives the level.
ALTER TABLE entitlement_state ADD COLUMN quantity INTEGER NOT NULL DEFAULT 1;

-- How users' entitlements changed, and whose doing it was: an event's, a person's, or time's. A user's history goes with the user. It
-- begins with this migration.
CREATE TABLE entitlement_history (
    user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    version    INTEGER NOT NULL,
    level      TEXT NOT NULL,
    expires_at INTEGER,
    quantity   INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    cause      TEXT NOT NULL,
    event_id   TEXT,
    operator   TEXT,
    reason     TEXT,
    source     TEXT,
    PRIMARY KEY (user_id, version)
) STRICT, WITHOUT ROWID;
