-- The first part of `exec` and `multi`: whether this store holds what the work builds on.
-- KEYS  key 1..k, record 1..k, fence, and the piece where several keys are written (`piece.lua`, which comes before it)
-- ARGV  fence, ballot (18 bytes), operation id (8), of the work, grace ms, tombstone ms, k,
--       one '1' (written) or '0' for each key, base 1..k (18 bytes, zeros for none, '*' for any), the work
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
  -- It is open what becomes of it with others.
  if old and byte(old) % 128 >= 64 then verdict = 'R' break end
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
local piece, before, names_of = KEYS[2 * k + 2], {}, ''
for n = 1, piece and k or 0 do
  if byte(written, n) == 49 then
    before[n] = before_of(KEYS[n])
    names_of = names_of .. #KEYS[n] .. ':' .. KEYS[n]
  end
end
