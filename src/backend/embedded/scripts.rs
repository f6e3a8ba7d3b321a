//! EVAL and its kin: Lua 5.1 scripts that call the store's own verbs.
//!
//! # Invariants
//! - A script ends: after [`INSTRUCTIONS_MAX`] it is stopped, also if it catches the error, and its memory and its
//!   reply are bounded. What it wrote before stays written, as in Redis.
//! - A script sees no file, clock, process or randomness but the store's, and leaves nothing for the next one.
//!
//! What Redis offers and this does not: `cjson`, `cmsgpack`, `struct`, `bit`, coroutines, `loadstring`, `rawset`,
//! functions (FUNCTION, FCALL). A single call into a string pattern is not bounded by instructions.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;

use indexmap::IndexMap;
use mlua::{Function, HookTriggers, Lua, LuaOptions, StdLib, Table, Value, Variadic, VmState};
use sha1::{Digest as _, Sha1};

use super::number::{format_double, parse_integer};
use super::reply::{Failure, OK, Outcome, Protocol, Reply};
use super::store::{Args, Progress, SessionState, Store, Writes, unknown_subcommand, wrong_number_of_arguments};

/// How many Lua instructions a script may take: some tenths of a second.
const INSTRUCTIONS_MAX: u32 = 20_000_000;
const INSTRUCTIONS_PER_CHECK: u32 = 10_000;

/// How much memory all scripts of a store may take.
const LUA_BYTES_MAX: usize = 64 << 20;

/// What one script may answer: a table can hold one long string many times.
const REPLY_BYTES_MAX: usize = 64 << 20;
const REPLY_DEPTH_MAX: usize = 128;

/// How many scripts are remembered, those that were flushed included. When there are more, all are forgotten: clients
/// load them again on NOSCRIPT.
const SCRIPTS_MAX: usize = 1024;

/// The name scripts have in Lua's messages.
const CHUNK: &str = "@user_script";

/// The loaded scripts by digest, and the Lua state, which is made at the first of them.
#[derive(Default)]
pub(super) struct Scripts {
    machine: Option<Machine>,
    loaded: IndexMap<String, Script>,
}

/// A compiled script. SCRIPT FLUSH only marks it: compiling it again costs as much as running it a hundred times, and
/// clients that are told NOSCRIPT load the same ones again.
struct Script {
    body: Function,
    flushed: bool,
}

impl Scripts {
    /// Forgets all scripts, as far as clients can see.
    pub(super) fn flush(&mut self) {
        self.loaded.values_mut().for_each(|script| script.flushed = true);
    }

    fn find(&self, digest: &str) -> Option<&Function> {
        self.loaded.get(digest).filter(|script| !script.flushed).map(|script| &script.body)
    }
}

impl std::fmt::Debug for Scripts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Scripts").field("loaded", &self.loaded.len()).finish_non_exhaustive()
    }
}

/// The Lua state with what the prelude made of it. A clone is another handle to the same state.
#[derive(Clone)]
struct Machine {
    lua: Lua,
    bridge: Table,
    run: Function,
    environment: Table,
    /// The fields of `redis`, to which each run adds its `call`.
    redis: Table,
    checks_left: Rc<Cell<u32>>,
    random: Rc<RefCell<fastrand::Rng>>,
    /// In which form the script gets replies, as it said by `redis.setresp`.
    protocol: Rc<Cell<Protocol>>,
}

impl Machine {
    fn new() -> mlua::Result<Self> {
        let lua =
            Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, LuaOptions::new().catch_rust_panics(false))?;
        lua.set_memory_limit(LUA_BYTES_MAX)?;
        let checks_left = Rc::new(Cell::new(0));
        let random = Rc::new(RefCell::new(fastrand::Rng::with_seed(0)));
        let protocol = Rc::new(Cell::new(Protocol::Resp2));
        let bridge = bridge(&lua, &checks_left, &random)?;
        bridge.set("setresp", set_protocol(&lua, &protocol)?)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("@prelude");
        let (run, environment, redis) = prelude.call((bridge.clone(),))?;
        let left = Rc::clone(&checks_left);
        let triggers = HookTriggers::new().every_nth_instruction(INSTRUCTIONS_PER_CHECK);
        lua.set_global_hook(triggers, move |_, _| {
            left.set(left.get().saturating_sub(1));
            if left.get() == 0 { Err(mlua::Error::runtime("script is stopped")) } else { Ok(VmState::Continue) }
        })?;
        Ok(Self { lua, bridge, run, environment, redis, checks_left, random, protocol })
    }

    /// Each script starts with all its instructions, RESP2 and the same random numbers, as in Redis.
    fn rewind(&self) {
        self.protocol.set(Protocol::Resp2);
        self.checks_left.set(INSTRUCTIONS_MAX / INSTRUCTIONS_PER_CHECK);
        *self.random.borrow_mut() = fastrand::Rng::with_seed(0);
    }
}

/// The functions that the prelude gets from here. `redis.call`, which needs the store, comes with each run.
fn bridge(lua: &Lua, checks_left: &Rc<Cell<u32>>, random: &Rc<RefCell<fastrand::Rng>>) -> mlua::Result<Table> {
    let bridge = lua.create_table()?;
    let left = Rc::clone(checks_left);
    bridge.set("exhausted", lua.create_function(move |_, ()| Ok(left.get() == 0))?)?;
    bridge.set("sha1hex", lua.create_function(|_, text: mlua::LuaString| Ok(digest(&text.as_bytes())))?)?;
    bridge.set("line", lua.create_function(|lua, ()| Ok(script_line(lua)))?)?;
    let seeded = Rc::clone(random);
    let seed_random = move |_: &Lua, seed: f64| {
        *seeded.borrow_mut() = fastrand::Rng::with_seed(seed.to_bits());
        Ok(())
    };
    bridge.set("seed_random", lua.create_function(seed_random)?)?;
    let random = Rc::clone(random);
    let draw = move |_: &Lua, (low, high): (Option<i64>, Option<i64>)| {
        let mut random = random.borrow_mut();
        let (low, high) = match (low, high) {
            (None, _) => return Ok(Value::Number(random.f64())),
            (Some(high), None) => (1, high),
            (Some(low), Some(high)) => (low, high),
        };
        if low > high {
            return Err(mlua::Error::runtime("bad argument to 'random' (interval is empty)"));
        }
        Ok(Value::Integer(random.i64(low..=high)))
    };
    bridge.set("random", lua.create_function(draw)?)?;
    Ok(bridge)
}

fn set_protocol(lua: &Lua, protocol: &Rc<Cell<Protocol>>) -> mlua::Result<Function> {
    let protocol = Rc::clone(protocol);
    lua.create_function(move |_, resp3: bool| {
        protocol.set(if resp3 { Protocol::Resp3 } else { Protocol::Resp2 });
        Ok(())
    })
}

/// The line of the script that runs now, the innermost one.
fn script_line(lua: &Lua) -> Option<usize> {
    const DEPTH_MAX: usize = 64;
    (0..DEPTH_MAX)
        .map_while(|level| {
            lua.inspect_stack(level, |frame| {
                (frame.source().source.as_deref() == Some(CHUNK)).then(|| frame.current_line()).flatten()
            })
        })
        .flatten()
        .next()
}

pub(super) fn eval(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    keys_and_words(args)?;
    let digest = load(store, args.at(1))?;
    run(store, &digest, args, Writes::Allowed)
}

pub(super) fn eval_ro(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    keys_and_words(args)?;
    let digest = load(store, args.at(1))?;
    run(store, &digest, args, Writes::Refused)
}

pub(super) fn evalsha(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    run(store, &String::from_utf8_lossy(args.at(1)).to_ascii_lowercase(), args, Writes::Allowed)
}

pub(super) fn evalsha_ro(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    run(store, &String::from_utf8_lossy(args.at(1)).to_ascii_lowercase(), args, Writes::Refused)
}

pub(super) fn script(store: &mut Store, _: &mut SessionState, args: Args<'_>) -> Outcome {
    match (args.at(1).to_ascii_uppercase().as_slice(), args.from(2)) {
        (b"LOAD", [body]) => Ok(Reply::Bulk(load(store, body)?.into_bytes())),
        (b"EXISTS", digests @ [_, ..]) => {
            let known = |digest: &&[u8]| {
                let digest = String::from_utf8_lossy(digest).to_ascii_lowercase();
                Reply::flag(store.scripts.find(&digest).is_some())
            };
            Ok(Reply::Array(digests.iter().map(known).collect()))
        }
        (b"FLUSH", []) => {
            store.scripts.flush();
            Ok(OK)
        }
        (b"FLUSH", [mode]) if mode.eq_ignore_ascii_case(b"SYNC") || mode.eq_ignore_ascii_case(b"ASYNC") => {
            store.scripts.flush();
            Ok(OK)
        }
        (b"FLUSH", _) => Err(Failure::fixed("ERR SCRIPT FLUSH only support SYNC|ASYNC option")),
        (b"LOAD", _) => Err(wrong_number_of_arguments("script|load")),
        (b"EXISTS", _) => Err(wrong_number_of_arguments("script|exists")),
        _ => Err(unknown_subcommand(args)),
    }
}

fn digest(body: &[u8]) -> String {
    let mut text = String::with_capacity(40);
    for byte in Sha1::digest(body) {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}

/// Compiles a script and remembers it under its digest.
fn load(store: &mut Store, body: &[u8]) -> Result<String, Failure> {
    let digest = digest(body);
    if let Some(script) = store.scripts.loaded.get_mut(&digest) {
        script.flushed = false;
        return Ok(digest);
    }
    if store.scripts.machine.is_none() {
        store.scripts.machine = Some(Machine::new().map_err(|error| lua_failure(&error))?);
    }
    let machine = store.scripts.machine.as_ref().expect("it was just made");
    let chunk = machine.lua.load(body).set_name(CHUNK).set_mode(mlua::chunk::ChunkMode::Text);
    let function = chunk.into_function().map_err(|error| match error {
        mlua::Error::SyntaxError { message, .. } => {
            Failure::owned(format!("ERR Error compiling script (new function): {message}"))
        }
        other => lua_failure(&other),
    })?;
    if store.scripts.loaded.len() >= SCRIPTS_MAX {
        store.scripts.loaded.clear();
    }
    store.scripts.loaded.insert(digest.clone(), Script { body: function, flushed: false });
    Ok(digest)
}

fn lua_failure(error: &mlua::Error) -> Failure {
    Failure::owned(format!("ERR script: {error}"))
}

type Words<'a> = &'a [&'a [u8]];

/// KEYS and ARGV: the words after their number are split by it.
fn keys_and_words(args: Args<'_>) -> Result<(Words<'_>, Words<'_>), Failure> {
    let count = parse_integer(args.at(2))?;
    let count = usize::try_from(count).map_err(|_| Failure::fixed("ERR Number of keys can't be negative"))?;
    let split = args.from(3).split_at_checked(count);
    split.ok_or(Failure::fixed("ERR Number of keys can't be greater than number of args"))
}

fn run(store: &mut Store, digest: &str, args: Args<'_>, writes: Writes) -> Outcome {
    let (keys, rest) = keys_and_words(args)?;
    let found = store.scripts.find(digest).cloned().zip(store.scripts.machine.clone());
    let (script, machine) = found.ok_or(Failure::fixed("NOSCRIPT No matching script. Please use EVAL."))?;
    machine.rewind();
    let ended = call(store, &machine, &script, keys, rest, writes);
    if !matches!(ended, Ok((true, ..))) {
        // Lua 5.1 does not collect when memory runs out, so what a failed script left could fail the next one.
        machine.lua.gc_collect().map_err(|error| lua_failure(&error))?;
    }
    if machine.checks_left.get() == 0 {
        return Err(Failure::fixed("ERR script took too many instructions for the embedded demo store"));
    }
    let (succeeded, value, line) = ended.map_err(|error| lua_failure(&error))?;
    if succeeded {
        let mut room = REPLY_BYTES_MAX;
        return reply_of(&value, &mut room, 0);
    }
    let mut text = match &value {
        Value::Table(table) => {
            table.get::<mlua::LuaString>("err").map(|text| text.as_bytes().to_vec()).unwrap_or_default()
        }
        Value::String(text) => [b"ERR ", &*text.as_bytes()].concat(),
        Value::Error(error) => format!("ERR {error}").into_bytes(),
        _ => b"ERR unknown error".to_vec(),
    };
    text.extend(format!(" script: {digest}, on {CHUNK}:{}.", line.unwrap_or(0)).into_bytes());
    Err(Failure::owned(text))
}

/// Whether the script ended well, what it gave or failed with, and the line where it failed.
type Ended = (bool, Value, Option<usize>);

fn call(
    store: &mut Store,
    machine: &Machine,
    script: &Function,
    keys: &[&[u8]],
    words: &[&[u8]],
    writes: Writes,
) -> mlua::Result<Ended> {
    let lua = &machine.lua;
    // One handle at a time: there is room for some 8,000 on Lua 5.1's stack.
    let strings = |words: &[&[u8]]| {
        let table = lua.create_table_with_capacity(words.len(), 0)?;
        words.iter().try_for_each(|word| table.raw_push(lua.create_string(word)?))?;
        Ok::<Table, mlua::Error>(table)
    };
    let environment = lua.create_table()?;
    environment.set("KEYS", strings(keys)?)?;
    environment.set("ARGV", strings(words)?)?;
    environment.set_metatable(Some(machine.environment.clone()))?;
    script.set_environment(environment)?;
    let mut session = SessionState::new(0);
    let mut progress = Progress { writes, full: store.is_full(), wrote: false };
    lua.scope(|scope| {
        let invoke = scope.create_function_mut(|lua, args: Variadic<Value>| {
            session.protocol = machine.protocol.get();
            match invoke(store, &mut session, &args, &mut progress).unwrap_or_else(Reply::Error) {
                failed @ Reply::Error(_) => {
                    machine.bridge.set("failure", lua_of(lua, &failed, session.protocol)?)?;
                    Err(mlua::Error::runtime("redis.call failed"))
                }
                reply => lua_of(lua, &reply, session.protocol),
            }
        })?;
        machine.redis.set("call", invoke)?;
        machine.run.call(script.clone())
    })
}

/// One `redis.call`: its words are strings and numbers.
fn invoke(store: &mut Store, session: &mut SessionState, args: &[Value], progress: &mut Progress) -> Outcome {
    if args.is_empty() {
        return Err(Failure::fixed("ERR Please specify at least one argument for this redis lib call"));
    }
    let word = |value: &Value| match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Number(number) => Some(format_double(*number).into_bytes()),
        Value::Integer(number) => Some(format_double(as_lua_number(*number)).into_bytes()),
        _ => None,
    };
    let words: Option<Vec<Vec<u8>>> = args.iter().map(word).collect();
    let words = words.ok_or(Failure::fixed("ERR Lua redis lib command arguments must be strings or integers"))?;
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    store.reply_to_script(session, Args(&words), progress)
}

#[expect(clippy::cast_precision_loss, reason = "all numbers of Lua 5.1 are doubles")]
fn as_lua_number(number: i64) -> f64 {
    number as f64
}

/// A reply as a script sees it: Redis's conversion tables for RESP2 and RESP3.
fn lua_of(lua: &Lua, reply: &Reply, protocol: Protocol) -> mlua::Result<Value> {
    let resp3 = protocol == Protocol::Resp3;
    let text = |text: &[u8]| lua.create_string(text).map(Value::String);
    let table = |name: &str, value: Value| {
        let table = lua.create_table()?;
        table.set(name, value)?;
        Ok(Value::Table(table))
    };
    let sequence = |items: &mut dyn Iterator<Item = &Reply>| {
        let table = lua.create_table()?;
        for (place, item) in (1_i64..).zip(items) {
            table.raw_set(place, lua_of(lua, item, protocol)?)?;
        }
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Status(line) => table("ok", text(line)?),
        Reply::Error(failure) => table("err", text(&failure.0)?),
        Reply::Integer(number) => Ok(Value::Number(as_lua_number(*number))),
        Reply::Bulk(bytes) => text(bytes),
        Reply::Text(line) => text(line.as_bytes()),
        Reply::Double(number) if resp3 => table("double", Value::Number(*number)),
        Reply::Double(number) => text(format_double(*number).as_bytes()),
        Reply::Null | Reply::NullArray if resp3 => Ok(Value::Nil),
        Reply::Null | Reply::NullArray => Ok(Value::Boolean(false)),
        Reply::Set(members) if resp3 => {
            let set = lua.create_table()?;
            members.iter().try_for_each(|member| set.set(lua_of(lua, member, protocol)?, true))?;
            table("set", Value::Table(set))
        }
        Reply::Map(pairs) if resp3 => {
            let map = lua.create_table()?;
            pairs
                .iter()
                .try_for_each(|(key, value)| map.set(lua_of(lua, key, protocol)?, lua_of(lua, value, protocol)?))?;
            table("map", Value::Table(map))
        }
        Reply::Array(items) | Reply::Set(items) => sequence(&mut items.iter()),
        Reply::Map(pairs) => sequence(&mut pairs.iter().flat_map(|(key, value)| [key, value])),
    }
}

/// What a script returned, as a reply.
fn reply_of(value: &Value, room: &mut usize, depth: usize) -> Outcome {
    const TOO_BIG: Failure = Failure::fixed("ERR reply of the script is too big for the embedded demo store");
    let mut take = |bytes: usize| {
        *room = room.checked_sub(bytes + size_of::<Reply>()).ok_or(TOO_BIG)?;
        Ok::<(), Failure>(())
    };
    let field = |table: &Table, name: &str| table.raw_get::<Option<mlua::LuaString>>(name).ok().flatten();
    match value {
        Value::Boolean(true) => Ok(Reply::Integer(1)),
        Value::Integer(number) => Ok(Reply::Integer(*number)),
        #[expect(clippy::cast_possible_truncation, reason = "Redis cuts the fraction off; Rust saturates the rest")]
        Value::Number(number) => Ok(Reply::Integer(*number as i64)),
        Value::String(text) => {
            take(text.as_bytes().len())?;
            Ok(Reply::bulk(&text.as_bytes()))
        }
        Value::Table(table) => {
            if depth == REPLY_DEPTH_MAX {
                return Err(TOO_BIG);
            }
            if let Some(text) = field(table, "err") {
                let text = text.as_bytes();
                return Ok(Reply::Error(Failure::owned(text.strip_prefix(b"-").unwrap_or(&text))));
            }
            if let Some(text) = field(table, "ok") {
                return Ok(Reply::Status(text.as_bytes().to_vec().into()));
            }
            if let Ok(Some(number)) = table.raw_get::<Option<f64>>("double") {
                return Ok(Reply::Double(number));
            }
            // The order is that of Lua's table, as in Redis.
            if let Ok(Some(set)) = table.raw_get::<Option<Table>>("set") {
                let members = set.pairs::<Value, Value>().map(|pair| pair.map_err(|error| lua_failure(&error)));
                let members = members.map(|pair| reply_of(&pair?.0, room, depth + 1));
                return members.collect::<Result<_, _>>().map(Reply::Set);
            }
            if let Ok(Some(map)) = table.raw_get::<Option<Table>>("map") {
                let mut pairs = Vec::new();
                for pair in map.pairs::<Value, Value>() {
                    let (key, value) = pair.map_err(|error| lua_failure(&error))?;
                    pairs.push((reply_of(&key, room, depth + 1)?, reply_of(&value, room, depth + 1)?));
                }
                return Ok(Reply::Map(pairs));
            }
            let mut items = Vec::new();
            for place in 1_i64.. {
                let item: Value = table.raw_get(place).map_err(|error| lua_failure(&error))?;
                if item.is_nil() {
                    break;
                }
                items.push(reply_of(&item, room, depth + 1)?);
            }
            Ok(Reply::Array(items))
        }
        _ => {
            take(0)?;
            Ok(Reply::Null)
        }
    }
}
