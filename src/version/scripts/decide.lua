-- The end of a command over several keys: what it wrote stays, or all is as it was. `piece.lua` comes before it.
-- KEYS  key 1..k, record 1..k, fence, piece
-- ARGV  fence, '1' (it stays) or '0', grace ms, tombstone ms
-- Gives 1 (also where there is nothing to end), or {'F', fence}.
local k = (#KEYS - 2) / 2
local piece, names = KEYS[2 * k + 2], {}
for n = 1, k + 1 do names[n] = KEYS[k + n] end
local found = redis.call('MGET', unpack(names))
if found[k + 1] ~= ARGV[1] then return {'F', found[k + 1] or ''} end
local kept = redis.call('LRANGE', piece, 1, -1)
if #kept == 0 then return 1 end
-- First what adds nothing: a full store lets the others through then.
redis.call('DEL', piece)
local byte, sub, mark = string.byte, string.sub, mark_of(piece)
for n = 1, k do
  local old = found[n]
  if old and byte(old) % 128 >= 64 and sub(old, -#mark) == mark then
    local record = string.char(byte(old) - 64) .. sub(old, 2, -#mark - 1)
    if ARGV[2] == '1' then
      local f, new = byte(record), kept[3 * n - 2]
      if f % 4 >= 2 then
        -- What was promised meanwhile still is, where that is more.
        local at, o, newer = f % 8 >= 4 and 25 or 20, byte(new), false
        for i = 1, 16 do
          local a, b = byte(record, at + i - 1), byte(new, i + 1)
          if a ~= b then newer = a > b break end
        end
        if newer then
          local to = o % 8 >= 4 and 25 or 20
          new = string.char(o + 2) .. sub(new, 2, to - 1) .. sub(record, at, at + 15) .. sub(new, to)
        end
      end
      record = new
    else
      put_value(KEYS[n], kept[3 * n - 1], kept[3 * n])
    end
    local left, span = redis.call('PTTL', KEYS[n]), nil
    if left == -2 then span = ARGV[4] elseif left >= 0 and left < 1e15 then span = left + ARGV[3] end
    if span then redis.call('SET', KEYS[k + n], record, 'PX', span) else redis.call('SET', KEYS[k + n], record) end
  end
end
return 1
