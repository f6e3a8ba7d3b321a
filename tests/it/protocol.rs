//! The corners of the request protocol, sent raw to a live store and to the proxy: the same bytes must come back, and the
//! connection must live or end alike (F9, F11).

use crate::support::{Client, Fleet};

/// Ends the answer of a connection that lives.
const MARKER: &[u8] = b"$12\r\nend-of-reply\r\n";
const ASK_MARKER: &[u8] = b"*2\r\n$4\r\nECHO\r\n$12\r\nend-of-reply\r\n";

/// What came back for one input, up to the marker or the end.
#[derive(PartialEq, Eq)]
struct Answer {
    bytes: Vec<u8>,
    closed: bool,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = if self.closed { "closed" } else { "open" };
        write!(formatter, "{} [{end}]", self.bytes.escape_ascii())
    }
}

#[track_caller]
fn answer(name: &str, mut client: Client, input: &[u8]) -> Answer {
    // The peer may close before it has taken everything: then the answer says so.
    drop(client.try_send(input));
    drop(client.try_send(ASK_MARKER));
    let (bytes, closed) = client.receive_until(MARKER).unwrap_or_else(|error| {
        panic!("{name}: {error} before an answer or the end of the connection: {:?}", client.unread());
    });
    Answer { bytes, closed }
}

/// Each case is a complete thought: a request, several, or bytes that end the connection. What waits for more is followed
/// by the more.
fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, bytes: &[u8]| cases.push((name.to_owned(), bytes.to_vec()));

    // Counts of an array.
    add("empty array is skipped", b"*0\r\n");
    add("negative array is skipped", b"*-1\r\n*-10\r\n");
    add("empty lines are skipped", b"\r\n\r\n\r\n");
    add("a bare line feed is an empty inline command", b"\n\n");
    add("array count with a letter", b"*1a\r\n$4\r\nPING\r\n");
    add("array count with a leading zero", b"*01\r\n$4\r\nPING\r\n");
    add("array count with a plus", b"*+1\r\n$4\r\nPING\r\n");
    add("array count empty", b"*\r\n");
    add("array count with a space", b"* 1\r\n$4\r\nPING\r\n");
    add("array count minus zero", b"*-0\r\n");
    add("array count of 2^31", b"*2147483648\r\n");
    add("array count beyond 64 bits", b"*99999999999999999999\r\n");
    add("array count at the limit, then a wrong marker", b"*2147483647\r\n:1\r\n");
    add("array count of a million and one, then a wrong marker", b"*1048577\r\n+\r\n");

    // Lengths of a bulk.
    add("bulk length zero", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n");
    add("bulk length negative", b"*1\r\n$-1\r\n");
    add("bulk length empty", b"*1\r\n$\r\n");
    add("bulk length with a letter", b"*1\r\n$4x\r\nPING\r\n");
    add("bulk length with a leading zero", b"*1\r\n$04\r\nPING\r\n");
    add("bulk length with a plus", b"*1\r\n$+4\r\nPING\r\n");
    add("bulk length with a space", b"*1\r\n$ 4\r\nPING\r\n");
    add("bulk length one over the limit", b"*2\r\n$4\r\nECHO\r\n$536870913\r\n");
    add("bulk length of 2^63", b"*2\r\n$4\r\nECHO\r\n$9223372036854775808\r\n");
    add("first bulk length over the limit", b"*1\r\n$536870913\r\n");

    // Markers.
    for marker in [":", "+", "-", "*", "\u{1}", "P", " ", "$$"] {
        add(&format!("argument marker {marker:?}"), format!("*1\r\n{marker}4\r\nPING\r\n").as_bytes());
        add(
            &format!("second argument marker {marker:?}"),
            format!("*2\r\n$4\r\nECHO\r\n{marker}4\r\nPING\r\n").as_bytes(),
        );
    }
    add("a line feed where a marker must be", b"*1\r\n\n");
    add("a carriage return where a marker must be", b"*1\r\n\r\n");
    add("an error in the middle of a pipeline", b"*1\r\n$4\r\nPING\r\n*1\r\n:4\r\n*1\r\n$4\r\nPING\r\n");
    add("two requests in one write", b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
    add("bulk end that is not CRLF", b"*1\r\n$4\r\nPINGxx");
    add("array count line that goes on for ever", &[b"*".as_slice(), &vec![b'1'; 200_000]].concat());
    add("bulk length line that goes on for ever", &[b"*1\r\n$".as_slice(), &vec![b'1'; 200_000]].concat());

    inline(&mut add);
    unknown(&mut add);
    cases
}

fn inline(add: &mut impl FnMut(&str, &[u8])) {
    add("inline", b"PING\r\n");
    add("inline with line feed only", b"PING\n");
    add("inline with blanks", b"   PING    hello   \r\n");
    add("inline with tabs", b"\tECHO\thello\t\r\n");
    add("inline of blanks only", b"    \r\n");
    add("inline double quotes", b"ECHO \"hello world\"\r\n");
    add("inline single quotes", b"ECHO 'hello world'\r\n");
    add("inline escapes", b"ECHO \"a\\n\\r\\t\\b\\a\\\\\\\"\\x41\\xff\\xzz\\q\"\r\n");
    add("inline single-quoted escape", b"ECHO 'it\\'s \\n'\r\n");
    add("inline empty quotes", b"ECHO \"\"\r\n");
    add("inline quotes in the middle of a word", b"ECHO a\"b\"\r\n");
    add("inline text after closing quotes", b"ECHO \"a\"b\r\n");
    add("inline unbalanced double quotes", b"ECHO \"a\r\n");
    add("inline unbalanced single quotes", b"ECHO 'a\r\n");
    add("inline escape at the end", b"ECHO \"a\\\r\n");
    add("inline hex at the end", b"ECHO \"\\x4\"\r\n");
    add("inline high bytes", b"ECHO \xff\xfe\r\n");
    add("inline too long", &vec![b'a'; 200_000]);
    add("inline long, ended in time", &[b"ECHO ".as_slice(), &vec![b'a'; 40_000], b"\r\n"].concat());
    add("inline between arrays", b"*1\r\n$4\r\nPING\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$1\r\nx\r\nECHO y\r\n");
    add("inline carriage return in the middle", b"ECHO a\rb\r\n");
}

fn unknown(add: &mut impl FnMut(&str, &[u8])) {
    add("unknown command", b"*1\r\n$7\r\nfoobar!\r\n");
    add("unknown command with arguments", b"*4\r\n$3\r\nFOO\r\n$1\r\na\r\n$2\r\n\r\n\r\n$3\r\n'b'\r\n");
    add("unknown command with zero bytes", b"*2\r\n$3\r\nF\0O\r\n$3\r\na\0b\r\n");
    add("unknown empty command", b"*1\r\n$0\r\n\r\n");
    add("unknown inline command", b"foo bar baz\r\n");
    let long = format!("*3\r\n$300\r\n{}\r\n$200\r\n{}\r\n$1\r\nz\r\n", "v".repeat(300), "w".repeat(200));
    add("unknown long command, long argument", long.as_bytes());
    let many: Vec<_> = (0..40).map(|number| format!("$8\r\narg-{number:04}\r\n")).collect();
    let many = many.concat();
    add("unknown command with many arguments", format!("*41\r\n$3\r\nFOO\r\n{many}").as_bytes());
    add("wrong number of arguments", b"GET\r\nGET a b\r\nSET a\r\nECHO\r\nMSET a\r\nDEL\r\nMGET\r\n");
    add("wrong number of arguments, odd case", b"gEt\r\nHgEtAlL a b\r\n");
    add("MSET with a missing value", b"MSET a 1 b\r\n");
    add("PING with too many", b"PING a b\r\n");
    add("unknown subcommand", b"OBJECT nonsense k\r\n");
    add("subcommand missing", b"OBJECT\r\n");
    add("subcommand with wrong arity", b"OBJECT ENCODING\r\nXGROUP CREATE k\r\n");
    add("HELLO with nonsense", b"HELLO 4\r\nHELLO x\r\nHELLO 3 AUTH\r\nHELLO 2 NONSENSE\r\nHELLO 2 SETNAME\r\n");
    add("SELECT out of range", b"SELECT 99999\r\nSELECT x\r\nSELECT -1\r\n");
    add("QUIT answers, then the end", b"*1\r\n$4\r\nQUIT\r\n");
    add("what follows QUIT is not run", b"QUIT\r\nPING\r\nSET after-quit 1\r\n");
    add("PING forms", b"PING\r\nPING hello\r\n*2\r\n$4\r\nping\r\n$3\r\n\r\n\0\r\n");
    add("ECHO of binary", b"*2\r\n$4\r\nEcHo\r\n$5\r\n\r\n\0\xff\x80\r\n");
    add("AUTH without a password set", b"AUTH secret\r\nAUTH default secret\r\nAUTH a b c\r\n");
}

#[test]
fn corners_of_the_request_protocol_are_the_stores() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut differences = Vec::new();
    for (name, input) in cases() {
        let reference = answer(&name, fleet.stores[0].client(), &input);
        let subject = answer(&name, fleet.client(), &input);
        if subject != reference {
            differences.push(format!("{name}\n   store {reference:?}\n   proxy {subject:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// The same inputs byte by byte: where a write ends must not matter.
#[test]
fn corners_of_the_request_protocol_byte_by_byte() {
    let Some(fleet) = Fleet::start(1) else { return };
    let mut differences = Vec::new();
    for (name, input) in cases().into_iter().filter(|(_, input)| input.len() < 400) {
        let whole = answer(&name, fleet.client(), &input);
        let mut client = fleet.client();
        // The peer may close before the end.
        let taken = input.iter().take_while(|&&byte| client.try_send(&[byte]).is_ok()).count();
        assert!(taken == input.len() || whole.closed, "{name}: closed after {taken} bytes");
        let split = answer(&name, client, b"");
        if split != whole {
            differences.push(format!("{name}\n   whole {whole:?}\n   split {split:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// A length line without its carriage return waits for one, and takes it later.
#[test]
fn a_line_feed_alone_does_not_end_a_length() {
    let Some(fleet) = Fleet::start(1) else { return };
    for (first, rest) in [
        (&b"*1\r\n$4"[..], &b"\r\nPING\r\n"[..]),
        (b"*2\r\n$4\r\nEC", b"HO\r\n$1\r\nx\r\n"),
        (b"*", b"1\r\n$4\r\nPING\r\n"),
    ] {
        let (mut store, mut proxy) = (fleet.stores[0].client(), fleet.client());
        for client in [&mut store, &mut proxy] {
            client.send(first);
        }
        // A whole command on another connection: whoever answers that has seen the first part, too.
        assert_eq!(fleet.client().line("PING").text(), "PONG");
        for client in [&mut store, &mut proxy] {
            client.send(rest);
        }
        assert_eq!(proxy.receive(), store.receive());
    }
}

/// F9: what one connection did wrong is not seen by another, and a thousand broken ones leave nothing behind.
#[test]
fn broken_connections_harm_nobody() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut steady = fleet.client();
    let inputs = cases();
    for (round, (_, input)) in inputs.iter().cycle().take(300).enumerate() {
        let mut broken = fleet.client();
        drop(broken.try_send(b"*3\r\n$3\r\nSET\r\n$6\r\nbroken\r\n$1\r\n1\r\n*2\r\n$3\r\nGET\r\n$6\r\nbroken\r\n"));
        drop(broken.try_send(input));
        drop(broken);
        let (key, value) = (format!("steady:{}", round % 7), format!("value {round}"));
        assert_eq!(steady.command(&["SET", &key, &value]).text(), "OK");
        assert_eq!(steady.command(&["GET", &key]).text(), value);
    }
}

/// A client that half-closes after its last request gets every answer.
#[test]
fn a_half_closed_connection_is_answered() {
    let Some(fleet) = Fleet::start(2) else { return };
    let mut client = fleet.client();
    let requests: Vec<u8> =
        (0..200).flat_map(|number| format!("ECHO {number}\r\nGET nothing:{number}\r\n").into_bytes()).collect();
    client.send(&requests);
    client.finish_writing();
    for number in 0..200 {
        assert_eq!(client.receive().value.text(), number.to_string());
        assert_eq!(client.receive().raw, b"$-1\r\n");
    }
}
