-- The work of `exec`: one command, whose RESP version is argument 4.
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
log_all(ARGV, 9 + k, #ARGV, result)
