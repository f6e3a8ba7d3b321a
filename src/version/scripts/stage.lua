-- The states of several keys that one command wrote on another replica: all are taken or none, and the values from before are
-- kept until it is decided whether they stay. `follow.lua` and `piece.lua` come before it.
-- KEYS  key 1..k, record 1..k, fence, piece
-- ARGV  fence, names of the keys, then record of the source, payload or '' (no value), expiry (Unix ms) or '' of each
-- Gives 1, or {'R', record or '', ... for each key}, {'F', fence}, {'E', text}.
local k = (#KEYS - 2) / 2
local piece, names = KEYS[2 * k + 2], {}
for n = 1, k + 1 do names[n] = KEYS[k + n] end
local found = redis.call('MGET', unpack(names))
if found[k + 1] ~= ARGV[1] then return {'F', found[k + 1] or ''} end
local new, before = {}, {}
for n = 1, k do
  local _
  _, new[n] = follow(found[n], ARGV[3 * n])
  if not new[n] then
    local refused = {'R'}
    for i = 1, k do refused[i + 1] = found[i] or '' end
    return refused
  end
end
local err
-- All of them first: a key may stand there twice.
for n = 1, k do before[n] = before_of(KEYS[n]) end
for n = 1, k do
  err = put_value(KEYS[n], ARGV[3 * n + 1], ARGV[3 * n + 2])
  if err then
    for i = 1, n - 1 do put_value(KEYS[i], before[i][1], before[i][2]) end
    break
  end
end
-- Redis 6.2 puts a place before some errors, and leaves the dash and the line end of the wire on them.
if err then
  local text = string.match(err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(err, '^%-?(.-)%s*$')
  return {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
end
-- From here on nothing fails: after a script's first write a store lets the others through, out of memory or not.
local mark = mark_of(piece)
redis.call('DEL', piece)
redis.call('RPUSH', piece, ARGV[2])
for n = 1, k do
  redis.call('RPUSH', piece, new[n], before[n][1], before[n][2])
  redis.call('SET', KEYS[k + n], marked(found[n], mark))
end
return 1
