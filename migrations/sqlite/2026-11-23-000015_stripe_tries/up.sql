-- Events of which a try panicked, or may have ended a process: how many tries, and since when one may be under way. A row is there until a try
-- ends in order, which is before long; a fresh event has none.
CREATE TABLE stripe_tries (
    event_id   TEXT NOT NULL PRIMARY KEY,
    tries      INTEGER NOT NULL,
    begun_at   INTEGER,
    counted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
