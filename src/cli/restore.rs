//! `kfwatch restore`: a backup takes the store's place, while no daemon runs.

use std::{path::PathBuf, sync::Arc};

use super::{
    ConfigArgs, Failure,
    backup::{described, observed},
    output, signals,
};
use crate::{
    app::clock::SystemClock,
    domain::clock::Clock,
    store::{Observer, Restored, Store},
};

/// Options of `kfwatch restore`.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// A file that `kfwatch backup` made, or the copy from before a migration; it is only read
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What the operator and the consumers of events have to expect.
const CONSEQUENCES: &str = "\
What follows when the daemon is started:
- Events up to the backup that a sink had not confirmed then are delivered again, as they were.
- Sessions that began after the backup and are still open are told again, and so are ends of sessions that were open at the
  backup: with the same ids, new sequence numbers (1000000 higher or more), and wide bounds. States are told with new ids.
- Lost: events after the backup that no sink had delivered, and sessions that began and ended after it.
- Cursors of sinks, dead letters and refresh tokens are as of the backup.
";

/// Restores and says what to expect.
pub(super) async fn run(args: RestoreArgs) -> Result<(), Failure> {
    let path = args.config.load()?.config.store.path;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (file, now) = (args.file.clone(), clock.now().wall);
    let restore = move |observer: Observer| Store::restore(&path, &file, now, &observer);
    signals::until_signal(|shutdown| async move {
        let restored = observed(restore, shutdown).await?;
        output::print(&report(&args, &restored))
    })
    .await
}

fn report(args: &RestoreArgs, Restored { summary, path, kept }: &Restored) -> String {
    let kept = match kept {
        Some(kept) => format!("The store before is kept: {}", kept.display()),
        None => "There was no store before".to_owned(),
    };
    format!(
        "{} is restored from {}: {}\n{kept}\n{CONSEQUENCES}",
        path.display(),
        args.file.display(),
        described(summary)
    )
}
