//! The same requests to the proxy and to a server of its own: the same bytes.

use super::{APPEND, APPEND_DIGEST, LIBRARY};
use crate::support::{Client, Fleet, Program, QuoitConfig, RedisServer, encode};

/// Requests in which `|` parts the words. A digest is that of `APPEND`.
const REQUESTS: &[&str] = &[
    "EVAL|return 1|0",
    "eval|return {1,2,{3,'four',false,nil,5}}|0",
    "EVAL|return {KEYS[1],KEYS[2],ARGV[1],#ARGV}|2|{t}a|{t}b|c",
    "EVAL|return redis.call('SET',KEYS[1],ARGV[1])|1|{t}k|v",
    "EVAL|return redis.call('GET',KEYS[1])|1|{t}k",
    "EVAL|return redis.call('GET',KEYS[1])|1|{t}none",
    "EVAL|return redis.call('LPUSH',KEYS[1],1)|1|{t}k",
    "EVAL|return redis.pcall('LPUSH',KEYS[1],1)|1|{t}k",
    "EVAL|return redis.pcall('LPUSH',KEYS[1],1)['err']|1|{t}k",
    "EVAL|return redis.error_reply('MY own error')|0",
    "EVAL|return redis.status_reply('FINE')|0",
    "EVAL|return {ok='FINE'}|0",
    "EVAL|return {err='NOSCRIPT my own'}|0",
    "EVAL|return {err='NOSCRIPT No matching script. Please use EVAL.'}|0",
    "EVAL|error('thrown')|0",
    "EVAL|return nothing_here|0",
    "EVAL|return (|0",
    "EVAL||0",
    "EVAL|return true|0",
    "EVAL|return false|0",
    "EVAL|return 3.99|0",
    "EVAL|return 'a\r\nb'|0",
    "EVAL|redis.setresp(3); return redis.call('HGETALL',KEYS[1])|1|{t}h",
    "EVAL|redis.call('HSET',KEYS[1],'f','v'); redis.setresp(3); return redis.call('HGETALL',KEYS[1])|1|{t}h",
    "EVAL|redis.setresp(3); return {double=1.5}|0",
    "EVAL|redis.setresp(3); return {map={a=1}}|0",
    "EVAL|redis.setresp(3); return {big_number='12345678901234567890'}|0",
    "EVAL|redis.setresp(3); return {verbatim_string={format='txt',string='text'}}|0",
    "EVAL|redis.setresp(3); return {set={a=true}}|0",
    "EVAL|redis.setresp(3); return true|0",
    "EVAL|redis.setresp(4)|0",
    "EVAL|return string.rep('x',200000)|0",
    "EVAL|local t={} for i=1,5000 do t[i]={i,tostring(i)} end return t|0",
    "EVAL|return redis.sha1hex('')|0",
    "EVAL|return cjson.encode({1,2})|0",
    "EVAL|#!lua flags=no-writes\nreturn redis.call('SET',KEYS[1],1)|1|{t}k",
    "EVAL|#!lua flags=bogus\nreturn 1|0",
    "EVAL|return redis.call('EVALSHA','x',0)|0",
    "EVAL|return redis.call('NONESUCH')|0",
    "EVAL|return redis.call('SUBSCRIBE','x')|0",
    "EVAL|return 1",
    "EVAL|return 1|-1",
    "EVAL|return 1|x",
    "EVAL|return 1|1.0",
    "EVAL|return 1|01",
    "EVAL|return 1|2|{t}a",
    "EVAL|return 1|99999999999999999999",
    "EVAL_RO|return redis.call('GET',KEYS[1])|1|{t}k",
    "EVAL_RO|return redis.call('SET',KEYS[1],'w')|1|{t}k",
    "EVAL_RO|return 1|x",
    "EVALSHA|DIGEST|1|{t}s|a",
    "SCRIPT|EXISTS|DIGEST|ffffffffffffffffffffffffffffffffffffffff",
    "SCRIPT|LOAD|APPEND",
    "EVALSHA|DIGEST|1|{t}s|b",
    "evalsha|DIGEST|1|{t}s|c",
    "EVALSHA_RO|DIGEST|1|{t}s|d",
    "EVALSHA|DIGEST|1|{t}h|d",
    "EVALSHA|DIGEST|0",
    "EVALSHA|DIGEST|3|{t}s",
    "EVALSHA|short|0",
    "EVALSHA|ffffffffffffffffffffffffffffffffffffffff|1|{t}s",
    "EVALSHA_RO|ffffffffffffffffffffffffffffffffffffffff|0",
    "GET|{t}s",
    "SCRIPT|EXISTS|DIGEST|ffffffffffffffffffffffffffffffffffffffff|DIGEST",
    "SCRIPT|EXISTS",
    "SCRIPT|LOAD|return (",
    "SCRIPT|LOAD",
    "SCRIPT|LOAD|a|b",
    "SCRIPT|KILL",
    "SCRIPT|KILL|x",
    "SCRIPT|NONESUCH",
    "SCRIPT",
    "SCRIPT|FLUSH|NOW",
    "SCRIPT|FLUSH|SYNC|x",
    "SCRIPT|EXISTS|DIGEST",
    "script|flush|async",
    "SCRIPT|EXISTS|DIGEST",
    "EVALSHA|DIGEST|1|{t}s|e",
    "SCRIPT|FLUSH|SYNC",
    "SCRIPT|FLUSH",
    "FCALL|put|1|{t}f|v",
    "FUNCTION|LIST",
    "FUNCTION|STATS",
    "FUNCTION|LOAD|LIBRARY",
    "FUNCTION|LOAD|LIBRARY",
    "FUNCTION|LOAD|REPLACE|LIBRARY",
    "FUNCTION|LOAD|no library",
    "FUNCTION|LOAD|#!lua name=bad\nnonsense(",
    "FUNCTION|LOAD|#!js name=other\n",
    "FUNCTION|LOAD",
    "FCALL|put|1|{t}f|v",
    "fcall|PUT|1|{t}f|w",
    "FCALL|look|1|{t}f",
    "FCALL_RO|look|1|{t}f",
    "FCALL_RO|put|1|{t}f|v",
    "FCALL|put|0",
    "FCALL|put|x",
    "FCALL|put|2|{t}f",
    "FCALL|nonesuch|1|{t}f",
    "FCALL|nonesuch|0",
    "FCALL|put",
    "FUNCTION|LIST|WITHCODE",
    "FUNCTION|LIST|LIBRARYNAME|sh*",
    "FUNCTION|LIST|LIBRARYNAME|x",
    "FUNCTION|LIST|BOGUS",
    "FUNCTION|DUMP",
    "FUNCTION|STATS",
    "FUNCTION|KILL",
    "FUNCTION|NONESUCH",
    "FUNCTION|DELETE|nonesuch",
    "FUNCTION|DELETE|shelf",
    "FCALL|put|1|{t}f|v",
    "FUNCTION|LOAD|LIBRARY",
    "FUNCTION|FLUSH|BOGUS",
    "FUNCTION|FLUSH|ASYNC",
    "FCALL|put|1|{t}f|v",
    "FUNCTION|RESTORE|bogus",
    "FUNCTION|FLUSH",
    "MGET|{t}k|{t}s|{t}f",
];

fn request(line: &str) -> Vec<Vec<u8>> {
    let word = |word| match word {
        "DIGEST" => APPEND_DIGEST,
        "APPEND" => APPEND,
        "LIBRARY" => LIBRARY,
        word => word,
    };
    line.split('|').map(|it| word(it).as_bytes().to_vec()).collect()
}

/// Whether an error is like any other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Errors {
    Alike,
    ByTheByte,
}

/// One after the other, and then all in one pipeline.
pub(super) fn compare(subject: &mut Client, reference: &mut Client, errors: Errors, left_out: impl Fn(&str) -> bool) {
    let lines: Vec<&str> = REQUESTS.iter().copied().filter(|line| !left_out(line)).collect();
    let agree = |line: &str, got: &crate::support::Reply, want: &crate::support::Reply| {
        let alike = errors == Errors::Alike && got.value.is_error() && want.value.is_error();
        // In which order a library's functions are listed is up to each process.
        let unordered = line.starts_with("FUNCTION|LIST") && lines_of(&got.raw) == lines_of(&want.raw);
        assert!(alike || unordered || got.raw == want.raw, "{line}\n  subject   {got:?}\n  reference {want:?}");
    };
    for line in &lines {
        let (got, want) = (subject.command_raw(&request(line)), reference.command_raw(&request(line)));
        agree(line, &got, &want);
    }
    let all: Vec<u8> = lines.iter().flat_map(|line| encode(&request(line))).collect();
    let (got, want) = (subject.pipeline(&all, lines.len()), reference.pipeline(&all, lines.len()));
    for ((line, got), want) in lines.iter().zip(&got).zip(&want) {
        agree(line, got, want);
    }
}

fn lines_of(raw: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = raw.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

fn in_both_protocols(fleet: &Fleet, reference: &RedisServer, errors: Errors, left_out: impl Fn(&str) -> bool + Copy) {
    for protocol in ["2", "3"] {
        let (mut subject, mut reference) = (fleet.client(), reference.client());
        for client in [&mut subject, &mut reference] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
            for line in ["FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"] {
                client.line(line);
            }
        }
        compare(&mut subject, &mut reference, errors, left_out);
    }
}

#[test]
fn one_node_answers_like_a_server() {
    let (Some(fleet), Some(reference)) = (Fleet::start(1), RedisServer::start()) else { return };
    in_both_protocols(&fleet, &reference, Errors::ByTheByte, |_| false);
}

/// `EVAL` brings its script to one node only, as in a cluster: whether all have it is not compared here.
#[test]
fn three_nodes_answer_like_a_server() {
    let (Some(fleet), Some(reference)) = (Fleet::start(3), RedisServer::start()) else { return };
    in_both_protocols(&fleet, &reference, Errors::ByTheByte, |_| false);
}

#[test]
fn other_servers_answer_through_the_proxy() {
    for variable in ["QUOIT_REDIS_62", "QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let start = || RedisServer::start_with(Program::Named(variable), &[]);
        let (Some(one), Some(two), Some(reference)) = (start(), start(), start()) else { continue };
        let fleet = Fleet::in_front_of(vec![one, two], |config: QuoitConfig| config);
        // The proxy counts the arguments as Redis 7 does, 6.2 takes none at all; and 8.2.3 breaks down at the flush of a
        // library with a function that has failed.
        let left_out = |line: &str| ["SCRIPT|EXISTS", "FCALL|put|0", "FCALL_RO|put|1|{t}f|v"].contains(&line);
        in_both_protocols(&fleet, &reference, Errors::Alike, left_out);
    }
}
