//! `kfwatch backup`: copies the store, also while the daemon runs.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{CliError, ConfigArgs, output, signals::Shutdown};
use crate::{
    app::clock::SystemClock,
    config::StoreLocation,
    domain::{clock::Clock, local_time::LocalZone, quantity::counted, shell},
    stdio,
    store::{BackupSummary, CopyObserver, CopyProgress, Store, StoreError},
};

/// How often progress is printed. A small store is copied before the first time.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// How long a copy may take to stop and to remove what it has written.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The file to create, with mode 0600; an existing file is never overwritten. It contains openids and refresh tokens
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(args: BackupArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    let (path, zone) = (file_of(config.store.location, "pg_dump", &args.file)?, config.timezone);
    let file = args.file.clone();
    let copy = move |observer: CopyObserver| Store::back_up(&path, &file, &observer);
    let summary = copy_with_progress(copy, &shutdown).await?;
    output::print(format!("{}: {}\n", args.file.display(), summary_line(&summary, zone))).await
}

/// The file of the store. Fails with what `program` does instead, if the store is in PostgreSQL.
pub(super) fn file_of(store: StoreLocation, program: &str, backup: &Path) -> Result<PathBuf, CliError> {
    let cluster = match store {
        StoreLocation::File(path) => return Ok(path),
        StoreLocation::Postgres(cluster) => cluster,
    };
    let (schema, backup) = (&cluster.database.schema, backup.display().to_string());
    let backup = shell::quoted(&backup);
    let command = match program {
        "pg_dump" => format!("pg_dump --format=custom --schema={schema} --file={backup} URL"),
        _ => format!("pg_restore --clean --if-exists --single-transaction --dbname=URL {backup}"),
    };
    let problem = format!(
        "the store is in PostgreSQL, {}: use `{command}`, with the URL of the database",
        cluster.database
    );
    Err(CliError::OtherBackend(problem))
}

/// The content of a backup, in one line.
pub(super) fn summary_line(summary: &BackupSummary, zone: LocalZone) -> String {
    let BackupSummary { bytes, accounts, open_sessions, events, newest_event } = *summary;
    let newest = newest_event.map(|at| format!(", the newest observed at {} ({zone})", zone.show(at)));
    format!(
        "{}, {}, {}, {}{}",
        output::bytes(bytes),
        counted(accounts, "kf account"),
        counted(open_sessions, "open session"),
        counted(events, "event"),
        newest.unwrap_or_default()
    )
}

/// Copies on a blocking thread, prints progress to standard error, and interrupts the copy at a signal.
pub(super) async fn copy_with_progress<T: Send + 'static>(
    work: impl FnOnce(CopyObserver) -> Result<T, StoreError> + Send + 'static,
    shutdown: &Shutdown,
) -> Result<T, CliError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let observer = observer(Arc::clone(&stopped));
    let mut working = tokio::task::spawn_blocking(move || work(observer));
    let done = tokio::select! {
        done = &mut working => done,
        () = shutdown.within(STOP_TIMEOUT) => {
            stopped.store(true, Ordering::Relaxed);
            working.await
        }
    };
    shutdown.immediately();
    Ok(done.map_err(anyhow::Error::from)??)
}

fn observer(stopped: Arc<AtomicBool>) -> CopyObserver {
    let clock = SystemClock::default();
    let next = Mutex::new(clock.now().monotonic + PROGRESS_INTERVAL);
    Arc::new(move |CopyProgress { bytes, total_bytes: of }| {
        let now = clock.now().monotonic;
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= *next {
            *next = now + PROGRESS_INTERVAL;
            // Nobody has to read it: the copy does not wait.
            let line = format!("{} of about {} copied\n", output::bytes(bytes), output::bytes(of));
            stdio::stderr().offer(line.into_bytes());
        }
        if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}
