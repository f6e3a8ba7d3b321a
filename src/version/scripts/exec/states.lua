-- The last part of `exec`, `multi` and clients' scripts: the records of what was written, and its state for the other replicas.
local reply = {'X', result}
local mark
if piece and string.find(written, '1', 1, true) then
  mark = mark_of(piece)
  local kept = redis.pcall('RPUSH', piece, names_of)
  -- Only after a command that reads: after a script's first write a store lets the others through.
  if type(kept) == 'table' and kept.err then
    local text = string.match(kept.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(kept.err, '^%-?(.-)%s*$')
    return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
  end
end
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
    if mark then
      redis.call('RPUSH', piece, new, before[n][1], before[n][2])
      set = redis.pcall('SET', KEYS[k + n], marked(old, mark))
    elseif span then
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
