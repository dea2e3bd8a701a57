//! Signals: when a command ends, whatever it does at that moment.
//!
//! A command runs in a task of its own. So nothing that blocks in it (a disk that hangs, an output that nobody reads) delays the
//! reaction to a signal. This also works as PID 1, where a signal without a handler has no effect.
//!
//! At the first SIGTERM or SIGINT a command that drains has a grace period ([`Shutdown::within`]); any other ends at once. A second
//! signal ends every command at once. SIGHUP never ends a command that may run for long without a terminal; in the daemon it makes
//! the sinks reopen their files and reloads the configuration.

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::CliError;

/// Completes at the first signal.
pub(super) type ShutdownSignal = WaitForCancellationFutureOwned;

/// How a command learns that it should end.
#[derive(Clone, Default)]
pub(super) struct Shutdown {
    signalled: CancellationToken,
    /// How long the command may take to end.
    grace: Arc<Mutex<Duration>>,
}

impl Shutdown {
    /// Returns a future that completes at the first signal. From now on the command may take this long to end after it. A later call
    /// changes that time, also for a future that was returned before.
    pub(super) fn within(&self, grace: Duration) -> ShutdownSignal {
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner) = grace;
        self.signalled.clone().cancelled_owned()
    }

    /// Lets a signal end the command at once from now on.
    pub(super) fn immediately(&self) {
        drop(self.within(Duration::ZERO));
    }

    fn begin(&self) -> Duration {
        self.signalled.cancel();
        *self.grace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a command ended.
pub(super) enum Ended {
    /// By itself or by draining, with this result.
    Done(Result<(), CliError>),
    /// By the first signal, without a result.
    Interrupted,
}

/// What SIGHUP does to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangup {
    /// What the process inherited: it ends the command, but not under nohup(1).
    Ends,
    /// Nothing.
    Ignored,
}

/// The signals that end a command.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Handles the signals from now on.
    pub(super) fn listen(hangup: Hangup) -> io::Result<Self> {
        if hangup == Hangup::Ignored {
            handle(SignalKind::hangup())?;
        }
        // A write beyond the size limit of files (ulimit -f) would kill the process. With a handler, it only fails.
        handle(SignalKind::from_raw(nix::libc::SIGXFSZ))?;
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Runs a command until it ends or has to.
    pub(super) async fn run<F>(&mut self, command: impl FnOnce(Shutdown) -> F) -> Ended
    where
        F: Future<Output = Result<(), CliError>> + Send + 'static,
    {
        let shutdown = Shutdown::default();
        let mut running = JoinSet::new();
        running.spawn(command(shutdown.clone()));
        tokio::select! {
            done = result(&mut running) => return Ended::Done(done),
            () = self.next() => {}
        }
        let grace = shutdown.begin();
        if grace.is_zero() {
            return Ended::Interrupted;
        }
        Ended::Done(tokio::select! {
            done = result(&mut running) => done,
            () = self.next() => {
                Err(anyhow::anyhow!("stopped by a second signal before the drain was complete").into())
            }
            () = tokio::time::sleep(grace) => {
                Err(anyhow::anyhow!("stopped, because it did not end within {grace:?} after a signal").into())
            }
        })
    }
}

/// Replaces what the signal does by default: nothing happens from now on.
fn handle(kind: SignalKind) -> io::Result<()> {
    // The handler stays.
    signal(kind).map(drop)
}

async fn result(running: &mut JoinSet<Result<(), CliError>>) -> Result<(), CliError> {
    let ended = running.join_next().await.context("run the command")?;
    ended.context("this is a bug in kfwatch, please report it")?
}

/// Runs `work` and calls `react` at each SIGHUP.
pub(super) async fn at_hangup<T>(react: impl Fn(), work: impl Future<Output = T>) -> io::Result<T> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = hangup.recv() => react(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn grace_period_can_change_until_the_signal() {
        let shutdown = Shutdown::default();
        let first = shutdown.within(Duration::from_secs(1));
        let second = shutdown.clone().within(Duration::from_secs(2));
        assert_eq!(shutdown.begin(), Duration::from_secs(2));
        assert!(first.now_or_never().is_some() && second.now_or_never().is_some());
    }
}
