//! Users and their rights: the same answers as a server with the same users, and what becomes of those who are connected
//! when users change.

use std::fs;
use std::io::ErrorKind;

use crate::support::{Client, Fleet, PATIENCE, Program, Quoit, QuoitConfig, RedisServer, Value, encode, eventually};

/// Verbs that run programs: quoit lets only those run them who may do everything.
const PROGRAMS: [&str; 6] = ["eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"];

/// Users whose rules Redis 7.0 shows as they were given.
const USERS: &[(&str, &str)] = &[
    ("all", "on >pw ~* &* +@all"),
    ("bare", ""),
    ("keys", "on >pw %R~ro:* %W~wo:* ~rw:* &ch* &news:? +@all"),
    ("list", "off sanitize-payload nopass ~[a-c]* resetchannels -@all +@list (~l:* +get) (%R~x &y -@all)"),
    ("reader", "on >pw >pw2 ~* +@read"),
    ("some", "on nopass skip-sanitize-payload ~* +get"),
    ("without", "on >pw ~* &* +@all -flushall"),
];

/// More users, whose rules 7.0 shows in other words that come to the same.
const RICH: &[(&str, &str)] = &[
    ("admin", "on >pw ~* +@all -flushall -config|set -script"),
    ("app", "on >pw ~app:* ~{app}:* &app:* +@all -@dangerous +info +keys"),
    (
        "mixed",
        "on >pw ~* +@all -@write +set +client|list -client|list +config|get +config -config|set +select|0 +select|1",
    ),
    ("narrow", "on >pw ~a ~b -@all +@hash +@list -hget +hget +@read -@read +acl|whoami"),
    ("selectors", "on >pw %R~r:* +@read (%W~w:* +@write -@dangerous) (~s:* +@set +@sortedset) (~* +@hash -hdel)"),
    ("streams", "on >pw %R~in:* %W~out:* +@stream +@keyspace +@string +@blocking -@slow +sort"),
];

pub(crate) fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

pub(crate) fn table(name: &str, rules: &str) -> String {
    format!("[[user]]\nname = \"{name}\"\nrules = '{rules}'\n")
}

fn tables(users: &[(&str, &str)]) -> String {
    users.iter().map(|(name, rules)| table(name, rules)).collect()
}

fn set_users(server: &RedisServer, users: &[(&str, &str)]) {
    for (name, rules) in users {
        assert_eq!(server.client().line(format!("ACL SETUSER {name} {rules}").trim_end()), ok(), "{name}");
    }
}

/// A server and the proxy with the same users.
fn both(program: Program, users: &[(&str, &str)]) -> Option<(RedisServer, Fleet)> {
    let server = RedisServer::start_with(program, &[])?;
    set_users(&server, users);
    let fleet = Fleet::start_with(1, |config| config.tables(&tables(users)))?;
    fleet.quoit()?;
    Some((server, fleet))
}

#[track_caller]
pub(crate) fn check_same(server: &mut Client, proxy: &mut Client, line: &str) {
    let (want, got) = (server.command_raw(&words(line)), proxy.command_raw(&words(line)));
    assert_eq!(String::from_utf8_lossy(&got.raw), String::from_utf8_lossy(&want.raw), "{line}");
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

#[track_caller]
pub(crate) fn check_error(client: &mut Client, line: &str, start: &str) {
    let reply = client.line(line);
    assert!(reply.is_error() && reply.text().starts_with(start), "{line}: wanted {start}…, got {reply:?}");
}

/// Whether the connection has been closed by the other side.
pub(crate) fn is_closed(client: &mut Client) -> bool {
    match client.try_command(&["PING"]) {
        Ok(_) => false,
        Err(error) => {
            assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            true
        }
    }
}

#[test]
fn users_are_shown_as_the_server_shows_them() {
    let Some((server, fleet)) = both(Program::Redis, USERS) else { return };
    for protocol in ["2", "3"] {
        let (mut server, mut proxy) = (server.client(), fleet.client());
        for client in [&mut server, &mut proxy] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
        }
        for line in ["ACL LIST", "ACL USERS", "ACL WHOAMI", "ACL CAT", "ACL GETUSER nobody", "ACL GETUSER default"] {
            check_same(&mut server, &mut proxy, line);
        }
        for (name, _) in USERS {
            check_same(&mut server, &mut proxy, &format!("ACL GETUSER {name}"));
        }
    }
    let (mut server, mut proxy) = (server.client(), fleet.client());
    for line in [
        "ACL CAT nosuch",
        "ACL CAT a b",
        "ACL Cat a b",
        "ACL GENPASS 0",
        "ACL GENPASS 4097",
        "ACL GENPASS -1",
        "ACL GENPASS x",
        "ACL GENPASS 1 2",
        "ACL LOG x",
        "ACL LOG 1 2",
        "ACL LOG -1",
        "ACL LOG RESET x",
        "ACL LOG RESET",
        "ACL LOG",
        "ACL",
        "ACL nosuch",
        "ACL WHOAMI x",
        "ACL GETUSER",
        "ACL DRYRUN keys",
        "ACL DRYRUN nobody get a",
        "ACL DRYRUN keys nosuch",
        "ACL DRYRUN keys config nosuch",
        "ACL DRYRUN keys get",
        "ACL DRYRUN keys CONFIG",
        "ACL DRYRUN keys config set",
    ] {
        check_same(&mut server, &mut proxy, line);
    }
    for bits in ["1", "5", "256", "4096"] {
        let lengths = [&mut server, &mut proxy].map(|client| client.line(&format!("ACL GENPASS {bits}")).text().len());
        assert_eq!(lengths[0], lengths[1], "{bits} bits");
    }
    assert_ne!(proxy.line("ACL GENPASS"), proxy.line("ACL GENPASS"));
    // Every category has every command of the server in it that the server has in it.
    for category in server.line("ACL CAT").items() {
        let line = format!("ACL CAT {}", category.text());
        let (want, got) = (server.line(&line), proxy.line(&line));
        let missing: Vec<_> = want.items().iter().filter(|name| !got.items().contains(name)).collect();
        assert!(missing.is_empty(), "{line}: {missing:?}");
    }
}

/// Later servers keep the rules about commands in their order; so does quoit.
#[test]
fn rules_keep_their_order() {
    let users: Vec<(&str, String)> =
        RICH.iter().map(|(name, rules)| (*name, format!("sanitize-payload {rules}"))).collect();
    let users: Vec<(&str, &str)> = users.iter().map(|(name, rules)| (*name, rules.as_str())).collect();
    let Some((server, fleet)) = both(Program::Named("QUOIT_REDIS_8"), &users) else { return };
    for protocol in ["2", "3"] {
        let (mut server, mut proxy) = (server.client(), fleet.client());
        for client in [&mut server, &mut proxy] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
        }
        for (name, _) in &users {
            check_same(&mut server, &mut proxy, &format!("ACL GETUSER {name}"));
        }
    }
}

/// What quoit shows of a user makes the same user again.
#[test]
fn what_is_shown_can_be_pasted() {
    let Some((server, fleet)) = both(Program::Redis, RICH) else { return };
    let lines = fleet.client().line("ACL LIST");
    for line in lines.items() {
        let text = line.text();
        let rest = text.strip_prefix("user ").expect("a line begins so");
        let (name, rules) = rest.split_once(' ').expect("rules");
        if name == "default" {
            continue;
        }
        let before = server.client().line(&format!("ACL GETUSER {name}"));
        assert_eq!(
            server
                .client()
                .line(&format!("ACL SETUSER {name} resetkeys resetchannels resetpass clearselectors {rules}")),
            ok()
        );
        assert_eq!(server.client().line(&format!("ACL GETUSER {name}")), before, "{text}");
    }
}

/// `ACL DRYRUN` of one command with keys of all kinds, in several places.
fn dry_runs<'a>(user: &'a str, command: &'a str, keys: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut requests = Vec::new();
    for (&first, &second) in keys.iter().zip(keys.iter().cycle().skip(3)) {
        for arguments in [&[first][..], &[first, second], &[first, second, "1"], &["1", first, second, first, "GET"]] {
            let verb: Vec<&str> = command.split('|').collect();
            requests.push([&["ACL", "DRYRUN", user], verb.as_slice(), arguments].concat());
        }
    }
    requests
}

/// Every command of the server, for every user.
#[test]
fn rights_are_those_of_the_server() {
    let users: Vec<_> = USERS.iter().chain(RICH).copied().collect();
    let Some((server, fleet)) = both(Program::Redis, &users) else { return };
    let (mut server, mut proxy) = (server.client(), fleet.client());
    let commands: Vec<String> = server.line("COMMAND LIST").items().iter().map(Value::text).collect();
    let keys = ["ro:1", "wo:1", "rw:1", "a", "app:1", "r:x", "s:y", "2", "1"];
    let (mut asked, mut denied, mut different) = (0, 0, Vec::new());
    for (name, _) in &users {
        for command in commands.iter().filter(|command| !PROGRAMS.contains(&command.as_str())) {
            let requests = dry_runs(name, command, &keys);
            let together: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
            let answers = [&mut server, &mut proxy].map(|client| client.pipeline(&together, requests.len()));
            for (request, (want, got)) in requests.iter().zip(answers[0].iter().zip(&answers[1])) {
                if want.value.text().starts_with("ERR wrong number") {
                    continue; // Some verbs take other numbers of arguments in other versions.
                }
                if command == "pfmerge" && request.len() == 5 {
                    continue; // The server finds no key in it, and makes the destination nevertheless.
                }
                asked += 1;
                denied += u32::from(want.value != ok() && !want.value.is_error());
                if got.raw != want.raw {
                    different.push(format!("{request:?}: {:?}, the server {:?}", got.value, want.value));
                }
            }
        }
    }
    assert!(different.is_empty(), "{} of {asked}:\n{}", different.len(), different.join("\n"));
    assert!(denied > asked / 10 && denied < asked - asked / 10, "{denied} of {asked}");
}

#[test]
fn requests_are_refused_in_the_words_of_the_server() {
    let users: Vec<_> = USERS.iter().chain(RICH).copied().collect();
    let Some((server, fleet)) = both(Program::Redis, &users) else { return };
    let (mut server, mut proxy) = (server.client(), fleet.client());
    for line in [
        "AUTH keys pw",
        "ACL WHOAMI",
        "GET ro:1",
        "SET ro:1 x",
        "SET wo:1 x",
        "GET wo:1",
        "SET wo:1 x GET",
        "SET rw:1 x GET",
        "GET z",
        "MGET ro:1 wo:1",
        "MGET ro:1 rw:1",
        "DEL rw:1 ro:1",
        "DEL rw:1",
        "STRLEN wo:1",
        "EXISTS wo:1 z",
        "BITFIELD ro:1 GET u8 0",
        "BITFIELD ro:1 SET u8 0 1",
        "COPY rw:1 z",
        "COPY z rw:1",
        "GET",
        "NOSUCH z",
        "CONFIG NOSUCH",
        "PUBLISH z x",
        "SPUBLISH z x",
        "DBSIZE",
        "PING",
        // A failed sign-in leaves the user as it was.
        "AUTH keys wrong",
        "AUTH nobody pw",
        "AUTH bare pw",
        "AUTH list pw",
        "ACL WHOAMI",
        "AUTH reader pw2",
        "ACL WHOAMI",
        "SET a b",
        "FLUSHALL",
        "ACL LIST",
        "GET a",
        "AUTH some anything",
        "ACL WHOAMI",
        "GET a",
        "CONFIG SET a b",
        "CONFIG GET a",
        "MGET a b",
        "SELECT 0",
        "PING",
        "ECHO a",
        "RESET",
        "ACL WHOAMI",
        "AUTH admin pw",
        "CONFIG SET a b",
        "FLUSHALL",
        "DBSIZE",
        "AUTH all pw",
        "FLUSHALL",
        "ACL WHOAMI",
        "AUTH default x",
        "AUTH pw",
        "AUTH a b c",
        "QUIT",
    ] {
        check_same(&mut server, &mut proxy, line);
    }
}

#[test]
fn a_transaction_of_what_is_refused_is_void() {
    let Some((server, fleet)) = both(Program::Redis, USERS) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let (mut server, mut proxy) = (server.client(), fleet.client());
    for line in [
        "AUTH keys pw",
        "MULTI",
        "SET rw:1 a",
        "GET rw:1",
        "EXEC",
        "MULTI",
        "SET rw:1 b",
        "SET ro:1 b",
        "GET rw:1",
        "EXEC",
        "GET rw:1",
        "WATCH z",
        "AUTH reader pw",
        "MULTI",
        "PING",
    ] {
        check_same(&mut server, &mut proxy, line);
    }
    // What was queued before rights changed does not run by those of before.
    let mut client = fleet.client();
    for line in ["AUTH all pw", "MULTI", "SET k v"] {
        assert!(!client.line(line).is_error(), "{line}");
    }
    let users: Vec<_> = USERS.iter().filter(|(name, _)| *name != "all").copied().collect();
    let config = Fleet::config_of(&fleet.stores).tables(&tables(&users)).tables(&table("all", "on >pw ~* +exec +get"));
    quoit.write_config(&quoit.text_of(&config));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    check_error(&mut client, "EXEC", "EXECABORT");
    assert!(client.line("GET k").text().is_empty());
}

#[test]
fn who_has_not_signed_in_may_do_nothing() {
    let users = [("default", "on >pw ~* +@read"), ("app", "on >pw ~* +@all")];
    let Some((server, fleet)) = both(Program::Redis, &[users[1]]) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    assert_eq!(server.client().line("ACL SETUSER default reset on >pw ~* +@read"), ok());
    let config = Fleet::config_of(&fleet.stores).tables(&tables(&users));
    quoit.write_config(&quoit.text_of(&config));
    eventually("the default user asks for a password", PATIENCE, || quoit.client().line("PING").is_error());
    let (mut server, mut proxy) = (server.client(), quoit.client());
    for line in [
        "PING",
        "GET a",
        "ACL WHOAMI",
        "HELLO 3",
        "MGET a b",
        "NOSUCH",
        "GET",
        "AUTH wrong",
        "AUTH app wrong",
        "RESET",
        "DBSIZE",
        "AUTH pw",
        "ACL WHOAMI",
        "GET a",
        "SET a b",
        "AUTH app pw",
        "SET a b",
        "RESET",
        "GET a",
        "HELLO 2 AUTH default pw",
        "GET a",
    ] {
        if line.starts_with("HELLO 2 AUTH") {
            assert!(!proxy.line(line).is_error() && !server.line(line).is_error());
            continue;
        }
        check_same(&mut server, &mut proxy, line);
    }
}

#[test]
fn what_was_refused_is_kept_and_counted() {
    let Some((server, fleet)) = both(Program::Redis, USERS) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let entries = |client: &mut Client| -> Vec<Vec<(String, String)>> {
        let log = client.line("ACL LOG 100");
        let shown = log.items().iter().map(|entry| {
            let pairs = entry.items().chunks(2).map(|pair| (pair[0].text(), pair[1].text()));
            pairs.filter(|(name, _)| name != "age-seconds" && name != "client-info").collect()
        });
        shown.collect()
    };
    for address in [server.address(), fleet.address()] {
        let mut client = Client::connect(address);
        for line in [
            "AUTH keys wrong",
            "AUTH nobody wrong",
            "AUTH keys pw",
            "GET z",
            "SET ro:1 x",
            "GET z",
            "PUBLISH z x",
            "AUTH reader pw",
            "SET a b",
        ] {
            client.line(line);
        }
    }
    let (mut server, mut proxy) = (server.client(), fleet.client());
    assert_eq!(entries(&mut proxy), entries(&mut server));
    assert_eq!(proxy.line("ACL LOG 2").items().len(), 2);
    let info = proxy.line("ACL LOG 1");
    let info = info.items()[0].items().last().expect("the client's line").text();
    assert!(info.starts_with("id=") && info.contains(" user=reader "), "{info}");
    let denials = quoit.metric("quoit_acl_denials_total");
    let count = |reason: &str| -> String {
        let label = format!("reason=\"{reason}\"");
        let own = denials.iter().filter(|(series, _)| series.contains(&label));
        own.map(|(_, value)| value).sum::<f64>().to_string()
    };
    assert_eq!(["auth", "command", "key", "channel", "script"].map(count), ["2", "1", "3", "1", "0"]);
    assert_eq!(proxy.line("ACL LOG RESET"), ok());
    assert!(proxy.line("ACL LOG").items().is_empty());
}

#[test]
fn scripts_are_for_who_may_do_everything() {
    let users = "[[user]]\nname = \"trusted\"\nrules = \"on >pw ~a:* +@all\"\ntrust_scripts = true\n";
    let Some(fleet) = Fleet::start_with(1, |config| config.tables(&format!("{}{users}", tables(USERS)))) else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let (mut keys, mut trusted) = (fleet.client(), fleet.client());
    assert_eq!(keys.line("AUTH keys pw"), ok());
    check_error(
        &mut keys,
        "EVAL script 1 rw:1",
        "NOPERM this user may run no scripts: quoit cannot check what they do.",
    );
    assert_eq!(trusted.line("AUTH trusted pw"), ok());
    for line in ["EVAL script 1 a:1", "EVAL script 1 b:1"] {
        let is_denied = trusted.line(line).text().starts_with("NOPERM");
        assert_eq!(is_denied, line.ends_with("b:1"), "{line}");
    }
}

/// Values beyond `stream_threshold_bytes` are passed on while they are received.
#[test]
fn big_values_of_users_with_few_rights() {
    let Some(fleet) =
        Fleet::start_with(1, |config| config.pool("stream_threshold_bytes = 65536").tables(&tables(USERS)))
    else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    assert_eq!(client.line("AUTH keys pw"), ok());
    let big = "x".repeat(1 << 20);
    assert_eq!(client.command(&["SET", "rw:1", &big]), ok());
    assert_eq!(client.command(&["SET", "wo:1", &big]), ok(), "SET with GET would need to read: it is held whole");
    for key in ["ro:1", "z"] {
        let reply = client.command(&["SET", key, &big]);
        assert!(reply.is_error() && reply.text().starts_with("NOPERM"), "{reply:?}");
        assert_eq!(client.line("GET rw:1").text().len(), big.len());
    }
    assert!(fleet.stores[0].client().command(&["EXISTS", "ro:1", "z"]) == Value::Integer(0));
}

#[test]
fn users_change_without_a_restart() {
    let users =
        [("gone", "on >a ~* +@all"), ("kept", "on >a ~* +get"), ("moved", "on >a ~* +@all"), ("off", "on >a ~* +@all")];
    let Some(fleet) = Fleet::start_with(2, |config| config.tables(&tables(&users))) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let mut clients = users.map(|(name, _)| {
        let mut client = fleet.client();
        assert_eq!(client.line(&format!("AUTH {name} a")), ok());
        client
    });
    let mut default = fleet.client();
    let lines = default.line("CLIENT LIST").text();
    assert!(users.iter().all(|(name, _)| lines.contains(&format!(" user={name} "))), "{lines}");
    check_error(&mut clients[1], "SET k v", "NOPERM");
    let next = [
        ("kept", "on >b >a ~* +get +set"),
        ("moved", "on >b ~* +@all"),
        ("off", "off >a ~* +@all"),
        ("default", "on nopass ~* +ping"),
    ];
    let config = Fleet::config_of(&fleet.stores).tables(&tables(&next));
    quoit.write_config(&quoit.text_of(&config));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    let [gone, kept, moved, off] = &mut clients;
    assert_eq!(kept.line("SET k v"), ok(), "more rights at once");
    check_error(&mut default, "SET k v", "NOPERM");
    assert_eq!(default.line("PING"), Value::Simple(b"PONG".to_vec()), "the default user stays");
    for client in [gone, moved, off] {
        assert!(is_closed(client));
    }
    // A fault changes nothing.
    let config = Fleet::config_of(&fleet.stores).tables(&table("kept", "on >secret-word ~* +nosuch"));
    quoit.write_config(&quoit.text_of(&config));
    let reply = quoit.admin("POST", "/reload");
    assert!(
        reply.status != 200 && reply.body.contains("Unknown command") && !reply.body.contains("secret-word"),
        "{}",
        reply.body
    );
    assert_eq!(kept.line("SET k v"), ok());
    let shown = quoit.admin("GET", "/config").body;
    assert!(shown.contains("on >*** >*** ~* +get +set") && !shown.contains(">b"), "{shown}");
}

/// Nobody need send anything to be found out.
#[test]
fn who_is_silent_is_closed_as_well() {
    let Some(fleet) = Fleet::start_with(1, |config| config.tables(&table("gone", "on nopass ~* +@all"))) else {
        return;
    };
    let Some(quoit) = fleet.quoit() else { return };
    let mut client = fleet.client();
    assert_eq!(client.line("AUTH gone x"), ok());
    quoit.write_config(&quoit.text_of(&Fleet::config_of(&fleet.stores)));
    assert!(client.try_receive().is_err_and(|error| error.kind() != ErrorKind::WouldBlock), "the connection ends");
}

#[test]
fn an_acl_file_of_redis() {
    let Some(stores) = Fleet::stores(1) else { return };
    let text = |quoit: &Quoit, config: &QuoitConfig| format!("aclfile = \"users.acl\"\n{}", quoit.text_of(config));
    let config = Fleet::config_of(&stores);
    let fleet = Fleet::in_front_of(stores, |config| config);
    let Some(quoit) = fleet.quoit() else { return };
    let path = quoit.directory().join("users.acl");
    let file = "# People.\nuser app on >pw ~app:* +@all\n\nuser default off\n";
    fs::write(&path, file).expect("a file");
    quoit.write_config(&text(quoit, &config));
    assert_eq!(quoit.admin("POST", "/reload").status, 200);
    let mut client = fleet.client();
    check_error(&mut client, "GET k", "NOAUTH");
    assert_eq!(client.line("AUTH app pw"), ok());
    check_error(&mut client, "GET k", "NOPERM");
    assert!(client.line("GET app:k").text().is_empty());
    // The file is read again when somebody asks.
    fs::write(&path, file.replace("~app:*", "~*")).expect("a file");
    assert_eq!(client.line("ACL LOAD"), ok());
    assert!(client.line("GET k").text().is_empty());
    fs::write(&path, file.replace(">pw", ">other-word +nosuch")).expect("a file");
    let reply = client.line("ACL LOAD").text();
    assert!(reply.starts_with("ERR the configuration is as it was: ") && !reply.contains("other-word"), "{reply}");
    assert!(reply.contains("users.acl, line 2: `+nosuch`: Unknown command"), "{reply}");
    for line in ["ACL SETUSER a on", "ACL DELUSER a", "ACL SAVE"] {
        check_error(&mut client, line, "ERR 'ACL ");
    }
    assert!(client.line("ACL SETUSER a on").text().contains("acl_at_run_time"), "the setting that allows it is named");
    for wrong in ["app on", "user", "user app on\nuser app off", "user app (+get"] {
        fs::write(&path, wrong).expect("a file");
        assert!(client.line("ACL LOAD").is_error(), "{wrong}");
    }
    fs::remove_file(&path).expect("a file");
    assert!(client.line("ACL LOAD").text().contains("the ACL file cannot be read"));
    assert!(client.line("GET k").text().is_empty(), "the users are those of before");
}

/// A listener's own password is the default user's there, and what the user may do is said elsewhere.
#[test]
fn a_listeners_password_and_rules_for_everybody() {
    let Some(fleet) = Fleet::start_with(1, |config| {
        config
            .environment("QUOIT_TEST_PASSWORD", &"for-clients")
            .listener("password_env = \"QUOIT_TEST_PASSWORD\"")
            .tables(&table("default", "on nopass ~* +@read"))
    }) else {
        return;
    };
    if fleet.quoit().is_none() {
        return;
    }
    let mut client = fleet.client();
    check_error(&mut client, "GET k", "NOAUTH");
    check_error(&mut client, "AUTH wrong", "WRONGPASS");
    assert_eq!(client.line("AUTH for-clients"), ok());
    check_error(&mut client, "SET k v", "NOPERM");
    assert!(client.line("GET k").text().is_empty());
}
