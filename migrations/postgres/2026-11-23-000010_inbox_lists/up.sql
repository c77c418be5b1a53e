-- Operators list the inbox newest first: all of it, one user's, or what was not applied. What a payment becomes needs the first two
-- only, and the first grows at its end alone, so that webhooks hardly notice. Writing to the inbox waits while these are built.
CREATE INDEX IF NOT EXISTS stripe_events_received ON stripe_events (received_at, id);
CREATE INDEX IF NOT EXISTS stripe_events_user ON stripe_events (user_id, received_at, id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS stripe_events_unapplied ON stripe_events (outcome, received_at, id) WHERE outcome <> 'applied';
