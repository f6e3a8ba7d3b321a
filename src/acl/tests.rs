use super::selector::rows;
use super::*;
use crate::command::{Row, resolve};

fn user(rules: &str) -> User {
    let mut user = User::new("u");
    for (_, rule) in Words::new(rules) {
        user.apply(rule.unwrap()).unwrap_or_else(|error| panic!("{rule:?}: {error}"));
    }
    user
}

fn with_request<T>(line: &str, ask: impl FnOnce(&'static Row, &Args<'_>) -> T) -> T {
    let mut bounds = Vec::new();
    let mut at = 0;
    for word in line.split(' ') {
        bounds.push((u32::try_from(at).unwrap(), u32::try_from(at + word.len()).unwrap()));
        at += word.len() + 1;
    }
    let args = Args::new(line.as_bytes(), &bounds);
    ask(resolve(&args).unwrap(), &args)
}

#[track_caller]
fn check(user: &User, request: &str, want: Result<(), Denial>) {
    let got = with_request(request, |row, args| user.check(row, args));
    assert_eq!(got, want, "{request}");
}

/// The line of the user that rules make, without `user u`.
#[track_caller]
fn check_line(rules: &str, want: &str) {
    assert_eq!(String::from_utf8_lossy(&user(rules).line()), format!("user u {want}"), "{rules}");
}

#[track_caller]
fn check_error(rules: &str, want: &str) {
    let mut user = User::new("u");
    let error = Words::new(rules).find_map(|(_, rule)| rule.and_then(|rule| user.apply(rule)).err());
    assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(want), "{rules}");
}

const DENIED: Result<(), Denial> = Err(Denial::Command);

#[test]
fn a_new_user_may_do_nothing() {
    let nobody = User::new("u");
    assert!(!nobody.accepts(b"") && !nobody.may_all() && !nobody.needs_no_sign_in());
    check(&nobody, "PING", DENIED);
    check(&nobody, "AUTH a b", Ok(()));
    check(&nobody, "RESET", Ok(()));
    assert!(User::unlimited_default().needs_no_sign_in());
    assert!(User::unlimited_default().may_all());
}

#[test]
fn commands_and_categories() {
    let reader = user("on nopass +@read +config|get +select|0 -debug ~*");
    check(&reader, "GET k", Ok(()));
    check(&reader, "SET k v", DENIED);
    check(&reader, "CONFIG GET a", Ok(()));
    check(&reader, "CONFIG SET a b", DENIED);
    check(&reader, "SELECT 0", Ok(()));
    check(&reader, "SELECT 1", DENIED);
    let almost = user("+@all -@dangerous +keys -config +config|get ~*");
    check(&almost, "KEYS *", Ok(()));
    check(&almost, "FLUSHALL", DENIED);
    check(&almost, "CONFIG GET a", Ok(()));
    check(&almost, "CLIENT LIST", DENIED);
    check(&almost, "CLIENT ID", Ok(()));
    // A container takes its subcommands along, a first argument goes with its verb.
    check(&user("+config -config|set"), "CONFIG GET a", Ok(()));
    check(&user("+config|get -config"), "CONFIG GET a", DENIED);
    check(&user("+select|0 -select"), "SELECT 0", DENIED);
    check(&user("+SELECT|a"), "SELECT A", Ok(()));
    assert!(!user("+@all ~* &* -get +get").may_all(), "commands of the future are not granted again");
    assert!(user("+@all ~* &*").may_all());
}

#[test]
fn keys_are_read_and_written() {
    let user = user("+@all %R~ro:* %W~wo:* ~rw:*");
    check(&user, "GET ro:1", Ok(()));
    check(&user, "SET ro:1 v", Err(Denial::Key(1)));
    check(&user, "SET wo:1 v", Ok(()));
    check(&user, "SET wo:1 v GET", Err(Denial::Key(1)));
    check(&user, "SET rw:1 v GET", Ok(()));
    check(&user, "GET wo:1", Err(Denial::Key(1)));
    check(&user, "STRLEN wo:1", Ok(()));
    check(&user, "MGET ro:1 wo:1", Err(Denial::Key(2)));
    check(&user, "COPY ro:1 wo:1", Ok(()));
    check(&user, "COPY wo:1 ro:1", Err(Denial::Key(1)));
    check(&user, "BITFIELD ro:1 GET u8 0", Ok(()));
    check(&user, "BITFIELD ro:1 OVERFLOW SAT GET u8 0", Ok(()));
    check(&user, "BITFIELD ro:1 SET u8 0 1", Err(Denial::Key(1)));
    check(&user, "BITFIELD ro:1 GET u8", Err(Denial::Key(1)));
    check(&user, "DBSIZE", Ok(()));
    check(&user, "ZUNIONSTORE wo:1 9 ro:1", Ok(())); // No keys can be named; the store refuses it.
    let [reads, writes, any] = ["ro:1", "wo:1", "rw:1"]
        .map(|key| with_request("SET k v", |row, _| user.may_with_any_arguments(row, key.as_bytes())));
    assert_eq!([reads, writes, any], [false, false, true], "SET may read, too, with GET");
}

#[test]
fn channels() {
    let user = user("+@all allkeys &news:* &a?");
    check(&user, "PUBLISH news:1 x", Ok(()));
    check(&user, "PUBLISH new x", Err(Denial::Channel(1)));
    check(&user, "SUBSCRIBE ab news:2 b", Err(Denial::Channel(3)));
    check(&user, "PSUBSCRIBE news:*", Ok(()));
    check(&user, "PSUBSCRIBE news:1", Err(Denial::Channel(1)));
    check(&user, "UNSUBSCRIBE b", Ok(()));
}

#[test]
fn any_selector_may_grant_and_the_closest_is_blamed() {
    let user = user("+get ~a:* (+set ~b:*) (+set ~c:*)");
    check(&user, "GET a:1", Ok(()));
    check(&user, "SET b:1 v", Ok(()));
    check(&user, "SET a:1 v", Err(Denial::Key(1)));
    check(&user, "GET b:1", Err(Denial::Key(1)));
    check(&user, "DEL b:1", DENIED);
}

#[test]
fn scripts_are_for_who_may_do_everything() {
    let script = "EVAL return 0";
    check(&user("+@all ~*"), script, Err(Denial::Script));
    check(&user("+@all ~* &*"), script, Ok(()));
    check(&user("+@all ~*").trusting_scripts(true), script, Ok(()));
    check(&user("+get ~*").trusting_scripts(true), script, DENIED);
}

#[test]
fn users_are_shown_by_the_rules_that_make_them() {
    check_line("", "off resetchannels -@all");
    check_line("on nopass allkeys allchannels +@all", "on nopass ~* &* +@all");
    let hash = Password::of(b"pw").to_hex();
    check_line(
        "on >pw ~k:* %R~ro:* %W~wo:* %RW~rw* &c*",
        &format!("on #{hash} ~k:* %R~ro:* %W~wo:* ~rw* resetchannels &c* -@all"),
    );
    check_line(&format!("#{hash} nopass"), "off nopass resetchannels -@all");
    check_line(&format!(">a >pw <a !{hash}"), "off resetchannels -@all");
    check_line(
        "(~l:* +@list) (~* -@all)",
        "off resetchannels -@all (~l:* resetchannels -@all +@list) (~* resetchannels -@all)",
    );
    check_line("(~l:*) clearselectors skip-sanitize-payload", "off skip-sanitize-payload resetchannels -@all");
    check_line("on >pw ~* reset", "off sanitize-payload resetchannels -@all");
    check_line("%R~a %W~a", "off ~a resetchannels -@all");
    check_line("~a resetkeys &b resetchannels", "off resetchannels -@all");
    for (rules, want) in [
        ("+@all -get +get", "+@all +get"),
        ("+get +set -get", "-@all +set -get"),
        ("+@read -get", "-@all +@read -get"),
        ("+config|get +config", "-@all +config"),
        ("+config -config|get", "-@all +config -config|get"),
        ("+select|0 +select|1", "-@all +select|0 +select|1"),
        ("+select|0 -select", "-@all -select"),
        ("+GET -SeT +CONFIG|GET +@Read", "-@all +get -set +config|get +@read"),
        ("-@all +get", "-@all +get"),
        ("+get allcommands -set", "+@all -set"),
        ("+@read +get nocommands", "-@all"),
    ] {
        check_line(rules, &format!("off resetchannels {want}"));
    }
}

#[test]
fn what_is_no_rule() {
    check_error("foo", "Syntax error");
    check_error("%X~a", "Syntax error");
    check_error("%~a", "Syntax error");
    check_error("%RR~a", "Syntax error");
    check_error("+get|", "Syntax error");
    check_error("(on)", "Syntax error");
    check_error("(>p)", "Syntax error");
    check_error("(+get (a))", "Syntax error");
    check_error("(+@all", "Unmatched parenthesis in acl selector");
    check_error("+nosuch", "Unknown command or category name in ACL");
    check_error("+@nosuch", "Unknown command or category name in ACL");
    check_error("+config|nosuch", "Unknown command or category name in ACL");
    check_error("-select|0", "Unknown command or category name in ACL");
    check_error("+config|get|x", "Allowing first-arg of a subcommand is not supported");
    check_error("<nopw", "The password you are trying to remove from the user does not exist");
    check_error(">", "The password is empty");
    let no_hash = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
    check_error("#abc", no_hash);
    check_error(&format!("#{}", Password::of(b"pw").to_hex().to_uppercase()), no_hash);
    let error = user("~*").apply("~a").unwrap_err();
    assert_eq!(error, RuleError::KeyAfterAll);
    let error = user("&*").apply("&a").unwrap_err();
    assert_eq!(error, RuleError::ChannelAfterAll);
}

#[test]
fn passwords() {
    // FIPS 180-4's example.
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Password::of(b"abc").to_hex(), hash);
    let user = user(&format!("on #{hash} >other"));
    assert!(user.accepts(b"abc") && user.accepts(b"other"));
    assert!(!user.accepts(b"") && !user.accepts(hash.as_bytes()));
    assert!(user.clone().with_only_password("x").accepts(b"x"));
    assert!(!user.clone().with_only_password("x").accepts(b"abc"));
    assert_eq!(format!("{:?}", user.passwords), "[***, ***]");
    let mut off = user.clone();
    off.apply("off").unwrap();
    assert!(!off.accepts(b"abc") && user.is_revoked_by(&off));
}

#[test]
fn what_revokes_a_user() {
    let check = |before: &str, after: &str, want: bool| {
        assert_eq!(user(before).is_revoked_by(&user(after)), want, "{before} -> {after}");
    };
    check("on >a +get", "on >a >b +set", false);
    check("on >a >b", "on >a", true);
    check("on >a", "on nopass", false);
    check("on nopass", "on >a", true);
    check("on >a", "off >a", true);
    let keeps = |before: &str, after: &str| user(before).keeps_channels_in(&user(after));
    assert!(keeps("&a", "&a &b") && keeps("&a", "&*") && keeps("+get", "") && keeps("&a", "(&a)"));
    assert!(!keeps("&a &b", "&a") && !keeps("&*", "&a") && !keeps("(&a)", "&b"));
}

#[test]
fn rules_know_where_they_stand() {
    let words: Vec<_> = Words::new("  on  (~a +get)\t~b ").map(|(at, rule)| (at.start, rule.unwrap())).collect();
    assert_eq!(words, [(2, "on"), (6, "(~a +get)"), (16, "~b")]);
    let text = "rules = \"on >sec)\"ret <old ~a\" # x > y\n#deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";
    let masked: Vec<_> = secrets_in(text).map(|at| text.get(at).unwrap()).collect();
    assert_eq!(masked, ["sec)\"ret", "old", "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef"]);
}

#[test]
fn the_categories_are_those_of_the_table() {
    let mut known: Vec<&str> = CATEGORIES.to_vec();
    known.sort_unstable();
    let mut used: Vec<&str> = rows().flat_map(|row| row.about.categories).copied().collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(known, used);
}

#[test]
fn every_row_has_its_own_number() {
    let mut ids: Vec<usize> = rows().map(|row| usize::from(row.id)).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..crate::command::IDS_WITH_CONFIGURED).collect::<Vec<_>>());
    let variants = || rows().flat_map(|row| row.variants.iter().map(move |variant| (row.id, variant.row.id)));
    assert!(variants().all(|(row, variant)| row == variant));
}
