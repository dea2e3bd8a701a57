//! `kfwatch restore`: replaces the store with a backup while no daemon runs.

use std::path::PathBuf;

use super::{
    CliError, ConfigArgs,
    backup::{copy_with_progress, file_of, summary_line},
    output,
    signals::Shutdown,
};
use crate::{
    app::clock::SystemClock,
    domain::{clock::Clock, local_time::LocalZone},
    store::{CopyObserver, RestoreSummary, Store},
};

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// A file that `kfwatch backup` created, or the copy made before a migration; it is only read
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The consequences for the operator and for consumers of events.
const CONSEQUENCES: &str = "\
When the daemon is started:
- Events that a sink had not acknowledged at the time of the backup are delivered again, unchanged.
- Sessions that started after the backup and are still open are reported again, and so are the ends of sessions that were open
  at the backup: with the same ids, new sequence numbers (higher by 1000000 or more) and wide bounds. States get new ids.
- Events after the backup that no sink had delivered, and sessions that started and ended after it, are lost.
- Cursors of sinks, dead letters and refresh tokens are those of the backup.
";

pub(super) async fn run(args: RestoreArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    let (path, zone) = (file_of(config.store.location, "pg_restore", &args.file)?, config.timezone);
    let (file, now) = (args.file.clone(), SystemClock::default().now().wall);
    let restore = move |observer: CopyObserver| Store::restore(&path, &file, now, &observer);
    let restored = copy_with_progress(restore, &shutdown).await?;
    output::print(report(&args, &restored, zone)).await
}

fn report(
    args: &RestoreArgs,
    RestoreSummary { summary, path, kept }: &RestoreSummary,
    zone: LocalZone,
) -> String {
    let kept = match kept {
        Some(kept) => format!("The replaced store is kept: {}", kept.display()),
        None => "No store was replaced".to_owned(),
    };
    format!(
        "{} restored from {}: {}\n{kept}\n{CONSEQUENCES}",
        path.display(),
        args.file.display(),
        summary_line(summary, zone)
    )
}
