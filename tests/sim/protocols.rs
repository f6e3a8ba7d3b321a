//! The table of protocols: which of them break, and how often.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::linearizable::Verdict;
use crate::models::caspaxos::{self, Proposer};
use crate::models::hybrid::{Slip, Worker};
use crate::models::stamped::{self, ByStamp};
use crate::models::{Run, Settings, run};
use crate::network::Faults;

/// Runs of each protocol where nobody says otherwise; those that break seldom are looked for at night.
const RUNS: u64 = 150;

/// What a protocol has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// No run may be wrong.
    Sound,
    /// Some run has to be.
    Broken,
    /// Wrong so seldom that a short series need not find it.
    Rare,
}

#[derive(Clone)]
struct Row {
    name: &'static str,
    title: &'static str,
    wanted: Wanted,
    settings: Settings,
    run: fn(&Settings, u64, bool) -> Run,
}

fn by_stamp(variant: stamped::Variant, faults: Faults, reads: u32, writes: u32) -> Settings {
    Settings::new(faults, variant.number(), reads, writes)
}

fn caspaxos(variant: caspaxos::Variant, faults: Faults) -> Settings {
    Settings::new(faults, variant.number(), 4, 0)
}

fn hybrid(slip: Slip) -> Settings {
    Settings { clients: 2, pause_us: 12_000, ..Settings::new(Faults::connections(), slip.number(), 3, 3) }
}

/// Clocks that are nearly right, so that blind writes succeed and fail for other reasons, and more of everything.
fn crowded(slip: Slip) -> Settings {
    let faults = Faults { skew_us: 3_000, lost: 15, proxy_stalls: 4, proxy_crashes: 0, ..Faults::connections() };
    Settings { clients: 3, proxies: 3, operations: 24, pause_us: 9_000, ..Settings::new(faults, slip.number(), 2, 3) }
}

fn row(
    name: &'static str,
    title: &'static str,
    wanted: Wanted,
    settings: Settings,
    run: fn(&Settings, u64, bool) -> Run,
) -> Row {
    Row { name, title, wanted, settings, run }
}

/// Faults where stores lose their memory.
fn wipes() -> Faults {
    Faults { wipes: 2, ..Faults::models() }
}

/// The same, again and again, and messages that are on their way for longer than it takes to copy: two proposals have to
/// be between their rounds when a store is emptied, and to arrive there when it was copied to.
fn late_wipes() -> Faults {
    Faults { wipes: 6, horizon_us: 240_000, slow: 300, slow_us: 7_000, store_stalls: 0, ..Faults::models() }
}

fn long(settings: Settings) -> Settings {
    Settings { operations: 32, ..busy(settings) }
}

/// Messages that take their time, and clients that do not.
fn slow() -> Faults {
    Faults { slow: 400, slow_us: 12_000, ..Faults::models() }
}

fn busy(settings: Settings) -> Settings {
    Settings { pause_us: 1_500, operations: 16, ..settings }
}

fn rows() -> Vec<Row> {
    [stamped_rows(), caspaxos_rows(), hybrid_rows()].concat()
}

fn stamped_rows() -> Vec<Row> {
    use Wanted::{Broken, Sound};
    use stamped::Variant::{Abd, AbdLate, NewerCounts, NoRetry, Retry, RunAndCopy};
    let models = Faults::models;
    let perfect = Faults { skew_us: 0, ..models() };
    let update = |variant, faults| by_stamp(variant, faults, 4, 0);
    let write = |variant| by_stamp(variant, models(), 5, 5);
    let late = busy(by_stamp(AbdLate, slow(), 8, 2));
    let row = |name, title, wanted, settings| row(name, title, wanted, settings, run::<ByStamp>);
    vec![
        row("first", "run on a first replica, apply or copy", Broken, update(RunAndCopy, models())),
        row("first-clocks", "the same, perfect clocks", Broken, update(RunAndCopy, perfect)),
        row("newer-counts", "blind, newer counts as an ack", Broken, write(NewerCounts)),
        row("blind-retry", "blind, rejected ones again", Broken, write(Retry)),
        row("blind-once", "blind, one round, no retry", Sound, write(NoRetry)),
        row("abd", "multi-writer ABD", Sound, write(Abd)),
        row("abd-late", "ABD, read repair in the background", Broken, late),
    ]
}

fn caspaxos_rows() -> Vec<Row> {
    use Wanted::{Broken, Rare, Sound};
    use caspaxos::Variant::{BlindRetry, Copied, Fenced, Ids};
    let models = Faults::models;
    let row = |name, title, wanted, settings| row(name, title, wanted, settings, run::<Proposer>);
    vec![
        row("cas-retry", "CASPaxos, retry without ids", Broken, caspaxos(BlindRetry, models())),
        row("cas-ids", "CASPaxos, ring of ids", Sound, caspaxos(Ids, models())),
        row("wiped", "that, wiped stores vote at once", Broken, caspaxos(Ids, wipes())),
        row("copied", "they vote when copied, no fence", Rare, long(caspaxos(Copied, late_wipes()))),
        row("fenced", "the same with the fence", Sound, long(caspaxos(Fenced, late_wipes()))),
    ]
}

fn hybrid_rows() -> Vec<Row> {
    use Wanted::{Broken, Rare, Sound};
    let row = |name, title, wanted, settings| row(name, title, wanted, settings, run::<Worker>);
    vec![
        row("hybrid", "quoit's own", Sound, hybrid(Slip::None)),
        row("hybrid-crowd", "the same, more clients, better clocks", Sound, crowded(Slip::None)),
        row("ninth-id", "- eight updates name their blind start", Rare, crowded(Slip::NinthId)),
        row("hidden-blind", "- a blind write hidden by the next", Rare, crowded(Slip::HiddenBlind)),
        row("foreign-state", "- copies that lack the operation count", Rare, crowded(Slip::ForeignState)),
        row("found-too-soon", "- found, answered before a quorum has it", Broken, crowded(Slip::FoundTooSoon)),
        row("found-anywhere", "- found in an old record", Broken, crowded(Slip::FoundAnywhere)),
        row("shared-id", "- one id for all attempts", Rare, crowded(Slip::SharedId)),
        row("never-is-failed", "- never chosen, told as failed", Rare, crowded(Slip::NeverIsFailed)),
        row("last-attempt", "- only the last attempt is looked for", Rare, crowded(Slip::LastAttemptOnly)),
        row("no-settling", "- attempts are not looked for", Broken, crowded(Slip::NoSettling)),
    ]
}

#[derive(Default, Clone)]
struct Tally {
    runs: usize,
    broken: usize,
    undecided: usize,
    answered: usize,
    unknown: usize,
    failed: usize,
    first_broken: Option<u64>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Repeats one run, and says all of it.
fn replay(rows: &[Row], wanted: &str) {
    let (name, seed) = wanted.split_once(':').expect("QUOIT_SIM_SEED=name:seed");
    let seed = seed.parse().expect("a number after the colon");
    let row = rows.iter().find(|row| row.name == name).expect("a protocol of the table");
    let run = (row.run)(&row.settings, seed, true);
    eprintln!("{}\n{name}:{seed}: {:?}", run.trace, run.verdict);
    assert!(row.wanted != Wanted::Sound || run.verdict == Verdict::Linearizable, "{name}:{seed} is broken");
}

/// All runs of all rows, on as many threads as there are processors.
fn tallies(rows: &[Row], runs: usize) -> Vec<Tally> {
    const CHUNK: usize = 20;
    let next = AtomicUsize::new(0);
    let tallies = Mutex::new(vec![Tally::default(); rows.len()]);
    let work = || {
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            let (nth, from) = (chunk % rows.len(), chunk / rows.len() * CHUNK);
            if from >= runs {
                return;
            }
            for seed in from..(from + CHUNK).min(runs) {
                let run = (rows[nth].run)(&rows[nth].settings, seed as u64, false);
                let tally = &mut tallies.lock().expect("no panic")[nth];
                tally.runs += 1;
                tally.answered += run.answered;
                tally.unknown += run.unknown;
                tally.failed += run.failed;
                tally.undecided += usize::from(run.verdict == Verdict::Undecided);
                if matches!(run.verdict, Verdict::Violation { .. }) {
                    tally.broken += 1;
                    let seed = seed as u64;
                    tally.first_broken = Some(tally.first_broken.map_or(seed, |first| first.min(seed)));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    tallies.into_inner().expect("no panic")
}

#[test]
fn sound_protocols_hold_and_rejected_ones_break() {
    let mut rows = rows();
    if let Ok(wanted) = std::env::var("QUOIT_SIM_SEED") {
        return replay(&rows, &wanted);
    }
    if let Ok(only) = std::env::var("QUOIT_SIM_ONLY") {
        rows.retain(|row| only.split(',').any(|name| name == row.name));
    }
    let runs = usize::try_from(number("QUOIT_SIM_RUNS").unwrap_or(RUNS)).expect("a small number");
    let tallies = tallies(&rows, runs);
    let mut table = format!(
        "{:<16}{:<44}{:>8}{:>10}{:>9}{:>9}{:>9}\n",
        "", "", "broken", "undecided", "answered", "unknown", "failed"
    );
    let mut faults = Vec::new();
    for (row, tally) in rows.iter().zip(&tallies) {
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let share = tally.broken as f64 * 100.0 / tally.runs as f64;
        let seed = tally.first_broken.map(|seed| format!("  {}:{seed}", row.name)).unwrap_or_default();
        writeln!(
            table,
            "{:<16}{:<44}{share:>7.2}%{:>10}{:>9}{:>9}{:>9}{seed}",
            row.name, row.title, tally.undecided, tally.answered, tally.unknown, tally.failed
        )
        .expect("a string takes all");
        let fault = match row.wanted {
            Wanted::Sound if tally.broken > 0 => Some("is broken: QUOIT_SIM_SEED repeats the run"),
            Wanted::Broken if tally.broken == 0 => Some("was not caught"),
            Wanted::Sound | Wanted::Broken | Wanted::Rare => None,
        };
        faults.extend(fault.map(|fault| format!("{}{seed} {fault}", row.name)));
    }
    eprintln!("{runs} runs each\n{table}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
