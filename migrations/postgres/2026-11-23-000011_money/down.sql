DROP INDEX IF EXISTS idx_user_entitlements_payment_intent;
ALTER TABLE user_entitlements DROP COLUMN IF EXISTS reported_status;
DROP TABLE IF EXISTS stripe_objects;
