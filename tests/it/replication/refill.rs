//! F2: a store that lost its memory does not vote, gets all its keys again without being asked, and is then as good as
//! any other.

use std::thread;
use std::time::Duration;

use super::trouble::{Trouble, make};
use super::workload::Workload;
use super::{Absence, Cold, done};
use crate::support::{Cluster, Fault, PATIENCE, Reach, Value, all_serve, eventually, random};

/// Nobody uses the pool while the store comes back.
#[test]
fn an_empty_store_is_refilled() {
    for stores in [3, 5] {
        let Some(mut cluster) = Cluster::start(stores, 2, Reach::Direct) else { return };
        if !cluster.has_proxies() {
            return;
        }
        if !cluster.has_proxies() {
            return;
        }
        let cold = Cold::write(&mut cluster.client(0), "cold", 700);
        cluster.converges("before");
        cluster.stores[1].kill9();
        cluster.stores[1].restart_empty();
        cluster.refills("the empty store");
        cluster.converges("the empty store");
        // It votes again: another may be lost for good.
        cluster.stores[2].kill9();
        for mut client in cluster.clients() {
            cold.check(&mut client);
            done(&mut client, "SET still written");
        }
    }
}

/// The same by `FLUSHALL` on the store: its connections stay, its memory is gone.
#[test]
fn a_flushed_store_is_refilled() {
    let Some(cluster) = Cluster::start(3, 2, Reach::Direct) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let cold = Cold::write(&mut cluster.client(0), "cold", 210);
    cluster.converges("before");
    for store in 0..3 {
        assert_eq!(cluster.stores[store].client().line("FLUSHALL").text(), "OK");
        // A write goes to every replica, so that it is noticed. Nobody may take the store's word for anything.
        done(&mut cluster.client(0), &format!("SET noticed {store}"));
        cold.check_all(&cluster);
        cluster.refills("the flushed store");
        cluster.converges("the flushed store");
    }
}

/// What is not there is no answer of an empty store: two votes are needed, and it has none.
#[test]
fn an_empty_store_does_not_vote() {
    let Some(mut cluster) = Cluster::start(3, 2, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut clients = cluster.clients();
    for number in 0..4 {
        // On stores 0 and 1 alone: an acknowledged write that one store of the two holds next.
        let key = format!("held:{number}");
        Absence::CutOff.begin(&mut cluster, 2);
        done(&mut clients[0], &format!("SET {key} value"));
        cluster.stores[1].pause();
        assert_eq!(cluster.stores[2].client().line("FLUSHALL").text(), "OK");
        Absence::CutOff.end(&mut cluster, 2);
        // Store 0 has it; store 2 knows nothing, and less than nothing: no majority says that it is missing.
        for turn in 0..4 {
            let client = &mut clients[turn % 2];
            let value = client.command(&["GET", &key]);
            let fine = value.text() == "value" || value.is_error();
            assert!(fine, "{key} was answered by {value:?} with one store that remembers");
        }
        cluster.stores[1].resume();
        cluster.refills("the flushed store");
        assert_eq!(done(&mut clients[1], &format!("GET {key}")).text(), "value");
    }
}

/// A store is wiped while clients work; then a second is lost for good.
#[test]
fn wiped_under_load() {
    let Some(mut cluster) = Cluster::start(3, 3, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let mut random = random("wiped under load");
    let cold = Cold::write(&mut cluster.client(0), "cold", 350);
    let workload = Workload::new("wiped", cluster.addresses(), 6, 1);
    let mut nemesis = random.fork();
    let addresses = cluster.addresses();
    workload.run(
        &mut random,
        |workload| make(&mut cluster, &[Trouble::Wipe], Duration::from_secs(4), workload, &mut nemesis),
        || all_serve(&addresses),
    );
    cluster.converges("wiped under load");
    if !cluster.has_proxies() {
        return;
    }
    cluster.stores[0].kill9();
    cold.check_all(&cluster);
    cluster.stores[0].restart();
    cluster.converges("and back");
}

/// A refill that is interrupted goes on: the store fails again in the middle.
#[test]
fn a_refill_that_is_interrupted() {
    let Some(mut cluster) = Cluster::start(3, 2, Reach::Relayed) else { return };
    if !cluster.has_proxies() {
        return;
    }
    let cold = Cold::write(&mut cluster.client(0), "cold", 700);
    cluster.stores[2].kill9();
    cluster.stores[2].restart_empty();
    for _ in 0..4 {
        eventually("the refill goes on", PATIENCE, || cluster.stores[2].client().line("DBSIZE") != Value::Integer(0));
        cluster.disturb(2, Fault::Refuse, |_| true);
        cluster.cut(2, |_| true);
        thread::sleep(Duration::from_millis(50));
        cluster.disturb(2, Fault::None, |_| true);
    }
    cluster.refills("after interruptions");
    cluster.converges("after interruptions");
    cluster.stores[0].kill9();
    cold.check(&mut cluster.client(1));
}
