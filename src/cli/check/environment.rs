//! Examines what `kfwatch run` needs on this machine: the directories and files of the store and of sinks, addresses to listen on, and
//! the control socket. Creates and changes nothing.

use std::{collections::BTreeSet, io::ErrorKind, net::SocketAddr, path::Path};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use crate::{
    app::{AppError, group_id},
    cli::ownership,
    config::{
        Config, OfficialAccountConfig, SinkConfig, SinkTarget, StoreLocation, TicketSource, TokenConfig,
        TokenSource,
    },
    control,
    sink::jsonl,
    store::{Cluster, Store, StoreError},
    web::WebListener,
};

/// Missing files of tokens and tickets that are listed.
const MAX_LISTED_FILES: usize = 3;

/// What was found, each in one line.
#[derive(Default)]
pub(super) struct Examined {
    /// `kfwatch run` would fail, or would not do what it is configured for.
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// Explanations of what is as it should be.
    pub(super) notes: Vec<String>,
}

/// Examines everything, so that all problems are reported at once.
pub(super) async fn examine(config: &Config) -> Examined {
    let mut examined = Examined::default();
    let running = examined.examine_store(&config.store.location).await;
    examined.warnings.extend(control::problem_of_socket(&config.control.socket_path()).map(|problem| {
        format!("the daemon will accept no commands (kfwatch poll, sinks and others): {problem}")
    }));
    examined.problems.extend(config.sinks.iter().filter_map(problem_of_sink));
    examined.warnings.extend(missing_token_files(&config.official_accounts));
    for address in &config.web.listen {
        examined.examine_address(*address, running.as_deref());
    }
    examined
}

/// Files of tokens and tickets that do not exist. Another program writes them, perhaps later.
fn missing_token_files(official_accounts: &[OfficialAccountConfig]) -> Vec<String> {
    let files: BTreeSet<&Path> = official_accounts.iter().filter_map(token_file).collect();
    let missing: Vec<&Path> = files.into_iter().filter(|file| !file.exists()).collect();
    let more = missing.len().saturating_sub(MAX_LISTED_FILES);
    let listed = missing.iter().take(MAX_LISTED_FILES);
    let listed = listed.map(|file| {
        let file = file.display();
        format!("{file} does not exist yet: start the program that writes it, or correct its path")
    });
    let more = (more > 0).then(|| format!("files of tokens or tickets that do not exist yet: {more} more"));
    listed.chain(more).collect()
}

fn token_file(of: &OfficialAccountConfig) -> Option<&Path> {
    match &of.token {
        TokenConfig::Own(TokenSource::File { path, .. }) => Some(path),
        TokenConfig::Component { credentials, .. } => match &credentials.ticket {
            TicketSource::File { path, .. } => Some(path),
            TicketSource::Server(_) => None,
        },
        TokenConfig::Own(_) => None,
    }
}

fn problem_of_sink(sink: &SinkConfig) -> Option<String> {
    let SinkTarget::File { path, group, .. } = &sink.target else { return None };
    let problem = match jsonl::problem_at(path) {
        Some(problem) => Some(problem.to_owned()),
        None => problem_of_writing(path),
    };
    let problem = problem.map(|problem| format!("sink {:?}: {}: {problem}", sink.name, path.display()));
    let group = group.as_ref().and_then(|group| group_id(&sink.name, group).err());
    problem.or_else(|| group.map(|error| error.to_string()))
}

/// What would keep this process from writing a file, or from creating it.
fn problem_of_writing(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    if !directory.exists() {
        return Some(format!("the directory {} does not exist: create it", directory.display()));
    }
    let (written, needed) = match path.exists() {
        true => (path, AccessFlags::W_OK),
        false => (directory, AccessFlags::W_OK | AccessFlags::X_OK),
    };
    let errno = access(written, needed).err()?;
    let remedy = ownership::remedy_for_daemon(written).filter(|_| errno == Errno::EACCES);
    let remedy = remedy.map_or_else(String::new, |remedy| format!(": {remedy}"));
    Some(format!("{} cannot be written ({}){remedy}", written.display(), errno.desc()))
}

impl Examined {
    /// Examines the store. Returns the daemon that runs with it on this machine, if there is one.
    async fn examine_store(&mut self, location: &StoreLocation) -> Option<String> {
        match location {
            StoreLocation::File(path) => {
                self.problems.extend(Store::problem_at(path).map(|error| {
                    let problem = ownership::explain_store(&error, ownership::remedy_for_daemon)
                        .unwrap_or_else(|| crate::chain(&error));
                    format!("store: {problem}")
                }));
                self.warnings.extend(Store::warning_at(path).map(|warning| format!("store: {warning}")));
                let Err(StoreError::Locked { pid, .. }) = Store::check_free(path) else { return None };
                let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                Some(format!("the kfwatch that runs with this store{process}"))
            }
            StoreLocation::Postgres(cluster) => match Cluster::examine(cluster.database.clone()).await {
                Ok(living) => {
                    living.contains(&cluster.name).then(|| format!("the replica {} that runs", cluster.name))
                }
                Err(error) => {
                    self.problems.push(format!("store: {}", crate::chain(&error)));
                    None
                }
            },
        }
    }

    fn examine_address(&mut self, address: SocketAddr, running: Option<&str>) {
        let Err(source) = WebListener::bind(address) else { return };
        match running {
            Some(running) if source.kind() == ErrorKind::AddrInUse => {
                self.notes.push(format!("{address} is in use, by {running}"));
            }
            _ => self
                .problems
                .push(format!("web.listen: {}", crate::chain(&AppError::Listen { address, source }))),
        }
    }
}
