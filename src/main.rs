//! The binary: flags, logging, exit code. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use quoit::cli::{Cli, LogFormat};
use tracing_subscriber::EnvFilter;

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
    let filter = EnvFilter::try_from_env("QUOIT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
            lines.with_ansi(colours).init();
        }
        LogFormat::Json => lines.json().init(),
    }
}
