//! The binary: flags, logging, exit code. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use quoit::cli::{Cli, LogFormat};
use tracing_subscriber::EnvFilter;

/// Gives memory back after a burst, which glibc's allocator does not (FAILURES F4: measured with a million-key command;
/// `docs/decisions/2026-11-23-allocator.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.log_format);
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves the exit code to say it.
            let _unwritten = writeln!(anstream::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Log lines go to standard error; `QUOIT_LOG` says which, by the rules of `tracing_subscriber::EnvFilter`.
fn start_logging(format: LogFormat) {
    let wanted = std::env::var("QUOIT_LOG").unwrap_or_default();
    let filter = if wanted.is_empty() { Ok(EnvFilter::new("info")) } else { EnvFilter::try_new(&wanted) };
    let (filter, fault) = match filter {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    // A line that cannot be written is lost. To say so on standard error, as the default is, would panic: a proxy must
    // not end because whoever reads its log did.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => {
            let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            lines.with_ansi(colours).init();
        }
        LogFormat::Json => lines.json().init(),
    }
    if let Some(error) = fault {
        tracing::warn!(%error, "QUOIT_LOG is not understood: lines from `info` on are written");
    }
}
