//! A small pool of read-only connections.
//!
//! A read waits for a free connection and occupies it until it is finished, even if its caller stops waiting. The store
//! has two pools, so that slow reads of pages, scrapes and commands never delay a dispatcher.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rusqlite::Connection;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::connection::connect_to_read;
use crate::store::error::StoreError;

/// Connections that serve reads of one kind. Not r2d2 or deadpool: their threads, managers and time-outs are more than a
/// fixed list of connections needs.
#[derive(Debug)]
pub(in crate::store) struct ReaderPool {
    /// One permit for each idle connection. Closed when the pool is closed.
    permits: Semaphore,
    connections: Mutex<Connections>,
    returned: Condvar,
}

#[derive(Debug)]
struct Connections {
    idle: Vec<Connection>,
    /// Idle ones and ones that a read uses.
    open: usize,
}

/// A connection in use. Returns to the pool when it is dropped, also if the read panics or never starts.
struct Lent {
    pool: Arc<ReaderPool>,
    connection: Option<Connection>,
}

impl ReaderPool {
    pub(super) fn open(path: &Path, size: usize) -> Result<Arc<Self>, StoreError> {
        let idle = (0..size).map(|_| connect_to_read(path)).collect::<Result<Vec<_>, _>>()?;
        let connections = Mutex::new(Connections { idle, open: size });
        Ok(Arc::new(Self { permits: Semaphore::new(size), connections, returned: Condvar::new() }))
    }

    /// Runs a read in one consistent view of the store.
    pub(in crate::store) async fn read<T, F>(self: &Arc<Self>, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let lent = self.lend().await?;
        let reading = spawn_blocking(move || {
            let connection = lent.connection.as_ref().ok_or(StoreError::Closed)?;
            read(&*connection.unchecked_transaction()?)
        });
        // Fails if the read panicked or the runtime shuts down.
        reading.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Closes all connections once the running reads have finished. Reads that wait fail.
    pub(super) fn close(&self) {
        self.permits.close();
        let mut connections = self.lock();
        while connections.idle.len() < connections.open {
            connections = self.returned.wait(connections).unwrap_or_else(PoisonError::into_inner);
        }
        *connections = Connections { idle: Vec::new(), open: 0 };
    }

    async fn lend(self: &Arc<Self>) -> Result<Lent, StoreError> {
        // The permit returns with the connection.
        self.permits.acquire().await.map_err(|_| StoreError::Closed)?.forget();
        let connection = self.lock().idle.pop();
        Ok(Lent { pool: Arc::clone(self), connection })
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.lock().idle.extend(self.connection.take());
        self.pool.returned.notify_all();
        self.pool.permits.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use futures_util::FutureExt;

    use super::*;
    use crate::store::sqlite::{SHARED_READERS, Sqlite};

    fn store() -> (tempfile::TempDir, Sqlite) {
        let directory = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&directory.path().join("kfwatch.db")).unwrap();
        (directory, store)
    }

    /// Starts reads that last until their senders are dropped.
    async fn slow_reads(pool: &Arc<ReaderPool>, count: usize) -> Vec<mpsc::SyncSender<()>> {
        let mut slow = Vec::new();
        for _ in 0..count {
            let (end, ended) = mpsc::sync_channel::<()>(0);
            let (begin, begun) = tokio::sync::oneshot::channel();
            let mut read = Box::pin(pool.read(move |_: &Connection| {
                begin.send(()).unwrap();
                ended.recv().ok();
                Ok(())
            }));
            // The first poll starts the read, which lasts although its caller stops waiting.
            assert!((&mut read).now_or_never().is_none());
            begun.await.unwrap();
            slow.push(end);
        }
        slow
    }

    #[tokio::test]
    async fn slow_page_reads_do_not_delay_dispatcher() {
        let (_directory, store) = store();
        let slow = slow_reads(&store.readers, SHARED_READERS).await;
        let page = store.readers.read(|_| Ok(()));
        let page = tokio::time::timeout(Duration::from_millis(50), page).await;
        assert!(page.is_err(), "all connections for pages are in use");
        store.delivery_readers.read(|_| Ok(())).await.unwrap();
        drop(slow);
        store.readers.read(|_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn connection_returns_after_panic() {
        let (_directory, store) = store();
        for _ in 0..=SHARED_READERS {
            let panicked = store.readers.read::<(), _>(|_| panic!("on purpose")).await;
            assert!(matches!(panicked, Err(StoreError::Closed)));
        }
        store.readers.read(|_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn closing_waits_for_running_reads_and_rejects_others() {
        let (_directory, store) = store();
        let slow = slow_reads(&store.readers, SHARED_READERS).await;
        let pool = Arc::clone(&store.readers);
        let closing = spawn_blocking(move || pool.close());
        let waiting = store.readers.read(|_| Ok(()));
        assert!(matches!(waiting.await, Err(StoreError::Closed)));
        assert!(!closing.is_finished());
        drop(slow);
        closing.await.unwrap();
        assert!(matches!(store.readers.read(|_| Ok(())).await, Err(StoreError::Closed)));
    }
}
