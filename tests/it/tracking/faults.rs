//! Stores and connections that fail: nobody keeps a stale copy.

use super::Cache;
use crate::support::{
    Client, Cluster, Fault, FaultProxy, Fleet, PATIENCE, Quoit, QuoitConfig, Reach, RedisServer, eventually,
};

/// Breakers that look again soon.
fn impatient(config: QuoitConfig) -> QuoitConfig {
    config
        .workers(2)
        .pool("connect_timeout_ms = 500\nqueue_timeout_ms = 500\nservice_timeout_ms = 500")
        .tables("[pool.breaker]\nfailures = 3\nbackoff_min_ms = 20\nbackoff_max_ms = 200\nramp_ms = 100")
}

fn caches(place: std::net::SocketAddr) -> [Cache; 3] {
    ["", "BCAST", "OPTOUT NOLOOP"].map(|mode| Cache::new(place, mode))
}

/// Each comes to see the value, and to hold it.
#[track_caller]
fn all_hold(caches: &mut [Cache], key: &str, value: &str) {
    for (number, cache) in caches.iter_mut().enumerate() {
        eventually(&format!("cache {number} holds {key} = {value}"), PATIENCE, || {
            cache.get(key) == value && {
                cache.ask("PING");
                cache.held.get(key).is_some_and(|held| held == value)
            }
        });
    }
}

#[test]
fn a_store_that_was_killed_and_is_back_has_no_copies() {
    let Some(stores) = Fleet::stores(2) else { return };
    let mut fleet = Fleet::in_front_of(stores, impatient);
    if fleet.quoit().is_none() {
        return;
    }
    let keys = fleet.keys_by_node(1);
    let mut writer = fleet.client();
    keys.iter().flatten().for_each(|key| drop(writer.command(&["SET", key, "old"])));
    let mut caches = caches(fleet.address());
    keys.iter().flatten().for_each(|key| all_hold(&mut caches, key, "old"));
    fleet.stores[0].kill9();
    for cache in &mut caches {
        eventually("what was held is forgotten", PATIENCE, || {
            cache.ask("PING");
            cache.held.is_empty()
        });
    }
    fleet.stores[0].restart_empty();
    eventually("the store is written again", PATIENCE, || !writer.command(&["SET", &keys[0][0], "new"]).is_error());
    all_hold(&mut caches, &keys[0][0], "new");
    all_hold(&mut caches, &keys[1][0], "old");
    assert!(!writer.command(&["SET", &keys[0][0], "newer"]).is_error());
    all_hold(&mut caches, &keys[0][0], "newer");
}

/// Ends the connections on which a store tells of changes.
fn stop_telling(store: &RedisServer) -> usize {
    let mut client = store.client();
    let lines = store.clients();
    let ids = lines
        .iter()
        .filter(|line| line.contains(" flags=tB "))
        .filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("id=")).map(str::to_owned));
    ids.filter(|id| !client.command(&["CLIENT", "KILL", "ID", id]).is_error()).count()
}

#[test]
fn changes_that_went_unheard_leave_no_copy() {
    let Some(stores) = Fleet::stores(1) else { return };
    let fleet = Fleet::in_front_of(stores, impatient);
    if fleet.quoit().is_none() {
        return;
    }
    let mut caches = caches(fleet.address());
    let mut store = fleet.stores[0].client();
    for round in 0..20 {
        store.line(&format!("SET key before:{round}"));
        all_hold(&mut caches, "key", &format!("before:{round}"));
        assert!(stop_telling(&fleet.stores[0]) > 0);
        store.line(&format!("SET key after:{round}"));
        all_hold(&mut caches, "key", &format!("after:{round}"));
    }
}

#[test]
fn a_store_that_cannot_be_heard_is_noticed() {
    let Some(stores) = Fleet::stores(1) else { return };
    let relay = FaultProxy::start(stores[0].address());
    let quoit = Quoit::start(&impatient(QuoitConfig::new([("node-amber", relay.address())])));
    let mut caches = caches(quoit.address());
    let mut store = stores[0].client();
    store.line("SET key old");
    all_hold(&mut caches, "key", "old");
    relay.set(Fault::Swallow);
    store.line("SET key new");
    // Nobody hears of it, and nobody reads: the silence is what is noticed.
    for cache in &mut caches {
        eventually("what was held is forgotten", PATIENCE, || {
            cache.ask("PING");
            cache.held.is_empty()
        });
    }
    relay.set(Fault::None);
    all_hold(&mut caches, "key", "new");
}

#[test]
fn three_copies_tell_while_one_is_gone() {
    let Some(mut cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut writer: Client = cluster.client(1);
    let mut caches = caches(cluster.addresses()[0]);
    assert!(!writer.line("SET key 0").is_error());
    all_hold(&mut caches, "key", "0");
    for (round, store) in (1..).zip([0, 1, 2]) {
        cluster.stores[store].kill9();
        eventually("a write with one store less", PATIENCE, || !writer.line(&format!("SET key {round}")).is_error());
        all_hold(&mut caches, "key", &round.to_string());
        assert!(!writer.line(&format!("SET key {round}:again")).is_error());
        all_hold(&mut caches, "key", &format!("{round}:again"));
        cluster.stores[store].restart();
        cluster.refills("the store is back");
        assert!(!writer.line(&format!("SET key {round}:back")).is_error());
        all_hold(&mut caches, "key", &format!("{round}:back"));
    }
}

#[test]
fn a_reload_that_moves_keys_leaves_no_copy() {
    let (Some(mut stores), Some(more)) = (Fleet::stores(1), RedisServer::start()) else { return };
    let quoit = Quoit::start(&impatient(Fleet::config_of(&stores)));
    let mut caches = caches(quoit.address());
    let mut writer = quoit.client();
    let keys: Vec<String> = (0..20).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        assert!(!writer.command(&["SET", key, "one"]).is_error());
        all_hold(&mut caches, key, "one");
    }
    stores.push(more);
    quoit.write_config(&quoit.text_of(&impatient(Fleet::config_of(&stores))));
    let mut second = stores[1].client();
    eventually("some keys have the new store", PATIENCE, || {
        keys.iter().any(|key| writer.command(&["GET", key]).text().is_empty())
    });
    for key in &keys {
        second.command(&["SET", key, "two"]);
        let want = writer.command(&["GET", key]).text();
        all_hold(&mut caches, key, &want);
    }
    assert!(caches[0].held.values().any(|held| held == "two"));
}
