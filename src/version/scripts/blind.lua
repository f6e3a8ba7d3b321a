-- A write that needs no base: SET, or RESTORE of a whole value. `succeed.lua` comes before it.
-- KEYS  key, record, fence
-- ARGV  fence, ballot (18 bytes), grace ms, 'SET' or 'RESTORE', value or payload, expiry (Unix ms) or '',
--       ms for which an update or a promise is too young to be passed over (or nothing)
-- Gives 1, or {'R', record}, {'F', fence}, {'E', text}. The case of a plain SET is one MGET and one MSET.
local found = redis.call('MGET', KEYS[2], KEYS[3])
if found[2] ~= ARGV[1] then return {'F', found[2] or ''} end
local ballot, value, expiry = ARGV[2], ARGV[5], ARGV[6]
local flags, prior = succeed(found[1], ballot, ARGV[7] and ARGV[7] + 0)
if not flags then return {'R', found[1]} end
if expiry ~= '' then flags = flags + 16 end
local new = string.char(flags) .. ballot .. prior
local plain = ARGV[4] == 'SET'
local done
if not plain then
  done = redis.pcall('RESTORE', KEYS[1], expiry ~= '' and expiry or '0', value, 'REPLACE', 'ABSTTL')
elseif expiry ~= '' then
  done = redis.pcall('SET', KEYS[1], value, 'PXAT', expiry)
else
  done = redis.pcall('MSET', KEYS[1], value, KEYS[2], new)
end
-- Redis 6.2 puts a place before some errors, and leaves the dash and the line end of the wire on them.
if done.err then
  local text = string.match(done.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(done.err, '^%-?(.-)%s*$')
  return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
end
-- From here on nothing fails: after a script's first write a store lets the others through, out of memory or not.
if expiry ~= '' then
  local last = expiry + ARGV[3]
  if last < 1e15 then redis.call('SET', KEYS[2], new, 'PXAT', last) else redis.call('SET', KEYS[2], new) end
elseif not plain then
  redis.call('SET', KEYS[2], new)
end
return 1
