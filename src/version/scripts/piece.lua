-- What a command over several keys leaves on each replica until it is decided: the values from before in a list, the piece,
-- and a mark at the end of each key's record, which names it. `X` below is that name: the ballot and the first key.
-- The piece: the names of its keys (length ':' name ...), then for each of them the record that it gets, and payload and
-- expiry from before ('' for none).
local function before_of(key)
  local payload, expiry = redis.call('DUMP', key), ''
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
  return {payload or '', expiry}
end
-- The end of a record that is marked.
local function mark_of(piece)
  local name = string.sub(piece, 4)
  local n = #name
  return name .. string.char(math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
end
local function marked(record, mark)
  record = record or '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
  return string.char(string.byte(record) + 64) .. string.sub(record, 2) .. mark
end
-- A value as it was, or comes from elsewhere. Nothing, or the error.
local function put_value(key, payload, expiry)
  local done
  if payload == '' then
    done = redis.pcall('DEL', key)
  else
    done = redis.pcall('RESTORE', key, expiry ~= '' and expiry or '0', payload, 'REPLACE', 'ABSTTL')
  end
  if type(done) == 'table' and done.err then return done.err end
end
