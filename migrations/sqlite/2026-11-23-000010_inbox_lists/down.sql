DROP INDEX stripe_events_unapplied;
DROP INDEX stripe_events_user;
DROP INDEX stripe_events_received;
