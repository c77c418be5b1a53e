DROP TABLE entitlement_history;
ALTER TABLE entitlement_state DROP COLUMN quantity;
