-- What a script may see: the safe half of Lua's base library, `string`, `table`, `math`, and `redis`.
-- Run once per store; gets the bridge table, whose functions are Rust, and returns the runner, the environment
-- and the table in which each run puts its `redis.call`.
local bridge = ...
local raw_error, raw_pcall, raw_xpcall = error, pcall, xpcall
local string_gsub = string.gsub
local type, tostring, select, setmetatable, unpack = type, tostring, select, setmetatable, unpack

local function refuse_write()
  raw_error('Attempt to modify a readonly table', 2)
end

-- A view that scripts cannot change, so that one script leaves nothing behind for the next.
local function readonly(fields)
  return setmetatable({}, { __index = fields, __newindex = refuse_write, __metatable = false })
end

-- A failed redis.call leaves its error table in the bridge and raises a Rust error, which is a userdata here. (It has
-- to be a Rust function: a Lua one would be a tail call in `return redis.call(…)`, and the script's line be lost.)
local function plain(failure)
  -- Of a C function called by pcall itself, such as `error`, Lua says where this file called it.
  if type(failure) == 'string' then return (string_gsub(failure, '^prelude:%d+: ', '')) end
  if type(failure) ~= 'userdata' then return failure end
  local left = bridge.failure
  bridge.failure = nil
  return left or 'ERR ' .. tostring(failure)
end

-- A script that used up its instructions must not go on because a pcall of its own caught the end of them.
local function finish(ok, failure, results)
  if bridge.exhausted() then raw_error('script is stopped', 0) end
  if ok then return true, unpack(results, 1, results.count) end
  failure = plain(failure)
  if type(failure) == 'table' and failure.err then return false, failure.err end
  return false, failure
end

local function pack(...)
  return { count = select('#', ...), ... }
end

-- Results are packed inside the protected call: Lua 5.1's own pcall hands them on without asking for the stack they
-- need, and a Lua built with checks (debug builds are) answers more than some twenty by ending the process.
local function packed_pcall(body, ...)
  local results
  local ok, failure = raw_pcall(function(...) results = pack(body(...)) end, ...)
  return finish(ok, failure, results)
end

local function packed_xpcall(body, handler)
  local results
  local ok, failure = raw_xpcall(function() results = pack(body()) end, function(failure)
    return handler(plain(failure))
  end)
  return finish(ok, failure, results)
end

local function single_field(name)
  return function(text)
    if type(text) ~= 'string' then return { err = 'ERR wrong number or type of arguments' } end
    return { [name] = text }
  end
end

local redis = {
  status_reply = single_field('ok'),
  error_reply = single_field('err'),
  sha1hex = bridge.sha1hex,
  log = function() end,
  replicate_commands = function() return true end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
}

function redis.setresp(version)
  if version ~= 2 and version ~= 3 then raw_error('RESP version must be 2 or 3.', 0) end
  bridge.setresp(version == 3)
end

function redis.pcall(...)
  local ok, reply = raw_pcall(redis.call, ...)
  if ok then return reply end
  return plain(reply)
end

local globals = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, select = select,
  tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
  rawequal = rawequal, rawget = rawget, setmetatable = setmetatable, getmetatable = getmetatable,
  pcall = packed_pcall, xpcall = packed_xpcall,
  table = readonly(table),
  redis = readonly(redis),
}

math.random, math.randomseed = bridge.random, bridge.seed_random
globals.math = readonly(math)

-- Bytecode is not checked by Lua 5.1, so nothing may make or load it.
string.dump = nil
globals.string = readonly(string)
getmetatable('').__metatable = false

local environment = {
  __index = function(_, name)
    local value = globals[name]
    if value == nil then
      raw_error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
    end
    return value
  end,
  __newindex = refuse_write,
  __metatable = false,
}

local function run(script)
  local line, value
  local ok, failure = raw_xpcall(function() value = script() end, function(failure)
    line = bridge.line()
    return plain(failure)
  end)
  if ok then return true, value end
  return false, failure, line
end

return run, environment, redis
