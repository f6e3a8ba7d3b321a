//! Times to wait, and plain requests.

use super::super::args::OwnedArgs;
use super::super::{lookup, resolve};
use super::*;

#[track_caller]
fn check_timeout(request: &str, want: Result<Option<u64>, TimeoutFault>) {
    let args = OwnedArgs::new(request.split(' '));
    let row = resolve(&args.view()).unwrap();
    assert_eq!(timeout_ms(row, &args.view()), want, "{request}");
}

#[test]
fn a_time_to_wait_is_read_as_the_servers_read_it() {
    check_timeout("BLPOP k 0", Ok(None));
    check_timeout("BLPOP k 0.0", Ok(None));
    check_timeout("BLPOP a b 1.5", Ok(Some(1_500)));
    check_timeout("BLPOP k 0.0001", Ok(Some(1)));
    check_timeout("BLPOP k 1e1", Ok(Some(10_000)));
    check_timeout("BLPOP k -1", Err(TimeoutFault::Negative));
    check_timeout("BLPOP k -0.0001", Ok(None));
    check_timeout("BLPOP k soon", Err(TimeoutFault::NotAFloat));
    check_timeout("BLPOP k nan", Err(TimeoutFault::NotAFloat));
    check_timeout("BLPOP k inf", Err(TimeoutFault::OutOfRange));
    check_timeout("BLPOP k 1e300", Err(TimeoutFault::OutOfRange));
    check_timeout("BLMOVE a b LEFT LEFT 2", Ok(Some(2_000)));
    check_timeout("BRPOPLPUSH a b 2", Ok(Some(2_000)));
    check_timeout("BLMPOP 2 1 a LEFT", Ok(Some(2_000)));
    check_timeout("BZMPOP -2 1 a MIN", Err(TimeoutFault::Negative));
    check_timeout("XREAD COUNT 1 BLOCK 20 STREAMS a 0", Ok(Some(20)));
    check_timeout("XREAD BLOCK 0 STREAMS a 0", Ok(None));
    check_timeout("XREAD BLOCK 1.5 STREAMS a 0", Err(TimeoutFault::NotAnInteger));
    check_timeout("XREADGROUP GROUP block c BLOCK -1 STREAMS a >", Err(TimeoutFault::Negative));
}

#[test]
fn what_is_left_is_never_for_ever() {
    assert_eq!(timeout_word(lookup(b"blpop").unwrap(), 0), "0.001");
    assert_eq!(timeout_word(lookup(b"blpop").unwrap(), 12_034), "12.034");
    assert_eq!(timeout_word(lookup(b"xread").unwrap(), 0), "1");
    assert_eq!(timeout_word(lookup(b"xread").unwrap(), 12_034), "12034");
}

#[track_caller]
fn check_whole(request: &str, want: &str) {
    let args = OwnedArgs::new(request.split(' '));
    let row = resolve(&args.view()).unwrap();
    let words = plain(row).unwrap().whole(row, &args.view()).to_vec();
    assert_eq!(String::from_utf8(words.join(&b' ')).unwrap(), want, "{request}");
    // What stands for it does not block.
    let plain_args = OwnedArgs::new(words);
    assert!(!matches!(resolve(&plain_args.view()).map(|row| row.handling), Ok(super::super::Handling::Blocking)));
}

#[test]
fn a_plain_request_says_the_same_without_the_time() {
    check_whole("BLMOVE a b LEFT RIGHT 2", "lmove a b LEFT RIGHT");
    check_whole("BRPOPLPUSH a b 0", "rpoplpush a b");
    check_whole("BLMPOP 0 2 a b LEFT COUNT 3", "lmpop 2 a b LEFT COUNT 3");
    check_whole("XREAD COUNT 2 BLOCK 5 STREAMS a b 0 $", "xread COUNT 2 STREAMS a b 0 $");
    check_whole("XREADGROUP GROUP g c BLOCK 5 NOACK STREAMS a >", "xreadgroup GROUP g c NOACK STREAMS a >");
}

#[track_caller]
fn check_key(request: &str, want: &str) {
    let args = OwnedArgs::new(request.split(' '));
    let row = resolve(&args.view()).unwrap();
    let words = plain(row).unwrap().of_key(&args.view(), b"b").join(&b' ');
    assert_eq!(String::from_utf8(words).unwrap(), want, "{request}");
}

#[test]
fn each_key_is_asked_by_itself() {
    check_key("BRPOP a b 0", "rpop b");
    check_key("BZPOPMAX a b 0", "zpopmax b");
    check_key("BLMPOP 0 2 a b LEFT COUNT 3", "lmpop 1 b LEFT COUNT 3");
    check_key("BZMPOP 0 2 a b MAX", "zmpop 1 b MAX");
}

#[track_caller]
fn check_malformed(request: &str, want: bool) {
    let args = OwnedArgs::new(request.split(' '));
    let row = resolve(&args.view()).unwrap();
    assert_eq!(plain(row).unwrap().is_malformed(&args.view()), want, "{request}");
}

#[test]
fn what_the_servers_refuse_is_seen_before_anything_waits() {
    check_malformed("BLMOVE a b LEFT right 0", false);
    check_malformed("BLMOVE a b LEFT up 0", true);
    check_malformed("BLMPOP 0 1 a left", false);
    check_malformed("BLMPOP 0 1 a LEFT COUNT 1", false);
    check_malformed("BLMPOP 0 1 a LEFT COUNT 0", true);
    check_malformed("BLMPOP 0 1 a LEFT COUNT", true);
    check_malformed("BLMPOP 0 1 a LEFT COUNT 1 COUNT 1", true);
    check_malformed("BLMPOP 0 1 a MIN", true);
    check_malformed("BZMPOP 0 1 a MIN", false);
    check_malformed("BZMPOP 0 1 a LEFT", true);
}

#[track_caller]
fn check_shaped(verb: &str, reply: &str, want: Option<&str>) {
    let plain = plain(lookup(verb.as_bytes()).unwrap()).unwrap();
    let shaped = plain.shaped(b"k", reply.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(shaped.as_deref(), want, "{verb}");
}

#[test]
fn a_reply_has_the_shape_of_the_blocking_verb() {
    check_shaped("BLPOP", "$1\r\na\r\n", Some("*2\r\n$1\r\nk\r\n$1\r\na\r\n"));
    check_shaped("BLPOP", "$-1\r\n", None);
    check_shaped("BLPOP", "-WRONGTYPE no\r\n", Some("-WRONGTYPE no\r\n"));
    check_shaped("BZPOPMIN", "*2\r\n$1\r\na\r\n,1\r\n", Some("*3\r\n$1\r\nk\r\n$1\r\na\r\n,1\r\n"));
    check_shaped("BZPOPMIN", "*0\r\n", None);
    check_shaped("BLMOVE", "$1\r\na\r\n", Some("$1\r\na\r\n"));
    check_shaped("BLMOVE", "_\r\n", None);
    check_shaped("BLMPOP", "*-1\r\n", None);
}
