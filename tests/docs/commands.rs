//! `docs/commands.md`, written from the command table, and what differs from one server, verb by verb.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use quoit::command::{self, Handling, LocalVerb, Replication, Row, SplitRule, replicate};

use super::root;

/// Verbs whose answers are not those of one server, and how they differ. All others that are served answer the same, where
/// their keys are together.
const DIFFERS: &[(&str, &str)] = &[
    ("acl|cat", "what quoit knows of commands"),
    ("acl|getuser", "users are those of quoit's file"),
    ("acl|list", "users are those of quoit's file"),
    ("acl|load", "reads quoit's file again"),
    ("acl|log", "of this proxy"),
    ("acl|users", "users are those of quoit's file"),
    ("client|id", "of this proxy; numbers of several proxies may be the same"),
    ("client|info", "of this proxy"),
    ("client|kill", "clients of this proxy"),
    ("client|list", "clients of this proxy"),
    ("client|no-evict", "remembered; quoit evicts nobody"),
    ("client|no-touch", "remembered; the stores' access times change all the same"),
    ("client|pause", "this proxy sends nothing; other proxies do"),
    ("client|tracking", "some news comes twice; see [client-side caching](clients.md#client-side-caching)"),
    ("client|unblock", "clients of this proxy"),
    ("client|unpause", "this proxy"),
    ("command", "the verbs that quoit serves; those of all versions, whatever the stores know"),
    ("command|count", "the verbs that quoit serves"),
    ("command|list", "the verbs that quoit serves"),
    ("commandlog", "slow requests of this proxy alone"),
    (
        "config|get",
        "settings of the proxy under Redis's names, and those of the stores that say how values are kept, of one of them",
    ),
    ("config|resetstat", "`INFO` of the proxy"),
    (
        "config|set",
        "what says how values are kept, and `notify-keyspace-events`, on all stores; of the proxy's own those of `SLOWLOG` and `LATENCY`",
    ),
    ("dbsize", "counted over all nodes at about the same time; with several copies all names are read"),
    ("debug", "`SLEEP`, and `OBJECT`, `SDSLEN`, `HTSTATS-KEY`, `DIGEST-VALUE` of one key where stores allow it"),
    ("eval", "on the node of the keys that it names; see [scripting](scripting.md)"),
    ("evalsha", "as `EVAL`"),
    ("eval_ro", "as `EVAL`"),
    ("evalsha_ro", "as `EVAL`"),
    ("exec", "keys of one node; see [transactions](transactions.md) for several copies"),
    ("fcall", "as `EVAL`"),
    ("fcall_ro", "as `EVAL`"),
    ("flushall", "one node after another is emptied; with several copies key by key"),
    ("flushdb", "as `FLUSHALL`, of the client's database"),
    ("function", "all nodes are told; see [scripting](scripting.md)"),
    ("hello", "names quoit; the proto is the client's own"),
    ("info", "of the proxy, and `# Quoit`"),
    ("keys", "over all nodes, in no order, up to `keys_reply_bytes_max`"),
    ("latency", "of this proxy: the events `command` and `fast-command`, histograms of each verb"),
    ("lolwut", "quoit's own picture"),
    ("memory|usage", "on one of the replicas, without the record beside the value"),
    ("monitor", "requests to this proxy"),
    ("mset", "each node's part by itself; with several copies each key"),
    ("object|freq", "of one replica"),
    ("object|idletime", "of one replica"),
    ("pfdebug", "of a key's store; with several copies `DECODE` and `ENCODING`"),
    ("pfselftest", "of one store"),
    ("publish", "the number is of those that this proxy knows of; see [pub/sub](pubsub.md#counts)"),
    ("spublish", "as `PUBLISH`"),
    ("pubsub|channels", "over all nodes"),
    ("pubsub|numpat", "over all nodes; see [pub/sub](pubsub.md#counts)"),
    ("pubsub|numsub", "see [pub/sub](pubsub.md#counts)"),
    ("pubsub|shardchannels", "over all nodes"),
    ("pubsub|shardnumsub", "see [pub/sub](pubsub.md#counts)"),
    ("randomkey", "any key of any node"),
    ("role", "a master without replicas"),
    ("scan", "the cursor goes over all nodes; see [all keys](all-keys.md)"),
    ("script", "all nodes are told; see [scripting](scripting.md)"),
    ("select", "other databases not inside `MULTI` nor while keys are watched; see [databases](databases.md)"),
    ("slowlog", "slow requests of this proxy"),
    ("time", "the proxy's clock"),
    ("wait", "what the write quorum promises; see [clients and the proxy](clients.md#wait)"),
    ("waitaof", "0 and 0: quoit does not know what is on the stores' disks"),
];

#[test]
fn the_list_of_commands_is_current() {
    let path = root().join("docs/commands.md");
    let page = commands_page();
    if std::env::var_os("QUOIT_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "run: QUOIT_UPDATE=1 cargo test --test docs");
}

#[test]
fn what_differs_is_served() {
    let names: BTreeSet<&str> = DIFFERS.iter().map(|(verb, _)| *verb).collect();
    assert_eq!(names.len(), DIFFERS.len(), "each verb once");
    for verb in names {
        let row = command::lookup_full_name(verb.as_bytes()).unwrap_or_else(|| panic!("there is no {verb}"));
        assert!(row.is_served(), "{verb}");
    }
}

/// What is said of a verb that differs; of a subcommand that of its container, if it has none of its own.
fn difference(row: &Row) -> Option<&'static str> {
    if row.name.ends_with("|help") {
        return None;
    }
    let find = |name: &str| DIFFERS.iter().find(|(verb, _)| *verb == name).map(|(_, how)| *how);
    find(row.name).or_else(|| find(row.name.split_once('|')?.0))
}

/// A line for each verb: the same as one server's answer, or how it differs, or why it is refused.
fn verb_by_verb() -> String {
    let mut out = String::from(
        "## Verb by verb\n\n\
         *Same*: the bytes of one server, in both protocol versions, as the tests compare them with a server at random\n\
         arguments. An error may name another verb or argument first where a request has several faults. Where keys have several\n\
         copies it is the same, but for `-NOREPLICAS` and `-UNKNOWN` when stores are away, and what stands above.\n\n\
         | verb | |\n|---|---|\n",
    );
    let rows = command::all().iter().flat_map(|row| {
        let itself = row.subcommands.is_empty() || row.takes(1);
        itself.then_some(row).into_iter().chain(row.subcommands)
    });
    for row in rows {
        let same = |more: &str| format!("same{more}");
        let answer = match (row.handling, difference(row)) {
            (Handling::Later(reason), _) => format!("not yet: {reason}"),
            (Handling::Refused(reason), _) => format!("refused: {reason}"),
            (Handling::Local(LocalVerb::ClusterDisabled), _) => {
                "refused, as by a server without cluster support".to_owned()
            }
            (Handling::Local(LocalVerb::Cluster), _) => "with `cluster_emulation`, of a cluster of one node".to_owned(),
            (Handling::Local(LocalVerb::HttpRequest), _) => same(": the connection is closed"),
            (Handling::Local(LocalVerb::Quoit), _) => "quoit's own".to_owned(),
            (_, Some(how)) => format!("differs: {how}"),
            (Handling::Split(_), None) => same("; each node's part by itself"),
            (Handling::SameNode | Handling::Blocking, None) if row.single_key_at.is_none() => {
                same(", where all keys are on one node")
            }
            _ => same(""),
        };
        writeln!(out, "| `{}` | {answer} |", row.name.replace('|', " ").to_uppercase()).unwrap();
    }
    out
}

/// A row as it is listed: the verbs of a container where they are handled apart.
fn listed(rows: &'static [Row]) -> Vec<&'static Row> {
    let mut found = Vec::new();
    for row in rows {
        let apart = |other: &Row| other.handling != row.handling || other.replication != row.replication;
        let apart = row.subcommands.iter().any(apart);
        if apart {
            found.extend(listed(row.subcommands));
            // A container whose bare name is a command of its own.
            found.extend(row.takes(1).then_some(row));
        } else {
            found.push(row);
        }
    }
    found
}

fn spoken(row: &Row) -> String {
    let name = row.name.replace('|', " ").to_uppercase();
    let alone = row.subcommands.is_empty() || row.takes(1);
    if alone { format!("`{name}`") } else { format!("`{name} …`") }
}

/// The verbs of one kind by the servers' groups, a line a group.
fn by_group(rows: &[&'static Row], which: impl Fn(&Row) -> bool) -> String {
    let mut groups: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    for row in rows.iter().filter(|row| which(row)) {
        groups.entry(row.about.group).or_default().push(spoken(row));
    }
    let mut lines = String::new();
    for (group, verbs) in groups {
        let group = if group.is_empty() { "other" } else { group };
        writeln!(lines, "- {group}: {}", verbs.join(", ")).unwrap();
    }
    lines
}

/// The verbs that have a reason, a line a reason.
fn by_reason(rows: &[&'static Row], reason_of: impl Fn(&Row) -> Option<&'static str>) -> String {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for row in rows {
        let Some(reason) = reason_of(row) else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, verbs)) => verbs.push(spoken(row)),
            None => reasons.push((reason, vec![spoken(row)])),
        }
    }
    let mut lines = String::from("| verbs | why |\n|---|---|\n");
    for (reason, verbs) in reasons {
        writeln!(lines, "| {} | {reason} |", verbs.join(", ")).unwrap();
    }
    lines
}

fn variants(rows: &[&'static Row]) -> String {
    let mut lines = String::from("| verb | with | |\n|---|---|---|\n");
    for row in rows {
        for variant in row.variants {
            let with = match variant.when {
                command::Condition::Blocks => "`BLOCK`",
                command::Condition::SortsByOtherKeys => "`BY` or `GET` and a pattern that has a `*`",
                command::Condition::CopiesToDatabase => "`DB`",
            };
            let (what, reason) = match variant.row.handling {
                Handling::Blocking => ("waits", "as the verbs that may wait"),
                Handling::ToDatabase => ("on one node", "the number is one of the pool's `databases`"),
                Handling::Later(reason) => ("not yet", reason),
                Handling::Refused(reason) => ("refused", reason),
                other => panic!("{}: {other:?} has no words here yet", row.name),
            };
            writeln!(lines, "| {} | {with} | {what}: {reason} |", spoken(row)).unwrap();
        }
    }
    lines
}

/// What a class of replication means, for people.
fn meaning(class: Replication) -> &'static str {
    match class {
        Replication::Read => "One replica answers, and enough others confirm that its copy is the newest.",
        Replication::Blind => {
            "What was there does not matter: one round to all replicas, done when a write quorum holds it."
        }
        Replication::Update => {
            "Of one key: each replica runs it for itself, on a state that a quorum has agreed on before."
        }
        Replication::Opaque => {
            "One replica runs it, and the others get the state of the keys it has written: several keys, chance, the \
             store's clock, programs."
        }
        Replication::FanOut => "No key of its own: it asks or tells each node by itself.",
        Replication::Local => "Answered by quoit, as in any pool.",
        Replication::Refused => "Never served, for the reason above.",
    }
}

/// Requests that go another way than their verb: what is said of them is asked of the program.
const BY_ARGUMENTS: &[&str] = &[
    "SET key value EX 10",
    "SET key value NX",
    "SET key value GET",
    "SET key value KEEPTTL",
    "RESTORE key 0 payload REPLACE",
    "RESTORE key 0 payload",
    "GETEX key",
    "GETEX key EX 10",
    "BITFIELD key GET u8 0",
    "BITFIELD key SET u8 0 1",
    "SORT key",
    "SORT key STORE destination",
    "GEORADIUS key 15 37 200 km",
    "GEORADIUS key 15 37 200 km STORE destination",
    "XADD key 1-1 field value",
    "XADD key * field value",
    "XADD key MAXLEN ~ 1000 1-1 field value",
    "XTRIM key MAXLEN 1000",
    "XTRIM key MAXLEN ~ 1000",
];

fn class_of(request: &str) -> Replication {
    let (mut frame, mut bounds) = (Vec::new(), Vec::new());
    for word in request.split(' ') {
        let start = u32::try_from(frame.len()).unwrap();
        frame.extend_from_slice(word.as_bytes());
        bounds.push((start, u32::try_from(frame.len()).unwrap()));
    }
    let args = command::Args::new(&frame, &bounds);
    let row = command::resolve(&args).unwrap();
    replicate::classify(row, &args, 1_000_000).class().unwrap()
}

/// The verbs by their class of replication, and the requests that have another than their verb.
fn replication(rows: &[&'static Row]) -> String {
    let mut text = String::new();
    for class in Replication::ALL {
        writeln!(text, "**{}.** {}\n", class.as_str(), meaning(class)).unwrap();
        let verbs = rows.iter().filter(|row| row.replication == class).map(|row| spoken(row));
        // Those that are listed above under the same name.
        if !matches!(class, Replication::Local | Replication::Refused) {
            writeln!(text, "{}\n", verbs.collect::<Vec<_>>().join(", ")).unwrap();
        }
    }
    text.push_str("Where the arguments decide:\n\n| request | class |\n|---|---|\n");
    for request in BY_ARGUMENTS {
        writeln!(text, "| `{request}` | {} |", class_of(request).as_str()).unwrap();
    }
    text
}

fn commands_page() -> String {
    let rows = listed(command::all());
    let names = |is_meant: &dyn Fn(&Row) -> bool| {
        rows.iter().filter(|row| is_meant(row)).map(|row| spoken(row)).collect::<Vec<_>>().join(", ")
    };
    let split = |rule: SplitRule| names(&|row| row.handling == Handling::Split(rule));
    let local = |verb: LocalVerb| names(&|row| row.handling == Handling::Local(verb));
    let elsewhere = [LocalVerb::ClusterDisabled, LocalVerb::Cluster, LocalVerb::HttpRequest].map(Handling::Local);
    format!(
        "# Commands\n\n\
         What quoit does with each verb of Redis 6.2 to 8 and Valkey 9. This page is written from the command table by\n\
         `QUOIT_UPDATE=1 cargo test --test docs`. A verb that is neither here nor in a `[[command]]` table of the file is\n\
         unknown: `-ERR unknown command …`, as from the servers. A store answers in its own words if it is older than the verb.\n\n\
         ## One key: forwarded\n\n\
         The request goes to the node of its key as it came, and the reply comes back as it is.\n\n{}\n\
         ## Several keys on one node: forwarded\n\n\
         All keys must be on one node, by a `{{tag}}` for instance; else\n\
         `-CROSSSLOT Keys in request don't hash to the same slot`.\n\n{}\n\
         ## Several keys on any nodes: split\n\n\
         One request a node, in parallel; the replies become one. Where all keys are on one node, the request goes there as\n\
         it came. Each node's part is atomic, the whole is not.\n\n\
         - an array in the order of the keys; an error stands in the place of each key of a failed node: {}\n\
         - `OK`, or the first error: {}\n\
         - the sum, or the first error: {}\n\n\
         ## Waiting\n\n\
         {}, and `XREAD` and `XREADGROUP` with `BLOCK`. All keys on one node, but see [waiting](waiting.md).\n\n\
         ## To another database\n\n\
         `MOVE`, and `COPY` with `DB`. The key stays on its node; see [databases](databases.md).\n\n\
         ## All keys\n\n\
         {}. Every node is asked; see [all keys](all-keys.md).\n\n\
         ## Transactions\n\n\
         {}. All keys must be on one node; see [transactions](transactions.md).\n\n\
         ## Scripts and functions\n\n\
         {}. Run on the node of their keys, kept on every node; see [scripting](scripting.md).\n\n\
         ## Messages\n\n\
         {}. A message goes to one node, and every client that listens has it once; see [pub/sub](pubsub.md).\n\n\
         ## Answered by quoit\n\n{}\n\
         `QUOIT` is quoit's own: `QUOIT ROUTE key`, `QUOIT LEVEL`, `QUOIT VERSIONS key`, `QUOIT NODE name command`,\n\
         `QUOIT HELP`. See [replication](replication.md#looking-at-it) and [clients and the proxy](clients.md).\n\n\
         Answered where the listener has `cluster_emulation`, see [clients and the proxy](clients.md#redis-cluster), else with\n\
         `-ERR This instance has cluster support disabled`, as by a server that is not part of a cluster: {}.\n\n\
         Always answered with an error, that one or another: {}.\n\n\
         The beginning of an HTTP request ({}) closes the connection, as the servers do.\n\n\
         ## Not yet\n\n\
         `-ERR 'MEMORY STATS' is not supported by quoit yet: …`, with the reason; the connection lives.\n\n{}\n\
         ## Refused\n\n\
         `-ERR 'CONFIG SET' is refused by quoit: …`, with the reason; the connection lives.\n\n{}\n\
         ## Decided by arguments\n\n{}\n\
         ## In a pool that keeps several copies\n\n\
         Where a pool has `replicas` of 2 or more, each verb belongs to a class that says how it goes to the replicas of its\n\
         keys. A verb that is not yet served has the class it will have.\n\n{}\n{}",
        by_group(&rows, |row| row.handling == Handling::Forward),
        by_group(&rows, |row| row.handling == Handling::SameNode),
        split(SplitRule::Mget),
        split(SplitRule::Mset),
        split(SplitRule::SumIntegers),
        names(&|row| row.handling == Handling::Blocking),
        names(&|row| matches!(row.handling, Handling::Keyspace(_))),
        names(&|row| matches!(row.handling, Handling::Transaction(_))),
        names(&|row| matches!(row.handling, Handling::Run(_) | Handling::Programs(_))),
        names(&|row| matches!(row.handling, Handling::PubSub(_))),
        by_group(&rows, |row| matches!(row.handling, Handling::Local(_)) && !elsewhere.contains(&row.handling)),
        local(LocalVerb::Cluster),
        local(LocalVerb::ClusterDisabled),
        local(LocalVerb::HttpRequest),
        by_reason(&rows, |row| if let Handling::Later(reason) = row.handling { Some(reason) } else { None }),
        by_reason(&rows, |row| if let Handling::Refused(reason) = row.handling { Some(reason) } else { None }),
        variants(&rows),
        replication(&rows),
        verb_by_verb(),
    )
}
