//! The command line: what `quoit --help` shows, and what each subcommand does except serving.
//!
//! Subcommands here read configuration files and print; they open no port and change no store. `serve` and `demo` hand
//! over to the parts that do.
//!
//! # Invariants
//! - What a command was asked for goes to standard output; everything else goes to standard error.
//! - Colours are left out where standard output or error is no terminal, and with `NO_COLOR`.
//! - A command fails with exit code 1, wrong usage with 2.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{self, Config, LoadError, Pool};
use crate::ring::Placement;

mod demo;
mod plan;
mod route;

/// Where a configuration is looked for when none is named.
const PATHS: [&str; 2] = ["quoit.toml", "/etc/quoit/quoit.toml"];

/// A stateless sharding proxy: a consistent-hash ring in front of ordinary Redis and Valkey servers.
#[derive(Debug, Parser)]
#[command(name = "quoit", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// Log lines as `text` or `json`; `QUOIT_LOG` chooses which, such as `quoit=debug`
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true, global = true)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Serve {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Run a proxy with stores of its own, to try things out
    Demo(demo::Demo),
    /// Check a configuration and show every mistake in it
    Check {
        /// The configuration [default: quoit.toml, then /etc/quoit/quoit.toml]
        file: Option<PathBuf>,
    },
    /// Show where a key is: its pool, its token and its node
    Route(route::Route),
    /// Show what would move if one configuration replaced another
    Plan(plan::Plan),
    /// Translate twemproxy's nutcracker.yml into a configuration with the same placement
    Import {
        /// The file of twemproxy
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema {
        /// Print the reference for people instead
        #[arg(long)]
        markdown: bool,
    },
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The configuration of a running proxy.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration [default: quoit.toml, then /etc/quoit/quoit.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// When the command could not be carried out. A configuration with faults is no such error: they have been shown,
    /// and the code says so.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve { file } => {
                crate::server::serve(&config_path(file.config)?)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Demo(demo) => demo.run(),
            Command::Check { file } => check(&config_path(file)?),
            Command::Route(route) => route.run(),
            Command::Plan(plan) => plan.run(),
            Command::Import { file } => import(&file),
            Command::Schema { markdown: true } => print(&config::markdown()),
            Command::Schema { markdown: false } => print(&json(&config::schema())?),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "quoit", &mut script);
                print(&String::from_utf8(script).context("write the completions")?)
            }
        }
    }
}

/// The configuration that was named, or the first that is there.
fn config_path(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path);
    }
    match PATHS.iter().map(Path::new).find(|path| path.exists()) {
        Some(path) => Ok(path.to_owned()),
        None => bail!("there is no {}: name a configuration", PATHS.join(" and no ")),
    }
}

/// The configuration, or its faults on standard error and the code to leave with.
fn load(path: &Path) -> anyhow::Result<Result<Config, ExitCode>> {
    match config::load(path) {
        Ok(config) => Ok(Ok(config)),
        Err(LoadError::Faults(faults)) => {
            show_faults(&faults, path)?;
            Ok(Err(ExitCode::FAILURE))
        }
        Err(error) => Err(error.into()),
    }
}

fn show_faults(faults: &config::Faults, path: &Path) -> anyhow::Result<()> {
    let count = match faults.len() {
        1 => "1 fault".to_owned(),
        count => format!("{count} faults"),
    };
    writeln!(anstream::stderr(), "{}\n\n{}: {count}", faults.render_with_colours(), path.display())
        .context("write to standard error")
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match load(path)? {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let listeners = config.listeners.iter().map(|listener| {
        let pool = config.pools.get(listener.pool).map_or("", |pool| pool.name.as_str());
        let routes = count(listener.routes.len(), "route");
        let tls = if listener.tls.is_some() { ", TLS" } else { "" };
        format!("  listener {}: {} to pool {pool}, {routes}{tls}", listener.name, listener.bind)
    });
    let pools = config.pools.iter().flat_map(|pool| {
        let nodes = count(pool.nodes.len(), "node");
        let hash = match pool.ring.placement {
            Placement::Range => String::new(),
            _ => format!(", hash {}", pool.ring.hash),
        };
        let tls = if pool.tls.is_some() { ", TLS" } else { "" };
        let line = format!("  pool {}: {nodes}, placement {}{hash}{tls}", pool.name, pool.ring.placement);
        std::iter::once(line).chain(replication(pool))
    });
    let lines = std::iter::once(format!("{}: OK", path.display())).chain(listeners).chain(pools);
    print(&lines.collect::<Vec<_>>().join("\n"))
}

/// What `check` says about the replicas of a pool, if keys have several.
fn replication(pool: &Pool) -> Vec<String> {
    let quorums = pool.quorums;
    if quorums.replicas == 1 {
        return Vec::new();
    }
    let (writes, reads) = (pool.level.write_acks(quorums), pool.level.read_acks(quorums));
    let mut lines = vec![format!(
        "    {} replicas, level {}: writes wait for {writes}, reads for {reads}",
        quorums.replicas, pool.level,
    )];
    if writes == quorums.replicas {
        let what = if reads == quorums.replicas { "reads and writes" } else { "writes" };
        lines.push(format!("    note: one lost node stops the {what} of its keys"));
    }
    lines
}

fn import(path: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    match config::import::nutcracker(&path.display().to_string(), &text) {
        Ok(translated) => print(&translated),
        Err(faults) => {
            show_faults(&faults, path)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Writes what was asked for. A reader that has had enough, such as `head`, is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = anstream::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("write to standard output"),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    serde_json::to_string_pretty(value).context("write JSON")
}

/// A table without lines, so that it can be cut and sorted.
fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table
}

/// A share as people read it.
fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
