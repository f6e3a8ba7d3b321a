//! What each level promises, with stores that are there and stores that are not.

use super::done;
use crate::support::{Cluster, PATIENCE, Reach, Value, eventually, is_refused, is_unknown};

/// Keys by their prefix: `all:`, `eventual:`, `one:`, and any other as the pool, `quorum`.
fn cluster() -> Option<Cluster> {
    let cluster = Cluster::start_with(3, 2, Reach::Direct, |_, config| {
        let route =
            |level: &str| format!("[[listener.route]]\nprefix = \"{level}:\"\npool = \"main\"\nlevel = \"{level}\"\n");
        let routes: String = ["all", "eventual", "one"].into_iter().map(route).collect();
        config.pool("level = \"quorum\"\noperation_timeout_ms = 800").listener(&routes)
    })?;
    cluster.has_proxies().then_some(cluster)
}

fn fails(reply: &Value) -> bool {
    is_refused(reply) || is_unknown(reply)
}

/// What `all` acknowledged is on every store at that moment.
#[test]
fn all_means_all() {
    let Some(mut cluster) = cluster() else { return };
    let mut clients = cluster.clients();
    for number in 0..30 {
        let client = &mut clients[number % 2];
        done(client, &format!("SET all:{number} value"));
        done(client, &format!("RPUSH all:list:{number} a"));
        for store in &cluster.stores {
            let mut store = store.client();
            assert_eq!(store.line(&format!("GET all:{number}")).text(), "value");
            assert_eq!(store.line(&format!("LLEN all:list:{number}")), Value::Integer(1));
        }
    }
    cluster.stores[1].kill9();
    for number in 0..5 {
        let reply = clients[0].line(&format!("SET all:{number} later"));
        assert!(fails(&reply), "one store is lost: {reply:?}");
        // Reads need a majority, and other keys are written.
        let value = done(&mut clients[1], &format!("GET all:{number}")).text();
        assert!(value == "value" || (value == "later" && is_unknown(&reply)), "{value} after {reply:?}");
        done(&mut clients[0], &format!("SET quorum:{number} value"));
    }
    cluster.stores[1].restart();
    for number in 0..5 {
        done(&mut clients[0], &format!("SET all:{number} last"));
        assert_eq!(done(&mut clients[1], &format!("GET all:{number}")).text(), "last");
    }
    cluster.converges("all");
}

/// `eventual` writes and reads with one store that is left, and the others follow.
#[test]
fn eventual_needs_one_store() {
    let Some(mut cluster) = cluster() else { return };
    let mut client = cluster.client(0);
    for number in 0..20 {
        done(&mut client, &format!("SET eventual:{number} first"));
        done(&mut client, &format!("SET one:{number} first"));
    }
    cluster.converges("before");
    cluster.stores[0].kill9();
    cluster.stores[2].kill9();
    for number in 0..20 {
        // The breakers of the lost stores take a few requests to open.
        eventually("a write to one store", PATIENCE, || {
            !client.line(&format!("SET eventual:{number} second")).is_error()
        });
        assert_eq!(done(&mut client, &format!("GET eventual:{number}")).text(), "second");
        // Other levels refuse the write; `one` still reads.
        assert_eq!(done(&mut client, &format!("GET one:{number}")).text(), "first");
        if number < 3 {
            let (write, read) = (client.line("SET one:new v"), client.line(&format!("GET quorum:{number}")));
            assert!(fails(&write) && fails(&read), "two stores are lost: {write:?}, {read:?}");
        }
    }
    cluster.stores[0].restart();
    cluster.stores[2].restart();
    cluster.converges("the others follow");
    for number in 0..20 {
        for client in &mut cluster.clients() {
            assert_eq!(done(client, &format!("GET eventual:{number}")).text(), "second");
        }
    }
}

/// `one` writes as safely as a quorum.
#[test]
fn one_writes_to_a_quorum() {
    let Some(mut cluster) = cluster() else { return };
    let mut clients = cluster.clients();
    for lost in 0..3 {
        for number in 0..20 {
            done(&mut clients[number % 2], &format!("SET one:{lost}:{number} value"));
        }
        // A quorum has each of them, whichever store is lost now, at once and for good.
        cluster.stores[lost].kill9();
        for number in 0..20 {
            let key = format!("one:{lost}:{number}");
            let copies = cluster.stores.iter().filter(|store| store.is_running());
            let copies = copies.filter(|store| store.client().line(&format!("GET {key}")).text() == "value").count();
            assert!(copies >= 1, "{key} was on the lost store alone");
        }
        cluster.stores[lost].restart();
        cluster.converges("one");
    }
}
