-- A transfer: the whole value and record of another replica.
-- KEYS  key, record, fence
-- ARGV  fence, record of the source, payload or '' (no value), expiry (Unix ms) or '', 'W' (write back) or 'P' (proposal),
--       grace ms, tombstone ms
-- `follow.lua` comes before it.
-- Gives 1 (it is here), 2 (for 'W': something newer is, which need not build on it), or {'R', record}, {'F', fence}, {'E', text}.
local found = redis.call('MGET', KEYS[2], KEYS[3])
if found[2] ~= ARGV[1] then return {'F', found[2] or ''} end
local old, payload, expiry = found[1], ARGV[3], ARGV[4]
local newer, new = follow(old, ARGV[2])
if newer == 0 then return 1 end
if newer < 0 and ARGV[5] == 'W' then return 2 end
if not new then return {'R', old} end
local done
if payload == '' then
  done = redis.pcall('DEL', KEYS[1])
else
  done = redis.pcall('RESTORE', KEYS[1], expiry ~= '' and expiry or '0', payload, 'REPLACE', 'ABSTTL')
end
-- Redis 6.2 puts a place before some errors, and leaves the dash and the line end of the wire on them.
if type(done) == 'table' and done.err then
  local text = string.match(done.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(done.err, '^%-?(.-)%s*$')
  return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
end
-- From here on nothing fails: after a script's first write a store lets the others through, out of memory or not.
if payload == '' then
  redis.call('SET', KEYS[2], new, 'PX', ARGV[7])
elseif expiry ~= '' and expiry + ARGV[6] < 1e15 then
  redis.call('SET', KEYS[2], new, 'PXAT', expiry + ARGV[6])
else
  redis.call('SET', KEYS[2], new)
end
return 1
