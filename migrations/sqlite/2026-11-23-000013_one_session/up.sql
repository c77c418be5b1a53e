-- The page of a session, and the key under which Stripe was asked for it: whoever wants the same again is given the same page.
ALTER TABLE checkout_sessions ADD COLUMN url TEXT;
ALTER TABLE checkout_sessions ADD COLUMN opened_by TEXT;
