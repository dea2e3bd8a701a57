//! Signals: the first SIGTERM or SIGINT starts the drain, a second one ends the program at once. SIGHUP never ends it; in the daemon
//! it makes the sinks reopen their files.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;

/// Completes at the first signal.
pub(super) type ShutdownSignal = tokio_util::sync::WaitForCancellationFutureOwned;

/// Runs a command, which receives the shutdown signal as a future.
pub(super) async fn until_signal<E, F>(run: impl FnOnce(ShutdownSignal) -> F) -> Result<(), CliError>
where
    F: Future<Output = Result<(), E>>,
    CliError: From<E>,
{
    let shutdown = CancellationToken::new();
    tokio::select! {
        done = run(shutdown.clone().cancelled_owned()) => Ok(done?),
        error = second_signal(shutdown) => Err(error),
    }
}

/// Runs `work` and calls `reopen` at each SIGHUP.
pub(super) async fn reopening<T>(reopen: impl Fn(), work: impl Future<Output = T>) -> std::io::Result<T> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: sinks reopen their files at the next delivery");
                reopen();
            }
        }
    }
}

/// Cancels `shutdown` at the first signal and returns at the second.
async fn second_signal(shutdown: CancellationToken) -> CliError {
    match listen(shutdown).await {
        Ok(()) => anyhow::anyhow!("stopped by a second signal before the drain was complete").into(),
        Err(error) => anyhow::Error::new(error).context("listen for signals").into(),
    }
}

async fn listen(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => continue,
        }
        if shutdown.is_cancelled() {
            return Ok(());
        }
        shutdown.cancel();
    }
}
