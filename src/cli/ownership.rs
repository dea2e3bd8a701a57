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
    store::{BackupProblem, StoreError},
};

/// What a command says about a file of another user, with what to do; `None` about anything else.
pub(super) fn explain(error: &CliError) -> Option<String> {
    match error {
        CliError::Store(error) | CliError::App(AppError::Store(error)) => {
            let starts_daemon = std::env::args_os().nth(1).is_some_and(|command| command == "run");
            explain_store(error, if starts_daemon { remedy_for_daemon } else { remedy })
        }
        CliError::Other(error) => match error.downcast_ref()? {
            ControlClientError::Permission(socket) => {
                let (remedy, socket) = (remedy(socket)?, socket.display());
                Some(format!(
                    "no permission to use the control socket {socket} of the running daemon: {remedy}"
                ))
            }
            _ => None,
        },
        _ => None,
    }
}

/// The same about an error of the store.
pub(super) fn explain_store(error: &StoreError, remedy: fn(&Path) -> Option<String>) -> Option<String> {
    let path = match error {
        StoreError::Permission { path, .. } => path,
        StoreError::Backup { path, problem: BackupProblem::NoPermission } => path,
        _ => return None,
    };
    Some(format!("no permission to read and write {}: {}", path.display(), remedy(path)?))
}

fn remedy(path: &Path) -> Option<String> {
    command_for_owner_of(path).map(|command| format!("run `{command}`"))
}

/// What to do so that a daemon can use a path. A daemon that runs as root because of its files could do more than it must, so it
/// gets its files instead.
pub(super) fn remedy_for_daemon(path: &Path) -> Option<String> {
    if !owner_of(path)?.is_root() {
        return remedy(path);
    }
    let user = name(geteuid());
    // The directory may be one of the system, such as /var/log.
    let directory = if path.is_file() { None } else { path.ancestors().find(|path| path.is_dir()) };
    if let Some(directory) = directory {
        let own = shell::quoted(&directory.join("kfwatch").display().to_string()).into_owned();
        return Some(format!(
            "the directory belongs to root; create one for kfwatch, such as `sudo install -d -o {user} {own}`, and use a file in it"
        ));
    }
    let path = shell::quoted(&path.display().to_string()).into_owned();
    Some(format!("it belongs to root; give it to the user of kfwatch: `sudo chown {user} {path}`"))
}

/// The command line of this process, for the owner of a path or of the nearest directory above it; `None` if that is this user.
pub(super) fn command_for_owner_of(path: &Path) -> Option<String> {
    let owner = owner_of(path).filter(|owner| *owner != geteuid())?;
    let name = name(owner);
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let words = ["sudo", "-u", &name].map(str::to_owned).into_iter().chain(with_config(arguments.collect()));
    Some(words.map(|word| shell::quoted(&word).into_owned()).collect::<Vec<_>>().join(" "))
}

/// The owner of a path, or of the nearest directory above it that this user may look at.
fn owner_of(path: &Path) -> Option<Uid> {
    let metadata = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    Some(Uid::from_raw(metadata.uid()))
}

/// The name of a user, or the number as sudo accepts it.
fn name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| format!("#{user}"), |user| user.name)
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
