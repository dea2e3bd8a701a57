//! The `kfwatch` program: reads the command line, carries the command out, chooses the exit code.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use kfwatch::cli::{Cli, CliError};

/// How long threads that wait for the system may hold up the end of the program.
const THREAD_GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The one TLS provider; it fails only when there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Other(anyhow::Error::new(error).context("start the runtime")))
        .and_then(|runtime| {
            let result = runtime.block_on(cli.execute());
            runtime.shutdown_timeout(THREAD_GRACE);
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

/// One line for each thing that is wrong.
fn report(failure: &CliError) {
    match failure {
        CliError::Config(mistakes) => {
            mistakes.to_string().lines().for_each(|line| eprintln!("kfwatch: {line}"))
        }
        failure => eprintln!("kfwatch: {}", kfwatch::chain(failure)),
    }
}
