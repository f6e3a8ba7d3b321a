//! `CLIENT PAUSE`: who is held back is counted, what says that it writes nothing is not, and a transaction may begin one.

use crate::support::{Client, Fleet, PATIENCE, Value, encode, eventually};

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// How many clients wait.
fn blocked(boss: &mut Client) -> u64 {
    let text = boss.line("INFO clients").text();
    let line = text.lines().find_map(|line| line.strip_prefix("blocked_clients:")).expect("INFO has it");
    line.trim().parse().expect("a number")
}

fn wait_for_blocked(boss: &mut Client, count: u64) {
    eventually("as many clients are blocked", PATIENCE, || blocked(boss) == count);
}

#[test]
fn who_is_held_back_is_counted() {
    for copies in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.workers(2).replicas(copies)) else { return };
        let mut boss = fleet.client();
        let writes = ["SET k v", "PFCOUNT hll", "PUBLISH ch m", "EVAL return{1} 0", "SORT list", "FCALL none 0"];
        let mut clients: Vec<Client> = writes.iter().map(|_| fleet.client()).collect();
        assert_eq!(boss.line("CLIENT PAUSE 100000 WRITE"), ok());
        for (number, (client, line)) in (1..).zip(clients.iter_mut().zip(writes)) {
            client.send(format!("{line}\r\n").as_bytes());
            wait_for_blocked(&mut boss, number);
        }
        let mut gone = fleet.client();
        gone.send(b"SET gone v\r\n");
        wait_for_blocked(&mut boss, 7);
        let id = boss.line("CLIENT LIST").text();
        let id = id.lines().last().and_then(|line| line.strip_prefix("id=")?.split(' ').next().map(str::to_owned));
        assert_eq!(boss.line(&format!("CLIENT KILL ID {}", id.expect("a line"))), Value::Integer(1));
        wait_for_blocked(&mut boss, 6);
        assert_eq!(boss.line("CLIENT UNPAUSE"), ok());
        assert_eq!(blocked(&mut boss), 0);
        for client in &mut clients {
            drop(client.receive());
        }
        assert_eq!(clients[0].line("GET k").text(), "v");
    }
}

#[test]
fn what_says_that_it_only_reads_goes_on() {
    let Some(fleet) = Fleet::start_with(3, |config| config.workers(2)) else { return };
    let (mut boss, mut client) = (fleet.client(), fleet.client());
    assert_eq!(boss.line("SET x y"), ok());
    let library = "#!lua name=own\nredis.register_function{function_name='reads', callback=function() return 'r' end, \
                   flags={'no-writes'}}\nredis.register_function('writes', function() return 'w' end)";
    assert_eq!(boss.command(&["FUNCTION", "LOAD", "REPLACE", library]).text(), "own");
    let loaded = boss.command(&["SCRIPT", "LOAD", "#!lua flags=no-writes\nreturn 'loaded'"]).text();
    assert_eq!(boss.line("CLIENT PAUSE 100000 WRITE"), ok());

    let reads = "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])";
    for _ in 0..2 {
        assert_eq!(client.command(&["EVAL", reads, "1", "x"]).text(), "y");
        assert_eq!(client.command(&["EVALSHA", &loaded, "0"]).text(), "loaded");
        assert_eq!(client.command(&["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", "x"]).text(), "y");
        assert_eq!(client.line("FCALL reads 0").text(), "r");
    }
    assert_eq!(client.line("MULTI"), ok());
    for words in [&["GET", "x"][..], &["EVAL", reads, "1", "x"]] {
        assert_eq!(client.command(words).text(), "QUEUED");
    }
    assert_eq!(client.line("EXEC").items().len(), 2);
    assert_eq!(blocked(&mut boss), 0);

    // What is queued is looked at when it is to run.
    let mut writer = fleet.client();
    assert_eq!(boss.line("CLIENT UNPAUSE"), ok());
    assert_eq!(writer.line("MULTI"), ok());
    assert_eq!(writer.line("SET x z").text(), "QUEUED");
    assert_eq!(boss.line("CLIENT PAUSE 100000 WRITE"), ok());
    writer.send(&encode(&["EXEC"]));
    client.send(&encode(&["FCALL", "writes", "0"]));
    wait_for_blocked(&mut boss, 2);
    assert_eq!(boss.line("GET x").text(), "y");
    assert_eq!(boss.line("CLIENT UNPAUSE"), ok());
    assert_eq!(writer.receive().value.items(), [ok()]);
    assert_eq!(client.receive().value.text(), "w");
}

#[test]
fn a_transaction_begins_a_pause_with_its_end() {
    for copies in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.workers(2).replicas(copies)) else { return };
        let mut boss = fleet.client();
        let mut clients: Vec<Client> = (0..4).map(|_| fleet.client()).collect();
        assert_eq!(boss.line("MULTI"), ok());
        for line in ["SET a{t} 1", "CLIENT PAUSE 100000 WRITE", "SET b{t} 2", "CLIENT PAUSE x"] {
            assert_eq!(boss.line(line).text(), "QUEUED");
        }
        let replies = boss.line("EXEC");
        assert_eq!(replies.items()[..3], [ok(), ok(), ok()]);
        assert_eq!(replies.items()[3].text(), "ERR timeout is not an integer or out of range");
        for client in &mut clients {
            client.send(&encode(&["SET", "c{t}", "3"]));
        }
        wait_for_blocked(&mut boss, 4);
        assert_eq!(boss.line("MGET a{t} b{t} c{t}").items().iter().filter(|value| **value == Value::Null).count(), 1);
        for line in ["MULTI", "CLIENT UNPAUSE", "GET a{t}", "EXEC"] {
            assert!(!boss.line(line).is_error(), "{line}");
        }
        for client in &mut clients {
            assert_eq!(client.receive().value, ok());
        }
    }
}
