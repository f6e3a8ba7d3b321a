//! Parsers on damaged bytes: nothing that a client, a store or a file says makes them panic, and how the bytes are cut
//! never matters. Each target runs for `QUOIT_FUZZ_SECONDS` (default 2) and prints its seed; `QUOIT_TEST_SEED` repeats it.

#![expect(clippy::disallowed_methods, reason = "a time budget is real time")]
#![expect(clippy::print_stderr, reason = "the seed is what a failure is repeated with")]

#[cfg(test)]
mod targets {
    use std::time::{Duration, Instant};

    use fastrand::Rng;
    use quoit::command::{self, Args, KeyIndexes};
    use quoit::config;
    use quoit::protocol::resp::{Limits, ReplyScan, RequestScan, Scanned, Step, split_inline};

    /// Runs `round` until the time is over.
    fn fuzz(target: &str, mut round: impl FnMut(&mut Rng)) {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let seed = number("QUOIT_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
        eprintln!("{target}: QUOIT_TEST_SEED={seed}");
        let mut random = Rng::with_seed(seed);
        let end = Instant::now() + Duration::from_secs(number("QUOIT_FUZZ_SECONDS").unwrap_or(2));
        let mut rounds = 0_u64;
        while Instant::now() < end {
            for _ in 0..20 {
                round(&mut random);
            }
            rounds += 20;
        }
        eprintln!("{target}: {rounds} rounds");
    }

    /// Damages `bytes` in one to eight places. `words` are what the format is made of.
    fn damage(random: &mut Rng, bytes: &mut Vec<u8>, words: &[&[u8]]) {
        for _ in 0..random.usize(1..=8) {
            let at = random.usize(..=bytes.len());
            let end = (at + random.usize(..20)).min(bytes.len());
            match random.u8(..6) {
                0 if at < bytes.len() => bytes[at] = random.u8(..),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    let to = random.usize(..=bytes.len());
                    bytes.splice(to..to, copy);
                }
                3 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
                4 => bytes.truncate(at.max(1)),
                _ => {
                    let word = words[random.usize(..words.len())];
                    bytes.splice(at..end, word.iter().copied());
                }
            }
        }
    }

    const RESP_WORDS: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"*",
        b"$",
        b"%",
        b"~",
        b">",
        b"|",
        b"=",
        b"!",
        b"_\r\n",
        b"#t\r\n",
        b"(",
        b",",
        b"+",
        b"-",
        b":",
        b"0",
        b"-1",
        b"1",
        b"2",
        b"65536",
        b"536870912",
        b"536870913",
        b"2147483647",
        b"2147483648",
        b"4294967296",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"18446744073709551616",
        b"\"",
        b"'",
        b"\\x",
        b" ",
        b"\0",
        b"?",
        b"*1\r\n",
        b"$0\r\n\r\n",
        b"*9223372036854775807\r\n",
        b"%4611686018427387904\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
    ];

    /// Places where the input is cut, in order, the end of it last.
    fn cuts(random: &mut Rng, length: usize) -> Vec<usize> {
        let mut cuts: Vec<_> = match random.u8(..4) {
            0 => (0..length).collect(),
            _ => (0..random.usize(..6)).map(|_| random.usize(..=length)).collect(),
        };
        cuts.push(length);
        cuts.sort_unstable();
        cuts
    }

    /// What the request scanner made of the bytes: requests as their arguments, then how it ended.
    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Request(Vec<Vec<u8>>),
        Inline(Option<Vec<Vec<u8>>>),
        Refused(String),
    }

    fn scan_requests(bytes: &[u8], cuts: &[usize]) -> Vec<Seen> {
        let (mut scan, mut seen, mut start) = (RequestScan::default(), Vec::new(), 0);
        for &cut in cuts {
            loop {
                let unread = &bytes[start..cut];
                let used = match scan.scan(unread, &Limits::REDIS) {
                    Ok(Scanned::Request { len }) => {
                        let arguments = scan.bounds().iter();
                        seen.push(Seen::Request(
                            arguments.map(|&(from, to)| unread[from as usize..to as usize].to_vec()).collect(),
                        ));
                        len
                    }
                    Ok(Scanned::Inline { line, len }) => {
                        assert!(line <= len);
                        seen.push(Seen::Inline(split_inline(&unread[..line]).ok()));
                        len
                    }
                    Ok(Scanned::Nothing { len }) => len,
                    Ok(Scanned::Incomplete) => break,
                    Err(error) => {
                        seen.push(Seen::Refused(error.to_string()));
                        return seen;
                    }
                };
                assert!(0 < used && used <= unread.len(), "took {used} of {}", unread.len());
                start += used;
                scan.reset();
            }
            assert!(scan.heap_bytes() <= 64 * (bytes.len() + 64), "memory follows what came, not what was announced");
        }
        seen
    }

    fn requests(random: &mut Rng) -> (Vec<u8>, Vec<Seen>) {
        let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..5) {
            let arguments: Vec<Vec<u8>> = (0..random.usize(1..6)).map(|_| blob(random)).collect();
            if random.u8(..5) == 0 {
                bytes.extend_from_slice(b"SET \"a\\x00b\" 'c d'\r\n");
                wanted.push(Seen::Inline(Some(vec![b"SET".to_vec(), b"a\0b".to_vec(), b"c d".to_vec()])));
                continue;
            }
            bytes.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
            for argument in &arguments {
                bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
                bytes.extend_from_slice(argument);
                bytes.extend_from_slice(b"\r\n");
            }
            wanted.push(Seen::Request(arguments));
        }
        (bytes, wanted)
    }

    fn blob(random: &mut Rng) -> Vec<u8> {
        let length = if random.u8(..20) == 0 { random.usize(..3_000) } else { random.usize(..24) };
        (0..length).map(|_| random.u8(..)).collect()
    }

    #[test]
    fn requests_are_found_however_they_are_cut() {
        fuzz("requests", |random| {
            let (bytes, wanted) = requests(random);
            assert_eq!(scan_requests(&bytes, &cuts(random, bytes.len())), wanted, "{}", bytes.escape_ascii());
        });
    }

    #[test]
    fn damaged_requests() {
        fuzz("damaged requests", |random| {
            let (mut bytes, _) = requests(random);
            damage(random, &mut bytes, RESP_WORDS);
            let whole = scan_requests(&bytes, &[bytes.len()]);
            let cut = scan_requests(&bytes, &cuts(random, bytes.len()));
            assert_eq!(cut, whole, "{}", bytes.escape_ascii());
        });
    }

    /// The lengths of the replies that were found, and whether the end was a refusal.
    fn scan_replies(bytes: &[u8], cuts: &[usize]) -> (Vec<usize>, bool) {
        let (mut scan, mut lengths, mut start, mut length) = (ReplyScan::default(), Vec::new(), 0, 0);
        for &cut in cuts {
            loop {
                let unread = &bytes[start..cut];
                match scan.advance(unread) {
                    Ok(Step::Complete { len }) => {
                        assert!(0 < len + length && len <= unread.len());
                        start += len;
                        lengths.push(length + len);
                        length = 0;
                    }
                    Ok(Step::Partial { len }) => {
                        assert!(len <= unread.len());
                        start += len;
                        length += len;
                        break;
                    }
                    Err(_) => return (lengths, true),
                }
            }
        }
        (lengths, false)
    }

    fn reply(random: &mut Rng, depth: u8, out: &mut Vec<u8>) {
        let aggregate = depth < 4 && random.u8(..3) == 0;
        if !aggregate {
            let text = match random.u8(..10) {
                0 => "+OK\r\n".to_owned(),
                1 => "-ERR what\r\n".to_owned(),
                2 => format!(":{}\r\n", random.i64(..)),
                3 => "_\r\n".to_owned(),
                4 => "#t\r\n".to_owned(),
                5 => ",1.5e3\r\n".to_owned(),
                6 => "(123456789012345678901234567890\r\n".to_owned(),
                7 => "$-1\r\n".to_owned(),
                8 => "=7\r\ntxt:abc\r\n".to_owned(),
                _ => {
                    let blob = blob(random);
                    out.extend_from_slice(format!("${}\r\n", blob.len()).as_bytes());
                    out.extend_from_slice(&blob);
                    "\r\n".to_owned()
                }
            };
            out.extend_from_slice(text.as_bytes());
            return;
        }
        let (count, kind) = (random.usize(..5), random.choice(*b"*~%>|").unwrap_or(b'*'));
        out.extend_from_slice(format!("{}{count}\r\n", char::from(kind)).as_bytes());
        let values = if kind == b'%' || kind == b'|' { count * 2 } else { count };
        // An attribute is followed by the reply that it belongs to.
        let values = if kind == b'|' { values + 1 } else { values };
        for _ in 0..values {
            reply(random, depth + 1, out);
        }
    }

    #[test]
    fn replies_are_found_however_they_are_cut() {
        fuzz("replies", |random| {
            let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
            for _ in 0..random.usize(1..5) {
                let before = bytes.len();
                reply(random, 0, &mut bytes);
                wanted.push(bytes.len() - before);
            }
            let found = scan_replies(&bytes, &cuts(random, bytes.len()));
            assert_eq!(found, (wanted, false), "{}", bytes.escape_ascii());
        });
    }

    #[test]
    fn damaged_replies() {
        fuzz("damaged replies", |random| {
            let mut bytes = Vec::new();
            for _ in 0..random.usize(1..5) {
                reply(random, 0, &mut bytes);
            }
            damage(random, &mut bytes, RESP_WORDS);
            let whole = scan_replies(&bytes, &[bytes.len()]);
            let cut = scan_replies(&bytes, &cuts(random, bytes.len()));
            assert_eq!(cut, whole, "{}", bytes.escape_ascii());
        });
    }

    const ARGUMENT_WORDS: &[&str] = &[
        "0",
        "1",
        "2",
        "3",
        "-1",
        "1000000",
        "2147483647",
        "4294967295",
        "9223372036854775807",
        "-9223372036854775808",
        "key",
        "STREAMS",
        "BLOCK",
        "STORE",
        "STOREDIST",
        "KEYS",
        "BY",
        "GET",
        "#",
        "nosort",
        "LIMIT",
        "COUNT",
        "GROUP",
        "WEIGHTS",
        "AGGREGATE",
        "GETKEYS",
        "USAGE",
        "ENCODING",
        "CREATE",
        "DB",
        "REPLACE",
        "",
        "*",
        "AUTH",
        "AUTH2",
    ];

    /// The table's own names with any arguments: every key that is named is an argument of the request.
    #[test]
    fn keys_of_any_request() {
        let rows = command::all();
        fuzz("keys", |random| {
            let row = &rows[random.usize(..rows.len())];
            let mut words: Vec<Vec<u8>> = row.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
            if random.bool() && !row.subcommands.is_empty() {
                let subcommand = &row.subcommands[random.usize(..row.subcommands.len())];
                words = subcommand.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
            }
            if random.u8(..10) == 0 {
                damage(random, &mut words[0], &[b"get", b"\0", b"|", b"mset"]);
            }
            for _ in 0..random.usize(..8) {
                words.push(random.choice(ARGUMENT_WORDS).unwrap_or(&"").as_bytes().to_vec());
            }
            let (mut frame, mut bounds) = (Vec::new(), Vec::new());
            for word in &words {
                let start = u32::try_from(frame.len()).expect("small");
                frame.extend_from_slice(word);
                bounds.push((start, u32::try_from(frame.len()).expect("small")));
            }
            if random.u8(..20) == 0 {
                // Ranges that lie outside of the frame are missing arguments, not a crash.
                bounds.push((u32::MAX - 1, u32::MAX));
            }
            let arguments = Args::new(&frame, &bounds);
            let (mut keys, resolved) = (KeyIndexes::new(), command::resolve(&arguments));
            for row in resolved.into_iter().chain(command::lookup(&words[0])) {
                if command::keys(row, &arguments, &mut keys).is_ok() {
                    assert!(
                        keys.iter().all(|&index| 0 < index && (index as usize) < arguments.len()),
                        "{words:?}: {keys:?}"
                    );
                } else {
                    assert!(keys.is_empty());
                }
            }
        });
    }

    const TOML_WORDS: &[&[u8]] = &[
        b"[",
        b"]",
        b"[[",
        b"]]",
        b"=",
        b"\"",
        b"'",
        b"\"\"\"",
        b"\n",
        b"#",
        b",",
        b".",
        b"0",
        b"-1",
        b"1e400",
        b"18446744073709551616",
        b"true",
        b"nan",
        b"1979-05-27",
        b"{",
        b"}",
        b"\\u0000",
        b"\xff",
        b"pool",
        b"node",
        b"replicas",
        b"[[pool]]\n",
        b"[pool.ring]\n",
        b"weight = 0\n",
        b"slots = [\"0-16383\"]\n",
        b"hash_tag = \"\"\n",
        b"placement = \"maglev\"\n",
        b"address = \"unix:\"\n",
        b"address = \"[::1]:0\"\n",
        b"address = \"redis://u:p@h:1/2?x#y\"\n",
        b"\xf0\x9f\x92\x8d",
    ];

    /// Any file is either a configuration or faults that can be shown.
    #[test]
    fn damaged_configuration() {
        let mut examples = Vec::new();
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        for entry in std::fs::read_dir(directory).expect("example files") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|end| end == "toml") {
                examples.push(std::fs::read(&path).expect("an example"));
            }
        }
        assert!(!examples.is_empty(), "the examples are the seeds");
        fuzz("configuration", |random| {
            let mut bytes = examples[random.usize(..examples.len())].clone();
            damage(random, &mut bytes, TOML_WORDS);
            let text = String::from_utf8_lossy(&bytes);
            if let Err(faults) = config::check_text("quoit.toml", &text) {
                assert!(!faults.is_empty() && !faults.to_string().is_empty());
            }
        });
    }
}
