//! One event a line, to standard output or to a file.
//!
//! Standard output counts as confirmed when it is flushed. A file is appended to and synced before its events count as
//! confirmed; it is opened anew when it was moved away (logrotate) and when it is told to, and cut back to its last whole
//! line when it is opened, because a crash may have left part of one ([`repair`]).

mod file;
mod repair;

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use self::file::{is_still_at, open};
use super::DeliveryError;
use crate::store::StoredEvent;

/// How many events are written and synced together: about half a megabyte.
pub(super) const BATCH: usize = 1000;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Its permissions, when it is created.
        mode: u32,
        /// The id of its group, when it is created.
        group: Option<u32>,
    },
}

/// A sink of JSON lines.
#[derive(Debug)]
pub struct JsonlSink {
    writer: Arc<Mutex<Writer>>,
    is_to_close: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Writer {
    target: Target,
    /// The open file, if there is one.
    file: Option<File>,
    /// Whether the file is to be opened anew before more is written. Outside of the lock, which a write may hold for long.
    is_to_close: Arc<AtomicBool>,
}

impl JsonlSink {
    /// A sink that opens its target when there is something to deliver.
    pub fn new(target: Target) -> Self {
        let is_to_close = Arc::<AtomicBool>::default();
        let writer = Writer { target, file: None, is_to_close: Arc::clone(&is_to_close) };
        Self { writer: Arc::new(Mutex::new(writer)), is_to_close }
    }

    /// Closes its file, after the write under way if there is one; the next delivery opens it anew by its path.
    pub fn reopen(&self) {
        self.is_to_close.store(true, Ordering::SeqCst);
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.close_if_told();
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
            Ok(result) => result,
            Err(error) => Err(retryable(error.to_string())),
        }
    }
}

impl Writer {
    fn write(&mut self, lines: &[u8]) -> Result<(), DeliveryError> {
        match self.target.clone() {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(lines).and_then(|()| stdout.flush());
                written.map_err(|error| match error.kind() {
                    ErrorKind::BrokenPipe => DeliveryError::Gone,
                    _ => retryable(format!("standard output: {error}")),
                })
            }
            Target::File { path, mode, group } => {
                self.close_if_told();
                let written = self.append(&path, mode, group, lines);
                if written.is_err() {
                    // Opened anew, the file is cut back to its last whole line.
                    self.file = None;
                }
                self.close_if_told();
                written.map_err(|error| retryable(format!("{}: {error}", path.display())))
            }
        }
    }

    fn close_if_told(&mut self) {
        if self.is_to_close.swap(false, Ordering::SeqCst) {
            self.file = None;
        }
    }

    fn append(&mut self, path: &Path, mode: u32, group: Option<u32>, lines: &[u8]) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|file| !is_still_at(file, path)) {
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(open(path, mode, group)?),
        };
        let before = file.metadata()?;
        if !before.is_file() {
            // A pipe or a terminal: there is nothing to sync, and nothing to take back.
            return file.write_all(lines);
        }
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        // So that another attempt repeats no whole lines; if even this fails, it does. Only what was added: somebody may have
        // emptied the file meanwhile.
        if written.is_err() && file.metadata()?.len() > before.len() {
            let _ = file.set_len(before.len());
        }
        written
    }
}

fn retryable(reason: String) -> DeliveryError {
    DeliveryError::Retryable { reason, after: None }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::{
        domain::event::EventType,
        store::{AccountId, LogPosition},
    };

    fn event(json: &str) -> Arc<StoredEvent> {
        Arc::new(StoredEvent {
            id: LogPosition(1),
            account: AccountId(1),
            sequence: 1,
            event_type: EventType::SessionStarted,
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            json: json.to_owned(),
        })
    }

    fn sink(path: &Path) -> JsonlSink {
        JsonlSink::new(Target::File { path: path.to_path_buf(), mode: 0o640, group: None })
    }

    #[tokio::test]
    async fn events_are_appended_one_a_line_with_the_configured_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        sink(&path).deliver(&[event("{\"a\":1}"), event("{\"a\":2}")]).await.unwrap();
        sink(&path).deliver(&[event("{\"a\":3}")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[tokio::test]
    async fn what_a_crash_left_of_a_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let event_before = "{\"specversion\":\"1.0\",\"id\":\"1\"}\n";
        let half = |length: usize| format!("{{\"specversion\":\"1.0\",\"id\":\"{}", "x".repeat(length));
        let nul = |length: usize| "\0".repeat(length);
        for (expected, rest) in [
            ("{}\n", String::new()),
            // By a kill in the middle of a write.
            ("{\"a\":1}\n", half(10_000)),
            ("{\"a\":1}\n", half(3_000_000)),
            ("", half(10_000)),
            ("", "{\"sp".to_owned()),
            (event_before, "{\"sp".to_owned()),
            // By a power cut: the file was grown, and its data not written, or not all of it.
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
    async fn a_whole_event_is_not_cut_off_for_the_lack_of_its_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let whole = "{\"specversion\":\"1.0\",\"id\":\"1\",\"data\":{\"n\":\"}\"}}";
        for (before, rest) in [("", ""), ("{}\n", ""), ("{}\n", "\0\0\0"), ("", "\0")] {
            std::fs::write(&path, format!("{before}{whole}{rest}")).unwrap();
            sink(&path).deliver(&[event("{\"c\":1}")]).await.unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{before}{whole}\n{{\"c\":1}}\n"));
        }
    }

    #[tokio::test]
    async fn a_file_of_something_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let nul = "\0".repeat(20_000);
        for content in [
            "a letter without a last newline".to_owned(),
            "x".repeat(100_000),
            "{\"a\":1}\nnotes".to_owned(),
            "{\"specversion\":\"1.0\"}\nnotes\0\0\0".to_owned(),
            // Archives and images end so, which may hold lines.
            format!("events.jsonl.1{nul}{{\"specversion\":\"1.0\"}}\n{nul}"),
            format!("{nul}{{\"specversion\":\"1.0\"}}\n{nul}"),
            format!("{nul}x"),
            format!("{{\"a\":1}}\n{nul}"),
            "\u{1f}compressed{\"sp".to_owned(),
            "a: \\\n{".to_owned(),
        ] {
            std::fs::write(&path, &content).unwrap();
            let refused = sink(&path).deliver(&[event("{\"c\":1}")]).await.unwrap_err().to_string();
            assert!(refused.contains("events.jsonl: what it ends in is no event: set path"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[tokio::test]
    async fn a_pipe_is_written_once() {
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
    async fn a_file_that_was_moved_away_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let sink = sink(&path);
        sink.deliver(&[event("1")]).await.unwrap();
        std::fs::rename(&path, directory.path().join("events.jsonl.1")).unwrap();
        sink.deliver(&[event("2")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
    }

    #[tokio::test]
    async fn told_to_it_closes_its_file_at_once_and_opens_it_anew_at_the_next_delivery() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let sink = sink(&path);
        sink.reopen();
        sink.deliver(&[event("{\"a\":1}")]).await.unwrap();
        sink.reopen();
        assert!(sink.writer.lock().unwrap().file.is_none());
        // Copied and emptied, and something of its own put in by half.
        std::fs::write(&path, "{\"specver").unwrap();
        sink.deliver(&[event("{\"a\":2}")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
        assert!(sink.writer.lock().unwrap().file.is_some());
    }

    #[tokio::test]
    async fn told_to_during_a_write_it_opens_its_file_anew_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
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
    async fn a_file_that_cannot_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("events.jsonl");
        let sink = sink(&path);
        assert!(matches!(sink.deliver(&[event("1")]).await, Err(DeliveryError::Retryable { .. })));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        sink.deliver(&[event("1")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
    }
}
