//! `kfwatch import`: moves a SQLite store into the PostgreSQL database of the configuration while no replica runs.

use std::{collections::HashMap, path::PathBuf};

use secrecy::SecretString;

use super::{CliError, ConfigArgs, backup::copy_with_progress, output, signals::Shutdown};
use crate::{
    config::{Config, OfficialAccountConfig, StoreLocation, TokenConfig},
    domain::quantity::counted,
    store::{Cluster, CopyObserver, ImportSource, ImportSummary, StoreError},
    wechat::token::seal_refresh_token,
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
    let database = match args.config.load_local()?.store.location {
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
    let tokens = ImportSource::open(&args.file)?.refresh_tokens()?;
    // Only these need the secrets of the configuration, which may be on another machine.
    let refresh_tokens =
        if tokens.is_empty() { HashMap::new() } else { sealed(&args.config.load()?.config, &tokens)? };
    let (file, target) = (args.file.clone(), database.to_string());
    let import = move |observer: CopyObserver| {
        let source = ImportSource::open(&file)?;
        Cluster::import(database, &source, &refresh_tokens, &observer)
    };
    let imported = copy_with_progress(import, &shutdown).await?;
    output::print(report(&args, &target, &imported)).await
}

/// The refresh tokens as replicas share them: sealed with the secret of the component. Those of official accounts that are not configured
/// are of no use.
fn sealed(
    config: &Config,
    tokens: &HashMap<String, SecretString>,
) -> Result<HashMap<String, String>, StoreError> {
    let seal = |of: &OfficialAccountConfig| {
        let TokenConfig::Component { credentials, .. } = &of.token else { return None };
        let sealed = seal_refresh_token(credentials, &of.appid, tokens.get(&of.appid)?);
        Some(sealed.map(|sealed| (of.appid.clone(), sealed)))
    };
    let sealed = config.official_accounts.iter().filter_map(seal).collect::<Result<_, _>>();
    sealed.map_err(|error| StoreError::Unsuitable(format!("a refresh token: {error}")))
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
