ALTER TABLE checkout_sessions DROP COLUMN opened_by;
ALTER TABLE checkout_sessions DROP COLUMN url;
