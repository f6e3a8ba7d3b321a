//! Who writes and how: other proxies, direct clients, several copies, routes, many at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Cache, told};
use crate::support::{
    Client, Cluster, Fleet, PATIENCE, Quoit, QuoitConfig, Reach, RedisServer, Value, encode, eventually,
};

fn two_workers(stores: &[RedisServer]) -> QuoitConfig {
    Fleet::config_of(stores).workers(2)
}

/// Every cache comes to see the value, and each that holds a copy holds that one.
#[track_caller]
fn all_see(caches: &mut [Cache], key: &str, value: &str) {
    for (number, cache) in caches.iter_mut().enumerate() {
        eventually(&format!("cache {number} sees {key} = {value}"), PATIENCE, || cache.get(key) == value);
    }
}

#[test]
fn whoever_writes_all_are_told() {
    let Some(stores) = Fleet::stores(3) else { return };
    let proxies = [0, 1].map(|_| Quoit::start(&two_workers(&stores)));
    let places = proxies.each_ref().map(Quoit::address);
    let mut caches: Vec<Cache> = (0..4)
        .flat_map(|number| [Cache::new(places[number % 2], ""), Cache::new(places[number % 2], "BCAST PREFIX key")])
        .collect();
    let mut writers = places.map(Client::connect);
    let mut direct: Vec<Client> = stores.iter().map(RedisServer::client).collect();
    for round in 0..20 {
        for number in 0..5 {
            let (key, value) = (format!("key:{number}"), format!("{round}"));
            match (round + number) % 3 {
                2 => {
                    // A client at the store that has the key.
                    for store in &mut direct {
                        assert!(!store.command(&["SET", &key, &value, "XX"]).is_error());
                    }
                }
                proxy => assert!(!writers[proxy].command(&["SET", &key, &value]).is_error()),
            }
            if round > 2 {
                all_see(&mut caches, &key, &value);
            }
        }
    }
    for cache in &mut caches {
        assert!(cache.held.len() == 5 || cache.news > 0, "{:?}", cache.held);
    }
}

/// Writers and readers at once, by two proxies: when the writers have ended, nobody holds what is not so.
fn nobody_holds_a_stale_copy(places: &[SocketAddr], count: usize) {
    let done = AtomicBool::new(false);
    let finals: Vec<(String, Vec<Option<String>>)> = thread::scope(|scope| {
        let readers: Vec<_> = (0..6)
            .map(|number| {
                let (place, done) = (places[number % places.len()], &done);
                let mode = ["", "BCAST PREFIX k", "NOLOOP", "BCAST NOLOOP"][number % 4];
                scope.spawn(move || {
                    let mut cache = Cache::new(place, mode);
                    let mut key = 0;
                    while !done.load(Ordering::Relaxed) {
                        key = (key + 1) % 4;
                        if key == 2 {
                            // Reads and writes of one client, right behind each other.
                            let requests =
                                [encode(&["GET", "k1"]), encode(&["SET", "k9", "x"]), encode(&["GET", "k1"])].concat();
                            cache.client.send(&requests);
                            let mut replies = 0;
                            while replies < 3 {
                                let value = cache.client.receive().value;
                                match value {
                                    Value::Push(_) => cache.hear(&value),
                                    Value::Bulk(bytes) => {
                                        replies += 1;
                                        cache.held.insert("k1".to_owned(), String::from_utf8(bytes).unwrap());
                                    }
                                    _ => replies += 1,
                                }
                            }
                        }
                        cache.get(&format!("k{key}"));
                    }
                    cache
                })
            })
            .collect();
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let place = places[number % places.len()];
                scope.spawn(move || {
                    let mut client = Client::connect(place);
                    for value in 0..count {
                        // One that fails, on a busy machine, may have been applied nevertheless: that is no matter here.
                        client.command(&["SET", &format!("k{}", value % 4), &format!("{number}:{value}")]);
                    }
                })
            })
            .collect();
        let written: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(written.iter().all(Result::is_ok), "a writer has failed");
        let mut caches: Vec<Cache> = readers.into_iter().map(|reader| reader.join().expect("it has read")).collect();
        let mut client = Client::connect(places[0]);
        (0..4)
            .map(|number| {
                let key = format!("k{number}");
                let value = client.command(&["GET", &key]).text();
                all_see(&mut caches, &key, &value);
                // And they stay with it.
                (value, caches.iter().map(|cache| cache.held.get(&key).cloned()).collect())
            })
            .collect()
    });
    for (value, held) in finals {
        assert!(held.iter().flatten().all(|copy| *copy == value), "{value}: {held:?}");
    }
}

#[test]
fn nobody_holds_a_stale_copy_of_one() {
    let Some(stores) = Fleet::stores(2) else { return };
    let proxies = [0, 1].map(|_| Quoit::start(&two_workers(&stores)));
    nobody_holds_a_stale_copy(&proxies.each_ref().map(Quoit::address), 3_000);
}

#[test]
fn nobody_holds_a_stale_copy_of_three() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    nobody_holds_a_stale_copy(&cluster.addresses(), 300);
}

/// What a client has written itself it goes on holding, under prefixes too; what others write over it, it is told.
#[test]
fn who_wants_no_echo_has_none() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    let mut writer = fleet.client();
    for mode in ["BCAST NOLOOP", "BCAST PREFIX k NOLOOP", "NOLOOP"] {
        let mut cache = Cache::new(fleet.address(), mode);
        for round in 0..200 {
            let (key, value) = (format!("k:{}", round % 7), format!("{mode}:{round}"));
            if round % 3 == 0 {
                cache.get(&key);
            }
            let lines = [
                vec!["SET", &key, &value],
                vec!["SETEX", &key, "1000", &value],
                vec!["GETSET", &key, &value],
                vec!["MSET", &key, &value, "k:other", "1"],
            ];
            assert!(!cache.ask(&lines[round % 4].join("\n")).is_error());
            if mode.starts_with("BCAST") {
                cache.held.insert(key, value);
            } else {
                cache.held.remove(&key);
            }
            let heard = cache.news;
            cache.ask("PING");
            assert_eq!(heard, 0, "{mode}: told of its own write in round {round}");
        }
        for number in 0..7 {
            let key = format!("k:{number}");
            cache.ask(&["SET", &key, "mine"].join("\n"));
            if mode.starts_with("BCAST") {
                cache.held.insert(key.clone(), "mine".to_owned());
            } else {
                cache.held.remove(&key);
            }
            writer.command(&["SET", &key, "theirs"]);
            eventually("the other's write is told", PATIENCE, || cache.get(&key) == "theirs");
        }
    }
}

#[test]
fn names_of_quoits_own_are_told_to_nobody() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    let mut cache = Cache::new(cluster.addresses()[0], "BCAST");
    let mut writer = cluster.client(1);
    for (number, line) in ["SET a 1", "INCR b", "DEL a", "HSET c f v", "EXPIRE c 100", "SET last 1"].iter().enumerate()
    {
        assert!(!writer.line(line).is_error(), "{number}: {line}");
    }
    loop {
        let told = told(&cache.client.receive().value);
        let keys = told.strip_prefix("invalidate ").expect("news of keys");
        assert!(keys.split(' ').all(|key| ["a", "b", "c", "last"].contains(&key)), "{}", told.escape_debug());
        if keys.split(' ').any(|key| key == "last") {
            break;
        }
    }
    // Three copies tell of one change; a client that holds nothing hears nothing of the others.
    let mut reader = Cache::new(cluster.addresses()[0], "");
    reader.get("last");
    assert!(!writer.line("SET last 2").is_error());
    eventually("the change is told", PATIENCE, || reader.get("last") == "2");
    cache.ask("PING");
}

#[test]
fn clients_are_told_their_own_names_of_keys() {
    let (Some(one), Some(two)) = (Fleet::stores(1), RedisServer::start()) else { return };
    let tables = format!(
        "[[listener.route]]\nprefix = \"s:\"\npool = \"other\"\nreplace_prefix = \"x:\"\n\
         [[listener.route]]\nprefix = \"k:\"\npool = \"other\"\n\
         [[pool]]\nname = \"other\"\n[[pool.node]]\nname = \"x\"\naddress = \"{}\"\n",
        two.address()
    );
    let quoit = Quoit::start(&Fleet::config_of(&one).workers(2).listener(&tables));
    let mut reader = Cache::new(quoit.address(), "");
    let mut prefixed = Cache::new(quoit.address(), "BCAST PREFIX s:1 PREFIX k");
    let mut writer = quoit.client();
    for key in ["s:1", "k:1", "a"] {
        reader.get(key);
        assert!(!writer.command(&["SET", key, "1"]).is_error());
        assert_eq!(told(&reader.client.receive().value), format!("invalidate {key}"));
        if key != "a" {
            assert_eq!(told(&prefixed.client.receive().value), format!("invalidate {key}"));
        }
    }
    // By the store's name, and one that no client of this listener can reach.
    reader.held.clear();
    reader.get("s:1");
    let mut store = two.client();
    store.line("SET nobody 1");
    store.line("SET x:1 2");
    assert_eq!(told(&reader.client.receive().value), "invalidate s:1");
    assert_eq!(told(&prefixed.client.receive().value), "invalidate s:1");
    reader.held.clear();
    assert_eq!(reader.get("s:1"), "2");
}

#[test]
fn what_finds_no_room_is_told_to_be_invalid() {
    let Some(fleet) = Fleet::start_with(1, |config| config.workers(1).proxy("tracking_bytes_max = 1_048_576")) else {
        return;
    };
    let Some(quoit) = fleet.quoit() else { return };
    let mut cache = Cache::new(fleet.address(), "");
    for number in 0..20_000 {
        cache.get(&format!("some-key-of-many:{number}"));
    }
    cache.ask("PING");
    assert!(cache.news > 10_000 && cache.held.len() + cache.news == 20_000, "{} {}", cache.news, cache.held.len());
    eventually("the table is as small as it may be", PATIENCE, || {
        (1_000.0..10_000.0).contains(&quoit.metric_sum("quoit_worker_tracked_keys"))
    });
    // All that it still holds, it is told of.
    let held: Vec<String> = cache.held.keys().take(50).cloned().collect();
    let mut writer = fleet.client();
    for key in held {
        writer.command(&["SET", &key, "new"]);
        eventually("the change is told", PATIENCE, || cache.get(&key) == "new");
    }
}

#[test]
fn who_tracks_is_seen() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut other = fleet.client();
    let id = other.line("CLIENT ID");
    let Value::Integer(id) = id else { panic!("{id:?}") };
    let mut cache = Cache::new(fleet.address(), &format!("BCAST REDIRECT {id}"));
    let line = cache.ask("CLIENT INFO");
    let Value::Other(_, line) = line else { panic!("{line:?}") };
    let line = String::from_utf8(line).unwrap();
    assert!(line.contains(" flags=tB ") && line.contains(&format!(" redir={id} ")), "{line}");
    assert!(other.line("INFO clients").text().contains("tracking_clients:1\r\n"));
    assert!((quoit.metric_sum("quoit_tracking_clients") - 1.0).abs() < 0.1);
    // The client that was to be told goes.
    drop(other);
    let mut writer = fleet.client();
    eventually("it is told that the other has gone", PATIENCE, || {
        writer.line("SET a 1");
        cache.client.send(&encode(&["PING"]));
        let value = cache.client.receive().value;
        if let Value::Push(items) = &value {
            assert_eq!(items[0].text(), "tracking-redir-broken");
            assert_eq!(items[1], Value::Integer(id));
        }
        matches!(value, Value::Push(_))
    });
    let seen = |writer: &mut Client| writer.line("CLIENT LIST").text();
    assert!(seen(&mut writer).contains(" flags=tRB "), "{}", seen(&mut writer));
    drop(cache);
    eventually("nobody tracks", PATIENCE, || writer.line("INFO clients").text().contains("tracking_clients:0\r\n"));
    let listeners =
        || fleet.stores.iter().flat_map(RedisServer::clients).filter(|line| line.contains("flags=tB")).count();
    assert!(listeners() > 0);
    eventually("the stores are not listened to", PATIENCE, || listeners() == 0);
}

/// One news for each change of several clients by several workers, also where a target is on another worker.
#[test]
fn one_client_is_told_for_many() {
    let Some(fleet) = Fleet::start_with(2, |config| config.workers(2)) else { return };
    let mut target = fleet.client();
    target.set_read_timeout(Duration::from_secs(10));
    let Value::Integer(id) = target.line("CLIENT ID") else { panic!("CLIENT ID") };
    target.line("SUBSCRIBE __redis__:invalidate");
    let mut readers: Vec<Client> = (0..6).map(|_| fleet.client()).collect();
    for (number, reader) in readers.iter_mut().enumerate() {
        assert!(!reader.line(&format!("CLIENT TRACKING ON REDIRECT {id}")).is_error());
        reader.line(&format!("GET key:{number}"));
    }
    let mut writer = fleet.client();
    for number in 0..6 {
        writer.line(&format!("SET key:{number} 1"));
        let message = target.receive().value;
        let words: Vec<String> = message.items().iter().map(Value::text).collect();
        assert_eq!(words[..2], ["message", "__redis__:invalidate"]);
        assert_eq!(message.items()[2].items()[0].text(), format!("key:{number}"));
    }
}

/// With `NOLOOP` a client that has changed a key hears nothing of it until it reads it again. One that has changed nothing does.
#[test]
fn a_write_that_changes_nothing_is_no_reason_to_be_silent() {
    for copies in [1, 3] {
        let Some(fleet) = Fleet::start_with(3, |config| config.workers(1).replicas(copies)) else { return };
        if fleet.quoit().is_none() {
            return;
        }
        let mut other = fleet.client();
        assert_eq!(other.line("SET text abc"), Value::Simple(b"OK".to_vec()));
        let mut cache = Cache::new(fleet.address(), "NOLOOP");
        for (read, nothing, change, news) in [
            ("EXISTS stream", "XADD stream NOMKSTREAM * f v", "XADD stream * f v", "invalidate stream"),
            ("GET text", "SETRANGE\ntext\n0\n", "SET text abd", "invalidate text"),
        ] {
            // The news of what came before may still be under way.
            eventually("what is read is quiet", PATIENCE, || {
                let before = cache.news;
                cache.ask(read);
                cache.ask("PING");
                cache.ask("PING");
                cache.news == before
            });
            assert!(!cache.ask(nothing).is_error());
            assert!(!other.line(change).is_error());
            assert_eq!(told(&cache.client.receive().value), news, "{copies} copies");
        }
    }
}
