DROP INDEX IF EXISTS stripe_events_unapplied, stripe_events_user, stripe_events_received;
