-- The work of a transaction that has clients' scripts in it: as `several`, where in place of the RESP version may stand an
-- `S` and the number of a script in `q_parts` (its words are the number of its keys, its keys, its arguments), or `N` for one
-- that is not known.
result = {}
local at = 9 + k
for n = 1, tonumber(ARGV[4]) do
  local words, mode = tonumber(ARGV[at]), ARGV[at + 1]
  local one
  if byte(mode) == 83 then
    local part = q_parts[tonumber(sub(mode, 2))]
    lines, start = part.lines, part.start
    one = run(part.run, part.name, at + 2, at + 1 + words)
  elseif mode == 'N' then
    one = {err = 'NOSCRIPT No matching script. Please use EVAL.'}
  elseif words > 7500 then
    one = {err = 'ERR too many arguments for one command in a replicated pool'}
  else
    if mode == '3' then redis.setresp(3) spoken = 3 end
    local _
    _, one = pcall(call, unpack(ARGV, at + 2, at + 1 + words))
    if mode == '3' then
      redis.setresp(2)
      spoken = 2
      if one == nil then one = false end
    end
    if type(one) == 'table' and one.err then
      local text = match(one.err, '^@%S+ %d+: %-?(.-)%s*$') or match(one.err, '^%-?(.-)%s*$')
      one = {err = (string.gsub(text, '^%u%l', 'ERR %0'))}
    end
  end
  if wanted then
    undo()
    return {'K', wanted}
  end
  result[n] = one
  at = at + 2 + words
end
spoken = 2
written = string.rep(wrote and '1' or '0', k)
