-- What clients' scripts run under: they see tables that are made here as KEYS, ARGV and redis. `q_places` says where the
-- keys of each verb stand, as `command/replicate/script_keys.rs` writes it. A script may use keys that the work does not
-- have: then all is as it was, and {'K', key} names one.
local result, wanted, wrote, spoken = nil, nil, false, 2
local known, saved, order = {}, {}, {}
-- Whether the call that is looked at may write; how many lines the script that runs has, and how many are before it.
local writing, lines, start = false, 0, 0
for n = 1, k do known[KEYS[n]] = true end
local lower, find, match = string.lower, string.find, string.match
-- Where the script is: the innermost of its own lines.
local function line()
  for level = 2, 12 do
    local _, where = pcall(error, '', level)
    local number = tonumber(match(tostring(where), ':(%d+): ?$'))
    if number and number > start and number <= start + lines then return number - start end
  end
  return lines
end
local function use(key, writes)
  key = tostring(key)
  if sub(key, 1, 2) == '\0q' then return "ERR keys that begin with '\\\\0q' are quoit's own" end
  if not known[key] then
    wanted = key
    return 'ERR quoit runs this again'
  end
  if writes then
    writing = true
    if not saved[key] then
      -- The value as it was, lest a key that is not there be found later.
      if spoken == 3 then redis.setresp(2) end
      saved[key] = {redis.call('DUMP', key), redis.call('PTTL', key)}
      if spoken == 3 then redis.setresp(3) end
      order[#order + 1] = key
    end
  end
end
local function use_range(args, from, last, step, writes)
  for n = from, last, step do
    if args[n] == nil then return end
    local err = use(args[n], writes)
    if err then return err end
  end
end
-- Words are counted from 0, the verb, and Lua's tables from 1.
local function use_all(args, n, rules)
  for mode, kind, rest in string.gmatch(rules, '([rw])(%u)(%S*)') do
    local writes, err = mode == 'w', nil
    if kind == 'R' then
      local from, last, step = match(rest, '^(%-?%d+),(%-?%d+),(%d+)$')
      from, last = from + 1, tonumber(last)
      err = use_range(args, from, last >= 0 and from + last or n + 1 + last, tonumber(step), writes)
    elseif kind == 'C' then
      local from, at, start, step = match(rest, '^(%d+),(%d+),(%d+),(%d+)$')
      local many = tonumber(args[from + at + 1])
      if many then err = use_range(args, from + start + 1, from + start + (many - 1) * step + 1, tonumber(step), writes) end
    elseif kind == 'W' then
      local from, word = match(rest, '^(%d+),(%S+)$')
      for at = from + 1, n - 1 do
        if not err and lower(tostring(args[at])) == word then err = use(args[at + 1], writes) end
      end
    elseif kind == 'S' then
      for at = 2, n do
        if lower(tostring(args[at])) == 'streams' then
          err = use_range(args, at + 1, at + floor((n - at) / 2), 1, writes)
          break
        end
      end
    else
      for at = 3, n - 1 do
        local word = lower(tostring(args[at]))
        if (word == 'by' or word == 'get') and find(tostring(args[at + 1]), '*', 1, true) then
          err = "ERR patterns with '*' read keys that may be on other nodes"
        end
      end
    end
    if err then return err end
  end
end
-- What a call must not do; nothing if it may.
local function objection(args, n)
  if wanted then return 'ERR quoit runs this again' end
  local verb, places = lower(tostring(args[1])), q_places
  writing = false
  local _, at = find(places, '\n' .. verb .. ' ', 1, true)
  if not at and n > 1 then _, at = find(places, '\n' .. verb .. '|' .. lower(tostring(args[2])) .. ' ', 1, true) end
  if at then return use_all(args, n, match(places, '^[^\n]*', at + 1)) end
  if not find(places, '\n' .. verb .. '!', 1, true) then
    local info = redis.pcall('COMMAND', 'INFO', verb)
    -- One that is no verb at all the store refuses in its own words.
    if type(info) == 'table' and not info.err and not info[1] then return end
    return "ERR '" .. verb .. "' in a script is not supported where keys have several copies"
  end
end
local function call(...)
  local n, args = select('#', ...), {...}
  -- What has no verb the store refuses in its own words.
  local err = n > 0 and objection(args, n)
  if err then
    if wanted then error({err = err}) end
    return {err = err}
  end
  local reply = redis.pcall(...)
  if writing and not (type(reply) == 'table' and reply.err) then
    wrote = true
    log_all(args, 1, n, reply)
  end
  return reply
end
for field, value in pairs(redis) do q_redis[field] = value end
q_redis.pcall = call
q_redis.call = function(...)
  local reply = call(...)
  if type(reply) == 'table' and reply.err then error({err = reply.err, line = line()}) end
  return reply
end
q_redis.setresp = function(version)
  redis.setresp(version)
  spoken = version
end
local function fill(own, from, to)
  for n = #own, 1, -1 do own[n] = nil end
  for n = from, to do own[n - from + 1] = ARGV[n] end
end
-- Runs a script whose number of keys is argument `at`, followed by its keys and, up to `last`, its arguments.
local function run(script, name, at, last)
  local count = tonumber(ARGV[at])
  fill(q_keys, at + 1, at + count)
  fill(q_argv, at + count + 1, last)
  spoken = 2
  local ok, value = xpcall(script, function(err)
    if type(err) == 'table' then
      if not err.line then err.line = line() end
      return err
    end
    local text = tostring(err)
    local number = tonumber(match(text, '^user_script:(%d+):'))
    return {err = 'ERR ' .. text, line = number and number - start or line()}
  end)
  redis.setresp(2)
  if ok then
    if value == nil then value = false end
    return value
  end
  local text = match(tostring(value.err), '^@%S+ %d+: %-?(.-)%s*$') or match(tostring(value.err), '^%-?(.-)%s*$')
  local where, own = value.line or lines, q_redis.q_function
  local place = own and 'user_function:' or 'user_script:'
  text = string.gsub(text, 'user_script:(%d+):', function(number) return place .. (number - start) .. ':' end)
  -- The last line of a function's script is the call.
  if own and where == lines then where = lines - 1 end
  return {err = text .. ' script: ' .. (own or name) .. ', on @' .. place .. where .. '.'}
end
-- The values as they were before the work.
local function undo()
  redis.setresp(2)
  for n = 1, #order do
    local key, old = order[n], saved[order[n]]
    if old[1] then
      redis.call('RESTORE', key, old[2] < 0 and 0 or old[2] == 0 and 1 or old[2], old[1], 'REPLACE')
    else
      redis.call('DEL', key)
    end
  end
end
