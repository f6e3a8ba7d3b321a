//! Stores of different versions in one pool, as during an upgrade: values pass where a payload can be loaded, and where
//! not nobody reads anything wrong.

use super::{Cold, done};
use crate::support::{Cluster, DURABLE, PATIENCE, Program, Reach, RedisServer, Value, eventually, patient};

/// Redis 6.2, 7.0, and a newer server.
fn stores(newest: &'static str) -> Option<Vec<RedisServer>> {
    let programs = [Program::Named("QUOIT_REDIS_62"), Program::Redis, Program::Named(newest)];
    programs.into_iter().map(|program| RedisServer::start_with(program, DURABLE)).collect()
}

fn with_each(check: impl Fn(&str, Cluster)) {
    for newest in ["QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let Some(stores) = stores(newest) else { continue };
        // A value that the oldest did not take in time from the client may be one that it can never load.
        let cluster = Cluster::in_front_of(stores, 2, Reach::Direct, patient);
        if !cluster.has_proxies() {
            return;
        }
        check(newest, cluster);
    }
}

/// All stores are there: each of them holds every value of a basic type.
#[test]
fn every_version_holds_every_value() {
    with_each(|newest, cluster| {
        let mut clients = cluster.clients();
        let mut cold = Cold::basic(&mut clients[0], "basic", 60);
        for line in ["INCR n", "APPEND s abc", "RPUSH l a b", "LPOP l", "HINCRBY h f 3", "ZINCRBY z 1.5 m", "SETNX x y"]
        {
            done(&mut clients[1], line);
        }
        cold.expect(
            &mut clients[0],
            &["GET n", "GET s", "LRANGE l 0 -1", "HGETALL h", "ZRANGE z 0 -1 WITHSCORES", "GET x"],
        );
        cold.check_all(&cluster);
        for (number, store) in cluster.stores.iter().enumerate() {
            eventually(&format!("{newest}: store {number} holds every value"), PATIENCE, || {
                cold.holds(&mut store.client())
            });
        }
    });
}

/// One store is away while values are written, in turn. Each gets them afterwards if one of the others is not newer; if
/// both are, the proxies say in their metrics that it cannot load them, and whatever the clients read is right.
#[test]
fn each_version_is_away_once() {
    with_each(|newest, mut cluster| {
        for away in 0..3 {
            cluster.stores[away].kill9();
            let cold = Cold::basic(&mut cluster.client(0), &format!("without:{away}"), 60);
            cluster.stores[away].restart();
            cold.check_all(&cluster);
            cluster.touched();
            let is_oldest = away == 0;
            eventually(
                &format!("{newest}: store {away} is repaired, or it is counted that the oldest cannot be"),
                PATIENCE,
                || cold.holds(&mut cluster.stores[away].client()) || is_oldest && transfers_are_refused(&cluster),
            );
            cold.check_all(&cluster);
        }
    });
}

/// Newer stores that were away are repaired for certain: every server loads what older ones write.
#[test]
fn newer_versions_are_repaired() {
    with_each(|newest, mut cluster| {
        cluster.stores[2].kill9();
        let mut cold = Cold::basic(&mut cluster.client(0), "upwards", 60);
        // Without the oldest, nobody but 7.0 can be the source.
        cluster.stores[2].restart();
        cluster.touched();
        eventually(&format!("{newest} holds every value"), PATIENCE, || cold.holds(&mut cluster.stores[2].client()));
        cluster.stores[0].kill9();
        let mut client = cluster.client(1);
        cold.check(&mut client);
        done(&mut client, "RPUSH last a");
        cold.expect(&mut client, &["LRANGE last 0 -1"]);
        cold.check(&mut client);
    });
}

/// Verbs whose result is passed on as a payload succeed or say that they do not, and all proxies see one outcome.
#[test]
fn payloads_between_versions() {
    with_each(|newest, cluster| {
        let mut clients = cluster.clients();
        for round in 0..10 {
            done(&mut clients[0], &format!("SADD bag:{round} a b c d"));
            done(&mut clients[0], &format!("RPUSH {{m}}from:{round} a"));
            let popped = clients[1].line(&format!("SPOP bag:{round}"));
            let moved = clients[1].line(&format!("LMOVE {{m}}from:{round} {{m}}to:{round} LEFT RIGHT"));
            let left = done(&mut clients[0], &format!("SCARD bag:{round}"));
            if !popped.is_error() {
                assert_eq!(left, Value::Integer(3), "{newest}");
                let member = format!("SISMEMBER bag:{round} {}", popped.text());
                assert_eq!(done(&mut clients[0], &member), Value::Integer(0), "{newest}");
            }
            let target = done(&mut clients[0], &format!("LLEN {{m}}to:{round}"));
            assert!(moved.is_error() || target == Value::Integer(1), "{newest}: {moved:?}, {target:?}");
            for turn in 0..6 {
                // A move of unknown fate may still happen.
                if popped.is_error() || moved.is_error() {
                    break;
                }
                let client = &mut clients[turn % 2];
                assert_eq!(done(client, &format!("SCARD bag:{round}")), left, "{newest}: it changed after it was read");
                assert_eq!(
                    done(client, &format!("LLEN {{m}}to:{round}")),
                    target,
                    "{newest}: it changed after it was read"
                );
            }
        }
    });
}

/// Whether a proxy counts states that a store could not load.
fn transfers_are_refused(cluster: &Cluster) -> bool {
    let mut proxies = cluster.proxies.iter().filter_map(|proxy| proxy.quoit());
    proxies.any(|quoit| quoit.metric_sum("quoit_replication_transfers_refused_total") > 0.0)
}
