//! Verbs whose outcome is chance or a matter of time: one replica decides, and all of them must hold what it decided.

use std::collections::BTreeSet;

use super::done;
use crate::support::{Client, Cluster, PATIENCE, Reach, RedisServer, Reply, Value, encode, eventually};

/// Waits until every store gives one answer to a question about a key, apart from times.
#[track_caller]
fn stores_agree(cluster: &Cluster, question: &str) {
    if !cluster.has_proxies() {
        return;
    }
    let mut answers = BTreeSet::new();
    eventually(&format!("the stores agree on {question}"), PATIENCE, || {
        answers = cluster.stores.iter().map(|store| store.client().line(question).sorted()).collect();
        answers.len() == 1
    });
}

#[test]
fn members_by_chance() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut clients = cluster.clients();
    let members: BTreeSet<String> = (0..100).map(|number| format!("m{number}")).collect();
    let line = members.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(done(&mut clients[0], &format!("SADD bag {line}")), Value::Integer(100));
    let mut taken = BTreeSet::new();
    for turn in 0..20 {
        // Without a count, with one, and with one that is more than there is at the end.
        let popped = match turn % 2 {
            0 => vec![done(&mut clients[0], "SPOP bag")],
            _ => done(&mut clients[1], "SPOP bag 4").items().to_vec(),
        };
        for member in popped {
            assert!(taken.insert(member.text()), "{member:?} was popped twice");
        }
        let left: BTreeSet<_> = done(&mut clients[turn % 2], "SMEMBERS bag").items().iter().map(Value::text).collect();
        assert!(left.is_disjoint(&taken), "what was popped is still there");
        assert_eq!(&left | &taken, members, "what was not popped is gone");
        // Chance without a change.
        let member = done(&mut clients[turn % 2], "SRANDMEMBER bag").text();
        assert!(left.contains(&member), "{member} is no member");
    }
    assert_eq!(taken.len(), 50);
    cluster.converges("after SPOP");
    assert_eq!(done(&mut clients[0], "SPOP bag 500").items().len(), 50);
    assert_eq!(done(&mut clients[1], "EXISTS bag"), Value::Integer(0));
    assert_eq!(done(&mut clients[1], "SPOP bag"), Value::Null);
    cluster.converges("after the last SPOP");
}

#[test]
fn stream_ids_by_the_clock() {
    let Some(cluster) = Cluster::start_with(3, 3, Reach::Direct, |proxy, config| {
        config.environment("QUOIT_TEST_CLOCK_OFFSET_MS", &[0, 50, -50][proxy])
    }) else {
        return;
    };
    let mut clients = cluster.clients();
    let mut ids = Vec::new();
    for turn in 0..60 {
        let command = match turn % 3 {
            0 => "XADD events * field value",
            1 => "XADD events MAXLEN ~ 1000 * field value",
            _ => "XADD events NOMKSTREAM * field value",
        };
        // Proxies with different clocks take turns.
        ids.push(done(&mut clients[turn / 2 % 3], command).text());
    }
    let entries = done(&mut clients[1], "XRANGE events - +");
    let found: Vec<_> = entries.items().iter().map(|entry| entry.items()[0].text()).collect();
    assert_eq!(found, ids, "every id that was answered, in order, once");
    let number = |id: &String| -> (u64, u64) {
        let (ms, sequence) = id.split_once('-').expect("an id");
        (ms.parse().expect("a number"), sequence.parse().expect("a number"))
    };
    assert!(ids.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "{ids:?}");
    done(&mut clients[0], "XTRIM events MAXLEN ~ 10");
    stores_agree(&cluster, "XRANGE events - +");
    cluster.converges("after XADD");
}

#[test]
fn stream_groups() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut clients = cluster.clients();
    for number in 1..=20 {
        done(&mut clients[0], &format!("XADD jobs {number}-0 job {number}"));
    }
    done(&mut clients[0], "XGROUP CREATE jobs workers 0");
    let delivered = |reply: &Value| -> Vec<String> {
        let streams = reply.items();
        let entries = streams.first().map(|stream| stream.items()[1].items().to_vec()).unwrap_or_default();
        entries.iter().map(|entry| entry.items()[0].text()).collect()
    };
    let mut got = Vec::new();
    for turn in 0..10 {
        let line = format!("XREADGROUP GROUP workers w{} COUNT 2 STREAMS jobs >", turn % 2);
        got.extend(delivered(&done(&mut clients[turn % 2], &line)));
    }
    let wanted: Vec<_> = (1..=20).map(|number| format!("{number}-0")).collect();
    assert_eq!(got, wanted, "every job once");
    let more = done(&mut clients[0], "XREADGROUP GROUP workers w0 COUNT 2 STREAMS jobs >");
    assert_eq!(more, Value::Null);
    assert_eq!(done(&mut clients[1], "XACK jobs workers 1-0 2-0 3-0"), Value::Integer(3));
    let claimed = done(&mut clients[1], "XCLAIM jobs workers w9 0 4-0 5-0 JUSTID");
    assert_eq!(claimed.items().iter().map(Value::text).collect::<Vec<_>>(), ["4-0", "5-0"]);
    let claimed = done(&mut clients[0], "XAUTOCLAIM jobs workers w8 0 0 COUNT 3 JUSTID");
    assert_eq!(claimed.items()[1].items().iter().map(Value::text).collect::<Vec<_>>(), ["4-0", "5-0", "6-0"]);
    assert_eq!(done(&mut clients[1], "XPENDING jobs workers").items()[0], Value::Integer(17));
    for question in ["XPENDING jobs workers", "XINFO GROUPS jobs", "XRANGE jobs - +"] {
        stores_agree(&cluster, question);
    }
    cluster.converges("after the groups");
}

/// Times that are given as spans become points of time, the same on every replica.
#[test]
fn expiries() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut clients = cluster.clients();
    let lines = [
        "SET e:1 v EX 1000",
        "SET e:2 v PX 1000000",
        "SETEX e:3 1000 v",
        "PSETEX e:4 1000000 v",
        "SET e:5 v|EXPIRE e:5 1000",
        "SET e:6 v|PEXPIRE e:6 1000000",
        "SET e:7 v|GETEX e:7 EX 1000",
        "HSET e:8 f v|EXPIRE e:8 1000 NX",
        "RPUSH e:9 a|EXPIRE e:9 5|EXPIRE e:9 1000 GT",
        "SADD e:10 a|PEXPIRE e:10 5000000|PEXPIRE e:10 1000000 LT",
        "SET e:11 1 EX 1000|INCR e:11",
        "SET e:12 v EX 1000|APPEND e:12 w",
        "SET e:13 v EX 1000|SET e:13 w KEEPTTL",
        "SET {e}14 v EX 1000|COPY {e}14 {e}15",
        "SET {e}16 v EX 1000|RENAME {e}16 {e}17",
    ];
    for line in lines {
        for (turn, part) in line.split('|').enumerate() {
            done(&mut clients[turn % 2], part);
        }
    }
    let keys = (1..=13).map(|number| format!("e:{number}")).chain(["{e}14", "{e}15", "{e}17"].map(str::to_owned));
    for (turn, key) in keys.enumerate() {
        let Value::Integer(left) = done(&mut clients[turn % 2], &format!("PTTL {key}")) else { panic!("PTTL {key}") };
        assert!((900_000..=1_000_000).contains(&left), "{key} has {left} ms left");
    }
    cluster.converges("after expiries");
    for (line, gone) in [("SET e:1 v", "e:1"), ("PERSIST e:2", "e:2"), ("GETEX e:3 PERSIST", "e:3")] {
        done(&mut clients[0], line);
        assert_eq!(done(&mut clients[1], &format!("PTTL {gone}")), Value::Integer(-1));
    }
    // A time in the past is a delete.
    assert_eq!(done(&mut clients[0], "EXPIRE e:4 -1"), Value::Integer(1));
    assert_eq!(done(&mut clients[1], "EXISTS e:4"), Value::Integer(0));
    cluster.converges("after the end of expiries");
}

/// Keys expire on their own, everywhere, and can be written anew.
#[test]
fn keys_that_expire() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut clients = cluster.clients();
    for round in 0..3 {
        for number in 0..10 {
            done(&mut clients[number % 2], &format!("SET short:{number} {round} PX 150"));
        }
        eventually("the keys expire", PATIENCE, || {
            (0..10).all(|number| done(&mut clients[1], &format!("EXISTS short:{number}")) == Value::Integer(0))
        });
        for number in 0..10 {
            assert_eq!(done(&mut clients[0], &format!("APPEND short:{number} x")), Value::Integer(1));
        }
        cluster.converges("after expiry");
    }
}

/// F17: the commands of one client for one key happen in the order they were sent, whatever their classes.
#[test]
fn a_pipeline_keeps_its_order() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let Some(reference) = RedisServer::start() else { return };
    let (mut subject, mut reference) = (cluster.client(0), reference.client());
    // Blind writes, updates, opaque ones, and reads; each pair of neighbours meets in some line.
    let pipelines = [
        "SET K 1|GET K|SET K 2|GET K|SET K 3|GET K",
        "SET K 1|INCR K|GET K|SET K 5|INCR K|GET K|DEL K|GET K|INCR K",
        "INCR K|GET K|INCR K|GET K|DEL K|EXISTS K|INCR K|GET K",
        "APPEND K a|STRLEN K|APPEND K b|STRLEN K|SET K x|APPEND K c|GET K",
        "SET K 1|DEL K|GET K|SET K 2|GET K|DEL K|EXISTS K",
        "SADD K a|SPOP K|SCARD K|SADD K b|SMEMBERS K|SPOP K|EXISTS K|SADD K c|SCARD K",
        "SET K a|RENAME K {K}2|GET K|GET {K}2|SET K b|RENAME {K}2 K|GET K|EXISTS {K}2",
        "RPUSH K a b|LMOVE K {K}3 LEFT RIGHT|LRANGE {K}3 0 -1|LRANGE K 0 -1|RPUSH {K}3 c|LMOVE {K}3 K LEFT LEFT|LLEN K",
        "SADD K a|SADD {K}4 b|SUNIONSTORE {K}5 K {K}4|SCARD {K}5|SADD K c|SUNIONSTORE {K}5 K {K}4|SCARD {K}5|DEL K|SCARD {K}5",
        "MSET K 1 {K}6 2|MGET K {K}6|INCR K|MGET K {K}6|DEL K {K}6|MGET K {K}6|EXISTS K {K}6",
    ];
    for (number, line) in pipelines.iter().cycle().take(60).enumerate() {
        // Hash tags of their own: `{K}2` is in one with `K`.
        let tag = format!("{{k{number}}}");
        let line = line.replace("{K}", &tag).replace('K', &tag);
        let commands: Vec<Vec<&str>> = line.split('|').map(|command| command.split(' ').collect()).collect();
        let requests: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        let subjects = subject.pipeline(&requests, commands.len());
        let references = reference.pipeline(&requests, commands.len());
        let shown = |replies: &[Reply]| replies.iter().map(|reply| reply.value.sorted()).collect::<Vec<_>>();
        assert_eq!(shown(&subjects), shown(&references), "{line}");
    }
    cluster.converges("after pipelines");
}

/// What a store refuses is refused in its words, changes nothing, and leaves nothing behind that comes back later.
#[test]
fn errors_change_nothing() {
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let Some(reference) = RedisServer::start() else { return };
    let (mut subject, mut reference) = (cluster.client(0), reference.client());
    let lines = [
        "SET K word|INCR K|GET K|DEL K|GET K|GETDEL K|STRLEN K|GET K",
        "SET K 1|INCR K|DECRBY K x|APPEND K 2|GET K|DEL K|STRLEN K|GETDEL K|GET K",
        "RPUSH K a|LSET K 9 b|LSET K 0 c|LRANGE K 0 -1|DEL K|LLEN K|LPOP K|LLEN K",
        "ZADD K 1 a|HMSET K f v|HSET K f v|ZCARD K|DEL K|ZCARD K|HGET K f",
        "XADD K 5-1 f v|XADD K 5-1 f v|XGROUP CREATE K g 0|XGROUP CREATE K g 0|XGROUP DESTROY K h|XLEN K|DEL K|XLEN K",
        "SET K old|RESTORE K 0 rubbish|GET K|RESTORE K 0 rubbish REPLACE|GET K|DEL K|GET K|STRLEN K",
        "SADD K a|GETDEL K|GETSET K v|SCARD K|UNLINK K|SET K v XX|GET K|EXISTS K|SCARD K",
        "XGROUP CREATE K g 0|EXISTS K|LSET K 0 a|EXISTS K|RENAME K {K}2|EXISTS K",
    ];
    for (number, line) in lines.iter().cycle().take(lines.len() * 4).enumerate() {
        let tag = format!("{{k{number}}}");
        let line = line.replace("{K}", &tag).replace(" K", &format!(" {tag}"));
        for (at, command) in line.split('|').enumerate() {
            let (left, right) = (subject.line(command), reference.line(command));
            assert_eq!(left, right, "{command}, number {at} of {line}");
        }
    }
    cluster.converges("after errors");
}

/// A payload restores the same value on every replica; a broken one is refused and changes nothing.
#[test]
fn payloads() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut clients = cluster.clients();
    done(&mut clients[0], "RPUSH source a b c");
    let Value::Bulk(payload) = done(&mut clients[1], "DUMP source") else { panic!("a payload") };
    let restore = |client: &mut Client, key: &str, payload: &[u8], more: &[&str]| {
        let mut command = vec![b"RESTORE".to_vec(), key.as_bytes().to_vec(), b"0".to_vec(), payload.to_vec()];
        command.extend(more.iter().map(|word| word.as_bytes().to_vec()));
        client.command(&command)
    };
    assert_eq!(restore(&mut clients[0], "copy", &payload, &[]).text(), "OK");
    assert!(restore(&mut clients[1], "copy", &payload, &[]).text().starts_with("BUSYKEY"));
    assert_eq!(restore(&mut clients[1], "copy", &payload, &["REPLACE"]).text(), "OK");
    let broken = [&payload[..payload.len() - 1], b"x"].concat();
    for key in ["copy", "new"] {
        let refused = restore(&mut clients[0], key, &broken, &["REPLACE"]);
        assert!(refused.is_error() && refused.text().contains("payload"), "{refused:?}");
    }
    assert_eq!(done(&mut clients[1], "LRANGE copy 0 -1").items().len(), 3);
    assert_eq!(done(&mut clients[1], "EXISTS new"), Value::Integer(0));
    cluster.converges("after payloads");
}

/// Numbers beyond what a Lua number holds come back exactly.
#[test]
fn large_numbers() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut clients = cluster.clients();
    let large = 9_007_199_254_740_993_i64; // 2^53 + 1
    done(&mut clients[0], &format!("SET n {}", large - 1));
    assert_eq!(clients[1].line("INCR n"), Value::Integer(large));
    assert_eq!(clients[0].line("DECRBY n 2"), Value::Integer(large - 2));
    assert_eq!(clients[0].line(&format!("INCRBY m {}", i64::MAX)), Value::Integer(i64::MAX));
    assert!(clients[1].line("INCR m").is_error(), "it overflows");
    assert_eq!(clients[1].line(&format!("HINCRBY h f -{large}")), Value::Integer(-large));
    assert_eq!(done(&mut clients[0], "GET m").text(), i64::MAX.to_string());
    cluster.converges("after large numbers");
}

/// A `BITFIELD` of which a field fails makes the value longer, which stores from Redis 7.0 on do not write to their log: a
/// store that starts again must have it nevertheless, or its record speaks of another value than it holds.
#[test]
fn fields_that_fail() {
    let Some(mut cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    let mut client = cluster.client(0);
    let field = |key: &str| format!("BITFIELD {key} OVERFLOW FAIL INCRBY u21 533 -24");
    let failed = Value::Array(vec![Value::Null]);
    done(&mut client, "SET long x");
    for key in ["alone", "long"] {
        assert_eq!(done(&mut client, &field(key)), failed);
    }
    assert_eq!(client.line("MULTI").text(), "OK");
    for key in ["{of}one", "{of}two"] {
        assert_eq!(client.line(&field(key)).text(), "QUEUED");
    }
    assert_eq!(client.line("EXEC"), Value::Array(vec![failed.clone(), failed.clone()]));
    let script = "return redis.call('BITFIELD', KEYS[1], 'OVERFLOW', 'FAIL', 'INCRBY', 'u21', '533', '-24')";
    assert_eq!(client.command(&["EVAL", script, "1", "scripted"]), failed);
    let lengths = |client: &mut Client| {
        ["alone", "long", "{of}one", "{of}two", "scripted"].map(|key| done(client, &format!("STRLEN {key}")))
    };
    assert_eq!(lengths(&mut client), [70; 5].map(Value::Integer));
    for store in &mut cluster.stores {
        store.kill9();
        store.restart();
    }
    cluster.converges("after all stores started again");
    eventually("the stores are back", PATIENCE, || !client.line("GET alone").is_error());
    assert_eq!(lengths(&mut client), [70; 5].map(Value::Integer));
}
