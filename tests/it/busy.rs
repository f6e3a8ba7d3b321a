//! A store that runs a script for longer than `busy-reply-threshold`: what its clients are told, and what goes past the script.

use crate::support::{Client, Fleet, PATIENCE, encode, eventually};

const BUSY: &str = "BUSY Redis is busy running a script.";

/// Three stores, of which one runs a script that does not end; who asked for it, and another client.
fn with_a_busy_store(lines: &str) -> Option<(Fleet, Client, Client)> {
    let fleet = Fleet::start_with(3, |config| config.workers(1).listener(lines).pool("service_timeout_ms = 60000"))?;
    fleet.quoit()?;
    let mut client = fleet.client();
    assert_eq!(client.line("CONFIG SET busy-reply-threshold 1").text(), "OK");
    let mut runs = fleet.client();
    runs.send(&encode(&["EVAL", "while true do end", "1", "k"]));
    eventually("a store is busy", PATIENCE, || {
        fleet.stores.iter().any(|store| store.client().line("GET x").text().starts_with(BUSY))
    });
    Some((fleet, runs, client))
}

fn end(mut runs: Client, client: &mut Client) {
    assert_eq!(client.line("SCRIPT KILL").text(), "OK");
    assert!(runs.receive().value.text().contains("Script killed"));
}

#[test]
fn a_setting_does_not_wait_for_a_script() {
    let Some((fleet, runs, mut client)) = with_a_busy_store("") else { return };
    let reply = client.line("CONFIG SET set-max-intset-entries 77");
    assert!(reply.text().starts_with(BUSY), "{reply:?}");
    assert_eq!(client.line("PING").text(), "PONG", "the proxy is there, and so are the other stores");
    let told = |fleet: &Fleet| {
        let of = |store: &crate::support::RedisServer| store.client().line("CONFIG GET set-max-intset-entries");
        fleet.stores.iter().filter(|store| of(store).items().last().is_some_and(|it| it.text() == "77")).count()
    };
    assert_eq!(told(&fleet), 2);
    end(runs, &mut client);
    assert_eq!(client.line("CONFIG SET set-max-intset-entries 77").text(), "OK", "the same again");
    assert_eq!(told(&fleet), 3);
}

/// A store reads nothing before its threshold is over. Who wants to end a script then has to wait, and is not turned away.
#[test]
fn a_script_is_ended_before_its_store_is_busy() {
    let Some(fleet) =
        Fleet::start_with(2, |config| config.pool("connect_timeout_ms = 100\nservice_timeout_ms = 60000"))
    else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    assert_eq!(client.line("CONFIG SET busy-reply-threshold 700").text(), "OK");
    let mut runs = fleet.client();
    runs.send(&encode(&["EVAL", "while true do end", "1", "k"]));
    eventually("the script runs and is ended", PATIENCE, || {
        let reply = client.line("SCRIPT KILL").text();
        assert!(reply == "OK" || reply.starts_with("NOTBUSY"), "{reply}");
        reply == "OK"
    });
    assert!(runs.receive().value.text().contains("Script killed"));
}

#[test]
fn a_ping_that_asks_the_stores() {
    let Some((mut fleet, runs, mut client)) = with_a_busy_store("ping_asks_stores = true") else { return };
    let reply = client.line("PING");
    assert!(reply.text().starts_with(BUSY), "{reply:?}");
    end(runs, &mut client);
    assert_eq!(client.line("PING").text(), "PONG");
    assert_eq!(client.line("PING text").text(), "text");
    // Behind a script of its own it waits, as on one server; in a transaction it is quoit's, as the other replies there.
    client.send(b"EVAL \"local n = 0; for i = 1, 3000000 do n = n + i end; return 'ran'\" 1 k\r\nPING\r\n");
    assert_eq!(client.receive().value.text(), "ran");
    assert_eq!(client.receive().value.text(), "PONG");
    for line in ["MULTI", "PING", "SET k v"] {
        assert!(!client.line(line).is_error());
    }
    assert_eq!(client.line("EXEC").items()[0].text(), "PONG");
    assert!(!client.line("SUBSCRIBE c").is_error());
    assert_eq!(client.line("PING").items()[0].text(), "pong");
    fleet.stores[1].kill9();
    let mut other = fleet.client();
    let reply = other.line("PING");
    assert!(reply.is_error() && reply.text().contains(Fleet::name(1)), "{reply:?}");
}

/// With several copies one store may be away.
#[test]
fn a_ping_where_keys_have_copies() {
    let Some(mut fleet) = Fleet::start_with(3, |config| config.replicas(3).listener("ping_asks_stores = true")) else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    fleet.stores[1].kill9();
    assert_eq!(client.line("PING").text(), "PONG");
    fleet.stores[2].kill9();
    assert!(client.line("PING").is_error());
}
