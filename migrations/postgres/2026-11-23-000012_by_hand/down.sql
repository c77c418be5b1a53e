DROP TABLE IF EXISTS entitlement_history;
ALTER TABLE entitlement_state DROP COLUMN IF EXISTS quantity;
