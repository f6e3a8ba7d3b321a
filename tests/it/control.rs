//! What one client does about others, and what the proxy says of itself: the replies are those of a real server where they
//! can be, and what cannot be the same is checked for what it means.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::support::{Client, Fleet, PATIENCE, Program, QuoitConfig, RedisServer, Value, encode, eventually};

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// The same lines to the proxy and to a store, in both protocols: the same bytes.
#[track_caller]
fn check_same(fleet: &Fleet, server: &RedisServer, lines: &[&str]) {
    let (mut ours, mut theirs) = (fleet.client(), server.client());
    let mut faults = Vec::new();
    for protocol in ["HELLO 2", "HELLO 3"] {
        ours.line(protocol);
        theirs.line(protocol);
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            let (got, want) = (ours.command_raw(&words), theirs.command_raw(&words));
            if got != want {
                faults.push(format!("{line} after {protocol}: wanted {want:?}, got {got:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The fields of a line of `CLIENT LIST`.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let found = line.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line}"))
}

fn own_line(client: &mut Client) -> String {
    client.line("CLIENT INFO").text().trim_end().to_owned()
}

fn id(client: &mut Client) -> i64 {
    let Value::Integer(id) = client.line("CLIENT ID") else { panic!("CLIENT ID is a number") };
    id
}

#[track_caller]
fn check_closed(client: &mut Client) {
    match client.try_receive() {
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
            "closed, not {error}"
        ),
        Ok(reply) => panic!("closed, not {reply:?}"),
    }
}

#[test]
fn mistakes_are_named_as_by_a_server() {
    let Some(fleet) = Fleet::start(1) else { return };
    check_same(
        &fleet,
        &fleet.stores[0],
        &[
            "CLIENT KILL 1.2.3.4:5",
            "CLIENT KILL ID 0",
            "CLIENT KILL ID x",
            "CLIENT KILL TYPE nothing",
            "CLIENT KILL USER nobody",
            "CLIENT KILL SKIPME maybe",
            "CLIENT KILL ADDR a LADDR",
            "CLIENT KILL WHAT x",
            "CLIENT KILL ID 999999999",
            "CLIENT KILL ADDR 1.2.3.4:5 TYPE normal SKIPME no",
            "CLIENT LIST TYPE nothing",
            "CLIENT LIST ID x",
            "CLIENT LIST WHAT",
            "CLIENT LIST ID 999999999",
            "CLIENT LIST TYPE replica",
            "CLIENT PAUSE x",
            "CLIENT PAUSE -1",
            "CLIENT PAUSE 0 SOME",
            "CLIENT PAUSE 0 ALL more",
            "CLIENT PAUSE 0",
            "CLIENT UNPAUSE",
            "CLIENT UNBLOCK x",
            "CLIENT UNBLOCK 999999999",
            "CLIENT UNBLOCK 999999999 ERROR",
            "CLIENT UNBLOCK 999999999 SOMEHOW",
            "CLIENT NO-EVICT maybe",
            "SLOWLOG LEN",
            "SLOWLOG RESET",
            "SLOWLOG GET -2",
            "SLOWLOG GET x",
            "SLOWLOG GET 1 2",
            "SLOWLOG NOSUCH",
            "LATENCY LATEST",
            "LATENCY HISTORY command",
            "LATENCY GRAPH command",
            "LATENCY RESET",
            "LATENCY RESET command fork",
            "LATENCY HISTOGRAM nosuch",
            "CONFIG RESETSTAT",
            "CONFIG GET maxmemory-policy",
            "CONFIG GET slowlog-m*",
            "CONFIG GET appendonly",
            "CONFIG GET save",
            "WAIT 0 0",
            "WAIT 0 10",
            "WAIT x 0",
            "WAIT -1 0",
            "WAIT 0 -1",
            "WAIT 0 x",
            "DEBUG",
            "CLUSTER SLOTS",
            "CLUSTER HELP",
            "READONLY",
            "ASKING",
        ],
    );
}

#[test]
fn newer_verbs_answer_as_by_newer_servers() {
    let Some(newer) = RedisServer::start_with(Program::Named("QUOIT_REDIS_8"), &[]) else { return };
    let Some(fleet) = Fleet::start(1) else { return };
    check_same(
        &fleet,
        &newer,
        &[
            "WAITAOF 0 0 0",
            "WAITAOF 0 0 10",
            "WAITAOF 0 1 10",
            "WAITAOF 1 0 0",
            "WAITAOF 2 0 0",
            "WAITAOF -1 0 0",
            "WAITAOF x 0 0",
            "WAITAOF 0 -1 0",
            "WAITAOF 0 x 0",
            "WAITAOF 0 0 -1",
            "WAITAOF 0 0 x",
            "CLIENT NO-TOUCH ON",
            "CLIENT NO-TOUCH OFF",
            "CLIENT NO-TOUCH maybe",
            "CLIENT KILL MAXAGE x",
            "CLIENT KILL MAXAGE 0",
            "CLIENT KILL MAXAGE -1",
            "CLIENT KILL MAXAGE 1000000",
            "CLIENT KILL MAXAGE 1000000 SKIPME no",
            "CLIENT KILL ID 0 SKIPME no",
            "CLIENT LIST ID 0",
            "CLIENT UNBLOCK 0 TIMEOUT",
            "CLIENT PAUSE 0 WRITE x",
            "SLOWLOG GET -1",
        ],
    );
}

/// Valkey's `COMMANDLOG` for what is slow.
#[test]
fn a_commandlog_is_a_slowlog() {
    let Some(valkey) = RedisServer::start_with(Program::Named("QUOIT_VALKEY"), &[]) else { return };
    let Some(fleet) = Fleet::start(1) else { return };
    let lines = ["COMMANDLOG LEN slow", "COMMANDLOG RESET slow", "COMMANDLOG GET 5 slow", "COMMANDLOG GET -2 slow"];
    check_same(&fleet, &valkey, &lines);
}

/// A replicated pool answers a write when its quorum has it: `WAIT` says how many that are beside the first.
#[test]
fn wait_tells_the_quorum() {
    for (replicas, level, want) in [(1, "", 0), (3, "", 1), (3, "level = \"all\"", 2), (3, "level = \"eventual\"", 0)] {
        let Some(fleet) = Fleet::start_with(3, |config| config.replicas(replicas).pool(level)) else { return };
        let mut client = fleet.client();
        let requests = [encode(&["SET", "k", "v"]), encode(&["WAIT", "2", "100"])].concat();
        let replies = client.pipeline(&requests, 2);
        assert_eq!(replies[0].value, ok(), "{replicas} {level}");
        assert_eq!(replies[1].value, Value::Integer(want), "{replicas} {level}");
    }
}

#[test]
fn clients_are_listed_with_what_is_known() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let mut clients: Vec<Client> = (0..6).map(|_| fleet.client()).collect();
    let ids: Vec<i64> = clients.iter_mut().map(id).collect();
    let lines = clients[0].line("CLIENT LIST").text();
    for wanted in &ids {
        assert_eq!(lines.lines().filter(|line| field(line, "id") == wanted.to_string()).count(), 1, "{lines}");
    }
    let listed: Vec<i64> = lines.lines().map(|line| field(line, "id").parse().expect("a number")).collect();
    assert!(listed.is_sorted(), "{listed:?}");
    let few = clients[0].line(&format!("CLIENT LIST ID {} {} 999999", ids[4], ids[2])).text();
    assert_eq!(few.lines().map(|line| field(line, "id")).collect::<Vec<_>>(), [ids[4].to_string(), ids[2].to_string()]);
    let theirs = own_line(&mut fleet.stores[0].client());
    let ours = own_line(&mut clients[1]);
    let names = |line: &str| -> Vec<String> {
        line.split(' ').map(|part| part.split('=').next().expect("a name").to_owned()).collect()
    };
    let known = names(&theirs);
    for name in names(&ours) {
        // Newer servers have these.
        let newer = ["watch", "lib-name", "lib-ver"].contains(&name.as_str());
        assert!(newer || known.contains(&name), "a server has no field {name}: {theirs}");
    }
    assert_eq!(field(&ours, "laddr"), fleet.address().to_string());
    assert_eq!((field(&ours, "cmd"), field(&ours, "user"), field(&ours, "flags")), ("client|info", "default", "N"));
    clients[1].line("CLIENT NO-TOUCH ON");
    clients[1].line("CLIENT NO-EVICT ON");
    assert_eq!(field(&own_line(&mut clients[1]), "flags"), "eT");
    clients[1].line("RESET");
    assert_eq!(field(&own_line(&mut clients[1]), "flags"), "N");
    assert_eq!(clients[1].line("CLIENT LIST TYPE pubsub").text(), "");
    assert!(clients[1].line("CLIENT LIST TYPE normal").text().lines().count() >= 6);
}

#[test]
fn clients_are_closed() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let mut killer = fleet.client();
    let mut others: Vec<Client> = (0..8).map(|_| fleet.client()).collect();
    let lines: Vec<String> = others.iter_mut().map(own_line).collect();
    let address = field(&lines[0], "addr");
    assert_eq!(killer.line(&format!("CLIENT KILL {address}")), ok(), "the old form");
    check_closed(&mut others[0]);
    assert_eq!(killer.line(&format!("CLIENT KILL {address}")).text(), "ERR No such client");
    let kill = |killer: &mut Client, filters: &str| killer.line(&format!("CLIENT KILL {filters}"));
    assert_eq!(kill(&mut killer, &format!("ID {}", field(&lines[1], "id"))), Value::Integer(1));
    check_closed(&mut others[1]);
    assert_eq!(kill(&mut killer, &format!("ADDR {} USER default", field(&lines[2], "addr"))), Value::Integer(1));
    check_closed(&mut others[2]);
    assert_eq!(kill(&mut killer, "MAXAGE 100000 SKIPME no"), Value::Integer(0));
    assert_eq!(kill(&mut killer, "TYPE pubsub SKIPME no"), Value::Integer(0));
    assert_eq!(kill(&mut killer, "LADDR 1.2.3.4:5 SKIPME no"), Value::Integer(0));
    assert_eq!(others[3].line("PING").text(), "PONG");
    assert_eq!(kill(&mut killer, &format!("LADDR {}", fleet.address())), Value::Integer(5), "all but who asks");
    others[3..].iter_mut().for_each(check_closed);
    assert_eq!(killer.line("PING").text(), "PONG");
    assert_eq!(kill(&mut killer, "TYPE normal SKIPME no"), Value::Integer(1), "who asks has its reply");
    check_closed(&mut killer);
}

/// While a pause holds, nothing that it holds back gets through; afterwards everything does, in order.
#[test]
fn requests_are_held_back() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    let mut boss = fleet.client();
    let mut clients: Vec<Client> = (0..4).map(|_| fleet.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.line(&format!("SET paused:{number} before")), ok());
    }
    assert_eq!(boss.line("CLIENT PAUSE 100000 WRITE"), ok());
    for (number, client) in clients.iter_mut().enumerate() {
        let key = format!("paused:{number}");
        let requests = [encode(&["GET", &key]), encode(&["SET", &key, "after"]), encode(&["GET", &key])].concat();
        client.send(&requests);
        assert_eq!(client.receive().value.text(), "before", "reads go on");
    }
    for number in 0..4 {
        assert_eq!(boss.line(&format!("GET paused:{number}")).text(), "before");
    }
    let lines = boss.line("CLIENT LIST").text();
    assert_eq!(lines.lines().filter(|line| field(line, "flags") == "b").count(), 4, "{lines}");
    assert_eq!(boss.line("CLIENT UNPAUSE"), ok());
    for client in &mut clients {
        assert_eq!(client.receive().value, ok());
        assert_eq!(client.receive().value.text(), "after");
    }
}

#[test]
fn a_pause_ends_by_itself() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let mut clients: Vec<Client> = (0..4).map(|_| fleet.client()).collect();
    let span = Duration::from_millis(400);
    let begun = Instant::now();
    assert_eq!(clients[0].line(&format!("CLIENT PAUSE {}", span.as_millis())), ok());
    for client in &mut clients {
        client.send(&encode(&["PING"]));
    }
    for client in &mut clients {
        assert_eq!(client.receive().value.text(), "PONG");
    }
    assert!(begun.elapsed() >= span, "everything waits for the end of a pause of all");
}

/// What is passed on while it is received is held back too, and shown.
#[test]
fn a_big_value_is_held_back_and_shown() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2).pool("stream_threshold_bytes = 65_536")) else {
        return;
    };
    let (mut boss, mut monitor, mut client) = (fleet.client(), fleet.client(), fleet.client());
    assert_eq!(monitor.line("MONITOR"), ok());
    assert_eq!(boss.line("CLIENT PAUSE 100000 WRITE"), ok());
    let value = "x".repeat(200_000);
    client.send(&[encode(&["GET", "big"]), encode(&["SET", "big", &value]), encode(&["STRLEN", "big"])].concat());
    assert_eq!(client.receive().value, Value::Null);
    let own = client.local_address().to_string();
    eventually("the client is held back", PATIENCE, || {
        let lines = boss.line("CLIENT LIST").text();
        lines.lines().any(|line| field(line, "addr") == own && field(line, "flags") == "b")
    });
    assert_eq!(boss.line("GET big"), Value::Null, "not yet");
    assert_eq!(boss.line("CLIENT UNPAUSE"), ok());
    assert_eq!(client.receive().value, ok());
    assert_eq!(client.receive().value, Value::Integer(200_000));
    loop {
        let line = shown(&monitor.receive().value);
        assert!(line.len() < 1000, "the value is not shown whole");
        if line.starts_with("\"SET\" \"big\"") {
            break;
        }
    }
}

#[test]
fn nothing_holds_up_the_end() {
    let Some(mut fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let (mut client, mut sleeper, mut monitor) = (fleet.client(), fleet.client(), fleet.client());
    assert_eq!(monitor.line("MONITOR"), ok());
    sleeper.send(&encode(&["DEBUG", "SLEEP", "1000"]));
    eventually("the sleeper sleeps", PATIENCE, || {
        client.line("CLIENT LIST").text().lines().any(|line| field(line, "cmd") == "debug")
    });
    assert_eq!(client.line("CLIENT PAUSE 100000"), ok());
    client.send(&encode(&["SET", "k", "v"]));
    let Some(quoit) = fleet.quoit_mut() else { return };
    assert!(quoit.terminate().success());
    assert_eq!(client.receive().value, ok(), "what has come in is served");
    assert_eq!(sleeper.receive().value, ok(), "and ends early");
}

#[test]
fn one_client_sleeps_alone() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1)) else { return };
    let (mut sleeper, mut other) = (fleet.client(), fleet.client());
    let requests = [encode(&["DEBUG", "SLEEP", "0.2"]), encode(&["PING"])].concat();
    let begun = Instant::now();
    sleeper.send(&requests);
    assert_eq!(other.line("PING").text(), "PONG");
    assert_eq!(sleeper.receive().value, ok());
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(sleeper.receive().value.text(), "PONG");
    for line in ["DEBUG SLEEP 0", "DEBUG SLEEP x", "DEBUG SLEEP -1"] {
        assert_eq!(sleeper.line(line), ok(), "{line}");
    }
    let refused = sleeper.line("DEBUG RELOAD");
    assert!(refused.is_error() && refused.text().contains("'DEBUG' is refused by quoit"), "{refused:?}");
}

/// What is answered by all workers, or later, has no place in a transaction; what is answered at once has.
#[test]
fn within_a_transaction() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    let later = ["CLIENT KILL ID 1", "CLIENT UNBLOCK 1", "DEBUG SLEEP 0", "MONITOR", "QUOIT HELP"];
    for line in later {
        assert_eq!(client.line("MULTI"), ok());
        assert!(client.line(line).is_error(), "{line}");
        assert!(client.line("EXEC").text().starts_with("EXECABORT"), "{line}");
    }
    assert_eq!(client.line("MULTI"), ok());
    for line in ["SET k v", "WAIT 0 0", "SLOWLOG LEN", "LATENCY LATEST", "LOLWUT", "INFO server", "CLIENT NO-TOUCH ON"]
    {
        assert_eq!(client.line(line).text(), "QUEUED", "{line}");
    }
    let replies = client.line("EXEC");
    assert_eq!(replies.items().len(), 7, "{replies:?}");
    assert!(replies.items().iter().all(|reply| !reply.is_error()), "{replies:?}");
}

// --- SLOWLOG --------------------------------------------------------------------------------------------------------

#[test]
fn slow_requests_are_kept() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2).proxy("slowlog_us = 0\nslowlog_len = 5")) else {
        return;
    };
    let mut client = fleet.client();
    client.line("CLIENT SETNAME slow-one");
    assert_eq!(client.line("SLOWLOG RESET"), ok());
    let long = "x".repeat(300);
    client.command(&["SET", "slow:key", &long]);
    client.command(&std::iter::once("DEL").chain(std::iter::repeat_n("k", 40)).collect::<Vec<_>>());
    let entries = client.line("SLOWLOG GET");
    let own = own_line(&mut client);
    let [newer, older, local] = entries.items() else { panic!("three entries: {entries:?}") };
    let words = |entry: &Value| entry.items()[3].items().iter().map(Value::text).collect::<Vec<_>>();
    assert_eq!(
        words(older),
        ["SET".to_owned(), "slow:key".to_owned(), format!("{}... (172 more bytes)", "x".repeat(128))]
    );
    let shown = words(newer);
    assert_eq!((shown.len(), shown[31].as_str()), (32, "... (10 more arguments)"));
    assert_eq!(newer.items()[4].text(), field(&own, "addr"));
    assert_eq!(newer.items()[5].text(), "slow-one");
    assert!(matches!(newer.items()[2], Value::Integer(took) if took >= 0));
    let ids: Vec<_> = entries.items().iter().map(|entry| entry.items()[0].clone()).collect();
    assert_eq!(ids, [Value::Integer(3), Value::Integer(2), Value::Integer(1)]);
    assert_eq!(words(local), ["SLOWLOG", "RESET"], "what quoit answers by itself is kept too");
    // The same request on a server: the same words.
    let mut store = fleet.stores[0].client();
    store.line("CONFIG SET slowlog-log-slower-than 0");
    store.line("SLOWLOG RESET");
    store.command(&["SET", "slow:key", &long]);
    store.command(&std::iter::once("DEL").chain(std::iter::repeat_n("k", 40)).collect::<Vec<_>>());
    let theirs = store.line("SLOWLOG GET");
    assert_eq!(words(&theirs.items()[0]), words(newer));
    assert_eq!(words(&theirs.items()[1]), words(older));
    assert_eq!(words(&theirs.items()[2]), words(local));
    assert_eq!(theirs.items().len(), entries.items().len());
    assert_eq!(theirs.items()[0].items().len(), newer.items().len());
    for _ in 0..10 {
        client.line("GET slow:key");
    }
    assert_eq!(client.line("SLOWLOG LEN"), Value::Integer(5), "no more than asked for");
    assert_eq!(client.line("SLOWLOG GET 2").items().len(), 2);
    assert_eq!(client.line("SLOWLOG GET -1").items().len(), 5);
    assert_eq!(client.line("COMMANDLOG LEN slow"), Value::Integer(5));
    assert_eq!(client.line("COMMANDLOG GET 3 slow").items().len(), 3);
    assert!(client.line("COMMANDLOG GET 3 large-reply").is_error());
    assert_eq!(client.line("COMMANDLOG RESET slow"), ok());
    assert_eq!(fleet.client().line("SLOWLOG LEN"), Value::Integer(1), "the reset itself");
}

/// Only what took long is kept: a store that stands still makes its request slow, and no other.
#[test]
fn fast_requests_are_not_kept() {
    let Some(fleet) = Fleet::start_with(1, |config| {
        config.workers(1).proxy("slowlog_us = 100_000").pool("service_timeout_ms = 20_000")
    }) else {
        return;
    };
    let mut client = fleet.client();
    let requests: Vec<u8> = (0..500).flat_map(|_| encode(&["INCR", "count"])).collect();
    client.pipeline(&requests, 500);
    client.line("SLOWLOG RESET");
    let mut store = fleet.stores[0].client();
    store.send(&encode(&["CLIENT", "PAUSE", "2000", "ALL"]));
    assert_eq!(store.receive().value, ok());
    client.line("GET slow");
    let entries = client.line("SLOWLOG GET");
    assert_eq!(entries.items().len(), 1, "{entries:?}");
    assert_eq!(entries.items()[0].items()[3].items()[1].text(), "slow");
    let off = |config: QuoitConfig| config.proxy("slowlog_us = -1");
    let quiet = Fleet::in_front_of(fleet.stores, off);
    let mut client = quiet.client();
    client.line("GET slow");
    assert_eq!(client.line("SLOWLOG LEN"), Value::Integer(0));
    assert_eq!(client.line("CONFIG GET slowlog-log-slower-than").items()[1].text(), "-1");
}

// --- MONITOR --------------------------------------------------------------------------------------------------------

/// What stands behind time and address.
fn shown(line: &Value) -> String {
    let text = line.text();
    let (head, request) = text.split_once("] ").unwrap_or_else(|| panic!("no line of MONITOR: {text}"));
    let (time, client) = head.split_once(" [0 ").unwrap_or_else(|| panic!("no line of MONITOR: {text}"));
    assert!(time.parse::<f64>().is_ok_and(|time| time > 1.0e9), "{text}");
    assert!(client.parse::<std::net::SocketAddr>().is_ok(), "{text}");
    request.to_owned()
}

/// What a monitor sees of some requests, up to the echo that ends them.
fn watched(address: std::net::SocketAddr, requests: &[Vec<Vec<u8>>]) -> Vec<String> {
    let mut monitor = Client::connect(address);
    assert_eq!(monitor.line("MONITOR"), ok());
    let mut client = Client::connect(address);
    for request in requests {
        client.command(request);
    }
    client.line("ECHO end-of-the-test");
    let mut lines = Vec::new();
    loop {
        let line = shown(&monitor.receive().value);
        if line.contains("end-of-the-test") {
            return lines;
        }
        lines.push(line);
    }
}

#[test]
fn a_monitor_sees_what_a_servers_monitor_sees() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let words = |line: &str| line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut requests: Vec<Vec<Vec<u8>>> = [
        "SET key value",
        "get key",
        "MGET a b c",
        "DEL a b c",
        "INCR key",
        "HELLO 2 AUTH default secret",
        "HELLO 3 AUTH default secret SETNAME me",
        "AUTH secret",
        "AUTH default secret",
        "AUTH nobody secret",
        "CLIENT ID",
        "CLIENT LIST",
        "CLIENT SETNAME name",
        "CONFIG GET port",
        "SLOWLOG GET",
        "NOSUCH command",
        "GET",
        "PING",
        "SCAN 0",
        "DBSIZE",
        "COMMAND COUNT",
        "SELECT 0",
        "RESET",
    ]
    .iter()
    .map(|line| words(line))
    .collect();
    requests.push(vec![b"SET".to_vec(), b"\x00\"\\\r\n\t\x07\x08 \xff".to_vec(), Vec::new()]);
    assert_eq!(watched(fleet.address(), &requests), watched(fleet.stores[0].address(), &requests));
}

#[test]
fn a_monitor_sees_all_workers_and_no_password() {
    let password = "open-sesame";
    let environment = |config: QuoitConfig| {
        config.workers(2).listener("password_env = \"CONTROL_TEST\"").environment("CONTROL_TEST", &password)
    };
    let Some(fleet) = Fleet::start_with(1, environment) else { return };
    let sign_in = |client: &mut Client| assert_eq!(client.line(&format!("AUTH {password}")), ok());
    let mut monitor = fleet.client();
    assert!(monitor.line("MONITOR").text().starts_with("NOAUTH"));
    sign_in(&mut monitor);
    assert_eq!(monitor.line("MONITOR"), ok());
    let mut clients: Vec<Client> = (0..6).map(|_| fleet.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(client.line("GET early").is_error());
        assert!(client.line("AUTH wrong-sesame").is_error());
        sign_in(client);
        client.line(&format!("HELLO 3 AUTH default {password}"));
        client.line(&format!("GET number-{number}"));
    }
    let mut seen = Vec::new();
    while (0..6).any(|number| !seen.contains(&format!("\"GET\" \"number-{number}\""))) {
        seen.push(shown(&monitor.receive().value));
    }
    assert!(seen.iter().all(|line| !line.contains("sesame") && !line.contains("early")), "{seen:?}");
    assert!(seen.contains(&"\"AUTH\" \"(redacted)\"".to_owned()), "{seen:?}");
    assert_eq!(field(&own_line_of(&fleet, password, &mut monitor), "flags"), "O");
    // A monitor may still ask, and ends with RESET.
    assert!(fleet.quoit().is_none_or(|quoit| !quoit.log().contains("sesame")));
}

/// The line of another client, found by its address.
fn own_line_of(fleet: &Fleet, password: &str, client: &mut Client) -> String {
    let local = client.local_address().to_string();
    let mut asker = fleet.client();
    assert_eq!(asker.line(&format!("AUTH {password}")), ok());
    let lines = asker.line("CLIENT LIST").text();
    lines.lines().find(|line| field(line, "addr") == local).unwrap_or_else(|| panic!("no {local}: {lines}")).to_owned()
}

#[test]
fn a_monitor_can_be_something_else_again() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(2)) else { return };
    let mut monitor = fleet.client();
    assert_eq!(monitor.line("MONITOR"), ok());
    monitor.send(b"PING\r\n");
    let mut seen = [monitor.receive().value, monitor.receive().value].map(|value| value.text());
    seen.sort();
    assert!(seen[0].ends_with("\"PING\"") && seen[1] == "PONG", "{seen:?}");
    monitor.send(b"MONITOR\r\nRESET\r\n");
    while monitor.receive().value.text() != "RESET" {}
    fleet.client().line("GET unseen");
    assert_eq!(monitor.line("GET own").text(), "");
    assert_eq!(monitor.line("PING").text(), "PONG", "nothing is shown any more");
}

#[test]
fn a_monitor_that_does_not_read_is_closed() {
    let config = |config: QuoitConfig| config.workers(2).listener("client_output_bytes_max = 1_048_576");
    let Some(fleet) = Fleet::start_with(1, config) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut monitor = fleet.client();
    assert_eq!(monitor.line("MONITOR"), ok());
    let mut client = fleet.client();
    let value = "x".repeat(64 * 1024);
    let request: Vec<u8> = (0..16).flat_map(|_| encode(&["SET", "big", &value])).collect();
    eventually("the monitor is closed", PATIENCE, || {
        client.pipeline(&request, 16);
        quoit.metric_sum("quoit_output_limit_kills_total") >= 1.0
    });
    assert_eq!(client.line("PING").text(), "PONG", "and nobody else");
    let lines = client.line("CLIENT LIST").text();
    assert!(lines.lines().all(|line| field(line, "flags") != "O"), "{lines}");
}

// --- what the proxy says of itself ----------------------------------------------------------------------------------

#[test]
fn info_has_the_sections_of_a_server() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    let (mut ours, mut theirs) = (fleet.client(), fleet.stores[0].client());
    let titles =
        |text: &str| -> Vec<String> { text.lines().filter(|line| line.starts_with("# ")).map(str::to_owned).collect() };
    let fields = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
    };
    let (mine, real) = (ours.line("INFO").text(), theirs.line("INFO everything").text());
    let known = titles(&real);
    for title in titles(&mine) {
        assert!(title == "# Quoit" || known.contains(&title), "{title}");
    }
    let known = fields(&real);
    let newer = ["client_output_buffer_limit_disconnections", "async_loading"];
    for name in fields(mine.split("# Quoit").next().expect("the first part")) {
        assert!(known.contains(&name) || newer.contains(&name.as_str()), "a server has no {name}");
    }
    let value = |client: &mut Client, name: &str| -> f64 {
        let text = client.line("INFO").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().expect("a number")
    };
    for name in ["used_memory", "used_memory_peak", "total_connections_received", "connected_clients"] {
        assert!(value(&mut ours, name) > 0.0, "{name}");
    }
    for name in ["used_cpu_user", "used_cpu_sys"] {
        assert!(value(&mut ours, name) >= 0.0, "{name}");
    }
    let before = value(&mut ours, "total_commands_processed");
    (0..100).for_each(|_| drop(ours.line("SET k v")));
    assert!(value(&mut ours, "total_commands_processed") >= before + 100.0);
    assert_eq!(ours.line("CONFIG RESETSTAT"), ok());
    assert!(value(&mut ours, "total_commands_processed") < before + 100.0);
    eventually("a rate is measured", PATIENCE, || {
        (0..50).for_each(|_| drop(ours.line("SET k v")));
        value(&mut ours, "instantaneous_ops_per_sec") > 0.0
    });
    for section in ["server", "clients", "memory", "stats", "replication", "cpu", "cluster", "keyspace", "nosuch"] {
        let (mine, real) =
            (ours.line(&format!("INFO {section}")).text(), theirs.line(&format!("INFO {section}")).text());
        assert_eq!(titles(&mine), titles(&real), "{section}");
    }
    assert_eq!(titles(&ours.line("INFO cpu quoit").text()), ["# CPU", "# Quoit"]);
}

#[test]
fn settings_are_in_the_file() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    for line in ["CONFIG SET maxmemory 1", "CONFIG REWRITE"] {
        let reply = client.line(line);
        assert!(reply.is_error() && reply.text().contains("edit"), "{line}: {reply:?}");
    }
    let got = client.line("CONFIG GET maxclients cluster-enabled");
    assert_eq!(
        got.items().iter().map(Value::text).collect::<Vec<_>>(),
        ["cluster-enabled", "no", "maxclients", "10000"]
    );
}

#[test]
fn a_picture() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    for line in ["LOLWUT", "LOLWUT VERSION 5", "LOLWUT VERSION 5 3", "LOLWUT 0", "LOLWUT 1000000"] {
        let text = client.line(line).text();
        assert!(text.contains("quoit ver. ") && text.len() < 4096, "{line}: {text}");
    }
}

// --- QUOIT NODE -----------------------------------------------------------------------------------------------------

#[test]
fn one_node_is_asked() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut client = fleet.client();
    for (index, store) in fleet.stores.iter().enumerate() {
        let name = Fleet::name(index);
        let info = client.line(&format!("QUOIT NODE {name} INFO server")).text();
        assert!(info.contains(&format!("tcp_port:{}\r\n", store.address().port())), "{name}: {info}");
        assert_eq!(client.line(&format!("QUOIT NODE main/{name} PING")).text(), "PONG");
    }
    for line in [
        "SLOWLOG GET 1",
        "SLOWLOG LEN",
        "LATENCY LATEST",
        "LATENCY DOCTOR",
        "MEMORY STATS",
        "MEMORY DOCTOR",
        "CLIENT LIST",
        "CONFIG GET maxmemory",
        "DBSIZE",
        "COMMAND COUNT",
        "ROLE",
        "TIME",
    ] {
        let reply = client.line(&format!("QUOIT NODE {} {line}", Fleet::name(1)));
        assert!(!reply.is_error(), "{line}: {reply:?}");
    }
    for line in [
        "FLUSHALL",
        "SET k v",
        "GET k",
        "CONFIG SET maxmemory 1",
        "CONFIG RESETSTAT",
        "SLOWLOG RESET",
        "CLIENT KILL ID 1",
        "SHUTDOWN",
        "MONITOR",
        "SUBSCRIBE a",
        "MULTI",
        "DEBUG SLEEP 1",
        "CLIENT REPLY OFF",
        "NOSUCH",
        "INFO",
    ] {
        let node = if line == "INFO" { "nosuch" } else { Fleet::name(1) };
        let reply = client.line(&format!("QUOIT NODE {node} {line}"));
        assert!(reply.is_error(), "{line}: {reply:?}");
    }
    for pattern in ["*", "requirepass", "MASTER*", "maxmemory masterauth", "require????"] {
        let reply = client.line(&format!("QUOIT NODE {} CONFIG GET {pattern}", Fleet::name(1)));
        assert!(reply.is_error() && reply.text().contains("passwords"), "{pattern}: {reply:?}");
    }
    let keys = client.line("QUOIT NODE");
    assert!(keys.is_error() && keys.text().contains("NODE name command"), "{keys:?}");
}

/// Replies of one node keep their place among those of others, and a node that is down is named.
#[test]
fn a_node_that_is_down_is_named() {
    let Some(mut fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    assert_eq!(client.line(&format!("QUOIT NODE {} PING", Fleet::name(1))).text(), "PONG");
    fleet.stores[1].kill9();
    eventually("the node is down", PATIENCE, || {
        let reply = client.line(&format!("QUOIT NODE {} PING", Fleet::name(1)));
        reply.is_error() && reply.text().contains(Fleet::name(1))
    });
    assert_eq!(client.line(&format!("QUOIT NODE {} PING", Fleet::name(0))).text(), "PONG");
}
