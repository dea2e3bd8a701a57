//! `kfwatch config example`: prints the example configuration. It reads no configuration, so that it works in an empty directory.

use clap::{Args, Subcommand};

use super::{CliError, output};

/// The example is part of the program, so that it fits its version.
const EXAMPLE: &str = include_str!("../../config.example.toml");

#[derive(Debug, Args)]
pub(super) struct ConfigCommandArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print an example with every key, its meaning and its default: kfwatch config example > config.toml
    Example,
}

pub(super) async fn run(args: ConfigCommandArgs) -> Result<(), CliError> {
    match args.command {
        ConfigCommand::Example => output::print(EXAMPLE.to_owned()).await,
    }
}
