-- What a replica committed before this moment has been shown to readers. When it dies, whoever notices shows again what changed
-- since: the last heartbeat alone says nothing of cache writes that had been waiting for longer. A replica of the version before
-- does not move it on, so that more is shown again than has to be.
ALTER TABLE instances ADD COLUMN IF NOT EXISTS shown_until timestamptz NOT NULL DEFAULT now();
