//! The command line. One file per command; what a script may rely on is the exit status ([`Exit`]) and `--json`.

mod api_keys;
mod as_of;
mod compact;
mod copy;
mod data;
mod feeds;
mod import;
mod keys;
mod progress;
mod projections;
mod remote;
mod replay;
mod serve;
mod signals;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gatelog_events::log::LogError;
use gatelog_projections::catch_up::CatchUpError;
use gatelog_projections::store::StoreError;

use crate::bench;
use crate::config::ConfigError;
use crate::config::options::{Loaded, Sources};
use crate::node::NodeError;
use crate::writer::TakeoverError;

const AFTER_HELP: &str = "\
Exit status:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  another process uses the data folder, or another node this node's address
  4  the log is damaged, or shorter than what was read of it
  5  verify found differences
  6  import rejected rows
  7  Kafka cannot be reached
  8  Kafka refuses this node: user, password, certificate, or a right that is missing
  9  the clock is wrong
 10  log, data folder and secrets are not of one store";

/// Gatelog: customer identity on an immutable event log.
#[derive(Parser)]
#[command(name = "gatelog", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: the HTTP API on a data folder, which is created at the first start
    Serve(Box<Sources>),
    /// Show the options as they hold, as a configuration file; secrets are not shown
    Config(Box<Sources>),
    /// Print the events of the log, one CloudEvent per line, or a user's state as it was
    Replay(replay::Args),
    /// Check every byte of the log, fold it again and compare with the read models
    Verify(data::Printed),
    /// List the read models, or build one anew
    Projections(projections::Args),
    /// Create, list and revoke API keys of a running node
    ApiKey(api_keys::Args),
    /// Define, watch and audit feeds of a running node
    Feed(feeds::Args),
    /// Look after streams of security events (Shared Signals) of a running node
    Signals(signals::Args),
    /// Take users over from another system
    Import(import::Args),
    /// Move a whole log
    #[command(subcommand)]
    Log(copy::Command),
    /// Look after the keys of persons
    #[command(subcommand)]
    Keys(keys::Command),
    /// Rewrite the files so that no byte of an erased person is left in them
    Compact(data::Args),
    /// Measure this machine with this program, and write a report
    Bench(bench::Options),
}

/// The exit status that scripts see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something went wrong that has no status of its own.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Another process uses the data folder, or another node this node's address.
    Locked = 3,
    /// The log is damaged, or shorter than what was read of it.
    Damaged = 4,
    /// `verify` found differences.
    Differences = 5,
    /// `import` rejected rows.
    Rejected = 6,
    /// Kafka cannot be reached.
    Unreachable = 7,
    /// Kafka refuses this node.
    Refused = 8,
    /// The clock is wrong.
    Clock = 9,
    /// Log, data folder and secrets are not of one store.
    Foreign = 10,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Node(#[from] NodeError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Call(#[from] remote::CallError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Other(String),
    /// Already told; only the status is left.
    #[error("")]
    Told(Exit),
}

impl Failure {
    /// For errors that need no status of their own.
    fn other(e: impl std::fmt::Display) -> Self {
        Failure::Other(e.to_string())
    }

    fn exit(&self) -> Exit {
        match self {
            Failure::Config(_) | Failure::Usage(_) => Exit::Usage,
            Failure::Log(e) => exit_of_log(e),
            Failure::Node(e) => exit_of_node(e),
            Failure::Io(_) | Failure::Call(_) | Failure::Other(_) => Exit::Failed,
            Failure::Told(exit) => *exit,
        }
    }
}

fn exit_of_log(e: &LogError) -> Exit {
    match e {
        LogError::Locked(_) => Exit::Locked,
        LogError::Damaged { .. } => Exit::Damaged,
        LogError::Mismatch { .. } => Exit::Usage,
        LogError::Unreachable { .. } => Exit::Unreachable,
        LogError::Refused { .. } => Exit::Refused,
        LogError::Io { .. } | LogError::Closed => Exit::Failed,
    }
}

fn exit_of_node(e: &NodeError) -> Exit {
    match e {
        NodeError::Log(e)
        | NodeError::CatchUp(CatchUpError::Log(e))
        | NodeError::Takeover(TakeoverError::CatchUp(CatchUpError::Log(e))) => exit_of_log(e),
        NodeError::CatchUp(CatchUpError::Ahead { .. }) => Exit::Damaged,
        NodeError::Store(StoreError::OtherLog { .. })
        | NodeError::OtherSecrets { .. }
        | NodeError::HalfCopied => Exit::Foreign,
        NodeError::Clock { .. } => Exit::Clock,
        NodeError::Address { .. } => Exit::Locked,
        _ => Exit::Failed,
    }
}

/// Reads the command line and carries it out.
pub fn run() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output, such as `head`, has enough.
        Err(Failure::Io(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Told(_)) {
                let _ = writeln!(std::io::stderr(), "gatelog: {failure}");
            }
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(sources) => serve::run(load(*sources)?),
        Command::Config(sources) => show(&load(*sources)?),
        Command::Replay(args) => replay::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Projections(args) => projections::run(args),
        Command::ApiKey(args) => api_keys::run(args),
        Command::Feed(args) => feeds::run(args),
        Command::Signals(args) => signals::run(args),
        Command::Import(args) => import::run(args),
        Command::Log(command) => copy::run(command),
        Command::Keys(command) => keys::run(command),
        Command::Compact(args) => compact::run(&args),
        Command::Bench(options) => block_on(async { bench::run(options).await.map_err(Failure::other) }),
    }
}

fn load(sources: Sources) -> Result<Loaded, ConfigError> {
    sources.load(|name| std::env::var(name).ok())
}

fn show(loaded: &Loaded) -> Result<(), Failure> {
    let text = loaded.to_toml().map_err(Failure::other)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Prints one JSON value as a line.
fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{value}")?;
    Ok(())
}

/// Runs a future to its end, for commands that talk to a node.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
