//! The queue of lines for an output, and the thread that writes them.
//!
//! [`LineQueue::offer`] never waits: a line that finds the queue full is dropped, and so is one that cannot be written. Dropped
//! lines are counted. The first line that is written afterwards says how many are missing at this place.
//!
//! The crate tracing-appender is not used: when its queue is full at the end, it prints to standard output, which belongs to the
//! data, and it does not count lines that could not be written.

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::LineWriter;

/// How many bytes wait at most while an output is slow or stalled: about 10,000 log lines, which is more than the failures of a
/// large installation in a second.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;

/// Returns the line, with its newline, that says how many lines were dropped.
pub(crate) type DropNotice = fn(u64) -> String;

/// Lines that a thread writes to an output, in order.
#[derive(Debug)]
pub struct LineQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// All lines that were dropped.
    dropped: AtomicU64,
    max_bytes: usize,
}

#[derive(Debug)]
struct Queue {
    lines: VecDeque<Line>,
    /// The length of all lines.
    bytes: usize,
    /// Lines dropped since the last one that was queued.
    dropped: u64,
    /// Whether the thread exists.
    is_served: bool,
    /// Whether the thread is writing a line.
    is_writing: bool,
    notice: DropNotice,
}

#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    /// Lines dropped between the previous one and this.
    dropped_before: u64,
}

impl LineQueue {
    /// Starts the thread. Without it, all lines are dropped.
    pub fn start(to: impl AsFd + Send + 'static) -> Self {
        Self::with_max_bytes(to, MAX_QUEUED_BYTES)
    }

    fn with_max_bytes(to: impl AsFd + Send + 'static, max_bytes: usize) -> Self {
        let queue = Queue {
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            is_served: true,
            is_writing: false,
            notice: |lines| {
                if lines == 1 {
                    "1 line was dropped\n".to_owned()
                } else {
                    format!("{lines} lines were dropped\n")
                }
            },
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            dropped: 0.into(),
            max_bytes,
        });
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new().name("stderr".to_owned()).spawn(move || served.write_to(to));
        shared.lock().is_served = thread.is_ok();
        Self { shared }
    }

    /// Sets what is written in place of dropped lines.
    pub fn set_notice(&self, notice: DropNotice) {
        self.shared.lock().notice = notice;
    }

    /// Queues a line with its newline, or drops it if the queue is full.
    pub fn offer(&self, line: Vec<u8>) {
        let mut queue = self.shared.lock();
        if queue.is_served && queue.bytes + line.len() <= self.shared.max_bytes {
            queue.push(line);
        } else {
            queue.dropped += 1;
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.changed.notify_all();
    }

    /// Queues a line with its newline. Waits while the queue is full.
    pub fn send(&self, line: Vec<u8>) {
        let max_bytes = self.shared.max_bytes;
        let is_full =
            |queue: &mut Queue| queue.is_served && queue.bytes > 0 && queue.bytes + line.len() > max_bytes;
        let queue = self.shared.changed.wait_while(self.shared.lock(), is_full);
        queue.unwrap_or_else(PoisonError::into_inner).push(line);
        self.shared.changed.notify_all();
    }

    /// Waits until all lines are written or dropped.
    pub fn flush(&self) {
        let is_busy = |queue: &mut Queue| queue.is_served && (queue.is_writing || !queue.is_empty());
        drop(self.shared.changed.wait_while(self.shared.lock(), is_busy));
    }

    /// Returns how many lines were dropped.
    pub fn dropped_lines(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Queue {
    fn push(&mut self, text: Vec<u8>) {
        self.bytes += text.len();
        self.lines.push_back(Line { text, dropped_before: std::mem::take(&mut self.dropped) });
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }

    /// Removes the first line. After the last one, it is empty, and only has the number of lines dropped since.
    fn pop(&mut self) -> Line {
        let none = || Line { text: Vec::new(), dropped_before: std::mem::take(&mut self.dropped) };
        let line = self.lines.pop_front().unwrap_or_else(none);
        self.bytes -= line.text.len();
        line
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines for ever. Only the end of the process ends the thread.
    fn write_to(&self, to: impl AsFd) {
        let mut writer = LineWriter::new(to);
        // Lines that were dropped and that no notice has reported.
        let mut unreported = 0;
        loop {
            let (line, notice) = self.next();
            unreported += line.dropped_before;
            if unreported > 0 && writer.write(notice(unreported).as_bytes()).is_ok() {
                unreported = 0;
            }
            // A line is not written before the notice.
            let is_written = unreported == 0 && writer.write(&line.text).is_ok();
            if !is_written && !line.text.is_empty() {
                unreported += 1;
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn next(&self) -> (Line, DropNotice) {
        let mut queue = self.lock();
        queue.is_writing = false;
        self.changed.notify_all();
        let queue = self.changed.wait_while(queue, |queue| queue.is_empty());
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.is_writing = true;
        let line = queue.pop();
        // There is room for the next one.
        self.changed.notify_all();
        (line, queue.notice)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::OpenOptions,
        io::{PipeReader, Read},
    };

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    /// A queue of 100 bytes, and the end of a pipe that is full after its first line, of a page.
    fn stalled() -> (LineQueue, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let queue = LineQueue::with_max_bytes(writer, 100);
        queue.send(line(4095));
        queue.flush();
        // The thread waits in the write of this one.
        queue.send(b"first\n".to_vec());
        while queue.shared.lock().bytes > 0 {
            thread::yield_now();
        }
        (queue, reader)
    }

    fn line(length: usize) -> Vec<u8> {
        [vec![b'x'; length], b"\n".to_vec()].concat()
    }

    fn read_until(reader: &mut PipeReader, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            text.push(byte[0].into());
        }
        text.trim_start_matches('x').trim_start_matches('\n').to_owned()
    }

    #[test]
    fn notice_stands_where_lines_are_missing() {
        let (queue, mut reader) = stalled();
        queue.offer(line(79));
        for _ in 0..3 {
            queue.offer(line(79));
        }
        queue.offer(b"short\n".to_vec());
        queue.offer(line(79));
        assert_eq!(queue.dropped_lines(), 4);
        let text = read_until(&mut reader, "1 line was dropped\n");
        let long = String::from_utf8(line(79)).unwrap();
        assert_eq!(text, format!("first\n{long}3 lines were dropped\nshort\n1 line was dropped\n"));
        queue.flush();
        queue.offer(b"last\n".to_vec());
        assert_eq!(read_until(&mut reader, "last\n"), "last\n");
        assert_eq!(queue.dropped_lines(), 4);
    }

    #[test]
    fn sent_line_waits_for_room() {
        let (queue, mut reader) = stalled();
        queue.offer(line(99));
        thread::scope(|scope| {
            scope.spawn(|| queue.send(b"sent\n".to_vec()));
            let text = read_until(&mut reader, "sent\n");
            assert!(text.starts_with("first\nxxx"), "{text}");
        });
        assert_eq!(queue.dropped_lines(), 0);
    }

    #[test]
    fn lines_for_broken_output_are_counted() {
        let queue = LineQueue::start(OpenOptions::new().write(true).open("/dev/full").unwrap());
        for _ in 0..3 {
            queue.send(b"lost\n".to_vec());
        }
        queue.flush();
        assert_eq!(queue.dropped_lines(), 3);
    }
}
