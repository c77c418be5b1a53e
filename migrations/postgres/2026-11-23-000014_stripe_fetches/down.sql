DROP INDEX IF EXISTS idx_user_entitlements_lapsing;
DROP TABLE IF EXISTS stripe_fetches;
