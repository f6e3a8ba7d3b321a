-- A command whose effect only its own store can tell: it runs on one replica, the others get what it wrote.
-- KEYS  key 1..k, record 1..k, fence
-- ARGV  fence, ballot (18 bytes), operation id (8), RESP version of the reply, grace ms, tombstone ms, k,
--       one '1' (written) or '0' for each key, base 1..k (18 bytes, zeros for none, '*' for any), command and arguments
-- Gives {'X', reply, record, payload or '', expiry (Unix ms, as text) or '', ... for each written key},
-- or {'R', record or '', ... for each key} (refused), {'B', the same} (behind), {'F', fence}, {'E', text}.
local k, written, ballot = tonumber(ARGV[7]), ARGV[8], ARGV[2]
local names = {}
for n = 1, k + 1 do names[n] = KEYS[k + n] end
local found = redis.call('MGET', unpack(names))
if found[k + 1] ~= ARGV[1] then return {'F', found[k + 1] or ''} end
local byte, sub, char, floor = string.byte, string.sub, string.char, math.floor
local blank = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local verdict
for n = 1, k do
  local old = found[n]
  if old and byte(written, n) == 49 then
    local newer = false
    for i = 1, 18 do
      local a, b = byte(ballot, i), byte(old, i + 1)
      if a ~= b then newer = a > b break end
    end
    local f = byte(old)
    if f % 4 >= 2 then
      local at = f % 8 >= 4 and 24 or 19
      for i = 1, 16 do
        local a, b = byte(ballot, i), byte(old, at + i)
        if a ~= b then newer = newer and a > b break end
      end
    end
    if not newer then verdict = 'R' break end
  end
  local base = ARGV[8 + n]
  if base ~= '*' and base ~= (old and sub(old, 2, 19) or blank) then verdict = verdict or 'B' end
end
if verdict then
  local reply = {verdict}
  for n = 1, k do reply[n + 1] = found[n] or '' end
  return reply
end
if #ARGV > 7500 then return {'E', 'ERR too many arguments for one command in a replicated pool'} end
local result
if ARGV[4] == '3' then
  redis.setresp(3)
  result = redis.pcall(unpack(ARGV, 9 + k))
  -- So that a false below is a null, not RESP3's boolean.
  redis.setresp(2)
  if result == nil then result = false end
else
  result = redis.pcall(unpack(ARGV, 9 + k))
end
-- Redis 6.2 puts a place before some errors, and leaves the dash and the line end of the wire on them.
if type(result) == 'table' and result.err then
  local text = string.match(result.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(result.err, '^%-?(.-)%s*$')
  return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
end
local reply = {'X', result}
for n = 1, k do
  if byte(written, n) == 49 then
    local key, old = KEYS[n], found[n]
    local f, at = 0, 20
    if old then
      f = byte(old)
      if f % 8 >= 4 then at = 25 end
    end
    -- The lineage: the terms since the last blind write, the last 24 by the ids of their last operations.
    local lineage
    if not old or sub(old, 2, 19) == blank then
      lineage = '\0\0\0\1' .. ARGV[3]
    elseif f % 16 < 8 then
      lineage = '\0\0\0\1' .. sub(old, 10, 17) .. ARGV[3]
    elseif sub(old, -8, -2) == sub(ARGV[3], 1, 7) then
      lineage = sub(old, f % 4 >= 2 and at + 16 or at, -9) .. ARGV[3]
    else
      local c = f % 4 >= 2 and at + 16 or at
      local a, b, d, e = byte(old, c, c + 3)
      local count = math.min(((a * 256 + b) * 256 + d) * 256 + e + 1, 4294967295)
      lineage = char(floor(count / 16777216), floor(count / 65536) % 256, floor(count / 256) % 256, count % 256)
        .. sub(old, #old - c >= 195 and c + 12 or c + 4) .. ARGV[3]
    end
    local left = redis.call('PTTL', key)
    local flags = 8 + (at == 25 and 4 or 0) + (left == -2 and 1 or 0) + (left >= 0 and 16 or 0)
    local new = char(flags) .. ballot .. (at == 25 and sub(old, 20, 24) or '') .. lineage
    local span
    if left == -2 then span = ARGV[6] elseif left >= 0 and left < 1e15 then span = left + ARGV[5] end
    local set
    if span then
      set = redis.pcall('SET', KEYS[k + n], new, 'PX', span)
    else
      set = redis.pcall('SET', KEYS[k + n], new)
    end
    -- Only after a command that reads: after a script's first write a store lets the others through.
    if set.err then
      local text = string.match(set.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(set.err, '^%-?(.-)%s*$')
      return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
    end
    local payload, expiry = '', ''
    if left ~= -2 then
      payload = redis.call('DUMP', key) or ''
      if left >= 0 then
        local when = redis.pcall('PEXPIRETIME', key)
        if type(when) ~= 'number' then
          -- Before Redis 7.0: the clock is read on both sides of PTTL until no millisecond passed between.
          local before, after
          repeat
            before, left, after = redis.call('TIME'), redis.call('PTTL', key), redis.call('TIME')
          until before[1] == after[1] and floor(before[2] / 1000) == floor(after[2] / 1000)
          when = after[1] * 1000 + floor(after[2] / 1000) + left
        end
        expiry = string.format('%.0f', when)
      end
    end
    local last = #reply
    reply[last + 1], reply[last + 2], reply[last + 3] = new, payload, expiry
  end
end
return reply
