use super::super::args::OwnedArgs;
use super::super::{Flag, Handling, absolute, all, resolve};
use super::*;
use proptest::prelude::*;

const NOW_MS: u64 = 1_000_000;

/// The form of a request, with what a blind one stores.
#[track_caller]
fn check(request: &str, want: &str) {
    let args = OwnedArgs::new(request.split(' '));
    let row = resolve(&args.view()).unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let ending = |time: Option<u64>| time.map_or(String::new(), |time| format!(" until {time}"));
    let got = match classify(row, &args.view(), NOW_MS) {
        Form::Blind(Blind::Set { value, expires_at_ms }) => format!("set {}{}", text(value), ending(expires_at_ms)),
        Form::Blind(Blind::Restore { payload, expires_at_ms }) => {
            format!("restore {}{}", text(payload), ending(expires_at_ms))
        }
        Form::Blind(Blind::SetEach) => "set each".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    assert_eq!(got, want, "{request}");
}

#[test]
fn a_set_without_conditions_is_blind() {
    check("SET k v", "set v");
    check("SET k v EX 10", "set v until 1010000");
    check("set k v px 10", "set v until 1000010");
    check("SET k v EXAT 1001", "set v until 1001000");
    check("SET k v PXAT 1000001", "set v until 1000001");
    check("SET k EX EX 10", "set EX until 1010000");
    check("SET k v EX x EX 10", "set v until 1010000");
    check("SETEX k 10 v", "set v until 1010000");
    check("PSETEX k 10 v", "set v until 1000010");
    check("MSET a 1 b 2", "set each");
}

#[test]
fn a_set_that_looks_first_is_an_update() {
    check("SET k v NX", "update");
    check("SET k v XX EX 10", "update");
    check("SET k v GET", "update");
    check("SET k v NX GET", "update");
    check("SET k v KEEPTTL", "update");
    check("SET k v IFEQ EX EX 10", "update");
    check("SET k v WHATEVER", "update");
}

#[test]
fn a_set_that_leaves_nothing_is_an_update() {
    check("SET k v PXAT 1", "update");
    check("SET k v EXAT 1000", "update");
    check("RESTORE k 1 p REPLACE ABSTTL", "update");
    // Past 64 bits: the store refuses it, or takes it for the past.
    check("SET k v EX 9223372036854775807", "update");
    check("SET k v PX 9223372036854775807", "update");
    check("SETEX k 9223372036854775807 v", "update");
    check("RESTORE k 9223372036854775807 p REPLACE", "update");
}

#[test]
fn what_every_store_refuses_is_malformed() {
    check("SET k v EX", "malformed");
    check("SET k v EX 0", "malformed");
    check("SET k v EX -1", "malformed");
    check("SET k v EX x", "malformed");
    check("SET k v EX 10 EX x", "malformed");
    check("SET k v PXAT 0", "malformed");
    check("SET k v NX XX", "malformed");
    check("SET k v EX 10 PX 10", "malformed");
    check("SET k v EX 10 KEEPTTL", "malformed");
    check("SET k v KEEPTTL EX 10", "malformed");
    check("SET k v NX EX 0", "malformed");
    check("SETEX k 0 v", "malformed");
    check("SETEX k x v", "malformed");
    check("PSETEX k -1 v", "malformed");
    check("RESTORE k x p REPLACE", "malformed");
    check("RESTORE k -1 p REPLACE", "malformed");
}

#[test]
fn a_restore_that_replaces_is_blind() {
    check("RESTORE k 0 p REPLACE", "restore p");
    check("RESTORE k 10 p replace", "restore p until 1000010");
    check("RESTORE k 1000001 p ABSTTL REPLACE", "restore p until 1000001");
    check("RESTORE k 0 p ABSTTL REPLACE", "restore p");
    check("RESTORE k 0 p", "update");
    check("RESTORE k 0 p REPLACE IDLETIME 1", "update");
    check("RESTORE k 0 p REPLACE FREQ 1", "update");
}

#[test]
fn arguments_decide_between_read_update_and_opaque() {
    check("GETEX k", "read");
    check("GETEX k PERSIST", "update");
    check("HGETEX k FIELDS 2 a b", "read");
    check("HGETEX k EX 1 FIELDS 1 a", "update");
    check("HGETEX k FIELDS 1 a PERSIST", "update");
    check("BITFIELD k", "read");
    check("BITFIELD k GET u8 0 get u8 8", "read");
    check("BITFIELD k OVERFLOW SAT GET u8 0", "read");
    check("BITFIELD k GET u8 0 SET u8 0 1", "update");
    check("BITFIELD k INCRBY u8 0 1", "update");
    check("XADD s 1-1 f v", "update");
    check("XADD s 1-* f v", "update");
    check("XADD s * f v", "opaque");
    check("XADD s NOMKSTREAM MAXLEN = 10 1-1 f v", "update");
    check("XADD s MAXLEN 10 1 f v", "update");
    check("XADD s MAXLEN ~ 10 1-1 f v", "opaque");
    check("XADD s MINID ~ 10 LIMIT 5 1-1 f v", "opaque");
    check("XADD s MINID = 10 KEEPREF * f v", "opaque");
    check("XADD s SOMETHING 1-1 f v", "opaque");
    check("XTRIM s MAXLEN 10", "update");
    check("XTRIM s MAXLEN = 10", "update");
    check("XTRIM s MAXLEN ~ 10", "opaque");
    check("SORT k", "read");
    check("SORT k BY nosort LIMIT 0 STORE", "read");
    check("SORT k STORE d", "opaque");
    check("GEORADIUS k 1 1 1 m WITHDIST", "read");
    check("GEORADIUS k 1 1 1 m store d", "opaque");
    check("GEORADIUSBYMEMBER STORE STORE 1 m", "read");
    check("GEORADIUSBYMEMBER k m 1 m STOREDIST d", "opaque");
}

#[test]
fn other_verbs_have_the_class_of_their_row() {
    check("GET k", "read");
    check("PFCOUNT a b", "read");
    check("PFCOUNT a", "update");
    check("SRANDMEMBER k", "read");
    check("TOUCH a b", "read");
    check("OBJECT FREQ k", "read");
    check("INCR k", "update");
    check("DEL a b", "update");
    check("SPOP k", "opaque");
    check("XREADGROUP GROUP g c STREAMS s >", "opaque");
    check("EVAL x 0", "opaque");
    check("EVAL_RO x 0", "read");
    check("MULTI", "opaque");
    check("SCAN 0", "fanout");
    check("PING", "local");
    check("COPY a b DB 0", "opaque"); // Other numbers are refused before (`command::refused_database`).
    check("MIGRATE h 1 k 0 1", "refused");
}

/// Keys with their argument, `!` behind those that are written.
#[track_caller]
fn check_roles(request: &str, want: &str) {
    let args = OwnedArgs::new(request.split(' '));
    let row = resolve(&args.view()).unwrap();
    let mut roles = KeyRoles::new();
    key_roles(row, &args.view(), &mut roles).unwrap();
    let shown = roles.iter().map(|role| format!("{}{}", role.at, if role.written { "!" } else { "" }));
    assert_eq!(shown.collect::<Vec<_>>().join(" "), want, "{request}");
}

#[test]
fn written_keys_are_told_from_read_ones() {
    check_roles("COPY a b", "1 2!");
    check_roles("RENAME a b", "1! 2!");
    check_roles("SMOVE a b m", "1! 2!");
    check_roles("ZUNIONSTORE d 2 a b", "1! 3 4");
    check_roles("BITOP AND d a b", "2! 3 4");
    check_roles("PFMERGE d a b", "1! 2 3");
    check_roles("SORT k STORE d", "1 3!");
    check_roles("GEORADIUS k 1 1 1 m STORE d STOREDIST e", "1 7! 9!");
    check_roles("LMPOP 2 a b LEFT", "2! 3!");
    check_roles("EVAL x 2 a b c", "3! 4!");
    check_roles("XREADGROUP GROUP g c STREAMS a b > >", "5! 6!");
    check_roles("MSETNX a 1 b 2", "1! 3!");
}

#[test]
fn a_key_that_is_named_twice_has_one_role() {
    check_roles("RENAME a a", "1!");
    check_roles("SORT k STORE k", "1!");
    check_roles("ZUNIONSTORE d 3 a d a", "1! 3");
    check_roles("ZUNIONSTORE a 2 b a", "1! 3");
    check_roles("ZINTERSTORE d 2 d d", "1!");
    check_roles("MSETNX a 1 a 2", "1!");
    check_roles("SINTERSTORE d b a c a b", "1! 2 3 4");
}

#[test]
fn no_row_that_may_write_is_read_and_each_fits_its_class() {
    fn walk(row: &'static Row) {
        let flags = row.flags;
        match row.replication {
            Replication::Read => assert!(!flags.contains(Flag::Write) && !row.keys.is_empty(), "{}", row.name),
            Replication::Blind | Replication::Update => {
                assert!(flags.contains(Flag::Write) && !flags.contains(Flag::Noscript), "{}", row.name);
                let is_split = matches!(row.handling, Handling::Split(_));
                assert!(row.single_key_at.is_some() || is_split, "{}", row.name);
            }
            Replication::Opaque => assert!(!flags.contains(Flag::Readonly), "{}", row.name),
            Replication::FanOut => assert!(row.keys.iter().all(|spec| spec.flags.contains(&"not_key")), "{}", row.name),
            Replication::Local | Replication::Refused => {}
        }
        row.variants.iter().for_each(|variant| walk(&variant.row));
        row.subcommands.iter().for_each(walk);
    }
    all().iter().for_each(walk);
}

#[test]
fn nothing_is_an_array_where_an_array_was_asked_for() {
    #[track_caller]
    fn check(request: &str, want: bool) {
        let args = OwnedArgs::new(request.split(' '));
        assert_eq!(null_is_array(resolve(&args.view()).unwrap(), &args.view()), want, "{request}");
    }
    check("LPOP k", false);
    check("LPOP k 1", true);
    check("RPOP k 1", true);
    check("LMPOP 1 k LEFT", true);
    check("SPOP k 1", false);
    check("SET k v GET", false);
}

/// Requests that are nearly right: a verb that looks at its arguments, and words that mean something to one of them.
fn request() -> impl Strategy<Value = Vec<&'static str>> {
    const VERBS: &[&str] = &[
        "SET",
        "SETEX",
        "PSETEX",
        "MSET",
        "MSETEX",
        "RESTORE",
        "GETEX",
        "HGETEX",
        "HSETEX",
        "EXPIRE",
        "PEXPIRE",
        "HEXPIRE",
        "HPEXPIRE",
        "BITFIELD",
        "XADD",
        "XTRIM",
        "SORT",
        "GEORADIUS",
        "GEORADIUSBYMEMBER",
        "ZUNIONSTORE",
        "RENAME",
        "XREADGROUP",
    ];
    const WORDS: &[&str] = &[
        "EX",
        "px",
        "EXAT",
        "PXAT",
        "NX",
        "XX",
        "GET",
        "KEEPTTL",
        "IFEQ",
        "REPLACE",
        "ABSTTL",
        "FREQ",
        "FIELDS",
        "STORE",
        "LIMIT",
        "BY",
        "MAXLEN",
        "~",
        "=",
        "*",
        "1-1",
        "STREAMS",
        "GROUP",
        "0",
        "1",
        "2",
        "-1",
        "10",
        "999999999999",
        "9223372036854775807",
        "",
        "k",
        "other",
    ];
    let words = proptest::collection::vec(proptest::sample::select(WORDS), 0..9);
    (proptest::sample::select(VERBS), words).prop_map(|(verb, words)| [vec![verb], words].concat())
}

proptest! {
    #[test]
    fn any_request_keeps_the_invariants(words in request(), now_ms in prop_oneof![Just(0), Just(NOW_MS), any::<u64>()]) {
        let args = OwnedArgs::new(&words);
        let Ok(row) = resolve(&args.view()) else { return Ok(()) };
        let form = classify(row, &args.view(), now_ms);
        if let Form::Blind(Blind::Set { expires_at_ms, .. } | Blind::Restore { expires_at_ms, .. }) = form {
            prop_assert!(expires_at_ms.is_none_or(|time_ms| time_ms > now_ms && i64::try_from(time_ms).is_ok()));
        }
        let mut roles = KeyRoles::new();
        let found = key_roles(row, &args.view(), &mut roles);
        prop_assert!(found.is_err() || roles.is_sorted_by(|one, other| one.at < other.at));
        prop_assert!(form != Form::Opaque || found.is_err() || roles.iter().any(|role| role.written));
        // With absolute times it is a request for the same keys, and has none left that is not.
        if let Some(sent) = absolute(row, &args.view(), now_ms) {
            let sent = OwnedArgs::new(sent.iter());
            let row = resolve(&sent.view());
            prop_assert!(row.is_ok_and(|row| absolute(row, &sent.view(), now_ms).is_none()));
            let keys = |args: &Args<'_>, roles: &KeyRoles| -> Vec<Vec<u8>> {
                roles.iter().filter_map(|role| args.get(role.at as usize)).map(<[u8]>::to_vec).collect()
            };
            let mut roles_sent = KeyRoles::new();
            let found_sent = row.ok().map(|row| key_roles(row, &sent.view(), &mut roles_sent));
            prop_assert_eq!(Some(found), found_sent);
            prop_assert_eq!(keys(&args.view(), &roles), keys(&sent.view(), &roles_sent));
        }
    }
}
