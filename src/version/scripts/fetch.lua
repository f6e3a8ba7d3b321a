-- The whole value and record of a key, for a transfer.
-- KEYS  key, record, fence
-- ARGV  fence
-- Gives {'S', record or '', payload or '', expiry (Unix ms, as text) or ''}, or {'F', fence}.
local found = redis.call('MGET', KEYS[2], KEYS[3])
if found[2] ~= ARGV[1] then return {'F', found[2] or ''} end
local key, expiry = KEYS[1], ''
local payload = redis.call('DUMP', key)
if payload then
  local at = redis.pcall('PEXPIRETIME', key)
  if type(at) ~= 'number' then
    -- Before Redis 7.0: the clock is read on both sides of PTTL until no millisecond passed between.
    local before, left, after
    repeat
      before, left, after = redis.call('TIME'), redis.call('PTTL', key), redis.call('TIME')
      local from, to = math.floor(before[2] / 1000), math.floor(after[2] / 1000)
    until left < 0 or before[1] == after[1] and from == to
    at = left < 0 and -1 or after[1] * 1000 + math.floor(after[2] / 1000) + left
  end
  if at >= 0 then expiry = string.format('%.0f', at) end
end
return {'S', found[1] or '', payload or '', expiry}
