-- A write that needs no base: SET, or RESTORE of a whole value.
-- KEYS  key, record, fence
-- ARGV  fence, ballot (18 bytes), grace ms, 'SET' or 'RESTORE', value or payload, expiry (Unix ms) or '',
--       ms for which an update or a promise is too young to be passed over (or nothing)
-- Gives 1, or {'R', record}, {'F', fence}, {'E', text}. The case of a plain SET is one MGET and one MSET.
local found = redis.call('MGET', KEYS[2], KEYS[3])
if found[2] ~= ARGV[1] then return {'F', found[2] or ''} end
local old, ballot, value, expiry = found[1], ARGV[2], ARGV[5], ARGV[6]
local flags, prior = 0, ''
if old then
  local byte, sub = string.byte, string.sub
  -- The milliseconds at once, what follows them byte by byte. Not as strings: their order is the locale's.
  local a, b, c, d, e, g = byte(ballot, 1, 6)
  local h, i, j, k, l, m = byte(old, 2, 7)
  local ahead = (((((a - h) * 256 + b - i) * 256 + c - j) * 256 + d - k) * 256 + e - l) * 256 + g - m
  local span = ahead
  for n = 7, ahead == 0 and 18 or 0 do
    local x, y = byte(ballot, n), byte(old, n + 1)
    if x ~= y then ahead = x - y break end
  end
  if ahead <= 0 then return {'R', old} end
  local f = byte(old)
  -- Writers that meet here have to be able to tell from the lineage what became of each; a blind write would end it.
  if ARGV[7] and span < ARGV[7] + 0 and f % 16 >= 8 then return {'R', old} end
  local at = f % 8 >= 4 and 25 or 20
  -- A promise to a greater term stands in the way, and so does a young one of somebody who is about to write.
  if f % 4 >= 2 then
    if ARGV[7] then
      h, i, j, k, l, m = byte(old, at, at + 5)
      span = (((((a - h) * 256 + b - i) * 256 + c - j) * 256 + d - k) * 256 + e - l) * 256 + g - m
      if span < ARGV[7] + 0 then return {'R', old} end
    end
    for i = 1, 16 do
      local a, b = byte(ballot, i), byte(old, at + i - 1)
      if a ~= b then
        if a < b then return {'R', old} end
        break
      end
    end
  end
  -- What was accepted here before: blind writes that came here from one writer count as one.
  if f % 16 < 8 and f % 64 < 32 and sub(old, 10, 14) == sub(ballot, 9, 13) then
    if at == 25 then flags, prior = 4, sub(old, 20, 24) end
  elseif sub(old, 2, 9) ~= '\0\0\0\0\0\0\0\0' then
    flags, prior = 4, sub(old, 5, 9)
  end
end
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
