DROP INDEX IF EXISTS idx_user_entitlements_customer;
ALTER TABLE user_entitlements DROP COLUMN IF EXISTS snapshots;
