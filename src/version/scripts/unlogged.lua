-- What a command changed and a store writes neither to its log nor to its replicas: done once more in a way that it does
-- write, so that a store that starts again holds the value of which its record speaks. Words `first` to `last` of `words` are
-- the command, `reply` is what it said.
local function log_all(words, first, last, reply)
  local verb, key = words[first], words[first + 1]
  if #verb == 4 and reply == 0 and string.lower(verb) == 'vadd' then
    -- A vector that takes the place of another, in Redis 8.0 to 8.2: the attributes of that stay.
    local at = first + 2
    if string.lower(words[at]) == 'reduce' then at = at + 2 end
    at = at + 2 + (string.lower(words[at]) == 'values' and words[at + 1] or 0)
    local attributes = redis.call('VGETATTR', key, words[at])
    redis.call('VREM', key, words[at])
    redis.call(unpack(words, first, last))
    if attributes then redis.call('VSETATTR', key, words[at], attributes) end
  elseif #verb == 8 and type(reply) == 'table' and string.lower(verb) == 'bitfield' then
    -- A field that FAILs makes the value longer all the same, since Redis 7.0.
    for n = 1, #reply do
      if reply[n] == false then
        local size = redis.call('STRLEN', key)
        if size > 0 then redis.call('SETRANGE', key, size - 1, redis.call('GETRANGE', key, size - 1, size - 1)) end
        return
      end
    end
  end
end
