//! The socket file: its path, and its mode, which lets only its owner connect at any time.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket};

use crate::file_system;

/// Only the owner may connect: a client can spend the quota of every official account.
const MODE: u32 = 0o600;

/// The longest path of a socket in bytes: `sockaddr_un` has 108, with the terminating null.
const MAX_PATH_BYTES: usize = 107;

/// Connections that the kernel queues.
const BACKLOG: u32 = 16;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error(
        "{} is too long for the path of a socket (at most {MAX_PATH_BYTES} bytes): set control.socket to a shorter one",
        .0.display()
    )]
    TooLong(PathBuf),
    #[error("cannot listen on {}", path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// Fails if a socket cannot have this path.
pub(super) fn check(path: &Path) -> Result<(), SocketError> {
    if path.as_os_str().len() > MAX_PATH_BYTES { Err(SocketError::TooLong(path.to_owned())) } else { Ok(()) }
}

/// A listening control socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the socket file when it is dropped, unless another daemon has replaced it. If that fails, the next daemon replaces it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl ControlSocket {
    /// Listens on a socket with this path. A socket file that nobody listens on is the remains of a crashed daemon, and replaced.
    pub(crate) fn bind(path: PathBuf) -> Result<Self, SocketError> {
        check(&path)?;
        match listen(&path) {
            Ok((listener, identity)) => Ok(Self { listener, file: SocketFile { path, identity } }),
            Err(source) => Err(SocketError::Refused { path, source }),
        }
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// What distinguishes the file at this path from all others that exist.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| file_system::identity(&metadata))
}

fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens on it"));
        }
        fs::remove_file(path)?;
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // `bind` applied the umask. Nobody can connect before `listen`, so the mode is right from the first moment.
    file_system::set_mode_of(path, MODE)?;
    let identity = identity(path)?;
    Ok((socket.listen(BACKLOG)?, identity))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn socket_is_private_and_removed_on_drop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kfwatch.db-control");
        let socket = ControlSocket::bind(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_other_file_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kfwatch.db-control");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(ControlSocket::bind(path.clone()).unwrap());
        fs::write(&path, "my notes").unwrap();
        let refused = crate::chain(&ControlSocket::bind(path.clone()).unwrap_err());
        assert!(refused.starts_with(&format!("cannot listen on {}: ", path.display())), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "my notes");
    }

    #[tokio::test]
    async fn socket_in_use_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _first = ControlSocket::bind(path.clone()).unwrap();
        let refused = crate::chain(&ControlSocket::bind(path.clone()).unwrap_err());
        assert!(refused.ends_with(": another process listens on it"), "{refused}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn too_long_path_is_refused_with_remedy() {
        let refused = check(Path::new(&format!("/{}/control", "x".repeat(100)))).unwrap_err().to_string();
        assert!(refused.ends_with("(at most 107 bytes): set control.socket to a shorter one"), "{refused}");
        assert!(check(Path::new("/var/lib/kfwatch/kfwatch.db-control")).is_ok());
    }
}
