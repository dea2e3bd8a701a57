//! The socket file: its path, and its mode, which lets only its owner connect at any time.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::FileTypeExt,
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
        "{} is too long for the path of a socket (at most {MAX_PATH_BYTES} bytes): set store.path to a shorter one",
        .0.display()
    )]
    TooLong(PathBuf),
    #[error("cannot listen on {}", path.display())]
    Refused { path: PathBuf, source: io::Error },
}

/// The path of the control socket of the daemon that uses this store. Links are followed, as for the store's lock.
pub(super) fn path_for_store(store: &Path) -> Result<PathBuf, SocketError> {
    let mut path = OsString::from(store.canonicalize().unwrap_or_else(|_| store.to_path_buf()));
    path.push("-control");
    let path = PathBuf::from(path);
    if path.as_os_str().len() > MAX_PATH_BYTES { Err(SocketError::TooLong(path)) } else { Ok(path) }
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
    /// Listens on the socket of this store. The caller must have locked the store: only then is a socket file that exists already
    /// certain to be the remains of a crashed daemon.
    pub(crate) fn bind(store: &Path) -> Result<Self, SocketError> {
        let path = path_for_store(store)?;
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
    let is_stale = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_stale {
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
        let socket = ControlSocket::bind(&directory.path().join("kfwatch.db")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_other_file_kept() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("kfwatch.db");
        let path = directory.path().join("kfwatch.db-control");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(ControlSocket::bind(&store).unwrap());
        fs::write(&path, "my notes").unwrap();
        let refused = crate::chain(&ControlSocket::bind(&store).unwrap_err());
        assert!(refused.starts_with(&format!("cannot listen on {}: ", path.display())), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "my notes");
    }

    #[test]
    fn too_long_path_is_refused_with_remedy() {
        let store = PathBuf::from(format!("/{}/kfwatch.db", "x".repeat(100)));
        let refused = path_for_store(&store).unwrap_err().to_string();
        assert!(refused.ends_with("(at most 107 bytes): set store.path to a shorter one"), "{refused}");
        assert!(path_for_store(Path::new("/var/lib/kfwatch/kfwatch.db")).is_ok());
    }
}
