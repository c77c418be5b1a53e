-- The page of a session, and the key under which Stripe was asked for it: whoever wants the same again is given the same page.
ALTER TABLE checkout_sessions
    ADD COLUMN IF NOT EXISTS url       text,
    ADD COLUMN IF NOT EXISTS opened_by text;
