//! The command line: one file for each command.
//!
//! Results go to standard output, logs and everything said to people to standard error. A command fails with a
//! [`Failure`], which knows its exit code.

mod backup;
mod check;
mod completions;
mod demo;
mod events;
mod man;
mod output;
mod poll;
mod restore;
mod run;
mod signals;
pub mod simulate;
mod sinks;
mod site;
mod store_holder;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    app::AppError,
    config::{Config, Environment, Loaded, Mistakes},
    logging::{self, Format},
    store::StoreError,
};

/// `EX_UNAVAILABLE` of sysexits: something needs a human.
const EX_UNAVAILABLE: u8 = 69;

/// `EX_CONFIG` of sysexits: the configuration was refused.
const EX_CONFIG: u8 = 78;

/// Watches WeChat customer service sessions: polls getsessionlist, emits session events, exports metrics.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: events to its sinks, logs to stderr, until SIGTERM or Ctrl-C
    Run(ConfigArgs),
    /// Run a simulated WeChat API and the daemon against it; nothing to configure
    Demo(demo::DemoArgs),
    /// Validate the configuration and say how many calls a day it makes; with --online, also ask WeChat what is wrong
    Check(check::CheckArgs),
    /// Poll every account once, by the running daemon if there is one; commits nothing, exits 1 if a poll failed
    Poll(poll::PollArgs),
    /// Read the event log; replay it to a sink, look at dead letters
    Events(events::EventsArgs),
    /// Show how sinks stand; resume one that was stopped
    Sinks(sinks::SinksArgs),
    /// Copy the store into a new file, also while the daemon runs
    Backup(backup::BackupArgs),
    /// Put a backup in the store's place, while no daemon runs; keeps the store before
    Restore(restore::RestoreArgs),
    /// Run the simulated WeChat API alone and print a configuration for it; for tests, rehearsals, load
    Simulate(simulate::SimulateArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
    /// Print completions of the command line for a shell
    #[command(hide = true)]
    Completions(completions::CompletionsArgs),
}

/// Which configuration to use.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file [default: $KFWATCH_CONFIG, ./config.toml, /etc/kfwatch/config.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] Mistakes),
    /// The daemon could not start or go on.
    #[error(transparent)]
    App(#[from] AppError),
    /// The store was refused.
    #[error("store")]
    Store(#[from] StoreError),
    /// What was asked for was done, and did not go well everywhere; the output says so already.
    #[error("not every account could be polled")]
    Incomplete,
    /// What was asked for was done, and found something that does not mend itself; the output says what.
    #[error("something needs a human")]
    NeedsHuman,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Failure {
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
    /// Carries the command out.
    pub async fn execute(self) -> Result<(), Failure> {
        match self.command {
            Command::Run(args) => run::run(&args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Poll(args) => poll::run(args).await,
            Command::Events(args) => events::run(args).await,
            Command::Sinks(args) => sinks::run(args).await,
            Command::Backup(args) => backup::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Simulate(args) => {
                init_logging("info", Format::Text)?;
                signals::until_signal(|shutdown| simulate::run(args, shutdown)).await
            }
            Command::Man(args) => man::run(&args),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

impl ConfigArgs {
    fn load(&self) -> Result<Loaded, Mistakes> {
        let environment = Environment::of_process();
        let path = Config::find(self.config.clone(), &environment)?;
        Config::load(&path, &environment)
    }
}

fn init_logging(level: &str, format: Format) -> Result<(), Failure> {
    logging::init(level, format).map_err(|error| anyhow::Error::new(error).context("set up logging").into())
}
