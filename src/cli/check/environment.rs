//! Examines what `kfwatch run` needs on this machine: the directories and files of the store and of sinks, addresses to listen on, and
//! the control socket. Creates and changes nothing.

use std::{io::ErrorKind, net::SocketAddr, path::Path};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use crate::{
    app::{AppError, group_id},
    cli::ownership,
    config::{Config, SinkConfig, SinkTarget},
    control,
    sink::jsonl,
    store::{Store, StoreError},
    web::WebListener,
};

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
pub(super) fn examine(config: &Config) -> Examined {
    let mut examined = Examined::default();
    let path = &config.store.path;
    examined.problems.extend(Store::problem_at(path).map(|error| {
        let problem = ownership::explain_store(&error, ownership::remedy_for_daemon)
            .unwrap_or_else(|| crate::chain(&error));
        format!("store: {problem}")
    }));
    examined.warnings.extend(Store::warning_at(path).map(|warning| format!("store: {warning}")));
    examined.warnings.extend(control::problem_of_socket(path).map(|problem| {
        format!("the daemon will accept no commands (kfwatch poll, sinks and others): {problem}")
    }));
    examined.problems.extend(config.sinks.iter().filter_map(problem_of_sink));
    for address in &config.web.listen {
        examined.examine_address(*address, path);
    }
    examined
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
    fn examine_address(&mut self, address: SocketAddr, store: &Path) {
        let Err(source) = WebListener::bind(address) else { return };
        match Store::check_free(store) {
            Err(StoreError::Locked { pid, .. }) if source.kind() == ErrorKind::AddrInUse => {
                let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                self.notes
                    .push(format!("{address} is in use, by the kfwatch that runs with this store{process}"));
            }
            _ => self
                .problems
                .push(format!("web.listen: {}", crate::chain(&AppError::Listen { address, source }))),
        }
    }
}
