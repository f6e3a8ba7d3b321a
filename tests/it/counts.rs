//! What a proxy counts of each verb, in the words of Redis; and the settings of its slow log, which clients change.

use std::collections::BTreeMap;

use crate::support::{Client, Fleet, PATIENCE, RedisServer, Value, encode, eventually};

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// The lines of a section of `INFO`, by name.
fn section(client: &mut Client, name: &str) -> BTreeMap<String, String> {
    let text = client.line(&format!("INFO {name}")).text();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Calls, rejected calls, failed calls.
fn counts(line: &str) -> [u64; 3] {
    let fields: BTreeMap<&str, &str> = line.split(',').filter_map(|field| field.split_once('=')).collect();
    ["calls", "rejected_calls", "failed_calls"].map(|name| fields[name].parse().expect("a number"))
}

fn value_of(client: &mut Client, name: &str) -> String {
    client.line(&format!("CONFIG GET {name}")).items()[1].text()
}

/// The same requests to quoit and to a server: the same counts.
#[test]
fn counts_are_those_of_a_server() {
    let Some(server) = RedisServer::start() else { return };
    let requests: &[&[&str]] = &[
        &["SET", "k", "v"],
        &["SET", "k"],
        &["GET", "k"],
        &["LPUSH", "k", "x"],
        &["no-such-verb"],
        &["EVALSHA", "0000000000000000000000000000000000000000", "0"],
        &["MULTI"],
        &["GET", "k"],
        &["SET"],
        &["EXEC"],
        &["AUTH", "wrong"],
        &["CLIENT", "GETNAME"],
        &["SET", "k", "w"],
        &["XGROUP", "CREATECONSUMER", "none", "g", "c"],
        &["DEL", "k"],
    ];
    for copies in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.workers(2).replicas(copies)) else { return };
        let (mut ours, mut theirs) = (fleet.client(), server.client());
        for client in [&mut ours, &mut theirs] {
            client.line("GET before");
            assert_eq!(client.line("CONFIG RESETSTAT"), ok());
            for request in requests {
                client.command(request);
            }
        }
        let (got, want) = (section(&mut ours, "commandstats"), section(&mut theirs, "commandstats"));
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
        for (name, line) in &want {
            // Where a server sees that nothing of a transaction ran, a proxy has its commands counted when they are queued.
            if name != "cmdstat_get" {
                assert_eq!(counts(&got[name]), counts(line), "{name} {copies}");
            }
        }
        assert_eq!(section(&mut ours, "errorstats"), section(&mut theirs, "errorstats"));
        let total = |client: &mut Client| section(client, "stats")["total_error_replies"].clone();
        assert_eq!(total(&mut ours), total(&mut theirs));
        let latencies = section(&mut ours, "latencystats");
        let line = &latencies["latency_percentiles_usec_set"];
        assert!(line.starts_with("p50=") && line.contains(",p99=") && line.contains(",p99.9="), "{line}");
        // The clients of other workers count too, and what is not asked for is not shown.
        let mut others: Vec<Client> = (0..4).map(|_| fleet.client()).collect();
        for client in &mut others {
            assert_eq!(client.line("SET k v"), ok());
        }
        assert_eq!(counts(&section(&mut ours, "all")["cmdstat_set"]), [6, 2, 0]);
        assert!(!section(&mut ours, "default").contains_key("cmdstat_set"));
        assert!(section(&mut ours, "default").contains_key("errorstat_ERR"));

        assert_eq!(ours.line("CONFIG RESETSTAT"), ok());
        assert_eq!(section(&mut ours, "commandstats").keys().collect::<Vec<_>>(), ["cmdstat_config|resetstat"]);
        assert!(section(&mut ours, "errorstats").is_empty());
    }
}

#[test]
fn histograms_are_shown_by_verb() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    assert_eq!(client.line("CONFIG RESETSTAT"), ok());
    for line in ["SET a b", "SET c d", "GET a", "CLIENT ID", "CLIENT GETNAME"] {
        client.line(line);
    }
    let names = |reply: &Value| reply.items().iter().step_by(2).map(Value::text).collect::<Vec<_>>();
    let all = client.line("LATENCY HISTOGRAM");
    assert_eq!(names(&all), ["client|getname", "client|id", "config|resetstat", "get", "set"]);
    assert_eq!(names(&client.line("LATENCY HISTOGRAM client")), ["client|getname", "client|id"]);
    assert_eq!(names(&client.line("LATENCY HISTOGRAM nosuch SET CLIENT|ID zadd")), ["set", "client|id"]);
    let set = &client.line("LATENCY HISTOGRAM set").items()[1].clone();
    let [calls, count, histogram, buckets] = set.items() else { panic!("two fields: {set:?}") };
    assert_eq!((calls.text(), count, histogram.text()), ("calls".into(), &Value::Integer(2), "histogram_usec".into()));
    assert_eq!(buckets.items().last(), Some(&Value::Integer(2)), "the last bucket has all: {buckets:?}");
}

#[test]
fn the_slow_log_is_set_while_it_runs() {
    let Some(mut fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    let mut boss = fleet.client();
    let mut clients: Vec<Client> = (0..4).map(|_| fleet.client()).collect();
    assert_eq!(boss.line("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 6"), ok());
    for client in &mut clients {
        assert_eq!(value_of(client, "slowlog-log-slower-than"), "0");
        assert_eq!(value_of(client, "slowlog-max-len"), "6");
    }
    boss.line("SLOWLOG RESET");
    for (number, client) in clients.iter_mut().enumerate() {
        client.line(&format!("SET slow:{number} v"));
    }
    let words = |entry: &Value| entry.items()[3].items().iter().map(Value::text).collect::<Vec<_>>().join(" ");
    let mut seen: Vec<String> = boss.line("SLOWLOG GET").items().iter().map(words).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["SET slow:0 v", "SET slow:1 v", "SET slow:2 v", "SET slow:3 v", "SLOWLOG RESET"]);

    // No password is kept, whatever becomes of the request.
    for line in ["AUTH u secret", "HELLO 3 AUTH u secret", "CONFIG SET requirepass secret", "ACL SETUSER u >secret"] {
        boss.line(line);
    }
    for entry in boss.line("SLOWLOG GET").items() {
        assert!(!words(entry).contains("secret"), "{entry:?}");
    }
    assert_eq!(boss.line("SLOWLOG LEN"), Value::Integer(6), "no more than asked for");

    // What holds in the file holds again after a reload.
    assert_eq!(boss.line("CONFIG SET slowlog-log-slower-than -1"), ok());
    boss.line("SLOWLOG RESET");
    boss.line("SET k v");
    assert_eq!(boss.line("SLOWLOG LEN"), Value::Integer(0));
    let Some(quoit) = fleet.quoit_mut() else { return };
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    eventually("the file holds", PATIENCE, || value_of(&mut boss, "slowlog-log-slower-than") == "10000");
}

#[test]
fn values_that_do_not_fit_are_refused_as_by_a_server() {
    let Some(server) = RedisServer::start() else { return };
    let Some(fleet) = Fleet::start(2) else { return };
    let (mut ours, mut theirs) = (fleet.client(), server.client());
    for line in [
        "CONFIG SET slowlog-log-slower-than x",
        "CONFIG SET slowlog-log-slower-than -2",
        "CONFIG SET LATENCY-monitor-threshold -1",
        "CONFIG SET slowlog-max-len 5 slowlog-max-len 6",
        "CONFIG SET hash-max-listpack-entries 5 slowlog-max-len x",
        "CONFIG SET slowlog-max-len 5 hash-max-listpack-entries x",
    ] {
        assert_eq!(ours.line(line), theirs.line(line), "{line}");
        for setting in ["slowlog-max-len", "hash-max-listpack-entries"] {
            assert_eq!(value_of(&mut ours, setting), value_of(&mut theirs, setting), "all or nothing: {line}");
        }
    }
    let most = ours.line("CONFIG SET slowlog-max-len 65537");
    assert!(most.text().ends_with("argument must be between 0 and 65536 inclusive"), "{most:?}");
    assert_eq!(ours.line("CONFIG SET slowlog-max-len 5 hash-max-listpack-entries 6"), ok());
    assert_eq!(value_of(&mut ours, "slowlog-max-len"), "5");
    assert_eq!(value_of(&mut fleet.stores[0].client(), "hash-max-listpack-entries"), "6");
}

/// What takes long is an event once a threshold is set, and shown as by a server.
#[test]
fn events_are_watched() {
    let debug = ["--enable-debug-command", "yes"];
    let Some(server) = RedisServer::start_with(crate::support::Program::Redis, &debug) else { return };
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let (mut ours, mut theirs) = (fleet.client(), server.client());
    for client in [&mut ours, &mut theirs] {
        client.line("DEBUG SLEEP 0.03");
        assert_eq!(client.line("LATENCY LATEST").items().len(), 0);
        assert_eq!(client.line("CONFIG SET latency-monitor-threshold 20"), ok());
        assert_eq!(client.line("LATENCY RESET"), Value::Integer(0));
        client.line("PING");
        client.line("DEBUG SLEEP 0.03");
        let latest = client.line("LATENCY LATEST");
        let [event] = latest.items() else { panic!("one event: {latest:?}") };
        assert_eq!(event.items()[0].text(), "command");
        let took = |value: &Value| matches!(value, Value::Integer(ms) if *ms >= 30);
        assert!(event.items().len() == 4 && took(&event.items()[2]) && took(&event.items()[3]), "{event:?}");
        let history = client.line("LATENCY HISTORY command");
        assert!(history.items().len() == 1 && took(&history.items()[0].items()[1]), "{history:?}");
        assert_eq!(client.line("LATENCY HISTORY fork").items().len(), 0);
        assert!(client.line("LATENCY GRAPH command").text().starts_with("command - high "));
        assert!(client.line("LATENCY GRAPH fork").is_error());
        assert!(client.line("LATENCY DOCTOR").text().contains("command"));
        assert_eq!(client.line("LATENCY RESET fork"), Value::Integer(0));
        assert_eq!(client.line("LATENCY RESET fork command"), Value::Integer(1));
        assert_eq!(client.line("LATENCY LATEST").items().len(), 0);
    }
    // What a store answers late is an event too.
    let mut store = fleet.stores[0].client();
    store.send(&encode(&["CLIENT", "PAUSE", "50", "ALL"]));
    assert_eq!(store.receive().value, ok());
    ours.line("GET k");
    assert_eq!(ours.line("LATENCY LATEST").items()[0].items()[0].text(), "fast-command");
}
