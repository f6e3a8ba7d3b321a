-- The promise to accept nothing below a term, for one key or for several: all or none.
-- KEYS  record 1..k, key 1..k, fence
-- ARGV  fence, term (16 bytes), tombstone ms, ms for which another writer's promise that was not used yet stands (or nothing)
-- Gives {'P', record before or '', exists 0/1, ... for each key}, or {'R', record or '', ...}, {'F', fence}, {'E', text}.
local k, fence, term = (#KEYS - 1) / 2, KEYS[#KEYS], ARGV[2]
local found
if k == 1 then
  found = redis.call('MGET', KEYS[1], fence)
else
  local names = {}
  for n = 1, k do names[n] = KEYS[n] end
  names[k + 1] = fence
  found = redis.call('MGET', unpack(names))
end
if found[k + 1] ~= ARGV[1] then return {'F', found[k + 1] or ''} end
local byte, sub = string.byte, string.sub
local new = {}
for n = 1, k do
  local old = found[n]
  if old then
    -- A promise that is stored is greater than the accepted term, so there is one term to compare with.
    local f = byte(old)
    local at = f % 8 >= 4 and 25 or 20
    local promised = f % 4 >= 2
    local from = promised and at - 1 or 1
    local newer = false
    for i = 1, 16 do
      local a, b = byte(term, i), byte(old, from + i)
      if a ~= b then newer = a > b break end
    end
    if newer and promised and ARGV[4] and sub(old, at + 8, at + 12) ~= sub(term, 9, 13) then
      -- Who has it is about to write. Took everybody it from everybody, nobody would get to that.
      local a, b, c, d, e, g = byte(term, 1, 6)
      local h, i, j, k, l, m = byte(old, at, at + 5)
      local age = (((((a - h) * 256 + b - i) * 256 + c - j) * 256 + d - k) * 256 + e - l) * 256 + g - m
      newer = age >= ARGV[4] + 0
    end
    if not newer then
      local refused = {'R'}
      for i = 1, k do refused[i + 1] = found[i] or '' end
      return refused
    end
    if promised then
      new[n] = sub(old, 1, at - 1) .. term .. sub(old, at + 16)
    else
      new[n] = string.char(f + 2) .. sub(old, 2, at - 1) .. term .. sub(old, at)
    end
  else
    new[n] = '\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' .. term
  end
end
local reply, known = {'P'}, true
for n = 1, k do
  local exists = redis.call('EXISTS', KEYS[k + n])
  reply[2 * n], reply[2 * n + 1] = found[n] or '', exists
  known = known and (found[n] or exists == 1)
end
for n = 1, k do
  local set
  repeat
    if found[n] then
      set = redis.pcall('SET', KEYS[n], new[n], 'KEEPTTL')
    else
      set = redis.pcall('SET', KEYS[n], new[n], 'PX', ARGV[3])
    end
    if set.err then
      -- A full store refuses a script's first write if that may add data, and DEL, which would make room, begins with
      -- a promise. For keys that are there this script writes first what adds nothing; then the rest goes through.
      local full = known and string.find(set.err, 'OOM command not allowed', 1, true)
      known = false
      if not full or type(redis.pcall('PERSIST', fence)) ~= 'number' then
        local text = string.match(set.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(set.err, '^%-?(.-)%s*$')
        return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
      end
    end
  until not set.err
  -- A record that is about to end must not take the promise along while messages of older terms are under way.
  local f = found[n] and byte(found[n]) or 0
  if f % 2 == 1 or f % 32 >= 16 then
    local left = redis.call('PTTL', KEYS[n])
    if left >= 0 and left < 60000 then redis.call('PEXPIRE', KEYS[n], 60000) end
  end
end
return reply
