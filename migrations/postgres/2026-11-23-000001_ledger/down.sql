-- Removes what is Tollgate's alone. Grants and users stay: they may be the application's, and they are what was paid for.
DROP TABLE IF EXISTS instances, checkout_keys, checkout_sessions, entitlement_state, stripe_events, tollgate_ledger;
