DROP INDEX user_entitlements_payment_intent;
ALTER TABLE user_entitlements DROP COLUMN reported_status;
DROP TABLE stripe_objects;
