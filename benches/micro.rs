//! Single steps of a request, each alone, so that `bench/micro.sh` can count their instructions and allocations.
//!
//! Not timed: on a machine that others use, too, a time of nanoseconds is noise, while a count of instructions is the
//! same on every run and moves when the code does. A case sets up what it needs and then repeats one step; the script
//! runs it twice with different repetitions, and the difference leaves out the setting up.
//!
//! Usage: `micro` lists the cases; `micro CASE REPETITIONS` runs one. To add one, write a function and a line of [`CASES`].

use std::hint::black_box;
use std::process::ExitCode;

/// A name, and what repeats the step so many times.
type Case = (&'static str, fn(u64));

/// In the order of a request's path.
const CASES: &[Case] = &[("nothing", nothing)];

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
