DROP TABLE instances;
DROP TABLE checkout_keys;
DROP TABLE checkout_sessions;
DROP TABLE entitlement_state;
DROP TABLE stripe_events;
DROP TABLE user_entitlements;
DROP TABLE users;
DROP TABLE tollgate_ledger;
