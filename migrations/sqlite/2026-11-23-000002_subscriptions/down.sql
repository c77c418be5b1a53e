DROP INDEX user_entitlements_customer;
ALTER TABLE user_entitlements DROP COLUMN snapshots;
