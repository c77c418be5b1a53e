-- Operators list the inbox newest first: all of it, one user's, or what was not applied.
CREATE INDEX stripe_events_received ON stripe_events (received_at, id);
CREATE INDEX stripe_events_user ON stripe_events (user_id, received_at, id) WHERE user_id IS NOT NULL;
CREATE INDEX stripe_events_unapplied ON stripe_events (outcome, received_at, id) WHERE outcome <> 'applied';
