//! The `kfwatch` program: parses the command line, runs the command, chooses the exit code.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use kfwatch::cli::{Cli, CliError};

/// How long blocked threads may delay the exit.
const BLOCKED_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only if the process already has a TLS provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Other(anyhow::Error::new(error).context("start the runtime")))
        .and_then(|runtime| {
            let result = runtime.block_on(cli.execute());
            runtime.shutdown_timeout(BLOCKED_THREADS_TIMEOUT);
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

/// Prints each mistake or error on one line.
fn report(failure: &CliError) {
    match failure {
        CliError::Config(mistakes) => {
            mistakes.to_string().lines().for_each(|line| eprintln!("kfwatch: {line}"))
        }
        failure => eprintln!("kfwatch: {}", kfwatch::chain(failure)),
    }
}
