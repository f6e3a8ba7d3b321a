-- A transfer: the whole value and record of another replica.
-- KEYS  key, record, fence
-- ARGV  fence, record of the source, payload or '' (no value), expiry (Unix ms) or '', 'W' (write back) or 'P' (proposal),
--       grace ms, tombstone ms
-- Gives 1 (it is here), 2 (for 'W': something newer is, which need not build on it), or {'R', record}, {'F', fence}, {'E', text}.
local found = redis.call('MGET', KEYS[2], KEYS[3])
if found[2] ~= ARGV[1] then return {'F', found[2] or ''} end
local byte, sub = string.byte, string.sub
local old, source, payload, expiry = found[1], ARGV[2], ARGV[3], ARGV[4]
local newer = 0
local from, f, at = '', 0, 20
if source ~= '' then
  f, from = byte(source), sub(source, 2, 19)
  if f % 8 >= 4 then at = 25 end
end
local here, o, to = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0', 0, 20
if from == '' then from = here end
if old then
  here, o = sub(old, 2, 19), byte(old)
  if o % 8 >= 4 then to = 25 end
end
for i = 1, 18 do
  local a, b = byte(from, i), byte(here, i)
  if a ~= b then newer = a > b and 1 or -1 break end
end
if newer == 0 then return 1 end
if newer < 0 and ARGV[5] == 'W' then return 2 end
if newer < 0 then return {'R', old} end
local flags = 32 + f % 2 + (f % 16 >= 8 and 8 or 0) + (f % 32 >= 16 and 16 or 0)
local prior, promised = '', ''
if old then
  if o % 4 >= 2 then
    for i = 1, 16 do
      local a, b = byte(from, i), byte(old, to + i - 1)
      if a ~= b then
        if a < b then return {'R', old} end
        break
      end
    end
  end
  local grown = f % 16 < 8 and o % 16 < 8 and sub(old, 10, 14) == sub(from, 9, 13)
  if f % 16 >= 8 and here ~= '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' then
    -- What the store holds is part of what comes: the lineage began before it, and the prior is the same.
    local last = o % 16 >= 8 and sub(old, -8) or sub(old, 10, 17)
    local c = f % 4 >= 2 and at + 16 or at
    for i = c + 4, #source - 7, 8 do
      if sub(source, i, i + 6) == sub(last, 1, 7) and byte(source, i + 7) >= byte(last, 8) then grown = true break end
    end
  end
  if grown then
    if to == 25 then prior = sub(old, 20, 24) end
  elseif sub(here, 1, 8) ~= '\0\0\0\0\0\0\0\0' then
    prior = sub(old, 5, 9)
  end
end
if prior ~= '' then flags = flags + 4 end
local lineage = f % 16 >= 8 and sub(source, f % 4 >= 2 and at + 16 or at) or ''
local new = string.char(flags) .. from .. prior .. lineage
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
