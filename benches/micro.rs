//! Single steps of a request, each alone, so that `bench/micro.sh` can count their instructions and allocations.
//!
//! Not timed: on a machine that others use, too, a time of nanoseconds is noise, while a count of instructions is the
//! same on every run and moves when the code does. A case sets up what it needs and then repeats one step; the script
//! runs it twice with different repetitions, and the difference leaves out the setting up
//! (`docs/decisions/2026-11-23-counted-instructions.md`).
//!
//! Usage: `micro` lists the cases; `micro CASE REPETITIONS` runs one. To add one, write a function and a line of [`CASES`].

use std::hint::black_box;
use std::process::ExitCode;

use quoit::command::{self, Args, KeyIndexes};
use quoit::protocol::resp::{Limits, ReplyScan, RequestScan, Scanned, Step};
use quoit::ring::{KeyHash, Member, Placement, Ring, RingSpec, ShardKey};

/// A name, and what repeats the step so many times.
type Case = (&'static str, fn(u64));

/// In the order of a request's path.
const CASES: &[Case] = &[
    ("nothing", nothing),
    ("scan-get", |repetitions| scan(repetitions, GET)),
    ("scan-set-32", |repetitions| scan(repetitions, SET)),
    ("scan-mget-10", |repetitions| scan(repetitions, MGET)),
    ("lookup-get", |repetitions| lookup(repetitions, b"GET")),
    ("lookup-zrangebyscore", |repetitions| lookup(repetitions, b"zrangebyscore")),
    ("lookup-unknown", |repetitions| lookup(repetitions, b"NOSUCHVERB")),
    ("resolve-get", |repetitions| resolve(repetitions, GET)),
    ("resolve-mget-10", |repetitions| resolve(repetitions, MGET)),
    ("keys-mget-10", |repetitions| keys(repetitions, MGET)),
    ("ring-ketama", |repetitions| ring(repetitions, Placement::Ketama, KeyHash::Xxh3, ShardKey::Whole)),
    ("ring-ketama-hash-tag", |repetitions| ring(repetitions, Placement::Ketama, KeyHash::Xxh3, HASH_TAG)),
    ("ring-ketama-twemproxy", |repetitions| {
        ring(repetitions, Placement::KetamaTwemproxy, KeyHash::Fnv1a64, ShardKey::Whole);
    }),
    ("ring-modula", |repetitions| ring(repetitions, Placement::Modula, KeyHash::Fnv1a64, ShardKey::Whole)),
    ("ring-rendezvous", |repetitions| ring(repetitions, Placement::Rendezvous, KeyHash::Xxh3, ShardKey::Whole)),
    ("ring-maglev", |repetitions| ring(repetitions, Placement::Maglev, KeyHash::Xxh3, ShardKey::Whole)),
    ("ring-jump", |repetitions| ring(repetitions, Placement::Jump, KeyHash::Xxh3, ShardKey::Whole)),
    ("reply-bulk-32", |repetitions| reply(repetitions, BULK)),
    ("reply-ok", |repetitions| reply(repetitions, b"+OK\r\n")),
    ("reply-array-10", |repetitions| reply(repetitions, ARRAY)),
];

const HASH_TAG: ShardKey = ShardKey::HashTag { open: b'{', close: b'}' };
const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000012345\r\n";
const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000012345\r\n$32\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
const MGET: &[u8] = b"*11\r\n$4\r\nMGET\r\n\
    $5\r\nkey:0\r\n$5\r\nkey:1\r\n$5\r\nkey:2\r\n$5\r\nkey:3\r\n$5\r\nkey:4\r\n\
    $5\r\nkey:5\r\n$5\r\nkey:6\r\n$5\r\nkey:7\r\n$5\r\nkey:8\r\n$5\r\nkey:9\r\n";
const BULK: &[u8] = b"$32\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";
const ARRAY: &[u8] = b"*10\r\n\
    $5\r\nval:0\r\n$5\r\nval:1\r\n$5\r\nval:2\r\n$5\r\nval:3\r\n$5\r\nval:4\r\n\
    $5\r\nval:5\r\n$5\r\nval:6\r\n$5\r\nval:7\r\n$5\r\nval:8\r\n$5\r\nval:9\r\n";

/// Finding the arguments of one whole request.
fn scan(repetitions: u64, frame: &[u8]) {
    let mut scan = RequestScan::default();
    for _ in 0..repetitions {
        let found = scan.scan(black_box(frame), &Limits::REDIS);
        assert!(matches!(found, Ok(Scanned::Request { len }) if len == frame.len()), "a whole request");
        black_box(scan.bounds());
        scan.reset();
    }
}

/// Finding a verb's row.
fn lookup(repetitions: u64, verb: &[u8]) {
    for _ in 0..repetitions {
        black_box(command::lookup(black_box(verb)));
    }
}

/// The frame's arguments, as the scanner leaves them.
fn scanned(frame: &[u8]) -> RequestScan {
    let mut scan = RequestScan::default();
    assert!(scan.scan(frame, &Limits::REDIS).is_ok(), "a whole request");
    scan
}

/// Finding the row of a request: verb, subcommand, number of arguments.
fn resolve(repetitions: u64, frame: &[u8]) {
    let scan = scanned(frame);
    for _ in 0..repetitions {
        assert!(command::resolve(black_box(&Args::new(frame, scan.bounds()))).is_ok(), "a verb of ours");
    }
}

/// Finding the keys of a request whose row is known.
fn keys(repetitions: u64, frame: &[u8]) {
    let scan = scanned(frame);
    let args = Args::new(frame, scan.bounds());
    let row = command::resolve(&args).expect("a verb of ours");
    for _ in 0..repetitions {
        let mut found = KeyIndexes::default();
        assert!(command::keys(row, black_box(&args), &mut found).is_ok(), "its arguments are sound");
        black_box(&found);
    }
}

/// Finding the first replica of a key among ten members, for one key after another.
fn ring(repetitions: u64, placement: Placement, hash: KeyHash, shard_key: ShardKey) {
    let members = (0..10).map(|number| Member::new(format!("s{number}"))).collect();
    let ring = Ring::build(RingSpec { placement, hash, shard_key, members }).expect("a sound spec");
    let mut key = *b"key:000000000000";
    for number in 0..repetitions {
        // Cheap digits that differ from one key to the next, so that the look-ups do not all end in one place.
        key[8..].copy_from_slice(&(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 0x3030_3030_3030_3030).to_ne_bytes());
        black_box(ring.primary(black_box(&key)));
    }
}

/// Finding the end of one whole reply.
fn reply(repetitions: u64, frame: &[u8]) {
    let mut scan = ReplyScan::default();
    for _ in 0..repetitions {
        let found = scan.advance(black_box(frame));
        assert!(matches!(found, Ok(Step::Complete { len }) if len == frame.len()), "a whole reply");
    }
}

/// What the repeating itself costs: to be read off the other figures.
fn nothing(repetitions: u64) {
    for number in 0..repetitions {
        black_box(number);
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the script reads the one, a person the other")]
fn main() -> ExitCode {
    // `cargo bench` adds `--bench`, which says nothing here.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let [name, repetitions] = args.as_slice() else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let case = CASES.iter().find(|(case, _)| case == name);
    if let (Some((_, run)), Ok(repetitions)) = (case, repetitions.parse()) {
        run(repetitions);
        return ExitCode::SUCCESS;
    }
    eprintln!("usage: micro CASE REPETITIONS");
    ExitCode::FAILURE
}
