//! `kfwatch import`: moves a SQLite store into the PostgreSQL database of the configuration while no replica runs.

use std::{collections::HashMap, path::PathBuf};

use super::{CliError, ConfigArgs, backup::copy_with_progress, output, signals::Shutdown};
use crate::{
    config::StoreLocation,
    domain::quantity::counted,
    store::{Cluster, CopyObserver, ImportSource, ImportSummary},
};

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The file that store.path named while the store was in SQLite; it is only read
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) async fn run(args: ImportArgs, shutdown: Shutdown) -> Result<(), CliError> {
    let config = args.config.load_local()?;
    let database = match config.store.location {
        StoreLocation::Postgres(cluster) => cluster.database,
        StoreLocation::File(path) => {
            let problem = format!(
                "the store of the configuration is in SQLite, {}: set store.backend to \"postgresql\" first, and the URL of the \
                 database to import into",
                path.display()
            );
            return Err(CliError::OtherBackend(problem));
        }
    };
    let (file, target) = (args.file.clone(), database.to_string());
    let import = move |observer: CopyObserver| {
        let source = ImportSource::open(&file)?;
        // Replicas share refresh tokens encrypted, which needs the secrets of components.
        Cluster::import(database, &source, &HashMap::new(), &observer)
    };
    let imported = copy_with_progress(import, &shutdown).await?;
    output::print(report(&args, &target, &imported)).await
}

fn report(args: &ImportArgs, target: &str, imported: &ImportSummary) -> String {
    let ImportSummary { accounts, open_sessions, events, sinks, dead_letters } = *imported;
    let file = args.file.display();
    format!(
        "{file} imported into {target}: {}, {}, {}, {}, {}\n\
         Now start the replicas. Each sink continues with the first event that it has not acknowledged.\n\
         Keep {file} until they have run well, but start no daemon with it: it would use the same sequence numbers for other events.\n",
        counted(accounts, "kf account"),
        counted(open_sessions, "open session"),
        counted(events, "event"),
        counted(sinks, "sink"),
        counted(dead_letters, "dead letter"),
    )
}
