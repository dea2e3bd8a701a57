//! `kfwatch backup`: a copy of the store, beside a daemon that may be running.

use std::{
    future::Future,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{ConfigArgs, Failure, output, signals};
use crate::{
    app::clock::SystemClock,
    domain::{clock::Clock, event::millis},
    store::{BackupSummary, Copied, Observer, Store, StoreError},
};

/// How often it is said how far a copy has come; a small store is copied before that.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Options of `kfwatch backup`.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The file to be made; never overwritten. It holds openids and refresh tokens, and has mode 0600
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Makes the copy and says what it holds.
pub(super) async fn run(args: BackupArgs) -> Result<(), Failure> {
    let path = args.config.load()?.config.store.path;
    let file = args.file.clone();
    let copy = move |observer: Observer| Store::back_up(&path, &file, &observer);
    signals::until_signal(|shutdown| async move {
        let summary = observed(copy, shutdown).await?;
        output::print(&format!("{}: {}\n", args.file.display(), described(&summary)))
    })
    .await
}

/// What a copy holds, in one line.
pub(super) fn described(summary: &BackupSummary) -> String {
    let BackupSummary { bytes, accounts, open_sessions, events, newest_event } = summary;
    let newest = newest_event.map(|at| format!(", the newest of {}", millis(at))).unwrap_or_default();
    format!(
        "{}, {accounts} kf accounts, {open_sessions} open sessions, {events} events{newest}",
        output::bytes(*bytes)
    )
}

/// Does work that takes as long as the disk does; says now and then on standard error how far it has come, and lets it
/// stop when `shutdown` is done.
pub(super) async fn observed<T: Send + 'static>(
    work: impl FnOnce(Observer) -> Result<T, StoreError> + Send + 'static,
    shutdown: impl Future<Output = ()>,
) -> Result<T, Failure> {
    let stopped = Arc::new(AtomicBool::new(false));
    let observer = observer(Arc::clone(&stopped));
    let mut working = tokio::task::spawn_blocking(move || work(observer));
    let done = tokio::select! {
        done = &mut working => done,
        () = shutdown => {
            stopped.store(true, Ordering::Relaxed);
            working.await
        }
    };
    Ok(done.map_err(anyhow::Error::from)??)
}

fn observer(stopped: Arc<AtomicBool>) -> Observer {
    let clock = SystemClock::default();
    let next = Mutex::new(clock.now().monotonic + SAY_EVERY);
    Arc::new(move |Copied { bytes, of }| {
        let now = clock.now().monotonic;
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= *next {
            *next = now + SAY_EVERY;
            eprintln!("{} of about {} copied", output::bytes(bytes), output::bytes(of));
        }
        if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}
