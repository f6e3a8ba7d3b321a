-- What blind writes have in common. May one under `ballot` follow the record `old`, which is false where there is none?
-- Gives flags and prior of the new record, or nothing where it is refused. With `fresh`: ms for which an update or a
-- promise is too young to be passed over.
local function succeed(old, ballot, fresh)
  if not old then return 0, '' end
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
  if ahead <= 0 then return end
  local f = byte(old)
  -- It is open what becomes of it with others.
  if f % 128 >= 64 then return end
  -- Writers that meet here have to be able to tell from the lineage what became of each; a blind write would end it.
  if fresh and span < fresh and f % 16 >= 8 then return end
  local at = f % 8 >= 4 and 25 or 20
  -- A promise to a greater term stands in the way, and so does a young one of somebody who is about to write.
  if f % 4 >= 2 then
    if fresh then
      h, i, j, k, l, m = byte(old, at, at + 5)
      span = (((((a - h) * 256 + b - i) * 256 + c - j) * 256 + d - k) * 256 + e - l) * 256 + g - m
      if span < fresh then return end
    end
    for i = 1, 16 do
      local a, b = byte(ballot, i), byte(old, at + i - 1)
      if a ~= b then
        if a < b then return end
        break
      end
    end
  end
  -- What was accepted here before: blind writes that came here from one writer count as one.
  if f % 16 < 8 and f % 64 < 32 and sub(old, 10, 14) == sub(ballot, 9, 13) then
    if at == 25 then return 4, sub(old, 20, 24) end
  elseif sub(old, 2, 9) ~= '\0\0\0\0\0\0\0\0' then
    return 4, sub(old, 5, 9)
  end
  return 0, ''
end
