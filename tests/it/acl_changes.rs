//! Users that are changed while the proxy runs (`acl_at_run_time`): the same answers as a server, and what becomes of those
//! who are connected.

use std::io::ErrorKind;

use crate::acl::{check_error, check_same, is_closed, ok, table};
use crate::support::{Client, Fleet, Program, Quoit, RedisServer, Value};

const ON: &str = "acl_at_run_time = \"on\"";

fn allowing(workers: usize, setting: &str) -> Option<Fleet> {
    let fleet = Fleet::start_with(1, |config| config.workers(workers).proxy(setting))?;
    fleet.quoit()?;
    Some(fleet)
}

fn signed_in(fleet: &Fleet, name: &str) -> Client {
    let mut client = fleet.client();
    assert_eq!(client.line(&format!("AUTH {name} pw")), ok());
    client
}

/// What is said to a server and to the proxy, in this order.
const CONVERSATION: &[&str] = &[
    "ACL SETUSER bare",
    "ACL LIST",
    "ACL GETUSER bare",
    "ACL SETUSER app on >pw ~app:* +get",
    "ACL LIST",
    "ACL GETUSER app",
    "ACL USERS",
    "ACL DRYRUN app get app:1",
    "ACL DRYRUN app set app:1 v",
    // All or nothing.
    "ACL SETUSER app +set nosuch",
    "ACL DRYRUN app set app:1 v",
    "ACL SETUSER app +set +nosuch",
    "ACL SETUSER app +@nosuch",
    "ACL SETUSER app ~* ~x",
    "ACL SETUSER app &* &x",
    "ACL SETUSER app <other",
    "ACL SETUSER app #123",
    "ACL SETUSER app !123",
    "ACL SETUSER app +select|0|1",
    "ACL SETUSER app +config|get|x",
    "ACL SETUSER app %X~a",
    "ACL SETUSER app (+get ~a",
    "ACL SETUSER app on off (+get (~a",
    "ACL SETUSER app (+get ~a) (nosuch)",
    "ACL SETUSER new (+get ~a) ( %R~b +set )",
    "ACL GETUSER new",
    "ACL SETUSER new clearselectors on nopass",
    "ACL GETUSER new",
    "ACL SETUSER new reset",
    "ACL GETUSER new",
    "ACL SETUSER",
    "ACL DELUSER",
    "ACL DELUSER default",
    "ACL DELUSER nobody",
    "ACL DELUSER new nobody bare new",
    "ACL DELUSER app default",
    "ACL USERS",
    "ACL GETUSER new",
    "ACL SAVE",
    "ACL LOAD",
    "AUTH app wrong",
    "AUTH app pw",
    "ACL WHOAMI",
];

#[test]
fn users_change_as_on_a_server() {
    let Some(server) = RedisServer::start_with(Program::Redis, &[]) else { return };
    let Some(fleet) = allowing(1, ON) else { return };
    for protocol in ["2", "3"] {
        let (mut server, mut proxy) = (server.client(), fleet.client());
        for client in [&mut server, &mut proxy] {
            assert!(!client.line(&format!("HELLO {protocol}")).is_error());
        }
        for line in CONVERSATION {
            check_same(&mut server, &mut proxy, line);
        }
        let name: &[&[u8]] = &[b"ACL", b"SETUSER", b"with space", b"on"];
        let (want, got) = (server.command(name), proxy.command(name));
        assert_eq!(got.text(), want.text());
    }
}

#[test]
fn changed_rights_hold_at_once_for_whoever_is_connected() {
    let Some(fleet) = allowing(2, ON) else { return };
    let mut admin = fleet.client();
    assert_eq!(admin.line("ACL SETUSER app on >pw ~* +get"), ok());
    // More of them than one worker has.
    let mut clients: Vec<Client> = (0..6).map(|_| signed_in(&fleet, "app")).collect();
    for round in 0..20 {
        let (rule, may_write) = if round % 2 == 0 { ("+set", true) } else { ("-set", false) };
        assert_eq!(admin.line(&format!("ACL SETUSER app {rule}")), ok());
        for client in &mut clients {
            assert_eq!(client.line("SET k v").is_error(), !may_write, "round {round}");
        }
    }
    // What was queued was allowed by other rights.
    let client = &mut clients[0];
    assert_eq!(admin.line("ACL SETUSER app +@all"), ok());
    assert_eq!(client.line("MULTI"), ok());
    assert_eq!(client.line("SET k v").text(), "QUEUED");
    assert_eq!(admin.line("ACL SETUSER app -set"), ok());
    check_error(client, "EXEC", "EXECABORT");
    // Nobody is closed for a password, nor for being off; but nobody can sign in so any more.
    assert_eq!(admin.line("ACL SETUSER app off resetpass"), ok());
    for client in &mut clients {
        assert_eq!(client.line("GET k").text(), "v");
    }
    check_error(&mut fleet.client(), "AUTH app pw", "WRONGPASS");
    // One's own, in one go with what comes after.
    assert_eq!(admin.line("ACL SETUSER boss on >pw ~* +@all"), ok());
    let mut boss = signed_in(&fleet, "boss");
    let replies = boss.pipeline(b"ACL SETUSER boss -set\r\nSET k v\r\nPING\r\n", 3);
    assert_eq!(replies[0].value, ok());
    assert!(replies[1].value.text().starts_with("NOPERM"), "{replies:?}");
    assert_eq!(replies[2].value.text(), "PONG");
}

#[test]
fn the_default_user_changes_too() {
    let Some(fleet) = allowing(1, ON) else { return };
    let (mut admin, mut other) = (fleet.client(), fleet.client());
    assert_eq!(admin.line("ACL SETUSER boss on nopass ~* &* +@all"), ok());
    assert_eq!(admin.line("AUTH boss x"), ok());
    assert_eq!(admin.line("ACL SETUSER default resetpass >secret -flushall"), ok());
    check_error(&mut other, "FLUSHALL", "NOPERM");
    assert_eq!(other.line("SET k v"), ok());
    let mut newcomer = fleet.client();
    check_error(&mut newcomer, "GET k", "NOAUTH");
    assert_eq!(newcomer.line("AUTH secret"), ok());
    assert_eq!(newcomer.line("GET k").text(), "v");
    assert_eq!(newcomer.line("RESET").text(), "RESET");
    check_error(&mut newcomer, "GET k", "NOAUTH");
}

#[test]
fn a_deleted_user_takes_its_connections_along() {
    let Some(fleet) = allowing(2, ON) else { return };
    let mut admin = fleet.client();
    assert_eq!(admin.line("ACL SETUSER gone on >pw ~* &* +@all"), ok());
    assert_eq!(admin.line("ACL SETUSER stays on >pw ~* &* +@all"), ok());
    let mut clients: Vec<Client> = (0..4).map(|_| signed_in(&fleet, "gone")).collect();
    let mut stays = signed_in(&fleet, "stays");
    let mut itself = signed_in(&fleet, "gone");
    assert_eq!(itself.line("ACL DELUSER gone"), Value::Integer(1), "the reply comes first");
    assert!(is_closed(&mut itself));
    for client in &mut clients {
        // Nobody need send anything to be found out.
        assert!(client.try_receive().is_err_and(|error| error.kind() != ErrorKind::WouldBlock));
    }
    assert_eq!(stays.line("SET k v"), ok());
    check_error(&mut stays, "AUTH gone pw", "WRONGPASS");
}

#[test]
fn who_may_not_listen_any_more_is_closed() {
    let Some(fleet) = allowing(1, ON) else { return };
    let mut admin = fleet.client();
    assert_eq!(admin.line("ACL SETUSER ear on >pw &news:* &other +@all"), ok());
    let (mut hears, mut listens) = (signed_in(&fleet, "ear"), signed_in(&fleet, "ear"));
    assert!(!hears.line("SUBSCRIBE news:1").is_error());
    assert!(!listens.line("PSUBSCRIBE other").is_error());
    assert_eq!(admin.line("ACL SETUSER ear resetchannels &news:*"), ok());
    assert!(is_closed(&mut listens));
    assert!(!is_closed(&mut hears));
}

/// A reload that says the same of users leaves them; one that says something else is what holds.
#[test]
fn a_reload_of_other_users_is_the_end_of_it() {
    let users = table("app", "on >pw ~* +get");
    let Some(fleet) = Fleet::start_with(1, |config| config.proxy(ON).tables(&users)) else { return };
    let Some(quoit) = fleet.quoit() else { return };
    let reload = |quoit: &Quoit, setting: &str, users: &str| {
        let config = Fleet::config_of(&fleet.stores).proxy(setting).tables(users);
        quoit.write_config(&quoit.text_of(&config));
        assert_eq!(quoit.admin("POST", "/reload").status, 200);
    };
    let mut admin = fleet.client();
    let mut app = signed_in(&fleet, "app");
    assert_eq!(admin.line("ACL SETUSER app +set"), ok());
    assert_eq!(admin.line("ACL SETUSER extra on >pw ~* +@all"), ok());
    let mut extra = signed_in(&fleet, "extra");
    reload(quoit, &format!("{ON}\nslowlog_us = 1"), &users);
    assert_eq!(app.line("SET k v"), ok());
    assert_eq!(extra.line("SET k v"), ok());
    reload(quoit, ON, &table("app", "on >pw ~* +get +del"));
    check_error(&mut app, "SET k v", "NOPERM");
    assert_eq!(app.line("DEL k"), Value::Integer(1));
    assert!(is_closed(&mut extra));
    // So does turning it off.
    assert_eq!(admin.line("ACL SETUSER app +set"), ok());
    reload(quoit, "", &table("app", "on >pw ~* +get +del"));
    check_error(&mut app, "SET k v", "NOPERM");
    check_error(&mut admin, "ACL SETUSER app +set", "ERR 'ACL SETUSER' is refused by quoit");
}

#[test]
fn scripts_of_such_users_are_trusted_if_the_setting_says_so() {
    for (setting, trusts) in [("on", false), ("trusting-scripts", true)] {
        let Some(fleet) = allowing(1, &format!("acl_at_run_time = \"{setting}\"")) else { return };
        assert_eq!(fleet.client().line("ACL SETUSER app on >pw ~x* +@scripting +set"), ok());
        let mut app = signed_in(&fleet, "app");
        assert_eq!(app.command(&["EVAL", "return 1", "1", "x"]).is_error(), !trusts);
        assert!(app.command(&["EVAL", "return 1", "1", "y"]).text().starts_with("NOPERM"));
    }
}
