//! What the store knows of its own condition.

use super::Page;
use crate::store::{Pending, Writes};

/// What a scrape reads from the store.
#[derive(Debug, Default)]
pub struct Stored {
    /// The size of the store and its log on the disk.
    pub size_bytes: u64,
    /// How writing goes.
    pub writes: Writes,
    /// What each sink still has to deliver, as far as the store could be read.
    pub pending: Vec<(String, Option<Pending>)>,
}

impl<E: FnMut(Vec<u8>) -> bool> Page<E> {
    /// The condition of the store.
    pub(super) fn store(&mut self, stored: &Stored) {
        let families = [
            (
                "kfwatch_store_size_bytes",
                "gauge",
                "Size of the store and its log on the disk.",
                stored.size_bytes,
            ),
            (
                "kfwatch_store_failures_total",
                "counter",
                "Transactions of the store that failed.",
                stored.writes.failures,
            ),
            (
                "kfwatch_store_last_write_successful",
                "gauge",
                "1 if the last transaction of the store was committed.",
                stored.writes.last_succeeded.into(),
            ),
        ];
        for (name, kind, help, value) in families {
            self.header(name, kind, help);
            self.value(name, value);
        }
    }
}
