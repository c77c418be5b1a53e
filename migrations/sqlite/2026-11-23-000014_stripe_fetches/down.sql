DROP INDEX user_entitlements_lapsing;
DROP TABLE stripe_fetches;
