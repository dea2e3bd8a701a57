//! SIGTERM and SIGINT: the first begins the drain, a second ends the program at once. SIGHUP never ends it; the daemon
//! reopens the files of its sinks.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Failure;

/// Runs what `run` makes of a future that is done at the first signal.
pub(super) async fn until_signal<E, F>(run: impl FnOnce(ShutdownSignal) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
    Failure: From<E>,
{
    let shutdown = CancellationToken::new();
    tokio::select! {
        done = run(shutdown.clone().cancelled_owned()) => Ok(done?),
        failure = second_signal(shutdown) => Err(failure),
    }
}

/// Runs `work`, and meanwhile does `reopen` at each SIGHUP.
pub(super) async fn reopening<T>(reopen: impl Fn(), work: impl Future<Output = T>) -> std::io::Result<T> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: files of sinks are closed, and opened anew at the next delivery");
                reopen();
            }
        }
    }
}

/// Done at the first signal.
pub(super) type ShutdownSignal = tokio_util::sync::WaitForCancellationFutureOwned;

/// Cancels `shutdown` at the first signal, and returns at the second.
async fn second_signal(shutdown: CancellationToken) -> Failure {
    match listen(shutdown).await {
        Ok(()) => anyhow::anyhow!("stopped by a second signal, before the drain was done").into(),
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
