-- An update: a command that runs on a known base, or none, which only renews the ballot.
-- KEYS  key, record, fence
-- ARGV  fence, base (18 bytes, zeros for none, '*' for any), ballot (18), operation id (8), RESP version of the reply,
--       grace ms, tombstone ms, command and its arguments
-- Gives {'A', existed before 0/1, reply}, {'I', existed before 0/1, integer as text}, or {'R', record or ''} (refused),
-- {'B', record or ''} (behind), {'F', fence}, {'E', text}.
local found = redis.call('MGET', KEYS[2], KEYS[3])
if found[2] ~= ARGV[1] then return {'F', found[2] or ''} end
local byte, sub, char = string.byte, string.sub, string.char
local key, old, base, ballot, verb = KEYS[1], found[1], ARGV[2], ARGV[3], ARGV[8]
local accepted = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local blank, f, at = accepted, 0, 20
if old then
  accepted, f = sub(old, 2, 19), byte(old)
  -- It is open what becomes of it with others.
  if f % 128 >= 64 then return {'R', old} end
  -- The milliseconds at once, what follows them byte by byte. Not as strings: their order is the locale's.
  local a, b, c, d, e, g = byte(ballot, 1, 6)
  local h, i, j, k, l, m = byte(old, 2, 7)
  local ahead = (((((a - h) * 256 + b - i) * 256 + c - j) * 256 + d - k) * 256 + e - l) * 256 + g - m
  for n = 7, ahead == 0 and 18 or 0 do
    local x, y = byte(ballot, n), byte(old, n + 1)
    if x ~= y then ahead = x - y break end
  end
  if ahead <= 0 then return {'R', old} end
  if f % 8 >= 4 then at = 25 end
  if f % 4 >= 2 then
    for i = 1, 16 do
      local a, b = byte(ballot, i), byte(old, at + i - 1)
      if a ~= b then
        if a < b then return {'R', old} end
        break
      end
    end
  end
end
if base ~= accepted and base ~= '*' then return {'B', old or ''} end
local existed
if verb or base == blank then
  existed = redis.call('EXISTS', key)
  -- A value that no record speaks of is a base nobody can name.
  if existed == 1 and base == blank then return {'B', old or ''} end
end
local reply = 1
if verb then
  if #ARGV > 7500 then return {'E', 'ERR too many arguments for one command in a replicated pool'} end
  if ARGV[5] == '3' then
    redis.setresp(3)
    reply = redis.pcall(unpack(ARGV, 8))
    -- So that a false below is a null, not RESP3's boolean.
    redis.setresp(2)
    if reply == nil then reply = false end
  else
    reply = redis.pcall(unpack(ARGV, 8))
  end
  if type(reply) == 'table' and reply.err then
    -- Redis 6.2 puts a place before some errors, and leaves the dash and the line end of the wire on them.
    local text = string.match(reply.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(reply.err, '^%-?(.-)%s*$')
    return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
  end
  log_all(ARGV, 8, #ARGV, reply)
end
-- The lineage, which a new ballot without a command leaves as it is: the terms since the last blind write, the last 24 by the ids of their last operations.
local lineage
if accepted == blank then
  lineage = '\0\0\0\1' .. ARGV[4]
elseif f % 16 < 8 then
  lineage = (verb and '\0\0\0\1' or '\0\0\0\0') .. sub(old, 10, 17) .. (verb and ARGV[4] or '')
elseif not verb then
  lineage = sub(old, f % 4 >= 2 and at + 16 or at)
else
  local c = f % 4 >= 2 and at + 16 or at
  if sub(old, -8, -2) == sub(ARGV[4], 1, 7) then
    lineage = sub(old, c, -9) .. ARGV[4]
  else
    local a, b, d, e = byte(old, c, c + 3)
    if e < 255 then
      lineage = sub(old, c, c + 2) .. char(e + 1)
    else
      local n = math.min(((a * 256 + b) * 256 + d) * 256 + 256, 4294967295)
      lineage = char(math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
    end
    lineage = lineage .. sub(old, #old - c >= 195 and c + 12 or c + 4) .. ARGV[4]
  end
end
local left = redis.call('PTTL', key)
local flags = 8 + (at == 25 and 4 or 0) + (left == -2 and 1 or 0) + (left >= 0 and 16 or 0)
local new = char(flags) .. ballot .. (at == 25 and sub(old, 20, 24) or '') .. lineage
local span
if left == -2 then span = ARGV[7] elseif left >= 0 and left < 1e15 then span = left + ARGV[6] end
local set
if span then set = redis.pcall('SET', KEYS[2], new, 'PX', span) else set = redis.pcall('SET', KEYS[2], new) end
-- Only where there was no command, or one that reads: after a script's first write a store lets the others through.
if set.err then
  local text = string.match(set.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(set.err, '^%-?(.-)%s*$')
  return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
end
-- Numbers of Lua are doubles; what they cannot hold is read back as text.
if type(reply) == 'number' and (reply >= 9007199254740992 or reply <= -9007199254740992) then
  local name = string.upper(verb)
  if name == 'HINCRBY' then return {'I', existed, redis.call('HGET', key, ARGV[10])} end
  if name == 'INCR' or name == 'DECR' or name == 'INCRBY' or name == 'DECRBY' then
    return {'I', existed, redis.call('GET', key)}
  end
end
return {'A', existed or (left == -2 and 0 or 1), reply}
