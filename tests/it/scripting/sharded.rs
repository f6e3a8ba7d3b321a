//! One copy of each key: where programs run, what all nodes are told, and what ends a script.

use std::thread;

use super::{APPEND, APPEND_DIGEST, bulk, load};
use crate::support::{Client, Fleet, PATIENCE, Quoit, QuoitConfig, Value, encode, eventually};

#[test]
fn a_script_runs_where_its_keys_are() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut client = fleet.client();
    let keys = fleet.keys_by_node(2);
    for (store, keys) in fleet.stores.iter().zip(&keys) {
        assert_eq!(client.command(&["EVAL", APPEND, "1", &keys[0], "abc"]), Value::Integer(3));
        assert_eq!(store.client().command(&["GET", &keys[0]]), bulk("abc"));
        let both = client.command(&["EVAL", "return {KEYS[2],KEYS[1]}", "2", &keys[0], &keys[1]]);
        assert_eq!(both, Value::Array(vec![bulk(&keys[1]), bulk(&keys[0])]));
    }
    for verb in ["EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO", "FCALL", "FCALL_RO"] {
        let reply = client.command(&[verb, "return 1", "2", &keys[0][0], &keys[1][0]]);
        assert_eq!(reply.text(), "CROSSSLOT Keys in request don't hash to the same slot", "{verb}");
    }
}

/// Whatever proxy is asked: all of one file agree on the node.
#[test]
fn a_script_without_keys_runs_on_one_node() {
    let Some(fleet) = Fleet::start(3) else { return };
    let other = Quoit::start(&Fleet::config_of(&fleet.stores).workers(1));
    for mut client in [fleet.client(), other.client(), fleet.client()] {
        for _ in 0..4 {
            assert!(!client.command(&["EVAL", "return redis.call('INCR','here')", "0"]).is_error());
        }
    }
    let counts: Vec<Value> = fleet.stores.iter().map(|store| store.client().line("GET here")).collect();
    assert!(counts.contains(&bulk("12")), "{counts:?}");
    assert_eq!(counts.iter().filter(|count| **count == Value::Null).count(), 2, "{counts:?}");
}

#[test]
fn a_route_rewrites_keys_and_nothing_else() {
    let Some(stores) = Fleet::stores(2) else { return };
    let tables = format!(
        "[[listener.route]]\nprefix = \"s:\"\npool = \"other\"\nreplace_prefix = \"x:\"\n\
         [[pool]]\nname = \"other\"\n[[pool.node]]\nname = \"x\"\naddress = \"{}\"\n",
        stores[1].address()
    );
    let quoit = Quoit::start(&Fleet::config_of(&stores[..1]).listener(&tables));
    let mut client = quoit.client();
    let digest = load(&mut client, "return {KEYS[1], ARGV[1]}");
    let want = Value::Array(vec![bulk("x:1"), bulk("s:1")]);
    assert_eq!(client.command(&["EVALSHA", &digest, "1", "s:1", "s:1"]), want);
    assert_eq!(client.command(&["EVAL", "return {KEYS[1], ARGV[1]}", "1", "s:1", "s:1"]), want);
    assert_eq!(stores[1].client().line(&format!("SCRIPT EXISTS {digest}")), Value::Array(vec![Value::Integer(1)]));
    // What is healed is rewritten as well.
    assert_eq!(stores[1].client().line("SCRIPT FLUSH").text(), "OK");
    assert_eq!(client.command(&["EVALSHA", &digest, "1", "s:1", "s:1"]), want);
    assert_eq!(client.command(&["SCRIPT", "EXISTS", &digest]), Value::Array(vec![Value::Integer(1)]));
}

/// What is loaded in a pipeline can be run by its next request, on every node; and what came before is done before.
#[test]
fn a_pipeline_keeps_its_order() {
    let Some(fleet) = Fleet::start(3) else { return };
    let keys = fleet.keys_by_node(5);
    for round in 0..20 {
        let mut client = fleet.client();
        let script = format!("{APPEND} -- {round}");
        let mut requests = encode(&["SET", &keys[0][0], "x"]);
        requests.extend(encode(&["SCRIPT", "LOAD", &script]));
        let digest = load(&mut fleet.stores[0].client(), &script);
        let mut count = 2;
        for key in keys.iter().flatten() {
            requests.extend(encode(&["SET", key, "x"]));
            requests.extend(encode(&["EVALSHA", &digest, "1", key, "y"]));
            requests.extend(encode(&["GET", key]));
            count += 3;
        }
        let replies = client.pipeline(&requests, count);
        assert_eq!(replies[1].value, bulk(&digest));
        for three in replies[2..].chunks(3) {
            assert_eq!(three[1].value, Value::Integer(2));
            assert_eq!(three[2].value, bulk("xy"));
        }
        assert_eq!(client.command(&["SCRIPT", "FLUSH"]).text(), "OK");
    }
}

/// What was only run is found as well, wherever its next key is: in the same pipeline too.
#[test]
fn a_text_that_was_run_is_known_by_its_digest() {
    let Some(fleet) = Fleet::start(3) else { return };
    let keys = fleet.keys_by_node(2);
    let mut requests = encode(&["EVAL", APPEND, "1", &keys[0][0], "a"]);
    for key in keys.iter().flatten() {
        requests.extend(encode(&["EVALSHA", APPEND_DIGEST, "1", key, "b"]));
    }
    for reply in fleet.client().pipeline(&requests, 7) {
        assert!(matches!(reply.value, Value::Integer(_)), "{reply:?}");
    }
}

#[test]
fn replies_may_be_big() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    let digest = load(&mut client, "return {string.rep('x', tonumber(ARGV[1])), 'end'}");
    for bytes in [10, 40_000, 20_000_000] {
        let reply = client.command(&["EVALSHA", &digest, "1", "k", &bytes.to_string()]);
        assert_eq!(reply.items()[0].text().len(), bytes);
        assert_eq!(reply.items()[1], bulk("end"));
    }
}

#[test]
fn a_dead_node_is_named_and_told_later() {
    let Some(mut fleet) = Fleet::start(3) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    fleet.stores[1].kill9();
    for words in [
        vec!["SCRIPT", "LOAD", APPEND],
        vec!["SCRIPT", "EXISTS", APPEND_DIGEST],
        vec!["SCRIPT", "KILL"],
        vec!["FUNCTION", "LOAD", super::LIBRARY],
        vec!["FUNCTION", "DELETE", "shelf"],
    ] {
        let reply = client.command(&words);
        let text = reply.text();
        assert!(text.starts_with(&format!("ERR {} {} is not complete, repeat it: ", words[0], words[1])), "{reply:?}");
        assert!(text.contains(Fleet::name(1)), "{reply:?}");
        assert!(words[1] == "KILL" || !text.contains(Fleet::name(0)), "{reply:?}");
    }
    for node in [0, 2] {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[node][0], "a"]), Value::Integer(1));
    }
    let dead = client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[1][0], "a"]);
    assert!(dead.is_error() && dead.text().contains(Fleet::name(1)), "{dead:?}");
    fleet.stores[1].restart();
    eventually("the node is back, and has the script", PATIENCE, || {
        client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[1][0], "a"]) == Value::Integer(1)
    });
}

/// One that hangs costs its deadline, and only those who ask it.
#[test]
fn a_hanging_node_is_named() {
    let Some(fleet) = Fleet::start_with(3, |config| config.pool("service_timeout_ms = 300")) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut client = fleet.client();
    fleet.stores[2].pause();
    let reply = client.command(&["SCRIPT", "LOAD", APPEND]);
    assert!(reply.text().starts_with("ERR SCRIPT LOAD is not complete, repeat it: node "), "{reply:?}");
    assert!(reply.text().contains(Fleet::name(2)) && !reply.text().contains(Fleet::name(1)), "{reply:?}");
    for keys in &keys[..2] {
        assert_eq!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[0], "a"]), Value::Integer(1));
    }
    fleet.stores[2].resume();
    eventually("the node is back, and has the script", PATIENCE, || {
        matches!(client.command(&["EVALSHA", APPEND_DIGEST, "1", &keys[2][0], "a"]), Value::Integer(_))
    });
}

/// Ends, or is said to have something that cannot be ended, by whichever connection asks.
fn runs_until_killed(script: &str, kill: &[&str], want: &str) -> (Fleet, Client) {
    let mut stores = Vec::new();
    for _ in 0..2 {
        let program = crate::support::Program::Redis;
        let Some(store) = crate::support::RedisServer::start_with(program, &["--lua-time-limit", "50"]) else {
            panic!("asked before");
        };
        stores.push(store);
    }
    let fleet = Fleet::in_front_of(stores, |config: QuoitConfig| config.pool("service_timeout_ms = 60000"));
    let mut runner = fleet.client();
    if kill[0] == "FUNCTION" {
        let library = format!("#!lua name=slow\nredis.register_function('slow', function(keys) {script} end)");
        assert_eq!(runner.command(&["FUNCTION", "LOAD", &library]), bulk("slow"));
        runner.send(&encode(&["FCALL", "slow", "1", "k"]));
    } else {
        runner.send(&encode(&["EVAL", script, "1", "k"]));
    }
    let mut killer = fleet.client();
    eventually("something runs", PATIENCE, || {
        let reply = killer.command(kill);
        assert!(reply.text() == want || reply.text().starts_with("NOTBUSY"), "{reply:?}");
        reply.text() == want
    });
    (fleet, runner)
}

#[test]
fn a_script_that_runs_for_ever_is_killed() {
    if Fleet::stores(1).is_none() {
        return;
    }
    for kill in [["SCRIPT", "KILL"], ["FUNCTION", "KILL"]] {
        let (fleet, mut runner) = runs_until_killed("while true do end", &kill, "OK");
        let ended = runner.receive();
        assert!(ended.value.is_error() && ended.value.text().contains("killed by user"), "{ended:?}");
        assert!(runner.command(&kill).text().starts_with("NOTBUSY"));
        let mut client = fleet.client();
        assert_eq!(client.line("SET k v").text(), "OK");
    }
}

#[test]
fn a_script_that_has_written_cannot_be_killed() {
    if Fleet::stores(1).is_none() {
        return;
    }
    let script = "redis.call('SET', KEYS[1], 1) while true do end";
    let script = script.replace("KEYS[1]", "'k'");
    drop(runs_until_killed(
        &script,
        &["SCRIPT", "KILL"],
        "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script \
         termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.",
    ));
}

/// The stores keep a script that is being run apart: what tells of it goes past it too.
#[test]
fn what_runs_is_told_by_the_node_that_runs_it() {
    if Fleet::stores(1).is_none() {
        return;
    }
    let (fleet, _runner) = {
        let stores = (0..3).map(|_| {
            let program = crate::support::Program::Redis;
            crate::support::RedisServer::start_with(program, &["--lua-time-limit", "50"]).expect("asked before")
        });
        let fleet = Fleet::in_front_of(stores.collect(), |config| config.pool("service_timeout_ms = 60000"));
        let mut runner = fleet.client();
        let library = "#!lua name=slow\nredis.register_function('slow', function(keys) while true do end end)";
        assert_eq!(runner.command(&["FUNCTION", "LOAD", library]), bulk("slow"));
        runner.send(&encode(&["FCALL", "slow", "1", "k"]));
        (fleet, runner)
    };
    for protocol in ["2", "3"] {
        let mut client = fleet.client();
        client.line(&format!("HELLO {protocol}"));
        eventually("the node tells what it runs", PATIENCE, || {
            let stats = client.line("FUNCTION STATS");
            stats.items().get(1).is_some_and(|runs| runs.items().contains(&bulk("slow")))
        });
    }
    let mut client = fleet.client();
    thread::scope(|scope| drop(scope.spawn(|| assert_eq!(client.line("FUNCTION KILL").text(), "OK"))));
}

/// A read of a script is not a place for the debugger.
#[test]
fn what_needs_a_connection_of_its_own_is_refused() {
    let Some(fleet) = Fleet::start(1) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    let reply = client.line("SCRIPT DEBUG YES");
    assert!(reply.text().starts_with("ERR 'SCRIPT DEBUG' is refused by quoit: "), "{reply:?}");
    assert!(client.line("SCRIPT HELP").items()[0].text().starts_with("SCRIPT <subcommand>"));
    assert!(client.line("FUNCTION HELP").items()[0].text().starts_with("FUNCTION <subcommand>"));
}
