-- What a subscription's own events said, as JSON: all of the newest second, mostly one. Where there are any, level, status and times
-- of the grant are taken from them.
ALTER TABLE user_entitlements ADD COLUMN snapshots TEXT;

-- Events that name no user belong to whoever bought as their customer.
CREATE INDEX user_entitlements_customer ON user_entitlements (customer) WHERE customer IS NOT NULL;
