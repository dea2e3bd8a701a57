//! Writes one event per line to standard output or to a file.
//!
//! Events on standard output are acknowledged when they are written, events in a file when it is synced. The file is opened again
//! after it was moved away (logrotate) and on request. When it is opened, it is truncated to its last whole line, because a
//! crash may have left part of a line ([`repair`]). A named pipe is written without ever waiting for its reader ([`pipe`]).

mod open;
mod pipe;
mod repair;

use std::{
    fs::File,
    io::{self, Stdout, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

pub use self::open::problem_at;
use self::{
    open::{check_writable, is_still_at, open},
    pipe::{NamedPipe, PipeWriter},
};
use super::error::DeliveryError;
use crate::{stdio::LineWriter, store::StoredEvent};

/// How many events are written and synced together: about half a megabyte.
pub(super) const MAX_BATCH: usize = 1000;

/// Where the lines are written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum JsonlTarget {
    /// Standard output.
    Stdout,
    /// A file. A new one gets this mode and group.
    File { path: PathBuf, mode: u32, group: Option<u32> },
}

/// A sink of JSON lines.
#[derive(Debug)]
pub struct JsonlSink {
    /// Where it writes, for the log. Not read from the writer, which a slow write locks.
    destination: String,
    writer: Arc<Mutex<Writer>>,
    /// Not part of the writer, because it does not block.
    pipe: tokio::sync::Mutex<PipeWriter>,
    reopen_requested: Arc<AtomicBool>,
}

/// What became of lines.
enum Written {
    ToTarget,
    /// Nothing was written, because the path names this pipe.
    Not(NamedPipe),
}

#[derive(Debug)]
struct Writer {
    target: JsonlTarget,
    stdout: LineWriter<Stdout>,
    /// `None` until the next delivery opens it.
    file: Option<File>,
    /// Whether to close the file before the next write. Shared, because a slow write keeps the lock.
    reopen_requested: Arc<AtomicBool>,
}

impl JsonlSink {
    /// A sink that opens its target at the first delivery.
    pub fn new(target: JsonlTarget) -> Self {
        let destination = match &target {
            JsonlTarget::Stdout => "standard output".to_owned(),
            JsonlTarget::File { path, .. } => path.display().to_string(),
        };
        let reopen_requested = Arc::<AtomicBool>::default();
        let writer = Writer {
            target,
            stdout: LineWriter::new(io::stdout()),
            file: None,
            reopen_requested: Arc::clone(&reopen_requested),
        };
        Self { destination, writer: Arc::new(Mutex::new(writer)), pipe: Default::default(), reopen_requested }
    }

    pub(super) fn destination(&self) -> String {
        self.destination.clone()
    }

    /// Closes the file, after the current write if there is one. The next delivery opens it by its path.
    pub fn reopen(&self) {
        self.reopen_requested.store(true, Ordering::SeqCst);
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.close_if_requested();
        }
    }

    /// Checks that the file could be written, without opening it: a daemon may be writing it.
    pub(super) fn check_writable(&self) -> Result<(), DeliveryError> {
        match &self.writer.lock().unwrap_or_else(PoisonError::into_inner).target {
            JsonlTarget::Stdout => Ok(()),
            JsonlTarget::File { path, .. } => check_writable(path)
                .map_err(|error| DeliveryError::retryable(format!("{}: {error}", path.display()))),
        }
    }

    /// Writes the events, each as one line.
    pub async fn deliver(&self, events: &[Arc<StoredEvent>]) -> Result<(), DeliveryError> {
        let mut lines = String::with_capacity(events.iter().map(|event| event.json.len() + 1).sum());
        for event in events {
            lines.push_str(&event.json);
            lines.push('\n');
        }
        let writer = Arc::clone(&self.writer);
        let written = tokio::task::spawn_blocking(move || {
            writer.lock().unwrap_or_else(PoisonError::into_inner).write(lines.as_bytes())
        });
        match written.await {
            Ok(Ok(Written::Not(pipe))) => {
                let written = self.pipe.lock().await.deliver(&pipe, events).await;
                written.map_err(|error| DeliveryError::retryable(format!("{}: {error}", pipe.path.display())))
            }
            Ok(written) => written.map(|_| ()),
            Err(error) => Err(DeliveryError::retryable(error.to_string())),
        }
    }
}

impl Writer {
    fn write(&mut self, lines: &[u8]) -> Result<Written, DeliveryError> {
        match self.target.clone() {
            JsonlTarget::Stdout => match self.stdout.write(lines) {
                Ok(()) => Ok(Written::ToTarget),
                Err(error) if error.is_broken_pipe() => Err(DeliveryError::OutputClosed),
                Err(error) => Err(DeliveryError::retryable(format!("standard output: {error}"))),
            },
            JsonlTarget::File { path, mode, group } => {
                self.close_if_requested();
                let written = self.append(&path, mode, group, lines);
                if written.is_err() {
                    // When it is opened again, the file is truncated to its last whole line.
                    self.file = None;
                }
                self.close_if_requested();
                written.map_err(|error| DeliveryError::retryable(format!("{}: {error}", path.display())))
            }
        }
    }

    fn close_if_requested(&mut self) {
        if self.reopen_requested.swap(false, Ordering::SeqCst) {
            self.file = None;
        }
    }

    fn append(&mut self, path: &Path, mode: u32, group: Option<u32>, lines: &[u8]) -> io::Result<Written> {
        if self.file.as_ref().is_some_and(|file| !is_still_at(file, path)) {
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            closed => match NamedPipe::at(path) {
                Some(pipe) => return Ok(Written::Not(pipe)),
                None => closed.insert(open(path, mode, group)?),
            },
        };
        let before = file.metadata()?;
        if !before.is_file() {
            // A terminal can be neither synced nor truncated.
            return file.write_all(lines).map(|()| Written::ToTarget);
        }
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        // So that another attempt repeats no whole lines, unless this fails, too. Only what was added is removed: another
        // program may have truncated the file meanwhile.
        if written.is_err() && file.metadata()?.len() > before.len() {
            let _ = file.set_len(before.len());
        }
        written.map(|()| Written::ToTarget)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::PermissionsExt};

    use super::*;

    fn event(json: &str) -> Arc<StoredEvent> {
        Arc::new(StoredEvent::sample(json))
    }

    /// A directory, and the path of a sink's file that is not there yet.
    fn empty_directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        (directory, path)
    }

    fn sink(path: &Path) -> JsonlSink {
        JsonlSink::new(JsonlTarget::File { path: path.to_path_buf(), mode: 0o640, group: None })
    }

    #[tokio::test]
    async fn events_are_appended_with_configured_mode() {
        let (_directory, path) = empty_directory();
        sink(&path).deliver(&[event("{\"a\":1}"), event("{\"a\":2}")]).await.unwrap();
        sink(&path).deliver(&[event("{\"a\":3}")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[tokio::test]
    async fn partial_line_after_crash_is_removed() {
        let (_directory, path) = empty_directory();
        let event_before = "{\"specversion\":\"1.0\",\"id\":\"1\"}\n";
        let half = |length: usize| format!("{{\"specversion\":\"1.0\",\"id\":\"{}", "x".repeat(length));
        let nul = |length: usize| "\0".repeat(length);
        for (expected, rest) in [
            ("{}\n", String::new()),
            // After a kill during a write.
            ("{\"a\":1}\n", half(10_000)),
            ("{\"a\":1}\n", half(3_000_000)),
            ("", half(10_000)),
            ("", "{\"sp".to_owned()),
            (event_before, "{\"sp".to_owned()),
            // After a power cut: the file was extended, and its data not or not completely written.
            (event_before, nul(1)),
            (event_before, nul(100_000)),
            (event_before, half(10_000) + &nul(3_000_000)),
            (event_before, format!("{}{}{}", half(100), nul(4096), "x\"}}")),
            (event_before, format!("{{\"sp{}", nul(4096))),
            ("", nul(100_000)),
            ("", half(100) + &nul(4096)),
        ] {
            std::fs::write(&path, format!("{expected}{rest}")).unwrap();
            sink(&path).deliver(&[event("{\"c\":1}")]).await.unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{expected}{{\"c\":1}}\n"));
        }
    }

    #[tokio::test]
    async fn whole_event_without_newline_is_kept() {
        let (_directory, path) = empty_directory();
        let whole = "{\"specversion\":\"1.0\",\"id\":\"1\",\"data\":{\"n\":\"}\"}}";
        for (before, rest) in [("", ""), ("{}\n", ""), ("{}\n", "\0\0\0"), ("", "\0")] {
            std::fs::write(&path, format!("{before}{whole}{rest}")).unwrap();
            sink(&path).deliver(&[event("{\"c\":1}")]).await.unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{before}{whole}\n{{\"c\":1}}\n"));
        }
    }

    #[tokio::test]
    async fn other_file_is_rejected_unchanged() {
        let (_directory, path) = empty_directory();
        let nul = "\0".repeat(20_000);
        for content in [
            "a letter without a last newline".to_owned(),
            "x".repeat(100_000),
            "{\"a\":1}\nnotes".to_owned(),
            "{\"specversion\":\"1.0\"}\nnotes\0\0\0".to_owned(),
            // As archives and images end, which may contain lines.
            format!("events.jsonl.1{nul}{{\"specversion\":\"1.0\"}}\n{nul}"),
            format!("{nul}{{\"specversion\":\"1.0\"}}\n{nul}"),
            format!("{nul}x"),
            format!("{{\"a\":1}}\n{nul}"),
            "\u{1f}compressed{\"sp".to_owned(),
            "a: \\\n{".to_owned(),
        ] {
            std::fs::write(&path, &content).unwrap();
            let refused = sink(&path).deliver(&[event("{\"c\":1}")]).await.unwrap_err().to_string();
            assert!(refused.contains("events.jsonl: it does not end with an event: set path"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[tokio::test]
    async fn pipe_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = File::options().read(true).write(true).open(&path).unwrap();
        sink(&path).deliver(&[event("{\"c\":1}")]).await.unwrap();
        let mut read = [0; 8];
        (&reader).read_exact(&mut read).unwrap();
        assert_eq!(&read, b"{\"c\":1}\n");
    }

    #[tokio::test]
    async fn moved_file_is_created_again() {
        let (_directory, path) = empty_directory();
        let sink = sink(&path);
        sink.deliver(&[event("1")]).await.unwrap();
        std::fs::rename(&path, path.with_extension("1")).unwrap();
        sink.deliver(&[event("2")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[tokio::test]
    async fn reopen_closes_file_until_next_delivery() {
        let (_directory, path) = empty_directory();
        let sink = sink(&path);
        sink.reopen();
        sink.deliver(&[event("{\"a\":1}")]).await.unwrap();
        sink.reopen();
        assert!(sink.writer.lock().unwrap().file.is_none());
        // As logrotate's copytruncate leaves it, with a partial line of another writer.
        std::fs::write(&path, "{\"specver").unwrap();
        sink.deliver(&[event("{\"a\":2}")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
        assert!(sink.writer.lock().unwrap().file.is_some());
    }

    #[tokio::test]
    async fn reopen_during_write_takes_effect_after_it() {
        let (_directory, path) = empty_directory();
        let sink = sink(&path);
        sink.deliver(&[event("{\"a\":1}")]).await.unwrap();
        {
            let writing = sink.writer.lock().unwrap();
            sink.reopen();
            assert!(writing.file.is_some());
        }
        std::fs::write(&path, "{\"specver").unwrap();
        sink.deliver(&[event("{\"a\":2}")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
    }

    #[tokio::test]
    async fn unwritable_file_is_retried() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("events.jsonl");
        let sink = sink(&path);
        assert!(matches!(sink.deliver(&[event("1")]).await, Err(DeliveryError::Retryable { .. })));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        sink.deliver(&[event("1")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
    }
}
