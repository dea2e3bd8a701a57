//! The `kfwatch` program: parses the command line, runs the command, chooses the exit code.

use std::{process::ExitCode, time::Duration};

use kfwatch::cli::{Cli, CliError};

/// How long blocked threads may delay the exit.
const BLOCKED_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // Fails only if the process already has a TLS provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli.execute());
            runtime.shutdown_timeout(BLOCKED_THREADS_TIMEOUT);
            code
        }
        Err(error) => CliError::from(anyhow::Error::new(error).context("start the runtime")).report(),
    }
}
