//! Writes lines to a named pipe (FIFO).
//!
//! The pipe is opened only for writing and does not block, so that kfwatch is never its own reader: without a reader it cannot be
//! opened, and the events stay pending. A batch is acknowledged when all of it is in the pipe. If the reader stops reading, the
//! next attempt continues where this one ended, within a line if need be, so that no line is cut or repeated. If the reader
//! leaves, what it had not read is lost with the pipe, and the batch is written again, whole, to the next reader.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;
use tokio::net::unix::pipe::{OpenOptions, Sender};

use crate::{
    file_system,
    store::{LogPosition, StoredEvent},
};

/// How long a reader may read nothing while the pipe is full before the attempt fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A named pipe, and which one it is: another one may get its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPipe {
    pub(super) path: PathBuf,
    identity: (u64, u64),
}

/// Writes to the pipe of a sink.
#[derive(Debug, Default)]
pub(super) struct PipeWriter {
    /// `None` until the pipe has a reader.
    open: Option<(NamedPipe, Sender)>,
    batch: Batch,
    /// Events in the pipe that are not acknowledged, because others of their attempt were not written.
    written: HashSet<LogPosition>,
}

/// Lines that are written together.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<LogPosition>,
    lines: Vec<u8>,
    /// How many bytes are in the pipe.
    written: usize,
}

impl NamedPipe {
    /// Returns the pipe at this path, if there is one.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_fifo())?;
        Some(Self { path: path.to_path_buf(), identity: file_system::identity(&metadata) })
    }

    fn open(&self) -> io::Result<Sender> {
        OpenOptions::new().open_sender(&self.path).map_err(|error| match error.raw_os_error() {
            Some(errno) if errno == Errno::ENXIO as i32 => {
                let problem = "no program reads this pipe; the events wait until one does";
                io::Error::new(error.kind(), problem)
            }
            _ => error,
        })
    }
}

impl PipeWriter {
    /// Writes the events, each as one line. An attempt that is dropped or fails is continued by the next one.
    pub(super) async fn deliver(&mut self, pipe: &NamedPipe, events: &[Arc<StoredEvent>]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| open != pipe) {
            *self = Self::default();
        }
        // The pipe may end within a line of the last attempt.
        self.write_batch(pipe).await?;
        let rest = events.iter().filter(|event| !self.written.contains(&event.id));
        self.batch = Batch::new(rest);
        self.write_batch(pipe).await?;
        self.written.clear();
        Ok(())
    }

    /// Writes what the pipe does not have of the batch.
    async fn write_batch(&mut self, pipe: &NamedPipe) -> io::Result<()> {
        match self.try_write_batch(pipe).await {
            Ok(()) => self.written.extend(std::mem::take(&mut self.batch).events),
            Err(error) if error.kind() == ErrorKind::TimedOut => return Err(error),
            // There is no reader, so the pipe has lost what was in it.
            Err(error) => {
                *self = Self::default();
                return Err(error);
            }
        }
        Ok(())
    }

    async fn try_write_batch(&mut self, pipe: &NamedPipe) -> io::Result<()> {
        if self.batch.rest().is_empty() {
            return Ok(());
        }
        let sender = match &mut self.open {
            Some((_, sender)) => sender,
            closed => &mut closed.insert((pipe.clone(), pipe.open()?)).1,
        };
        self.batch.write_to(sender).await
    }
}

impl Batch {
    fn new<'a>(events: impl Iterator<Item = &'a Arc<StoredEvent>>) -> Self {
        let mut batch = Self::default();
        for event in events {
            batch.events.push(event.id);
            batch.lines.extend_from_slice(event.json.as_bytes());
            batch.lines.push(b'\n');
        }
        batch
    }

    fn rest(&self) -> &[u8] {
        self.lines.get(self.written..).unwrap_or_default()
    }

    async fn write_to(&mut self, pipe: &Sender) -> io::Result<()> {
        while !self.rest().is_empty() {
            match pipe.try_write(self.rest()) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let room = tokio::time::timeout(STALL_TIMEOUT, pipe.writable()).await;
                    room.map_err(|_| {
                        io::Error::new(ErrorKind::TimedOut, "the reader of this pipe does not read")
                    })??;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Err(io::Error::new(error.kind(), "the reader of this pipe has left"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::unix::fs::OpenOptionsExt};

    use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// A new pipe, and its path.
    fn named_pipe() -> (tempfile::TempDir, PathBuf, NamedPipe) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let pipe = NamedPipe::at(&path).unwrap();
        (directory, path, pipe)
    }

    fn reader(path: &Path) -> File {
        let mut options = File::options();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).unwrap()
    }

    /// Reads what is in the pipe now.
    fn read(mut reader: &File) -> String {
        let mut bytes = Vec::new();
        // Fails at the end of what is there.
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    /// Events of 10 KB, more than a pipe has room for.
    fn many(first: i64) -> Vec<Arc<StoredEvent>> {
        let event = |id| {
            let json = format!("{{\"id\":{id},\"x\":\"{}\"}}", "x".repeat(10_000));
            Arc::new(StoredEvent { id: LogPosition(id), ..StoredEvent::sample(&json) })
        };
        (first..first + 20).map(event).collect()
    }

    fn lines(events: &[Arc<StoredEvent>]) -> String {
        events.iter().map(|event| format!("{}\n", event.json)).collect()
    }

    #[tokio::test]
    async fn events_wait_for_reader() {
        let (_directory, path, pipe) = named_pipe();
        let mut writer = PipeWriter::default();
        let events = &many(1)[..2];
        let refused = writer.deliver(&pipe, events).await.unwrap_err().to_string();
        assert!(refused.starts_with("no program reads this pipe"), "{refused}");
        let reader = reader(&path);
        writer.deliver(&pipe, events).await.unwrap();
        assert_eq!(read(&reader), lines(events));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_reader_gets_each_line_once() {
        let (_directory, path, pipe) = named_pipe();
        let mut writer = PipeWriter::default();
        let (events, later) = (many(1), many(21));
        let reader = reader(&path);
        let stalled = writer.deliver(&pipe, &events).await.unwrap_err();
        assert_eq!(stalled.kind(), ErrorKind::TimedOut);
        let mut text = read(&reader);
        assert!(!text.ends_with('\n') && lines(&events).starts_with(&text), "the pipe ends within a line");
        // A command may have moved the cursor meanwhile, so that other events come first.
        let all = [&later[..2], &events[..]].concat();
        while writer.deliver(&pipe, &all).await.is_err() {
            text += &read(&reader);
        }
        text += &read(&reader);
        assert!(text == lines(&events) + &lines(&later[..2]));
    }

    #[tokio::test(start_paused = true)]
    async fn next_reader_gets_whole_batch() {
        let (_directory, path, pipe) = named_pipe();
        let mut writer = PipeWriter::default();
        let events = many(1);
        let first = reader(&path);
        writer.deliver(&pipe, &events).await.unwrap_err();
        drop(first);
        let left = writer.deliver(&pipe, &events).await.unwrap_err().to_string();
        assert_eq!(left, "the reader of this pipe has left");
        let next = reader(&path);
        let mut text = String::new();
        while writer.deliver(&pipe, &events).await.is_err() {
            text += &read(&next);
        }
        text += &read(&next);
        assert!(text == lines(&events));
    }
}
