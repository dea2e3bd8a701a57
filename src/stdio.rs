//! Standard output and standard error, which can be broken or stalled at any time.
//!
//! A full disk, a reader that is gone and a pipe that nobody reads concern only what is written there: nothing here panics, and
//! lines for standard error wait in a bounded queue for a thread of their own ([`line_queue`]). The macros of the standard library
//! panic on a broken output, so clippy rejects them.

mod line_queue;
mod line_writer;

use std::{io, os::fd::AsFd, sync::LazyLock};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

pub use self::{line_queue::LineQueue, line_writer::LineWriter};

/// Returns the queue of lines for standard error. There is one, because there is one standard error.
pub fn stderr() -> &'static LineQueue {
    static STDERR: LazyLock<LineQueue> = LazyLock::new(|| LineQueue::start(io::stderr()));
    &STDERR
}

/// Why a text could not be written whole.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct WriteError {
    /// How many bytes were written.
    pub written: usize,
    source: io::Error,
}

impl WriteError {
    /// Whether the reader is gone.
    pub fn is_broken_pipe(&self) -> bool {
        self.source.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Writes a whole text, unbuffered. Waits for room also where the descriptor does not block, as other programs that share it may
/// have set it.
pub fn write_all(to: impl AsFd, text: &[u8]) -> Result<(), WriteError> {
    let mut rest = text;
    let failed =
        |rest: &[u8], errno: Errno| WriteError { written: text.len() - rest.len(), source: errno.into() };
    while !rest.is_empty() {
        match nix::unistd::write(&to, rest) {
            Ok(0) => return Err(failed(rest, Errno::EIO)),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for_room(&to).map_err(|errno| failed(rest, errno))?,
            Err(errno) => return Err(failed(rest, errno)),
        }
    }
    Ok(())
}

fn wait_for_room(to: &impl AsFd) -> Result<(), Errno> {
    match poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
