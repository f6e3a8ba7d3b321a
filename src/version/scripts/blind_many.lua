-- Plain SETs of several keys, each as `blind.lua` takes one: one may be refused and the others not. No key stands there
-- twice. `succeed.lua` comes before it.
-- KEYS  the records, the keys, fence
-- ARGV  fence, ms for which an update or a promise is too young to be passed over (or ''), then ballot and value of each
-- Gives 1 if all were taken, {'F', fence} if none was looked at, else {'M', what `blind.lua` would give for each…}.
local count = (#KEYS - 1) / 2
local found = redis.call('MGET', KEYS[#KEYS], unpack(KEYS, 1, count))
if found[1] ~= ARGV[1] then return {'F', found[1] or ''} end
local fresh = ARGV[2] ~= '' and ARGV[2] + 0
local char, size, put, many = string.char, 0, {}, nil
for n = 1, count do
  local ballot = ARGV[2 * n + 1]
  local flags, prior = succeed(found[n + 1], ballot, fresh)
  if flags then
    put[size + 1], put[size + 2] = KEYS[count + n], ARGV[2 * n + 2]
    put[size + 3], put[size + 4] = KEYS[n], char(flags) .. ballot .. prior
    size = size + 4
  else
    many = many or {}
    many[n + 1] = {'R', found[n + 1]}
  end
end
local failed
if size > 0 then
  local done = redis.pcall('MSET', unpack(put, 1, size))
  -- As in `blind.lua`.
  if done.err then
    local text = string.match(done.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(done.err, '^%-?(.-)%s*$')
    failed = {'E', (string.gsub(text, '^%u%l', 'ERR %0'))}
  end
end
if not many and not failed then return 1 end
many = many or {}
many[1] = 'M'
for n = 2, count + 1 do many[n] = many[n] or failed or 1 end
return many
