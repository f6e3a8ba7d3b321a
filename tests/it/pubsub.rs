//! Messages: each once, in order, to all who listen, whatever becomes of stores and of other clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, Cluster, Fleet, PATIENCE, Program, Quoit, QuoitConfig, Reach, RedisServer, Value, encode, eventually,
};

/// A client that listens: its replies and what it is told unasked come in one stream.
struct Listener(Client);

impl Listener {
    #[track_caller]
    fn new(address: SocketAddr, line: &str) -> Self {
        let mut listener = Self(Client::connect(address));
        let words: Vec<&str> = line.split(' ').collect();
        let first = listener.0.command(&words);
        assert!(!first.is_error(), "{line}: {first:?}");
        for _ in 2..words.len() {
            listener.0.receive();
        }
        listener
    }

    /// What the next message says: `channel text`, with the pattern before it if there is one.
    #[track_caller]
    fn next(&mut self) -> String {
        let message = self.0.receive().value;
        let words: Vec<String> = message.items().iter().map(Value::text).collect();
        assert!(words.first().is_some_and(|word| word.ends_with("message")), "{message:?}");
        words[1..].join(" ")
    }

    /// Whether nothing has come. A message that must not come is looked for behind one that must.
    #[track_caller]
    fn check(&mut self, want: &[&str]) {
        for want in want {
            assert_eq!(self.next(), *want);
        }
    }
}

#[track_caller]
fn publish(client: &mut Client, channel: &str, text: &str) -> i64 {
    match client.command(&["PUBLISH", channel, text]) {
        Value::Integer(count) => count,
        other => panic!("PUBLISH {channel}: {other:?}"),
    }
}

/// Two proxies with two workers each.
fn two_proxies(stores: &[RedisServer], change: impl Fn(QuoitConfig) -> QuoitConfig) -> [Quoit; 2] {
    [0, 1].map(|_| Quoit::start(&change(impatient(Fleet::config_of(stores)))))
}

/// Breakers that look again soon.
fn impatient(config: QuoitConfig) -> QuoitConfig {
    config
        .pool("connect_timeout_ms = 500\nqueue_timeout_ms = 500\nservice_timeout_ms = 500")
        .tables("[pool.breaker]\nfailures = 3\nbackoff_min_ms = 20\nbackoff_max_ms = 200\nramp_ms = 100")
}

fn has_proxy() -> bool {
    std::env::var_os("QUOIT_TEST_SUBJECT").is_none()
}

/// Lines, and how many frames answer each. A line that begins with `!` is said by somebody else, and heard or not.
const DIALOGUE: &[(&str, usize)] = &[
    ("UNSUBSCRIBE", 1),
    ("PUNSUBSCRIBE", 1),
    ("SUNSUBSCRIBE", 1),
    ("UNSUBSCRIBE nothing", 1),
    ("SUBSCRIBE", 1),
    ("SUBSCRIBE a", 1),
    ("!PUBLISH a text", 1),
    ("PING", 1),
    ("PING hello", 1),
    ("PING hello you", 1),
    ("PSUBSCRIBE a* b?", 2),
    ("!PUBLISH a text", 2),
    ("!PUBLISH ab text", 1),
    ("!PUBLISH bc text", 1),
    ("SSUBSCRIBE s", 1),
    ("!SPUBLISH s text", 1),
    ("!PUBLISH s text", 0),
    ("!SPUBLISH a text", 0),
    ("SUBSCRIBE c a c", 3),
    ("GET x", 1),
    ("CONFIG GET save", 1),
    ("NOSUCHVERB", 1),
    ("PUBLISH", 1),
    ("PUBSUB NUMPAT x", 1),
    ("UNSUBSCRIBE a nothing c", 3),
    ("!PUBLISH a text", 1),
    ("PUNSUBSCRIBE b?", 1),
    ("PUNSUBSCRIBE", 1),
    ("PUNSUBSCRIBE", 1),
    ("PING", 1),
    ("SUNSUBSCRIBE nothing", 1),
    ("SUNSUBSCRIBE", 1),
    ("PING", 1),
    ("GET x", 1),
    ("SUBSCRIBE a", 1),
    ("RESET", 1),
    ("!PUBLISH a text", 0),
    ("PING", 1),
    ("SPUBLISH", 1),
    ("PUBSUB", 1),
    ("PUBSUB NOSUCH", 1),
    ("PUBSUB CHANNELS", 1),
    ("PUBSUB NUMSUB", 1),
    ("PUBSUB NUMSUB a b", 1),
    ("PUBSUB NUMPAT", 1),
    ("PUBSUB SHARDNUMSUB s", 1),
    ("PUBSUB SHARDCHANNELS", 1),
];

/// All that is said in the dialogue, as bytes. The end of each answer is known by an `ECHO` of somebody who listens, so that
/// a frame too many is seen.
fn converse(address: SocketAddr, store: Option<SocketAddr>, protocol: &str) -> Vec<(String, Vec<u8>)> {
    let (mut client, mut other) = (Client::connect(address), Client::connect(store.unwrap_or(address)));
    assert!(!client.line(&format!("HELLO {protocol}")).is_error());
    let mut heard = Vec::new();
    for &(line, frames) in DIALOGUE {
        // RESET ends what HELLO began.
        let words: Vec<&str> = line.trim_start_matches('!').split(' ').collect();
        if line.starts_with('!') {
            other.command(&words);
        } else {
            client.send(&encode(&words));
        }
        let bytes = (0..frames).flat_map(|_| client.receive().raw).collect();
        heard.push((line.to_owned(), bytes));
    }
    client.send(&encode(&["QUIT"]));
    heard.push(("QUIT".to_owned(), client.receive().raw));
    assert!(client.try_receive().is_err(), "QUIT closes the connection");
    heard
}

#[track_caller]
fn same_dialogue(one: &[(String, Vec<u8>)], other: &[(String, Vec<u8>)], what: &str) {
    for ((line, one), (_, other)) in one.iter().zip(other) {
        assert_eq!(one.escape_ascii().to_string(), other.escape_ascii().to_string(), "{what}: {line}");
    }
}

#[test]
fn a_dialogue_is_the_same_bytes_as_with_one_server() {
    let Some(server) = RedisServer::start() else { return };
    for nodes in [1, 3] {
        let Some(fleet) = Fleet::start(nodes) else { return };
        for protocol in ["2", "3"] {
            let want = converse(server.address(), None, protocol);
            let got = converse(fleet.address(), None, protocol);
            same_dialogue(&got, &want, &format!("{nodes} nodes, RESP{protocol}"));
            // What is published at any store itself is heard as well, but for shard channels, which have their nodes.
            if nodes == 1 {
                let got = converse(fleet.address(), Some(fleet.stores[0].address()), protocol);
                same_dialogue(&got, &want, &format!("published at the store, RESP{protocol}"));
            }
        }
    }
}

/// Other servers behind the proxy: what is no error is the same. Errors about arguments are those of Redis 7.0.
#[test]
fn a_dialogue_is_the_same_with_other_servers() {
    for variable in ["QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let Some(store) = RedisServer::start_with(Program::Named(variable), &[]) else { continue };
        let fleet = Fleet::in_front_of(vec![store], |config| config);
        for protocol in ["2", "3"] {
            let want = converse(fleet.stores[0].address(), None, protocol);
            let got = converse(fleet.address(), None, protocol);
            let both: Vec<_> = got.into_iter().zip(want).filter(|(_, want)| !want.1.starts_with(b"-")).collect();
            let (got, want): (Vec<_>, Vec<_>) = both.into_iter().unzip();
            same_dialogue(&got, &want, &format!("{variable}, RESP{protocol}"));
        }
    }
}

/// A program subscribes without waiting for the confirmation, and then hands out the work whose end is published. Many do,
/// Celery for one: a server reads what was sent first first.
#[test]
fn a_message_is_heard_by_those_who_asked_before() {
    if !has_proxy() {
        return;
    }
    for replicas in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.workers(1).replicas(replicas)) else { return };
        let [mut listener, mut client, mut worker] = [(); 3].map(|()| fleet.client());
        eventually("the pool serves", PATIENCE, || !client.line("SET there yes").is_error());
        for round in 0..200 {
            let channel = format!("done:{round}");
            let verb = ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"][round % 3];
            listener.send(&encode(&[verb, &channel]));
            assert!(!client.line("LPUSH work job").is_error());
            let published = match round % 4 {
                2 => worker.command(&["SPUBLISH", &channel, "text"]),
                3 => {
                    worker.line("MULTI");
                    worker.command(&["SET", &format!("result:{round}"), "1"]);
                    worker.command(&["PUBLISH", &channel, "text"]);
                    worker.line("EXEC").items()[1].clone()
                }
                _ => worker.command(&["PUBLISH", &channel, "text"]),
            };
            let is_for = (verb == "SSUBSCRIBE") == (round % 4 == 2);
            assert_eq!(published, Value::Integer(i64::from(is_for)), "{verb} {channel}");
            assert_eq!(listener.receive().value.items()[0].text(), verb.to_lowercase());
            if is_for {
                let message = listener.receive().value;
                assert_eq!(message.items().last().map(Value::text), Some("text".to_owned()), "{verb} {channel}");
            }
            let end = verb.replace("SUB", "UNSUB");
            listener.send(&encode(&[&end, &channel]));
            assert_eq!(listener.receive().value.items()[0].text(), end.to_lowercase());
        }
    }
}

#[test]
fn each_message_is_heard_once_and_in_order_through_every_proxy() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(3) else { return };
    let proxies = two_proxies(&stores, |config| config);
    let addresses = proxies.each_ref().map(Quoit::address);
    let mut listeners: Vec<Listener> = (0..8)
        .flat_map(|number| {
            let address = addresses[number % 2];
            [Listener::new(address, "SUBSCRIBE news:1 news:2 news:3"), Listener::new(address, "PSUBSCRIBE news:*")]
        })
        .collect();
    let senders: Vec<_> = (0..6)
        .map(|sender| {
            let address = addresses[sender % 2];
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let requests: Vec<u8> = (0..400)
                    .flat_map(|number| {
                        encode(&["PUBLISH", &format!("news:{}", number % 3 + 1), &format!("{sender} {number}")])
                    })
                    .collect();
                for reply in client.pipeline(&requests, 400) {
                    assert!(matches!(reply.value, Value::Integer(2..)), "{reply:?}");
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("a sender");
    }
    for listener in &mut listeners {
        let mut last = [[None; 6]; 3];
        for _ in 0..2_400 {
            let heard = listener.next();
            let words: Vec<&str> = heard.split(' ').collect();
            let [.., channel, sender, number] = words[..] else { panic!("{heard}") };
            let channel: usize = channel.trim_start_matches("news:").parse().expect("a channel");
            let sender: usize = sender.parse().expect("a sender");
            let number: i32 = number.parse().expect("a number");
            let last = &mut last[channel - 1][sender];
            assert!(last.is_none_or(|last| last < number), "{heard} after {last:?}");
            *last = Some(number);
        }
    }
    // And nothing twice: this one is next.
    let mut client = proxies[0].client();
    publish(&mut client, "news:1", "last 0");
    for listener in &mut listeners {
        assert!(listener.next().ends_with("news:1 last 0"));
    }
}

/// A store counts connections of workers; what clients are told counts clients, as far as this process knows them.
#[test]
fn counts_are_of_clients() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(3) else { return };
    let [one, two] = two_proxies(&stores, |config| config);
    let mut listeners: Vec<Listener> = (0..7).map(|_| Listener::new(one.address(), "SUBSCRIBE news")).collect();
    let pattern: Vec<Listener> = (0..5).map(|_| Listener::new(one.address(), "PSUBSCRIBE n*")).collect();
    let _shard: Vec<Listener> = (0..4).map(|_| Listener::new(one.address(), "SSUBSCRIBE news")).collect();
    let _direct: Vec<Listener> = stores.iter().map(|store| Listener::new(store.address(), "SUBSCRIBE news")).collect();
    let mut client = one.client();
    assert_eq!(publish(&mut client, "news", "text"), 7 + 5 + 1);
    assert_eq!(publish(&mut client, "nothing", "text"), 5);
    assert_eq!(publish(&mut client, "other", "text"), 0);
    assert_eq!(client.line("SPUBLISH news text"), Value::Integer(4));
    assert_eq!(client.line("PUBSUB NUMSUB news").items()[1], Value::Integer(7 + 1));
    assert_eq!(client.line("PUBSUB SHARDNUMSUB news").items()[1], Value::Integer(4));
    // Another proxy sees as much as its stores do: at least that there is somebody.
    let mut other = two.client();
    assert!((3..=5).contains(&publish(&mut other, "news", "text")));
    listeners.truncate(2);
    eventually("five have gone", PATIENCE, || publish(&mut client, "news", "text") == 2 + 5 + 1);
    assert!((one.metric_sum("quoit_subscribers") - 11.0).abs() < 0.5);
    assert!((one.metric_sum("quoit_subscriptions") - 11.0).abs() < 0.5);
    assert!(one.metric_sum("quoit_messages_delivered_total") > 30.0);
    drop((listeners, pattern));
    eventually("all have gone", PATIENCE, || publish(&mut client, "nothing", "text") == 0);
}

#[test]
fn what_is_published_by_a_script_or_at_a_store_is_heard() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start(3) else { return };
    let mut listener = Listener::new(fleet.address(), "SUBSCRIBE a b");
    for (number, store) in fleet.stores.iter().enumerate() {
        let text = format!("{number}");
        assert_eq!(
            store.client().command(&["EVAL", "return redis.call('PUBLISH', 'a', ARGV[1])", "0", &text]),
            Value::Integer(1)
        );
        publish(&mut store.client(), "b", &text);
    }
    let heard: BTreeSet<String> = (0..6).map(|_| listener.next()).collect();
    assert_eq!(heard.into_iter().collect::<Vec<_>>(), ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2"]);
}

/// Subscribers at a store, as it counts them.
fn subscribers(store: &RedisServer, channel: &str) -> i64 {
    match store.client().command(&["PUBSUB", "NUMSUB", channel]).items() {
        [_, Value::Integer(count)] => *count,
        other => panic!("PUBSUB NUMSUB {channel}: {other:?}"),
    }
}

fn listens(store: &RedisServer, channel: &str) -> bool {
    subscribers(store, channel) > 0
}

/// How many messages a store was given.
fn published(store: &RedisServer) -> u64 {
    let text = store.client().command(&["INFO", "commandstats"]).text();
    let line = text.lines().find(|line| line.starts_with("cmdstat_publish:calls=")).unwrap_or_default();
    line.split(['=', ',']).nth(1).and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

#[test]
fn a_node_that_dies_has_its_channels_served_by_another() {
    if !has_proxy() {
        return;
    }
    let Some(mut stores) = Fleet::stores(3) else { return };
    let proxies = two_proxies(&stores, |config| config.workers(1));
    let [mut one, mut two] = proxies.each_ref().map(|quoit| Listener::new(quoit.address(), "SUBSCRIBE news"));
    let mut shard = Listener::new(proxies[0].address(), "SSUBSCRIBE news");
    let mut client = proxies[0].client();
    for _ in 0..10 {
        assert_eq!(publish(&mut client, "news", "first"), 2);
        one.check(&["news first"]);
        two.check(&["news first"]);
    }
    // Where the channel is: it alone gets the message, and the listeners hear it.
    let calls: Vec<u64> = stores.iter().map(published).collect();
    let home = calls.iter().position(|calls| *calls == 10).unwrap_or_else(|| panic!("one node: {calls:?}"));

    stores[home].kill9();
    for quoit in &proxies {
        let mut client = quoit.client();
        eventually("the channel is served again", PATIENCE, || !client.line("PUBLISH news probe").is_error());
    }
    for quoit in &proxies {
        let mut client = quoit.client();
        assert_eq!(publish(&mut client, "news", "second"), 2);
    }
    for listener in [&mut one, &mut two] {
        let heard: Vec<String> = (0..4).map(|_| listener.next()).collect();
        assert_eq!(heard, ["news probe", "news probe", "news second", "news second"]);
    }
    eventually("shard channels too", PATIENCE, || !client.line("SPUBLISH news probe").is_error());
    shard.check(&["news probe"]);
    // Who comes now is told that it listens, and does.
    let mut late = Listener::new(proxies[0].address(), "SUBSCRIBE news");
    publish(&mut client, "news", "third");
    for listener in [&mut one, &mut two, &mut late] {
        listener.check(&["news third"]);
    }

    stores[home].restart();
    eventually("the node is listened to again", PATIENCE, || subscribers(&stores[home], "news") == 2);
    eventually("the channel is where it was", PATIENCE, || {
        publish(&mut client, "news", "fourth");
        for listener in [&mut one, &mut two, &mut late] {
            listener.check(&["news fourth"]);
        }
        published(&stores[home]) > 0
    });
}

#[test]
fn with_no_store_there_a_subscription_is_refused_and_those_there_are_stay() {
    if !has_proxy() {
        return;
    }
    let Some(mut stores) = Fleet::stores(1) else { return };
    let quoit = Quoit::start(&impatient(Fleet::config_of(&stores)).workers(1));
    let mut early = Listener::new(quoit.address(), "SUBSCRIBE news");
    stores[0].kill9();
    let mut client = quoit.client();
    eventually("the store is seen to be down", PATIENCE, || client.line("PUBLISH news x").is_error());
    eventually("a subscription is refused", PATIENCE, || {
        let reply = quoit.client().line("SUBSCRIBE other");
        reply.is_error() && reply.text().contains("node-amber")
    });
    // The connection of who was refused is as it was.
    assert!(client.line("SUBSCRIBE other").is_error());
    assert_eq!(client.line("PING").text(), "PONG");
    stores[0].restart();
    eventually("the store is listened to again", PATIENCE, || listens(&stores[0], "news"));
    eventually("the store is back", PATIENCE, || !client.line("PUBLISH news again").is_error());
    early.check(&["news again"]);
    eventually("and takes subscriptions", PATIENCE, || !quoit.client().line("SUBSCRIBE other").is_error());
}

/// A store that stands still is no reason for a client to wait for ever.
#[test]
fn a_store_that_stands_still_does_not_keep_clients_from_listening() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(2) else { return };
    let quoit = Quoit::start(&impatient(Fleet::config_of(&stores)).workers(1));
    let mut before = Listener::new(quoit.address(), "SUBSCRIBE news");
    stores[1].pause();
    let mut after = Listener::new(quoit.address(), "SUBSCRIBE news other");
    let mut client = quoit.client();
    let names: Vec<String> = (0..20).map(|number| format!("news:{number}")).collect();
    let mut many = Listener::new(quoit.address(), &format!("SUBSCRIBE {}", names.join(" ")));
    eventually("every channel is served", PATIENCE, || {
        names.iter().all(|name| !client.command(&["PUBLISH", name, "text"]).is_error())
    });
    many.next();
    stores[1].resume();
    eventually("the store is listened to", PATIENCE, || listens(&stores[1], "other"));
    eventually("the store is back", PATIENCE, || !client.line("PUBLISH news last").is_error());
    for listener in [&mut before, &mut after] {
        assert_eq!(listener.next(), "news last");
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_others_hear_all() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(1).listener("client_output_bytes_max = 4194304"))
    else {
        return;
    };
    let mut slow: Vec<Listener> = (0..3).map(|_| Listener::new(fleet.address(), "SUBSCRIBE news")).collect();
    let address = fleet.address();
    let (count, large) = (60, "x".repeat(400_000));
    let (heard, acknowledged) = mpsc::channel();
    let reader = {
        let mut fast = Listener::new(address, "SUBSCRIBE news");
        let large = format!("news {large}");
        thread::spawn(move || {
            for number in 0..count {
                assert!(fast.next() == large, "a large message is another");
                assert_eq!(fast.next(), format!("news {number}"));
                heard.send(()).expect("the publisher is there");
            }
        })
    };
    let mut client = fleet.client();
    for number in 0..count {
        publish(&mut client, "news", &large);
        publish(&mut client, "news", &number.to_string());
        // However busy the machine is, this one keeps up.
        acknowledged.recv_timeout(PATIENCE).expect("who reads hears all");
    }
    reader.join().expect("who reads hears all");
    let Some(quoit) = fleet.quoit() else { return };
    eventually("who does not read is closed", PATIENCE, || quoit.metric_sum("quoit_output_limit_kills_total") > 2.5);
    for listener in &mut slow {
        while let Ok(reply) = listener.0.try_receive() {
            assert!(!reply.value.is_error());
        }
    }
    eventually("nobody listens any more", PATIENCE, || fleet.stores.iter().all(|store| !listens(store, "news")));
}

#[test]
fn long_messages_reach_many() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut listeners: Vec<Listener> = (0..6)
        .map(|number| {
            let mut listener = Listener(fleet.client());
            if number % 2 == 0 {
                assert!(!listener.0.line("HELLO 3").is_error());
            }
            listener.0.line("SUBSCRIBE news");
            listener
        })
        .collect();
    let mut client = fleet.client();
    for length in [16_300, 16_384, 32_700, 33_000, 131_072, 20_000_000] {
        let text = "y".repeat(length);
        let sender = {
            let mut client = fleet.client();
            let text = text.clone();
            thread::spawn(move || publish(&mut client, "news", &text))
        };
        let want = format!("news {text}");
        for listener in &mut listeners {
            assert!(listener.next() == want, "a message of {length} bytes is another");
        }
        sender.join().expect("the sender");
    }
    publish(&mut client, "news", "short");
    for listener in &mut listeners {
        listener.check(&["news short"]);
    }
}

/// A message longer than what may be held for a client closes it, as Redis does.
#[test]
fn a_message_beyond_the_bound_closes_its_subscribers() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1).listener("client_output_bytes_max = 1048576"))
    else {
        return;
    };
    let mut listener = Listener::new(fleet.address(), "SUBSCRIBE news");
    let mut other = Listener::new(fleet.address(), "SUBSCRIBE other");
    let mut client = fleet.client();
    publish(&mut client, "news", &"x".repeat(3_000_000));
    assert!(listener.0.try_receive().is_err());
    publish(&mut client, "other", "text");
    other.check(&["other text"]);
}

/// RESP3: messages come between replies, never inside one, however long the reply is.
#[test]
fn messages_come_between_replies() {
    let Some(fleet) = Fleet::start(2) else { return };
    let (mut client, mut other) = (fleet.client(), fleet.client());
    assert!(!client.line("HELLO 3").is_error());
    let long = "z".repeat(3_000_000);
    assert_eq!(client.command(&["SET", "long", &long]).text(), "OK");
    assert!(matches!(client.line("SUBSCRIBE news"), Value::Push(_)));
    let sender = thread::spawn(move || {
        for number in 0..3_000 {
            publish(&mut other, "news", &number.to_string());
        }
    });
    let (mut messages, mut replies) = (0, 0);
    let requests: Vec<u8> = (0..10).flat_map(|_| [encode(&["GET", "long"]), encode(&["PING"])].concat()).collect();
    client.send(&requests);
    while messages < 3_000 || replies < 20 {
        match client.receive().value {
            Value::Push(items) => {
                assert_eq!(items[2].text(), messages.to_string());
                messages += 1;
            }
            Value::Bulk(text) => {
                assert!(replies % 2 == 0 && text.len() == long.len());
                replies += 1;
            }
            other => {
                assert_eq!(other.text(), "PONG");
                replies += 1;
            }
        }
    }
    sender.join().expect("the sender");
}

#[test]
fn subscriptions_end_at_the_stores_with_their_last_client() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start(3) else { return };
    let mut first = Listener::new(fleet.address(), "SUBSCRIBE a b c");
    let second = Listener::new(fleet.address(), "SUBSCRIBE b");
    let third = Listener::new(fleet.address(), "PSUBSCRIBE p*");
    let mut client = fleet.client();
    assert!(client.line("CLIENT LIST").text().contains(" flags=P db=0 sub=3 psub=0 ssub=0 "));
    let everywhere = |channel: &str| fleet.stores.iter().all(|store| listens(store, channel));
    let nowhere = |channel: &str| fleet.stores.iter().all(|store| !listens(store, channel));
    assert!(everywhere("a") && everywhere("b") && everywhere("c"));
    first.0.send(&encode(&["UNSUBSCRIBE", "a", "b"]));
    let counts = [first.0.receive(), first.0.receive()].map(|reply| reply.value.items()[2].clone());
    assert_eq!(counts, [Value::Integer(2), Value::Integer(1)]);
    eventually("a has no client", PATIENCE, || nowhere("a"));
    assert!(everywhere("b") && everywhere("c"));
    drop(second);
    eventually("b has no client", PATIENCE, || nowhere("b"));
    assert_eq!(first.0.line("RESET").text(), "RESET");
    eventually("c has no client", PATIENCE, || nowhere("c"));
    assert_eq!(first.0.line("GET nothing"), Value::Null);
    drop(third);
    eventually("nor has the pattern", PATIENCE, || {
        fleet.stores.iter().all(|store| store.client().line("PUBSUB NUMPAT") == Value::Integer(0))
    });
}

#[test]
fn pubsub_speaks_for_all_stores() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start(3) else { return };
    let listeners: Vec<Listener> =
        (0..20).map(|number| Listener::new(fleet.address(), &format!("SUBSCRIBE news:{number} all"))).collect();
    let direct = Listener::new(fleet.stores[1].address(), "SUBSCRIBE direct");
    let patterns = Listener::new(fleet.address(), "PSUBSCRIBE n* m*");
    let shards = Listener::new(fleet.address(), "SSUBSCRIBE s1 s2 s3 s4");
    let mut client = fleet.client();
    let names = |reply: Value| reply.items().iter().map(Value::text).collect::<BTreeSet<_>>();
    let channels = client.line("PUBSUB CHANNELS");
    assert_eq!(channels.items().len(), 22);
    assert_eq!(names(channels).len(), 22);
    assert_eq!(names(client.line("PUBSUB CHANNELS d*")), BTreeSet::from(["direct".to_owned()]));
    let counts = client.line("PUBSUB NUMSUB all none direct");
    let [_, Value::Integer(all), _, none, _, direct_count] = counts.items() else { panic!("{counts:?}") };
    assert!(*all >= 1, "{counts:?}");
    assert_eq!((none, direct_count), (&Value::Integer(0), &Value::Integer(1)));
    assert_eq!(client.line("PUBSUB NUMPAT"), Value::Integer(2));
    assert_eq!(names(client.line("PUBSUB SHARDCHANNELS")).len(), 4);
    // Shard channels are on two of the three nodes.
    let shard_channels =
        fleet.stores.iter().map(|store| store.client().line("PUBSUB SHARDCHANNELS").items().len()).sum::<usize>();
    assert_eq!(shard_channels, 8);
    drop((listeners, direct, patterns, shards));
}

/// A store tells of its own keys only, so all of them are listened to; where several have a key, one of them is heard.
#[test]
fn notifications_of_keys_are_heard_once() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start(3) else { return };
    for store in &fleet.stores {
        assert_eq!(store.client().line("CONFIG SET notify-keyspace-events KEA").text(), "OK");
    }
    let mut all = Listener::new(fleet.address(), "PSUBSCRIBE __key*__:*");
    let mut events = Listener::new(fleet.address(), "SUBSCRIBE __keyevent@0__:set");
    let mut client = fleet.client();
    for number in 0..30 {
        assert_eq!(client.command(&["SET", &format!("key:{number}"), "x"]).text(), "OK");
        assert_eq!(all.next(), format!("__key*__:* __keyspace@0__:key:{number} set"));
        assert_eq!(all.next(), format!("__key*__:* __keyevent@0__:set key:{number}"));
        assert_eq!(events.next(), format!("__keyevent@0__:set key:{number}"));
    }
}

#[test]
fn notifications_of_keys_with_several_copies_are_heard_once() {
    if !has_proxy() {
        return;
    }
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    for store in &cluster.stores {
        assert_eq!(store.client().line("CONFIG SET notify-keyspace-events KEA").text(), "OK");
    }
    let addresses = cluster.addresses();
    let mut by_event = Listener::new(addresses[0], "SUBSCRIBE __keyevent@0__:set");
    let mut by_key = Listener::new(addresses[1], "PSUBSCRIBE __keyspace@0__:*");
    let mut clients = cluster.clients();
    let keys: Vec<String> = (0..40).map(|number| format!("key:{number}")).collect();
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(clients[number % 2].command(&["SET", key, "x"]).text(), "OK");
        assert_eq!(by_event.next(), format!("__keyevent@0__:set {key}"));
        assert_eq!(by_key.next(), format!("__keyspace@0__:* __keyspace@0__:{key} set"));
    }
    // Other messages are as with one copy, and nothing was written for them.
    let mut listener = Listener::new(addresses[0], "SUBSCRIBE news");
    publish(&mut clients[1], "news", "text");
    listener.check(&["news text"]);
}

/// A store that does not know shard channels says so, and the client goes on.
#[test]
fn an_older_store_refuses_shard_channels_in_its_own_words() {
    let Some(store) = RedisServer::start_with(Program::Named("QUOIT_REDIS_62"), &[]) else { return };
    let direct = store.client().line("SSUBSCRIBE s");
    let fleet = Fleet::in_front_of(vec![store], |config| config);
    let mut client = fleet.client();
    let refused = client.line("SSUBSCRIBE s");
    assert!(refused.is_error() && direct.is_error(), "{refused:?}");
    assert!(refused.text().to_lowercase().contains("unknown command"), "{refused:?}");
    assert_eq!(client.line("PING").text(), "PONG");
    let mut listener = Listener::new(fleet.address(), "SUBSCRIBE news");
    publish(&mut client, "news", "text");
    listener.check(&["news text"]);
    assert!(client.line("SSUBSCRIBE s").is_error());
    publish(&mut client, "news", "text");
    listener.check(&["news text"]);
}

/// What a transaction publishes is published where its keys are, and heard.
#[test]
fn what_a_transaction_publishes_is_heard() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start(3) else { return };
    let Some(cluster) = Cluster::start(3, 1, Reach::Direct) else { return };
    for address in [fleet.address(), cluster.addresses()[0]] {
        let mut listener = Listener::new(address, "SUBSCRIBE news");
        let mut client = Client::connect(address);
        for number in 0..20 {
            let text = number.to_string();
            assert_eq!(client.line("MULTI").text(), "OK");
            for line in
                [format!("SET key:{number} x"), format!("PUBLISH news {number}"), format!("INCR n{{key:{number}}}")]
            {
                assert_eq!(client.line(&line).text(), "QUEUED", "{line}");
            }
            let replies = client.line("EXEC");
            assert!(!replies.is_error(), "{replies:?}");
            assert_eq!(replies.items()[1..], [Value::Integer(1), Value::Integer(1)], "{replies:?}");
            assert_eq!(listener.next(), format!("news {text}"));
        }
        assert_eq!(client.line("MULTI").text(), "OK");
        assert!(client.line("SUBSCRIBE other").is_error());
        assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    }
    let mut listener = Listener::new(fleet.address(), "SUBSCRIBE news");
    let mut client = fleet.client();
    client.line("MULTI");
    client.line("PUBLISH news alone");
    assert_eq!(client.line("EXEC").items(), [Value::Integer(1)]);
    listener.check(&["news alone"]);
}

/// A connection to a store that breaks is made again; what is published after that is heard.
#[test]
fn a_broken_connection_is_made_again() {
    if !has_proxy() {
        return;
    }
    let Some(fleet) = Fleet::start(2) else { return };
    let mut listener = Listener::new(fleet.address(), "SUBSCRIBE news");
    let mut client = fleet.client();
    for round in 0..5 {
        for store in &fleet.stores {
            let mut store = store.client();
            assert_eq!(store.line("CLIENT KILL TYPE pubsub"), Value::Integer(1));
            eventually("the store is listened to again", PATIENCE, || {
                store.line("PUBSUB NUMSUB news").items().get(1) == Some(&Value::Integer(1))
            });
        }
        publish(&mut client, "news", &round.to_string());
        assert_eq!(listener.next(), format!("news {round}"));
    }
}

/// A reload that adds and removes nodes takes the subscriptions along.
#[test]
fn a_reload_takes_subscriptions_along() {
    if !has_proxy() {
        return;
    }
    let Some(stores) = Fleet::stores(3) else { return };
    let ring = |members: &[usize]| {
        QuoitConfig::new(members.iter().map(|&index| (Fleet::name(index), stores[index].address())))
    };
    let quoit = Quoit::start(&ring(&[0, 1]));
    let mut listener = Listener::new(quoit.address(), "SUBSCRIBE a b c d e f");
    let mut shard = Listener::new(quoit.address(), "SSUBSCRIBE a");
    let mut client = quoit.client();
    for members in [[1, 2], [0, 2], [0, 1]] {
        quoit.write_config(&quoit.text_of(&ring(&members)));
        assert_eq!(quoit.admin("POST", "/reload").status, 200);
        eventually("the nodes of the ring are listened to, and no other", PATIENCE, || {
            stores.iter().enumerate().all(|(index, store)| listens(store, "f") == members.contains(&index))
        });
        for channel in ["a", "b", "c", "d", "e", "f"] {
            publish(&mut client, channel, "text");
            assert_eq!(listener.next(), format!("{channel} text"));
        }
        eventually("the shard channel is heard", PATIENCE, || client.line("SPUBLISH a text") == Value::Integer(1));
        shard.check(&["a text"]);
    }
}

/// Many names by many clients at once, and all gone again.
#[test]
fn many_clients_with_many_names() {
    let Some(fleet) = Fleet::start(2) else { return };
    let address = fleet.address();
    let threads: Vec<_> = (0..8)
        .map(|number| {
            thread::spawn(move || {
                for round in 0..5 {
                    let names: Vec<String> = (0..700).map(|name| format!("{}:{name}", (number + round) % 4)).collect();
                    let mut listener = Listener::new(address, &format!("SUBSCRIBE {}", names.join(" ")));
                    let mut client = Client::connect(address);
                    let own = format!("own:{number}");
                    listener.0.line(&format!("SUBSCRIBE {own}"));
                    assert!(publish(&mut client, &own, "text") >= 1);
                    assert_eq!(listener.next(), format!("{own} text"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
    if has_proxy() {
        eventually("nothing is left at the stores", Duration::from_secs(30), || {
            fleet.stores.iter().all(|store| store.client().line("PUBSUB CHANNELS").items().is_empty())
        });
    }
}
