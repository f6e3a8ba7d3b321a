-- What a script may see: the safe half of Lua's base library, `string`, `table`, `math`, and `redis`.
-- Run once per store; gets the bridge table, whose functions are Rust, and returns the runner and the environment.
local bridge = ...
local raw_error, raw_pcall, raw_xpcall, type, setmetatable = error, pcall, xpcall, type, setmetatable

local function refuse_write()
  raw_error('Attempt to modify a readonly table', 2)
end

-- A view that scripts cannot change, so that one script leaves nothing behind for the next.
local function readonly(fields)
  return setmetatable({}, { __index = fields, __newindex = refuse_write, __metatable = false })
end

-- A script that used up its instructions must not go on because a pcall of its own caught the end of them.
local function checked(ok, ...)
  if bridge.exhausted() then raw_error('script is stopped', 0) end
  if ok then return ok, ... end
  local failure = ...
  if type(failure) == 'table' and failure.err then return false, failure.err end
  return false, failure
end

local function single_field(name)
  return function(text)
    if type(text) ~= 'string' then return { err = 'ERR wrong number or type of arguments' } end
    return { [name] = text }
  end
end

local globals = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, select = select,
  tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
  rawequal = rawequal, rawget = rawget, setmetatable = setmetatable, getmetatable = getmetatable,
  pcall = function(...) return checked(raw_pcall(...)) end,
  xpcall = function(...) return checked(raw_xpcall(...)) end,
  table = readonly(table),
  redis = readonly {
    call = function(...)
      local reply = bridge.invoke(...)
      if type(reply) == 'table' and reply.err then raw_error(reply, 0) end
      return reply
    end,
    pcall = function(...) return bridge.invoke(...) end,
    status_reply = single_field('ok'),
    error_reply = single_field('err'),
    sha1hex = bridge.sha1hex,
    log = function() end,
    replicate_commands = function() return true end,
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  },
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
      raw_error("Script attempted to access nonexistent global variable '" .. globals.tostring(name) .. "'", 2)
    end
    return value
  end,
  __newindex = refuse_write,
  __metatable = false,
}

local function run(script)
  local line
  local ok, value = raw_xpcall(script, function(failure)
    line = bridge.line()
    return failure
  end)
  return ok, value, line
end

return run, environment
