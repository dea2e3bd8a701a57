//! The families with free-form labels, written as text (format 0.0.4) straight from the account table.
//!
//! Output goes out in chunks of [`CHUNK`] bytes through a callback, so that a page of a hundred megabytes never
//! stands in memory; nothing is allocated per series. All series of a family are written together, as the format
//! asks, and no family name stands in the registry as well.

mod accounts;
mod calls;
mod collected;
mod sinks;
mod stored;

use std::io::Write;

pub use self::stored::Stored;
use super::Metrics;
use crate::status::Table;

/// How many bytes are handed on at a time.
pub const CHUNK: usize = 64 * 1024;

/// Which series a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// One series for each kf account.
    PerAccount,
    /// Sums per official account.
    PerOfficialAccount,
}

/// Writes all families with free-form labels; `emit` takes the text in chunks and says whether to go on.
pub fn write(
    table: &Table,
    metrics: &Metrics,
    stored: &Stored,
    detail: Detail,
    emit: impl FnMut(Vec<u8>) -> bool,
) {
    let mut page = Page { chunk: Vec::with_capacity(CHUNK), emit, open: true };
    page.accounts(table, detail);
    page.collected(table);
    page.calls(table);
    page.store(stored);
    page.sinks(metrics, stored);
    page.flush();
}

struct Page<E> {
    chunk: Vec<u8>,
    emit: E,
    /// Whether somebody still reads.
    open: bool,
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to memory cannot fail.
        let _ = write!(self.chunk, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, value: u64) {
        // Writing to memory cannot fail.
        let _ = writeln!(self.chunk, "{name} {value}");
    }

    fn series(&mut self, name: &str, labels: &[&str], value: u64) {
        self.chunk.extend_from_slice(name.as_bytes());
        self.chunk.push(b'{');
        for part in labels {
            self.chunk.extend_from_slice(part.as_bytes());
        }
        self.chunk.extend_from_slice(b"} ");
        self.chunk.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.chunk.push(b'\n');
        // Room for the longest line is kept, so that a chunk does not grow.
        if self.chunk.len() > CHUNK - 1024 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.open = self.open && (self.emit)(full);
    }
}
