-- What transfers have in common: how the state of the record `source` stands to the record `old`, which is false where there
-- is none. Gives 1 (newer), 0 (the same) or -1 (older); and the record that it gets here, if it may come: not where a newer
-- term is promised, nor while it is open what becomes of the key with others.
local function follow(old, source)
  local byte, sub = string.byte, string.sub
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
  if newer < 1 or o % 128 >= 64 then return newer end
  local flags = 32 + f % 2 + (f % 16 >= 8 and 8 or 0) + (f % 32 >= 16 and 16 or 0)
  local prior = ''
  if old then
    if o % 4 >= 2 then
      for i = 1, 16 do
        local a, b = byte(from, i), byte(old, to + i - 1)
        if a ~= b then
          if a < b then return 1 end
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
  return 1, string.char(flags) .. from .. prior .. lineage
end
