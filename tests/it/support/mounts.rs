//! Commands in a mount namespace of their own.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Returns the command, to be run after these commands of the shell, whose mounts only it sees. Returns `None` if this user may not
/// mount, and says so.
pub(crate) fn with_mounts(command: &Command, mounts: &str) -> Option<Command> {
    let tried = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let skipped = "SKIPPED, not passed: nothing can be mounted, which needs root (unshare)";
        std::io::stderr().write_all(format!("{test}: {skipped}\n").as_bytes()).unwrap();
        return None;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", &format!("{mounts}\nexec \"$@\""), "sh"]);
    unshare.arg(command.get_program()).args(command.get_args());
    unshare.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    unshare.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    unshare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(unshare)
}
