-- Writes a user's level and meta, unless a newer version of the same epoch is there. The same version may be written again: the
-- level's key lives shorter than the meta. Gives 2 if this version was not there, 1 if it was, 0 if something newer holds.
-- KEYS: level, meta. ARGV: epoch, version, level, expires_at (microseconds or ''), fresh_until (milliseconds), meta's life (milliseconds),
-- quantity@version.
local known = redis.pcall('HMGET', KEYS[2], 'epoch', 'version')
if known.err then
  redis.call('DEL', KEYS[2]) -- not a hash: not ours
  known = {}
end
-- As we write it, and short enough to be counted with: anything else would keep every newer version out.
local version = tonumber(string.match(known[2] or '', '^%d+$') or '')
if version and version > 9007199254740991 then
  version = nil
end
if known[1] == ARGV[1] and version and version > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[2], 'level', ARGV[3], 'expires_at', ARGV[4], 'version', ARGV[2], 'epoch', ARGV[1], 'fresh_until', ARGV[5], 'quantity', ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[5])
if known[1] ~= ARGV[1] or not version or version < tonumber(ARGV[2]) then
  -- A hint for replicas whose users watch. Not `call`: where the channel is forbidden they ask the ledger instead.
  redis.pcall('PUBLISH', 'entitlements:changed', string.sub(KEYS[1], 14) .. ' ' .. ARGV[2] .. ' ' .. ARGV[1])
  return 2
end
return 1
