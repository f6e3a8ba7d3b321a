//! The verbs: one row each, sorted by name. No row means unknown.

use super::reply::Outcome;
use super::store::{Args, SessionState, Store};
use super::{hashes, keys, lists, scripts, sessions, sets, sorted_sets, strings, transactions};

/// What a verb may do, for the memory cap and for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Changes nothing.
    Read,
    /// Changes data, but does not add any.
    Write,
    /// May add data, so it is refused above the memory cap.
    Grow,
    /// Belongs to the session; scripts cannot call it.
    Session,
}

use Access::{Grow, Read, Session, Write};

/// One verb.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// How many words it takes, itself included; at least as many where negative (Redis's arity).
    arity: i8,
    pub(super) access: Access,
    pub(super) run: fn(&mut Store, &mut SessionState, Args<'_>) -> Outcome,
}

impl Verb {
    pub(super) fn takes(&self, words: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= arity } else { words == arity }
    }
}

/// The row of a verb, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Verb> {
    let name = name.to_ascii_lowercase();
    let place = VERBS.binary_search_by(|verb| verb.name.as_bytes().cmp(&name)).ok()?;
    VERBS.get(place)
}

macro_rules! verbs {
    ($($name:literal $arity:literal $access:ident $run:path;)*) => {
        &[$(Verb { name: $name, arity: $arity, access: $access, run: $run },)*]
    };
}

#[rustfmt::skip]
pub(super) static VERBS: &[Verb] = verbs! {
    "append"              3 Grow    strings::append;
    "auth"               -2 Session sessions::auth;
    "client"             -2 Session sessions::client;
    "command"            -1 Read    sessions::command;
    "config"             -2 Session sessions::config;
    "copy"               -3 Grow    keys::copy;
    "dbsize"              1 Read    keys::dbsize;
    "decr"                2 Grow    strings::decr;
    "decrby"              3 Grow    strings::decrby;
    "del"                -2 Write   keys::del;
    "discard"             1 Session transactions::discard;
    "dump"                2 Read    keys::dump;
    "echo"                2 Read    sessions::echo;
    "eval"               -3 Session scripts::eval;
    "eval_ro"            -3 Session scripts::eval_ro;
    "evalsha"            -3 Session scripts::evalsha;
    "evalsha_ro"         -3 Session scripts::evalsha_ro;
    "exec"                1 Session transactions::exec;
    "exists"             -2 Read    keys::exists;
    "expire"             -3 Write   keys::expire;
    "expireat"           -3 Write   keys::expireat;
    "expiretime"          2 Read    keys::expiretime;
    "flushall"           -1 Write   keys::flush;
    "flushdb"            -1 Write   keys::flush;
    "get"                 2 Read    strings::get;
    "getdel"              2 Write   strings::getdel;
    "getex"              -2 Write   strings::getex;
    "getrange"            4 Read    strings::getrange;
    "getset"              3 Grow    strings::getset;
    "hdel"               -3 Write   hashes::hdel;
    "hello"              -1 Session sessions::hello;
    "hexists"             3 Read    hashes::hexists;
    "hget"                3 Read    hashes::hget;
    "hgetall"             2 Read    hashes::hgetall;
    "hincrby"             4 Grow    hashes::hincrby;
    "hincrbyfloat"        4 Grow    hashes::hincrbyfloat;
    "hkeys"               2 Read    hashes::hkeys;
    "hlen"                2 Read    hashes::hlen;
    "hmget"              -3 Read    hashes::hmget;
    "hmset"              -4 Grow    hashes::hmset;
    "hscan"              -3 Read    hashes::hscan;
    "hset"               -4 Grow    hashes::hset;
    "hsetnx"              4 Grow    hashes::hsetnx;
    "hstrlen"             3 Read    hashes::hstrlen;
    "hvals"               2 Read    hashes::hvals;
    "incr"                2 Grow    strings::incr;
    "incrby"              3 Grow    strings::incrby;
    "incrbyfloat"         3 Grow    strings::incrbyfloat;
    "info"               -1 Read    sessions::info;
    "keys"                2 Read    keys::keys;
    "lindex"              3 Read    lists::lindex;
    "linsert"             5 Grow    lists::linsert;
    "llen"                2 Read    lists::llen;
    "lmove"               5 Grow    lists::lmove;
    "lpop"               -2 Write   lists::lpop;
    "lpos"               -3 Read    lists::lpos;
    "lpush"              -3 Grow    lists::lpush;
    "lpushx"             -3 Grow    lists::lpushx;
    "lrange"              4 Read    lists::lrange;
    "lrem"                4 Write   lists::lrem;
    "lset"                4 Grow    lists::lset;
    "ltrim"               4 Write   lists::ltrim;
    "mget"               -2 Read    strings::mget;
    "mset"               -3 Grow    strings::mset;
    "msetnx"             -3 Grow    strings::msetnx;
    "multi"               1 Session transactions::multi;
    "persist"             2 Write   keys::persist;
    "pexpire"            -3 Write   keys::pexpire;
    "pexpireat"          -3 Write   keys::pexpireat;
    "pexpiretime"         2 Read    keys::pexpiretime;
    "ping"               -1 Read    sessions::ping;
    "psetex"              4 Grow    strings::psetex;
    "pttl"                2 Read    keys::pttl;
    "quit"               -1 Session sessions::quit;
    "randomkey"           1 Read    keys::randomkey;
    "rename"              3 Write   keys::rename;
    "renamenx"            3 Write   keys::renamenx;
    "reset"               1 Session sessions::reset;
    "restore"            -4 Grow    keys::restore;
    "rpop"               -2 Write   lists::rpop;
    "rpoplpush"           3 Grow    lists::rpoplpush;
    "rpush"              -3 Grow    lists::rpush;
    "rpushx"             -3 Grow    lists::rpushx;
    "sadd"               -3 Grow    sets::sadd;
    "scan"               -2 Read    keys::scan;
    "scard"               2 Read    sets::scard;
    "script"             -2 Session scripts::script;
    "sdiff"              -2 Read    sets::sdiff;
    "sdiffstore"         -3 Grow    sets::sdiffstore;
    "select"              2 Read    sessions::select;
    "set"                -3 Grow    strings::set;
    "setex"               4 Grow    strings::setex;
    "setnx"               3 Grow    strings::setnx;
    "setrange"            4 Grow    strings::setrange;
    "sinter"             -2 Read    sets::sinter;
    "sinterstore"        -3 Grow    sets::sinterstore;
    "sismember"           3 Read    sets::sismember;
    "smembers"            2 Read    sets::smembers;
    "smismember"         -3 Read    sets::smismember;
    "smove"               4 Write   sets::smove;
    "spop"               -2 Write   sets::spop;
    "srandmember"        -2 Read    sets::srandmember;
    "srem"               -3 Write   sets::srem;
    "sscan"              -3 Read    sets::sscan;
    "strlen"              2 Read    strings::strlen;
    "substr"              4 Read    strings::getrange;
    "sunion"             -2 Read    sets::sunion;
    "sunionstore"        -3 Grow    sets::sunionstore;
    "time"                1 Read    sessions::time;
    "touch"              -2 Read    keys::exists;
    "ttl"                 2 Read    keys::ttl;
    "type"                2 Read    keys::type_of;
    "unlink"             -2 Write   keys::del;
    "unwatch"             1 Session transactions::unwatch;
    "watch"              -2 Session transactions::watch;
    "zadd"               -4 Grow    sorted_sets::zadd;
    "zcard"               2 Read    sorted_sets::zcard;
    "zcount"              4 Read    sorted_sets::zcount;
    "zincrby"             4 Grow    sorted_sets::zincrby;
    "zlexcount"           4 Read    sorted_sets::zlexcount;
    "zmscore"            -3 Read    sorted_sets::zmscore;
    "zpopmax"            -2 Write   sorted_sets::zpopmax;
    "zpopmin"            -2 Write   sorted_sets::zpopmin;
    "zrange"             -4 Read    sorted_sets::zrange;
    "zrangebylex"        -4 Read    sorted_sets::zrangebylex;
    "zrangebyscore"      -4 Read    sorted_sets::zrangebyscore;
    "zrank"               3 Read    sorted_sets::zrank;
    "zrem"               -3 Write   sorted_sets::zrem;
    "zremrangebylex"      4 Write   sorted_sets::zremrangebylex;
    "zremrangebyrank"     4 Write   sorted_sets::zremrangebyrank;
    "zremrangebyscore"    4 Write   sorted_sets::zremrangebyscore;
    "zrevrange"          -4 Read    sorted_sets::zrevrange;
    "zrevrangebylex"     -4 Read    sorted_sets::zrevrangebylex;
    "zrevrangebyscore"   -4 Read    sorted_sets::zrevrangebyscore;
    "zrevrank"            3 Read    sorted_sets::zrevrank;
    "zscan"              -3 Read    sorted_sets::zscan;
    "zscore"              3 Read    sorted_sets::zscore;
};

#[cfg(test)]
mod tests {
    use super::VERBS;

    #[test]
    fn rows_are_sorted_for_the_search() {
        assert!(VERBS.is_sorted_by(|left, right| left.name < right.name));
    }
}
