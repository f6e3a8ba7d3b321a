-- The work of `multi`: as many commands as argument 4 says, each as the number of its words, the RESP version of its reply
-- and its words. One that fails does not keep the others from running, as in a transaction.
local result, at = {}, 9 + k
for n = 1, tonumber(ARGV[4]) do
  local words, resp = tonumber(ARGV[at]), ARGV[at + 1]
  local one
  if words > 7500 then
    one = {err = 'ERR too many arguments for one command in a replicated pool'}
  elseif resp == '3' then
    redis.setresp(3)
    one = redis.pcall(unpack(ARGV, at + 2, at + 1 + words))
    redis.setresp(2)
    if one == nil then one = false end
  else
    one = redis.pcall(unpack(ARGV, at + 2, at + 1 + words))
  end
  if type(one) == 'table' and one.err then
    local text = string.match(one.err, '^@%S+ %d+: %-?(.-)%s*$') or string.match(one.err, '^%-?(.-)%s*$')
    one = {err = (string.gsub(text, '^%u%l', 'ERR %0'))}
  end
  log_all(ARGV, at + 2, at + 1 + words, one)
  result[n] = one
  at = at + 2 + words
end
