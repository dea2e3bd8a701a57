//! The socket file: where it lies, and that nobody but its owner can use it at any moment.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Who may connect can spend the quota of every official account: the owner alone.
const MODE: u32 = 0o600;

/// The longest path of a socket in bytes: `sockaddr_un` has room for 108 with the terminating null.
const MAX_PATH_BYTES: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 16;

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The system has no room for the path.
    #[error(
        "{} is too long for the path of a socket (at most {MAX_PATH_BYTES} bytes): set store.path to a shorter one",
        .0.display()
    )]
    TooLong(PathBuf),
    /// The system refused it.
    #[error("cannot listen on {}", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The control socket of the daemon on this store, with links followed as for the store's lock.
pub(super) fn path_beside(store: &Path) -> Result<PathBuf, SocketError> {
    let mut path = OsString::from(store.canonicalize().unwrap_or_else(|_| store.to_path_buf()));
    path.push("-control");
    let path = PathBuf::from(path);
    if path.as_os_str().len() > MAX_PATH_BYTES { Err(SocketError::TooLong(path)) } else { Ok(path) }
}

/// A socket that is listened on. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens beside the store. Only for who holds the store's lock: that proves that a socket which lies there already
    /// was left by a daemon that crashed.
    pub fn bind(store: &Path) -> Result<Self, SocketError> {
        let path = path_beside(store)?;
        match listen(&path) {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(SocketError::Refused { path, source }),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // What remains is replaced by the next daemon.
        fs::remove_file(&self.path).ok();
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let is_stale = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_stale {
        fs::remove_file(path)?;
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Nobody can connect before `listen`, whatever the umask has left of the mode until here.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kfwatch.db-control");
        let socket = ControlSocket::bind(&directory.path().join("kfwatch.db")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_by_a_crash_is_replaced_and_a_file_is_not() {
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
    fn a_path_that_no_socket_can_have_is_refused_with_what_to_do() {
        let store = PathBuf::from(format!("/{}/kfwatch.db", "x".repeat(100)));
        let refused = path_beside(&store).unwrap_err().to_string();
        assert!(refused.ends_with("(at most 107 bytes): set store.path to a shorter one"), "{refused}");
        assert!(path_beside(Path::new("/var/lib/kfwatch/kfwatch.db")).is_ok());
    }
}
