//! What the proxy answers by itself: a client library must be able to connect with its defaults and ask its questions (F11).

use crate::support::{Client, Fleet, Quoit, QuoitConfig, RedisServer, Value, encode};

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// The value of a field in a flat list or a map.
fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.items().chunks(2).find(|pair| pair[0].text() == name).map(|pair| &pair[1])
}

#[track_caller]
fn check_error(client: &mut Client, line: &str, start: &str) {
    let reply = client.line(line);
    assert!(reply.is_error() && reply.text().starts_with(start), "{line}: wanted {start}…, got {reply:?}");
}

#[test]
fn greetings() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    assert_eq!(client.line("PING"), Value::Simple(b"PONG".to_vec()));
    assert_eq!(client.line("PING hello"), Value::Bulk(b"hello".to_vec()));
    assert_eq!(client.line("ECHO hello"), Value::Bulk(b"hello".to_vec()));

    let hello = client.line("HELLO");
    assert!(matches!(hello, Value::Array(_)), "without a version RESP2 stays: {hello:?}");
    assert_eq!(field(&hello, "proto"), Some(&Value::Integer(2)));
    let hello = client.line("HELLO 3 SETNAME someone");
    assert!(matches!(hello, Value::Map(_)), "{hello:?}");
    for name in ["server", "version", "proto", "id", "mode", "role", "modules"] {
        assert!(field(&hello, name).is_some(), "no {name} in {hello:?}");
    }
    assert_eq!(field(&hello, "proto"), Some(&Value::Integer(3)));
    assert_eq!(client.line("CLIENT GETNAME"), Value::Bulk(b"someone".to_vec()));
    assert_eq!(client.command_raw(&["GET", "nothing"]).raw, b"_\r\n", "a null of RESP3");

    // A refused HELLO changes nothing.
    check_error(&mut client, "HELLO 4", "NOPROTO");
    check_error(&mut client, "HELLO 2 SETNAME", "ERR");
    assert_eq!(client.command_raw(&["GET", "nothing"]).raw, b"_\r\n");

    assert!(matches!(client.line("HELLO 2"), Value::Array(_)));
    assert_eq!(client.command_raw(&["GET", "nothing"]).raw, b"$-1\r\n");
    assert_eq!(client.line("RESET"), Value::Simple(b"RESET".to_vec()));
    assert_eq!(client.line("QUIT"), ok());
    assert!(client.try_receive().is_err(), "QUIT ends the connection");
}

#[test]
fn reset_puts_the_session_back() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    client.line("HELLO 3 SETNAME someone");
    assert_eq!(client.line("RESET"), Value::Simple(b"RESET".to_vec()));
    assert_eq!(client.command_raw(&["GET", "nothing"]).raw, b"$-1\r\n", "RESP2 again");
    assert!(client.line("CLIENT GETNAME").text().is_empty(), "no name");
}

/// F11: an unknown or refused command is an error, and the next one is served.
#[test]
fn the_connection_survives_what_is_not_served() {
    let Some(fleet) = Fleet::start(2) else { return };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    check_error(
        &mut client,
        "NOSUCHCOMMAND a b",
        "ERR unknown command 'NOSUCHCOMMAND', with args beginning with: 'a' 'b'",
    );
    let lines = [
        "SUBSCRIBE",
        "EXEC",
        "BLPOP a x",
        "BRPOPLPUSH a b -1",
        "XREAD BLOCK x STREAMS a 0",
        "SCRIPT DEBUG YES",
        "SCRIPT FLUSH NOW",
        "SCAN x",
        "KEYS",
        "FLUSHALL x",
        "PSYNC ? -1",
        "SYNC",
        "SHUTDOWN NOSAVE",
        "REPLICAOF NO ONE",
        "DEBUG RELOAD",
        "MIGRATE h 1 k 0 1",
        "SAVE",
        "SWAPDB 0 1",
        "FAILOVER",
        "CONFIG SET maxmemory 1",
        "ACL SETUSER x",
        "MODULE LOAD x",
        "CLIENT KILL ID 0",
        "CLIENT NOSUCH",
        "OBJECT NOSUCH k",
    ];
    for line in lines {
        let reply = client.line(line);
        assert!(reply.is_error(), "{line}: {reply:?}");
        assert!(reply.text().len() > 10, "{line}: an error says why: {reply:?}");
        assert_eq!(client.line("ECHO still-here").text(), "still-here", "after {line}");
    }
    // In one pipeline, between commands that work.
    let requests: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\nSET k v\r\n").into_bytes()).collect();
    for (index, reply) in client.pipeline(&requests, lines.len() * 2).iter().enumerate() {
        assert_eq!(reply.value.is_error(), index % 2 == 0, "{}: {reply:?}", lines[index / 2]);
    }
    for store in &fleet.stores {
        assert_eq!(store.client().line("PING").text(), "PONG", "no store was told to shut down");
    }
}

#[test]
fn about_the_client() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    assert!(client.line("CLIENT GETNAME").text().is_empty());
    assert_eq!(client.line("CLIENT SETNAME worker-7"), ok());
    assert_eq!(client.line("CLIENT GETNAME").text(), "worker-7");
    assert!(client.command(&["CLIENT", "SETNAME", "with space"]).is_error());
    for line in ["CLIENT SETINFO LIB-NAME some-library", "CLIENT SETINFO LIB-VER 1.2.3"] {
        // Redis 7.0 does not know SETINFO; the proxy does, since every newer library sends it.
        let reply = client.line(line);
        assert!(reply == ok() || fleet.quoit().is_none(), "{line}: {reply:?}");
    }
    for line in ["CLIENT NO-EVICT ON", "CLIENT NO-EVICT OFF", "CLIENT REPLY ON"] {
        assert_eq!(client.line(line), ok(), "{line}");
    }
    let Value::Integer(id) = client.line("CLIENT ID") else { panic!("CLIENT ID is a number") };
    let Value::Integer(other) = fleet.client().line("CLIENT ID") else { panic!("CLIENT ID is a number") };
    assert_ne!(id, other);
    let info = client.line("CLIENT INFO").text();
    assert!(info.contains(&format!("id={id} ")) && info.contains("name=worker-7"), "{info}");
    assert!(client.line("CLIENT LIST").text().contains(&format!("id={id} ")));
    check_error(&mut client, "CLIENT NOSUCH", "ERR unknown subcommand 'NOSUCH'");
}

#[test]
fn replies_can_be_switched_off() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    let lines = "SET a 1\r\nCLIENT REPLY OFF\r\nSET a 2\r\nGET a\r\nMGET a b c\r\nNOSUCH\r\nPING\r\nCLIENT REPLY ON\r\nGET a\r\n\
                 CLIENT REPLY SKIP\r\nGET a\r\nPING\r\n";
    client.send(lines.as_bytes());
    let got: Vec<_> = (0..4).map(|_| client.receive().value.text()).collect();
    assert_eq!(got, ["OK", "OK", "2", "PONG"]);
}

#[test]
fn about_the_commands() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    let Value::Integer(count) = client.line("COMMAND COUNT") else { panic!("COMMAND COUNT is a number") };
    let all = client.line("COMMAND");
    assert_eq!(all.items().len(), usize::try_from(count).expect("not negative"));
    assert!(all.items().iter().all(|row| row.items().len() >= 7), "rows as Redis 7 has them");
    let info = client.line("COMMAND INFO get nosuch");
    assert_eq!(info.items()[0].items()[0].text(), "get");
    assert_eq!(info.items()[0].items()[1], Value::Integer(2));
    assert_eq!(info.items()[1], Value::Null);
    let docs = client.line("COMMAND DOCS get");
    assert_eq!(docs.items()[0].text(), "get");
    assert!(field(&docs.items()[1], "summary").is_some(), "{docs:?}");
    assert!(client.line("COMMAND LIST").items().iter().any(|name| name.text() == "hset"));
    let keys = client.line("COMMAND GETKEYS MSET a 1 b 2");
    assert_eq!(keys.items().iter().map(Value::text).collect::<Vec<_>>(), ["a", "b"]);
    check_error(&mut client, "COMMAND NOSUCH", "ERR unknown subcommand");
}

#[test]
fn about_the_server() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut client = fleet.client();
    let info = client.line("INFO").text();
    let sections = info.lines().filter(|line| line.starts_with("# ")).count();
    assert!(sections >= 2, "{info}");
    for line in info.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.contains(':'), "not name:value: {line}");
    }
    for name in ["redis_version:", "process_id:", "uptime_in_seconds:", "connected_clients:", "redis_mode:"] {
        assert!(info.contains(name), "no {name} in {info}");
    }
    assert!(client.line("INFO server").text().contains("redis_version:"));
    assert!(!client.line("CONFIG GET maxmemory").is_error());
    assert!(!client.line("CONFIG GET *").is_error());
    assert_eq!(client.line("TIME").items().len(), 2);
}

/// SELECT of database 0 is what libraries send. A database that there is not leaves the client where it is.
#[test]
fn databases() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    assert_eq!(client.line("SELECT 0"), ok());
    assert!(client.line("SELECT 99999").is_error());
    assert!(client.line("SELECT zero").is_error());
    assert_eq!(client.line("SET k v"), ok());
    assert!(client.line("SELECT 16").is_error());
    assert_eq!(client.line("GET k").text(), "v", "still in database 0");
    assert_eq!(client.line("SELECT 1"), ok());
    assert_eq!(client.line("GET k"), Value::Null);
}

/// Local answers keep their place among answers that must be fetched.
#[test]
fn local_and_fetched_answers_in_one_pipeline() {
    let Some(fleet) = Fleet::start(3) else { return };
    let mut client = fleet.client();
    let mut requests = Vec::new();
    for number in 0..500 {
        let text = number.to_string();
        requests.extend(encode(&["ECHO", &text]));
        requests.extend(encode(&["SET", &format!("order:{}", number % 17), &text]));
        requests.extend(encode(&["GET", &format!("order:{}", number % 17)]));
        requests.extend(encode(&["NOSUCH", &text]));
        requests.extend(encode(&["MGET", &format!("order:{}", number % 17), "order:none"]));
    }
    let replies = client.pipeline(&requests, 2_500);
    for (number, replies) in replies.chunks(5).enumerate() {
        let text = number.to_string();
        assert_eq!(replies[0].value.text(), text);
        assert_eq!(replies[1].value, ok());
        assert_eq!(replies[2].value.text(), text);
        assert!(replies[3].value.text().contains(&format!("'{text}'")), "{:?}", replies[3]);
        assert_eq!(replies[4].value.items()[0].text(), text);
        assert_eq!(replies[4].value.items()[1], Value::Null);
    }
}

/// The listener asks for a password, the stores for another: the proxy knows the one and gives the other.
#[test]
fn passwords() {
    if std::env::var_os("QUOIT_TEST_SUBJECT").is_some() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, secret: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("{secret}\n")).expect("the file can be written");
        format!("password_file = \"{}\"", path.display())
    };
    let Some(store) = RedisServer::start() else { return };
    assert_eq!(store.client().line("CONFIG SET requirepass for-stores"), ok());
    let config = QuoitConfig::new([(Fleet::name(0), store.address())])
        .listener(&file("clients", "for-clients"))
        .node(&file("stores", "for-stores"));
    let quoit = Quoit::start(&config);
    let mut client = quoit.client();
    for line in ["GET k", "PING", "CLIENT GETNAME", "CONFIG GET *", "HELLO 3"] {
        check_error(&mut client, line, "NOAUTH");
    }
    check_error(&mut client, "AUTH wrong", "WRONGPASS");
    check_error(&mut client, "AUTH for-stores", "WRONGPASS");
    check_error(&mut client, "HELLO 3 AUTH default wrong", "WRONGPASS");
    assert_eq!(client.line("AUTH for-clients"), ok());
    assert_eq!(client.line("SET k v"), ok());
    assert_eq!(quoit.client().line("AUTH default for-clients"), ok());
    let mut client = quoit.client();
    assert!(matches!(client.line("HELLO 3 AUTH default for-clients SETNAME someone"), Value::Map(_)));
    assert_eq!(client.line("GET k").text(), "v");
    assert_eq!(client.line("RESET"), Value::Simple(b"RESET".to_vec()));
    check_error(&mut client, "GET k", "NOAUTH");
    for secret in ["for-clients", "for-stores"] {
        for page in ["/config", "/ring", "/metrics"] {
            assert!(!quoit.admin("GET", page).body.contains(secret), "{page} shows a secret");
        }
        assert!(!quoit.log().contains(secret), "the log shows a secret");
    }
}
