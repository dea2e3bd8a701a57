//! The command line: one file for each command.
//!
//! Results go to standard output, logs and messages to standard error. A command fails with a [`CliError`], which knows its exit
//! code.

mod account_args;
mod backup;
mod check;
mod completions;
mod config_example;
mod demo;
mod events;
mod findings;
mod health;
mod hints;
mod import;
mod language;
mod man;
mod operations;
mod output;
mod ownership;
mod poll;
mod reload;
mod restore;
mod run;
mod sessions;
mod signals;
pub mod simulate;
mod since;
mod sinks;
mod store_access;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use self::signals::{Ended, Hangup, Shutdown, Signals};

use crate::{
    app::AppError,
    config::{Config, Environment, LoadedConfig, LocalConfig, Mistakes},
    logging::{self, LogFormat, LogHandle},
    reload::ReloadRefusal,
    stdio,
    store::StoreError,
};

/// As for wrong arguments: another command does this.
const EXIT_USAGE: u8 = 2;

/// `EX_UNAVAILABLE` of sysexits(3): something needs a human.
const EX_UNAVAILABLE: u8 = 69;

/// `EX_CONFIG` of sysexits(3): the configuration was refused.
const EX_CONFIG: u8 = 78;

/// How long the last log lines of a daemon may take.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Show the open sessions, beside the number that WeChat says each agent has accepted
    Sessions(sessions::SessionsArgs),
    /// Read the event log; replay events to a sink; show, retry or drop dead letters
    Events(events::EventsArgs),
    /// Show the state of each sink; test, stop or resume a sink
    Sinks(sinks::SinksArgs),
    /// Make the running daemon apply its changed configuration, or show what would change
    Reload(reload::ReloadArgs),
    /// Exit 0 if the daemon runs and makes progress, otherwise 1 with the reason: for health checks of containers
    Health(health::HealthArgs),
    /// Copy the store into a new file, also while the daemon runs
    Backup(backup::BackupArgs),
    /// Replace the store with a backup while no daemon runs; keeps the replaced store
    Restore(restore::RestoreArgs),
    /// Move a SQLite store into the PostgreSQL database of the configuration while no replica runs
    Import(import::ImportArgs),
    /// Run only the simulated WeChat API and print a configuration for it: for tests, rehearsals and load
    Simulate(simulate::SimulateArgs),
    /// Print a configuration to start from
    Config(config_example::ConfigCommandArgs),
    /// Print the completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    Man(man::ManArgs),
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
    /// The daemon refused the changed configuration. Each reason is one line.
    #[error(transparent)]
    Refused(#[from] ReloadRefusal),
    /// The configuration is valid, but this machine lacks what the daemon needs. Each problem is one line.
    #[error("{}", .0.join("; "))]
    NotReady(Vec<String>),
    /// The command is not made for the backend of the store. The text says what to do instead.
    #[error("{0}")]
    OtherBackend(String),
    /// A signal ended a command that changes nothing.
    #[error("interrupted before the result was complete")]
    Interrupted,
    /// A signal ended a command that changes something.
    #[error("interrupted before the result was known: it may have taken effect")]
    Unconfirmed,
    /// Any other error.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl CliError {
    /// The exit code, as docs/en/reference/command-line.md lists them.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Refused(_) | Self::App(AppError::Unusable { .. }) => EX_CONFIG.into(),
            Self::NeedsHuman => EX_UNAVAILABLE.into(),
            Self::OtherBackend(_) => EXIT_USAGE.into(),
            Self::Interrupted => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }

    /// Prints each mistake or error on one line, after all log lines, and returns the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Config(mistakes) => report_lines(mistakes),
            Self::Refused(refusal) => report_lines(refusal),
            Self::NotReady(problems) => {
                problems.iter().for_each(|problem| output::message(format_args!("kfwatch: {problem}")));
            }
            failure => {
                let text = ownership::explain(failure).unwrap_or_else(|| crate::chain(failure));
                output::message(format_args!("kfwatch: {text}"));
            }
        }
        stdio::stderr().flush();
        self.exit_code()
    }
}

fn report_lines(problems: &dyn std::error::Error) {
    problems.to_string().lines().for_each(|line| output::message(format_args!("kfwatch: {line}")));
}

impl Cli {
    /// Parses the command line of the process. If there is nothing to run, prints why, and returns the exit code.
    pub fn from_process() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(hints::with_hint).map_err(|answer| match answer.print() {
            // The help was asked for, and there is none.
            Err(error) if !answer.use_stderr() && error.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => u8::try_from(answer.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
        })
    }

    /// Runs the command until it ends or signals end it, reports an error, and returns the exit code.
    pub async fn execute(self) -> ExitCode {
        let command = self.command;
        let mut signals = match Signals::listen(command.hangup()) {
            Ok(signals) => signals,
            Err(error) => {
                let failure = anyhow::Error::new(error).context("listen for signals");
                return CliError::from(failure).report();
            }
        };
        let (interrupted, is_service) = (command.interrupted(), command.is_service());
        let (result, patience) = match signals.run(|shutdown| command.run(shutdown)).await {
            Ended::Done(result) if is_service => (result, LAST_LINES_TIMEOUT),
            // People may page through the mistakes of a configuration.
            Ended::Done(result) => (result, Duration::MAX),
            Ended::Interrupted => (interrupted, LAST_LINES_TIMEOUT),
        };
        let code = result.as_ref().map_or_else(CliError::exit_code, |()| ExitCode::SUCCESS);
        let reported = tokio::task::spawn_blocking(move || match result {
            Ok(()) => stdio::stderr().flush(),
            Err(failure) => {
                failure.report();
            }
        });
        tokio::select! {
            _ = reported => {}
            () = tokio::time::sleep(patience) => {}
            () = signals.next() => {}
        }
        code
    }
}

impl CliCommand {
    async fn run(self, shutdown: Shutdown) -> Result<(), CliError> {
        match self {
            Self::Run(args) => run::run(args, shutdown).await,
            Self::Demo(args) => Box::pin(demo::run(args, shutdown)).await, // a large future
            Self::Check(args) => check::run(args, shutdown).await,
            Self::Poll(args) => poll::run(args, shutdown).await,
            Self::Sessions(args) => sessions::run(args).await,
            Self::Events(args) => events::run(args).await,
            Self::Sinks(args) => sinks::run(args).await,
            Self::Reload(args) => reload::run(args).await,
            Self::Health(args) => health::run(args).await,
            Self::Backup(args) => backup::run(args, shutdown).await,
            Self::Restore(args) => restore::run(args, shutdown).await,
            Self::Import(args) => import::run(args, shutdown).await,
            Self::Simulate(args) => {
                init_logging("info", LogFormat::Text)?;
                simulate::run(args, shutdown).await
            }
            Self::Config(args) => config_example::run(args).await,
            Self::Man(args) => man::run(&args),
            Self::Completions(args) => completions::run(&args).await,
        }
    }

    /// Whether it runs until a signal. Such a command does not wait for the reader of its log.
    fn is_service(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Demo(_) | Self::Simulate(_))
    }

    /// What SIGHUP, the end of its terminal, does to it.
    fn hangup(&self) -> Hangup {
        match self {
            Self::Run(_)
            | Self::Demo(_)
            | Self::Simulate(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Import(_) => Hangup::Ignored,
            _ => Hangup::Ends,
        }
    }

    /// The result when a signal ends it before it drains.
    fn interrupted(&self) -> Result<(), CliError> {
        match self {
            Self::Run(_) | Self::Demo(_) | Self::Simulate(_) => Ok(()),
            Self::Events(args) => args.interrupted(),
            Self::Sinks(args) => args.interrupted(),
            Self::Reload(args) => args.interrupted(),
            Self::Backup(_) | Self::Restore(_) | Self::Import(_) | Self::Man(_) => Err(CliError::Unconfirmed),
            Self::Health(_) => {
                Err(CliError::Other(anyhow::anyhow!("interrupted before the daemon answered")))
            }
            Self::Check(_) | Self::Poll(_) | Self::Sessions(_) | Self::Config(_) | Self::Completions(_) => {
                Err(CliError::Interrupted)
            }
        }
    }
}

impl ConfigArgs {
    fn load(&self) -> Result<LoadedConfig, Mistakes> {
        Config::load(&self.find()?, &Environment::from_process())
    }

    /// The file to load.
    fn find(&self) -> Result<PathBuf, Mistakes> {
        Config::find(self.config.clone(), &Environment::from_process())
    }

    /// For commands on the store, which need no secrets.
    fn load_local(&self) -> Result<LocalConfig, Mistakes> {
        Config::load_local(&self.find()?, &Environment::from_process())
    }
}

/// Parses the address of an option `--listen`. A port alone is one of this machine.
fn parse_listen(text: &str) -> Result<SocketAddr, &'static str> {
    let port = text.parse().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse())
        .map_err(|_| "write a port, or an IP address and a port, like 127.0.0.1:9877")
}

fn init_logging(level: &str, format: LogFormat) -> Result<LogHandle, CliError> {
    logging::init(level, format).context("set up logging").map_err(CliError::Other)
}
