//! The same is said to one server and to a proxy, and the bytes compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{Client, Fleet, Program, RedisServer, encode};

/// Who says what, and how many frames come to it: `name line`, and `name` alone for what it is only told. `{name}` in a line
/// is the number of that client.
type Script = &'static [(&'static str, usize)];

const REFUSALS: Script = &[
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT GETREDIR", 1),
    ("t CLIENT CACHING YES", 1),
    ("t CLIENT CACHING MAYBE", 1),
    ("t CLIENT TRACKING", 1),
    ("t CLIENT TRACKING MAYBE", 1),
    ("t CLIENT TRACKING ON PREFIX a", 1),
    ("t CLIENT TRACKING ON NOSUCH", 1),
    ("t CLIENT TRACKING ON REDIRECT", 1),
    ("t CLIENT TRACKING ON REDIRECT x", 1),
    ("t CLIENT TRACKING ON REDIRECT 987654", 1),
    ("t CLIENT TRACKING ON REDIRECT -1", 1),
    ("t CLIENT TRACKING MAYBE REDIRECT 987654", 1),
    ("t CLIENT TRACKING ON REDIRECT {w} REDIRECT {w}", 1),
    ("t CLIENT TRACKING ON OPTIN OPTOUT", 1),
    ("t CLIENT TRACKING ON BCAST OPTIN", 1),
    ("t CLIENT TRACKING ON BCAST PREFIX a PREFIX ab", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT TRACKING ON", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT GETREDIR", 1),
    ("t CLIENT CACHING YES", 1),
    ("t CLIENT CACHING NO", 1),
    ("t CLIENT TRACKING ON BCAST", 1),
    ("t CLIENT TRACKING ON REDIRECT {w} OPTIN NOLOOP", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT GETREDIR", 1),
    ("t CLIENT TRACKING ON OPTOUT", 1),
    ("t CLIENT CACHING NO", 1),
    ("t CLIENT CACHING MAYBE", 1),
    ("t CLIENT CACHING YES", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t PING", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("t CLIENT TRACKING ON BCAST PREFIX b PREFIX a NOLOOP", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT TRACKING ON BCAST PREFIX c", 1),
    ("t CLIENT TRACKING ON BCAST PREFIX cd", 1),
    ("t CLIENT TRACKING ON", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("t CLIENT TRACKING ON BCAST", 1),
    ("t CLIENT TRACKINGINFO", 1),
    ("t RESET", 1),
    ("t CLIENT TRACKINGINFO", 1),
];

const READS: Script = &[
    ("t CLIENT TRACKING ON", 1),
    ("t GET a", 1),
    ("w SET a 1", 1),
    ("t", 1),
    ("w SET a 2", 1),
    ("t GET a", 1),
    ("w SET b 1", 1),
    ("w DEL a", 1),
    ("t", 1),
    ("t GET a", 1),
    ("t SET a mine", 2),
    ("t GET a", 1),
    ("t DEL nothing", 1),
    ("t SET a mine NX", 1),
    ("w RENAME a {a}2", 1),
    ("t", 1),
    ("t HGETALL h", 1),
    ("w HSET h f v", 1),
    ("t", 1),
    ("t GET h", 1),
    ("w HSET h f w", 1),
    ("t", 1),
    ("t EXISTS a h", 1),
    ("w DEL h", 1),
    ("t", 1),
    ("w SET a 1 PX 60", 1),
    ("t", 1),
    ("t GET a", 1),
    ("t", 1),
    ("t EVAL return(redis.call('GET',KEYS[1])) 1 s", 1),
    ("w SET s 1", 1),
    ("t", 1),
    ("t MULTI", 1),
    ("t GET a", 1),
    ("t GET a", 1),
    ("t EXEC", 1),
    ("w APPEND a x", 1),
    ("t", 1),
    ("t GET a", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("w SET a 3", 1),
    ("t CLIENT TRACKING ON", 1),
    ("t GET b", 1),
    ("w SET b 3", 1),
    ("t", 1),
    ("t GET b", 1),
    ("t INCR b", 2),
];

const CHOICE: Script = &[
    ("t CLIENT TRACKING ON OPTIN", 1),
    ("t GET a", 1),
    ("w SET a 1", 1),
    ("t CLIENT CACHING YES", 1),
    ("t GET a", 1),
    ("t GET b", 1),
    ("w SET b 1", 1),
    ("w SET a 1", 1),
    ("t", 1),
    ("t CLIENT CACHING YES", 1),
    ("t CLIENT GETNAME", 1),
    ("t MULTI", 1),
    ("t GET a", 1),
    ("t GET a", 1),
    ("t EXEC", 1),
    ("t GET b", 1),
    ("w SET b 1", 1),
    ("w SET a 1", 1),
    ("t", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("t CLIENT TRACKING ON OPTOUT", 1),
    ("t CLIENT CACHING NO", 1),
    ("t GET a", 1),
    ("t GET b", 1),
    ("w SET a 1", 1),
    ("w SET b 1", 1),
    ("t", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("t CLIENT TRACKING ON NOLOOP", 1),
    ("t GET a", 1),
    ("t SET a 1", 1),
    ("w SET a 2", 1),
    ("t GET a", 1),
    ("t SETNX a 1", 1),
    ("w SET a 2", 1),
    ("t", 1),
    ("t GET a", 1),
    ("t HSET h f v", 1),
    ("t HGET h f", 1),
    ("w DEL h", 1),
    ("t", 1),
];

const PREFIXES: Script = &[
    ("t CLIENT TRACKING ON BCAST PREFIX user: PREFIX item:", 1),
    ("w SET user:1 a", 1),
    ("t", 1),
    ("w SET user:1 a", 1),
    ("t", 1),
    ("w SET other a", 1),
    ("w MSET item:{x}1 a item:{x}2 b other a", 1),
    ("t", 1),
    ("t SET item:{x}3 a", 2),
    ("t MSET item:{x}5 a item:{x}6 b", 2),
    ("t MULTI", 1),
    ("t INCR user:{x}1", 1),
    ("t INCR item:{x}7", 1),
    ("t INCR user:{x}2", 1),
    ("t EXEC", 3),
    ("t GET user:1", 1),
    ("t CLIENT TRACKING ON BCAST PREFIX page:", 1),
    ("w SET page:1 a", 1),
    ("t", 1),
    ("w DEL user:1", 1),
    ("t", 1),
    ("w SET item:4 a PX 60", 1),
    ("t", 1),
    ("t", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("w SET user:1 a", 1),
    ("t CLIENT TRACKING ON BCAST", 1),
    ("w SET anything a", 1),
    ("t", 1),
];

const REDIRECTED: Script = &[
    ("r SUBSCRIBE __redis__:invalidate", 1),
    ("t CLIENT TRACKING ON REDIRECT {r}", 1),
    ("t GET a", 1),
    ("w SET a 1", 1),
    ("r", 1),
    ("t GET a", 1),
    ("t SET a 2", 1),
    ("r", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("w SET p{x}0 before", 1),
    ("t CLIENT TRACKING ON BCAST PREFIX p REDIRECT {r}", 1),
    ("w MSET p{x}1 a p{x}2 b", 1),
    ("r", 1),
    ("t CLIENT GETREDIR", 1),
    ("t CLIENT TRACKINGINFO", 1),
];

/// One store tells once that it was emptied, several tell one after the other.
const EMPTIED: Script = &[
    ("r SUBSCRIBE __redis__:invalidate", 1),
    ("t CLIENT TRACKING ON REDIRECT {r}", 1),
    ("t GET a", 1),
    ("w FLUSHALL", 1),
    ("r", 1),
    ("t CLIENT TRACKING OFF", 1),
    ("t CLIENT TRACKING ON", 1),
    ("t GET a", 1),
    ("w FLUSHDB", 1),
];

struct Talk {
    address: SocketAddr,
    protocol: &'static str,
    clients: BTreeMap<&'static str, (Client, String)>,
}

impl Talk {
    fn client(&mut self, name: &'static str) -> &mut Client {
        let (address, protocol) = (self.address, self.protocol);
        let (client, _) = self.clients.entry(name).or_insert_with(|| {
            let mut client = Client::connect(address);
            client.set_read_timeout(Duration::from_secs(10));
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
            let id = client.command_raw(&["CLIENT", "ID"]).raw.escape_ascii().to_string();
            (client, id.trim_start_matches(':').trim_end_matches("\\r\\n").to_owned())
        });
        client
    }

    /// Says it all; what comes, with the numbers of clients replaced.
    fn hear(mut self, script: Script) -> Vec<(String, String)> {
        for name in ["t", "w", "r"] {
            self.client(name);
        }
        let ids: Vec<(String, String)> =
            self.clients.iter().map(|(name, (_, id))| (format!("{{{name}}}"), id.clone())).collect();
        let mut heard = Vec::new();
        for &(step, frames) in script {
            let (name, line) = step.split_once(' ').unwrap_or((step, ""));
            let client = self.client(name);
            if !line.is_empty() {
                let line = ids.iter().fold(line.to_owned(), |line, (name, id)| line.replace(name, id));
                client.send(&encode(&line.split(' ').collect::<Vec<_>>()));
            }
            let mut text = String::new();
            for _ in 0..frames {
                match client.try_receive() {
                    Ok(reply) => text += &reply.raw.escape_ascii().to_string(),
                    Err(error) => panic!("{step}: {error}; before it {heard:#?}"),
                }
            }
            for (name, id) in ids.iter().filter(|_| line.contains("REDIR") || line.contains("TRACKINGINFO")) {
                text = text.replace(&format!(":{id}\\r"), &format!(":{name}\\r"));
            }
            heard.push((step.to_owned(), text));
        }
        for (name, (mut client, _)) in self.clients {
            // Nothing more has come.
            client.send(&encode(&["PING"]));
            heard.push((format!("{name} at the end"), client.receive().raw.escape_ascii().to_string()));
        }
        heard
    }
}

#[track_caller]
fn check(protocol: &'static str, nodes: &[usize], script: Script) {
    let Some(server) = RedisServer::start() else { return };
    let want = Talk { address: server.address(), protocol, clients: BTreeMap::new() }.hear(script);
    for &nodes in nodes {
        let Some(fleet) = Fleet::start_with(nodes, |config| config.workers(2)) else { return };
        let got = Talk { address: fleet.address(), protocol, clients: BTreeMap::new() }.hear(script);
        for ((step, want), (_, got)) in want.iter().zip(&got) {
            assert_eq!(got, want, "{nodes} nodes, RESP{protocol}: {step}");
        }
    }
}

/// Other servers behind the proxy.
#[test]
fn who_reads_is_told_with_other_servers() {
    for variable in ["QUOIT_REDIS_62", "QUOIT_REDIS_8", "QUOIT_VALKEY"] {
        let start = || RedisServer::start_with(Program::Named(variable), &[]);
        let (Some(server), Some(store)) = (start(), start()) else { continue };
        let fleet = Fleet::in_front_of(vec![store], |config| config.workers(2));
        for (protocol, script) in [("3", READS), ("3", PREFIXES), ("2", REDIRECTED)] {
            let [want, got] = [server.address(), fleet.address()]
                .map(|address| Talk { address, protocol, clients: BTreeMap::new() }.hear(script));
            for ((step, want), (_, got)) in want.iter().zip(&got).filter(|((_, want), _)| !want.starts_with('-')) {
                assert_eq!(got, want, "{variable}, RESP{protocol}: {step}");
            }
        }
    }
}

#[test]
fn refusals_are_those_of_redis() {
    check("3", &[1], REFUSALS);
    check("2", &[1], REFUSALS);
}

#[test]
fn who_reads_is_told() {
    check("3", &[1, 3], READS);
}

#[test]
fn who_chooses_is_told_of_that() {
    check("3", &[1, 3], CHOICE);
}

#[test]
fn prefixes_are_told_as_by_one_server() {
    check("3", &[1], PREFIXES);
}

#[test]
fn another_client_is_told() {
    check("2", &[1, 3], REDIRECTED);
    check("3", &[1, 3], REDIRECTED);
}

#[test]
fn all_is_forgotten_when_a_store_is_emptied() {
    check("2", &[1], EMPTIED);
}
