//! The command line: one file for each command.
//!
//! Results go to standard output, logs and messages to standard error. A command fails with a [`CliError`], which knows its exit
//! code.

mod backup;
mod check;
mod completions;
mod demo;
mod events;
mod man;
mod operations;
mod output;
mod poll;
mod restore;
mod run;
mod signals;
pub mod simulate;
mod sinks;
mod store_access;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{
    app::AppError,
    config::{Config, Environment, LoadedConfig, LocalConfig, Mistakes},
    logging::{self, LogFormat},
    store::StoreError,
};

/// `EX_UNAVAILABLE` of sysexits(3): something needs a human.
const EX_UNAVAILABLE: u8 = 69;

/// `EX_CONFIG` of sysexits(3): the configuration was refused.
const EX_CONFIG: u8 = 78;

/// Watches WeChat customer service sessions: polls getsessionlist, records session events, exports metrics
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the daemon until SIGTERM or Ctrl-C: events go to its sinks, logs to stderr
    Run(ConfigArgs),
    /// Run the daemon against a simulated WeChat API; needs no configuration
    Demo(demo::DemoArgs),
    /// Validate the configuration and count its calls a day; with --online, also check every account with WeChat
    Check(check::CheckArgs),
    /// Poll every account once, through the running daemon if there is one; commits nothing, exits 1 if a poll fails
    Poll(poll::PollArgs),
    /// Read the event log; replay events to a sink; show, retry or drop dead letters
    Events(events::EventsArgs),
    /// Show the state of each sink; resume a stopped sink
    Sinks(sinks::SinksArgs),
    /// Copy the store into a new file, also while the daemon runs
    Backup(backup::BackupArgs),
    /// Replace the store with a backup while no daemon runs; keeps the replaced store
    Restore(restore::RestoreArgs),
    /// Run only the simulated WeChat API and print a configuration for it: for tests, rehearsals and load
    Simulate(simulate::SimulateArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
    /// Print the completion script for a shell
    #[command(hide = true)]
    Completions(completions::CompletionsArgs),
}

#[derive(Clone, Debug, Args)]
struct ConfigArgs {
    /// The configuration file [default: $KFWATCH_CONFIG, ./config.toml, /etc/kfwatch/config.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The error of a command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// The daemon could not start, or stopped.
    #[error(transparent)]
    App(#[from] AppError),
    /// The store was refused.
    #[error("store")]
    Store(#[from] StoreError),
    /// The command was carried out, but not for every account. The output has the details.
    #[error("not every account could be polled")]
    Incomplete,
    /// The command was carried out and found a problem that does not end without help. The output has the details.
    #[error("something needs a human")]
    NeedsHuman,
    /// Any other error.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl CliError {
    /// The exit code, as docs/en/reference/command-line.md lists them.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::App(AppError::Unusable { .. }) => EX_CONFIG.into(),
            Self::NeedsHuman => EX_UNAVAILABLE.into(),
            _ => ExitCode::FAILURE,
        }
    }
}

impl Cli {
    /// Runs the command.
    pub async fn execute(self) -> Result<(), CliError> {
        match self.command {
            CliCommand::Run(args) => run::run(&args).await,
            CliCommand::Demo(args) => Box::pin(demo::run(args)).await, // a large future
            CliCommand::Check(args) => check::run(args).await,
            CliCommand::Poll(args) => poll::run(args).await,
            CliCommand::Events(args) => events::run(args).await,
            CliCommand::Sinks(args) => sinks::run(args).await,
            CliCommand::Backup(args) => backup::run(args).await,
            CliCommand::Restore(args) => restore::run(args).await,
            CliCommand::Simulate(args) => {
                init_logging("info", LogFormat::Text)?;
                signals::until_signal(|shutdown| simulate::run(args, shutdown)).await
            }
            CliCommand::Man(args) => man::run(&args),
            CliCommand::Completions(args) => completions::run(&args),
        }
    }
}

impl ConfigArgs {
    fn load(&self) -> Result<LoadedConfig, Mistakes> {
        let environment = Environment::from_process();
        let path = Config::find(self.config.clone(), &environment)?;
        Config::load(&path, &environment)
    }

    /// For commands on the store, which need no secrets.
    fn load_local(&self) -> Result<LocalConfig, Mistakes> {
        let environment = Environment::from_process();
        let path = Config::find(self.config.clone(), &environment)?;
        Config::load_local(&path, &environment)
    }
}

fn init_logging(level: &str, format: LogFormat) -> Result<(), CliError> {
    logging::init(level, format).context("set up logging").map_err(CliError::Other)
}
