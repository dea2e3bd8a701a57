//! Names the command that another user must run: the owner of a file that this user may not use.
//!
//! It is the whole command, because people paste it. sudo drops the environment, so the configuration file that a variable names
//! becomes an argument.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use nix::unistd::{Uid, User, geteuid};

use super::CliError;
use crate::{
    app::AppError,
    config::{Environment, PATH_VARIABLE},
    control::client::ControlClientError,
    domain::shell,
    store::StoreError,
};

/// What a command says about a file of another user, with the command for that user; `None` about anything else.
pub(super) fn explain(error: &CliError) -> Option<String> {
    match error {
        CliError::Store(error) | CliError::App(AppError::Store(error)) => explain_store(error),
        CliError::Other(error) => match error.downcast_ref()? {
            ControlClientError::Permission(socket) => {
                let command = command_for_owner_of(socket)?;
                let socket = socket.display();
                Some(format!(
                    "no permission to use the control socket {socket} of the running daemon: run `{command}`"
                ))
            }
            _ => None,
        },
        _ => None,
    }
}

fn explain_store(error: &StoreError) -> Option<String> {
    let StoreError::Permission { path, .. } = error else { return None };
    let command = command_for_owner_of(path)?;
    Some(format!("no permission to read and write {}: run `{command}`", path.display()))
}

/// The command line of this process, for the owner of a path or of the nearest directory above it; `None` if that is this user.
pub(super) fn command_for_owner_of(path: &Path) -> Option<String> {
    let metadata = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    let owner = Uid::from_raw(metadata.uid());
    if owner == geteuid() {
        return None;
    }
    let name = User::from_uid(owner).ok().flatten().map_or_else(|| format!("#{owner}"), |user| user.name);
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let words = ["sudo", "-u", &name].map(str::to_owned).into_iter().chain(with_config(arguments.collect()));
    Some(words.map(|word| shell::quoted(&word).into_owned()).collect::<Vec<_>>().join(" "))
}

/// Adds the configuration file, if only the environment names it.
fn with_config(mut words: Vec<String>) -> Vec<String> {
    let is_given = |word: &String| word.starts_with("--config") || word.starts_with("-c");
    if let Some(file) = Environment::from_process().get(PATH_VARIABLE)
        && !words.iter().any(is_given)
    {
        words.extend(["-c".to_owned(), file.to_owned()]);
    }
    words
}
