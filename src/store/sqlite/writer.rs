//! The thread that writes, with group commit.
//!
//! A sync of the disk costs as much as dozens of polls. Steps that are queued while one group is synced form the next
//! group: one transaction, one sync. Steps that arrive while a group is applied still join it. Otherwise the callers would
//! split into two halves that take turns, each with its own sync. No group waits to become full. Callers get their results
//! after the commit. If any step of a group fails, the group is rolled back and every caller gets the error.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::{events, file::Lock, lease::FileLease, placement::OpenFiles, prune};
use crate::store::{error::StoreError, published::Published, types::LogPosition};

/// Steps that may wait for the writer; further callers wait for a place in the queue. More than one group, so that the
/// next group can form while one is synced.
const QUEUED_STEPS: usize = 2_000;

/// Steps in one transaction: at 20 µs each, the first one waits some 20 ms for the last.
const STEPS_PER_GROUP: usize = 1_000;

/// The handle of the writing thread.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Command>>,
    pub(super) lease: Arc<FileLease>,
    /// Closed when the thread has released the file.
    released: watch::Receiver<()>,
    /// `None` once joined.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A step of the store that writes. It leaves its result where its caller finds it after the commit.
type Step = Box<dyn FnOnce(&Transaction<'_>) -> Result<(), StoreError> + Send>;

/// Receives the outcome of the group of a step.
type GroupReply = oneshot::Sender<Result<(), StoreError>>;

enum Command {
    Write(Step, GroupReply),
    Close,
}

impl Writer {
    /// Starts the thread. When it ends, it ends the lease, closes the connection, then releases the lock.
    pub(super) fn start(
        connection: Connection,
        files: OpenFiles,
        lock: Lock,
        lease: Arc<FileLease>,
        published: Arc<Published>,
    ) -> Result<Self, StoreError> {
        let (queue, commands) = mpsc::channel(QUEUED_STEPS);
        let (release, released) = watch::channel(());
        let writer = WriterThread {
            connection,
            files,
            lease: Arc::clone(&lease),
            published,
            is_displaced: false,
            _lock: lock,
            _release: release,
        };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(StepQueue { commands }))
            .map_err(|error| StoreError::Unavailable { source: Arc::new(error) })?;
        Ok(Self { queue: Some(queue), lease, released, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a step and returns its result after the commit. The step is committed even if the caller stops waiting.
    pub(super) async fn write<T, F>(&self, step: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (result, returned) = oneshot::channel();
        let step: Step = Box::new(move |tx| {
            result.send(step(tx)?).ok();
            Ok(())
        });
        let (reply, committed) = oneshot::channel();
        self.send(Command::Write(step, reply)).await?;
        committed.await.unwrap_or(Err(StoreError::Closed))?;
        returned.await.map_err(|_| StoreError::Closed)
    }

    /// Returns when everything queued is committed, the connection closed and the lock released. Every caller waits for that.
    pub(super) async fn close(&self) {
        // It fails if the writer is being closed already, or has panicked.
        self.send(Command::Close).await.ok();
        // Nothing is sent; it fails when the thread has dropped the sender, which is the last that it does.
        self.released.clone().changed().await.ok();
        self.join();
    }

    /// Waits for the end of the thread. Without this, it would keep its stack for as long as a clone of the store lives.
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was reported where it happened.
        thread.map(JoinHandle::join).transpose().ok();
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(command).await.map_err(|_| StoreError::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        // So that the file is free when the store is dropped.
        self.join();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// The thread's end of the queue.
struct StepQueue {
    commands: mpsc::Receiver<Command>,
}

/// Steps that are committed together.
#[derive(Default)]
struct Group {
    /// The steps that are not applied yet.
    steps: Vec<Step>,
    /// One for each step, applied or not.
    replies: Vec<GroupReply>,
}

impl StepQueue {
    /// Waits for commands and returns a group, which may be empty; `None` once the queue is closed and drained.
    fn next_group(&mut self) -> Option<Group> {
        let mut group = Group::default();
        let first = self.commands.blocking_recv()?;
        self.add(first, &mut group);
        self.fill(&mut group);
        Some(group)
    }

    /// Adds the steps that are queued now, as far as the group has room.
    fn fill(&mut self, group: &mut Group) {
        while group.replies.len() < STEPS_PER_GROUP
            && let Ok(command) = self.commands.try_recv()
        {
            self.add(command, group);
        }
    }

    fn add(&mut self, command: Command, group: &mut Group) {
        match command {
            Command::Write(step, reply) => {
                group.steps.push(step);
                group.replies.push(reply);
            }
            // Commands that were sent before are still received.
            Command::Close => self.commands.close(),
        }
    }
}

/// What the thread owns. It is dropped in this order, also after a panic: the next owner gets the lock of a closed file.
struct WriterThread {
    connection: Connection,
    files: OpenFiles,
    lease: Arc<FileLease>,
    published: Arc<Published>,
    /// Whether the last group found its files deleted or replaced.
    is_displaced: bool,
    _lock: Lock,
    _release: watch::Sender<()>,
}

/// The state of the store after the commit of a group.
struct CommittedGroup {
    last_event: LogPosition,
    used_bytes: u64,
}

impl WriterThread {
    fn run(mut self, mut queue: StepQueue) {
        while let Some(group) = queue.next_group() {
            if !group.replies.is_empty() {
                self.commit(group, &mut queue);
            }
        }
        self.lease.held.end(StoreError::Closed);
        // If the checkpoint fails, the log stays, and the next owner finds everything in it.
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").ok();
    }

    fn commit(&mut self, mut group: Group, queue: &mut StepQueue) {
        let outcome = self.try_commit(&mut group, queue);
        // Before the replies: a caller whose commit failed finds the failure counted.
        self.published.publish_outcome(outcome.as_ref().err());
        self.log_displacement(outcome.as_ref().err());
        let outcome = outcome.map(|CommittedGroup { last_event, used_bytes }| {
            self.published.publish_committed(last_event);
            self.published.publish_used_bytes(used_bytes);
        });
        for reply in group.replies {
            // A caller may have stopped waiting.
            reply.send(outcome.clone()).ok();
        }
    }

    /// Logs once that files were deleted or replaced. Callers log the other failures.
    fn log_displacement(&mut self, failure: Option<&StoreError>) {
        let was_displaced = self.is_displaced;
        self.is_displaced = failure.is_some_and(StoreError::is_displaced);
        if let Some(error) = failure.filter(|_| self.is_displaced && !was_displaced) {
            tracing::error!("{error}");
        }
    }

    /// Applies the group in one transaction, which is rolled back if it is dropped before its commit.
    fn try_commit(&mut self, group: &mut Group, queue: &mut StepQueue) -> Result<CommittedGroup, StoreError> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.lease.check(&tx)?;
        while !group.steps.is_empty() {
            for step in group.steps.drain(..) {
                step(&tx)?;
            }
            queue.fill(group);
        }
        let committed =
            CommittedGroup { last_event: events::last_id(&tx)?, used_bytes: prune::used_bytes(&tx)? };
        self.files.check()?;
        tx.commit()?;
        Ok(committed)
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        // It has ended already, unless the thread panicked.
        self.lease.held.end(StoreError::WriterPanicked);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::{super::Sqlite, *};

    fn store() -> (tempfile::TempDir, Arc<Sqlite>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&directory.path().join("kfwatch.db")).unwrap();
        (directory, Arc::new(store))
    }

    type Written = BoxFuture<'static, Result<(), StoreError>>;

    /// Starts a step that is being applied until the sender says to continue.
    async fn slow_step(store: &Arc<Sqlite>) -> (Written, std::sync::mpsc::SyncSender<()>) {
        let (begin, begun) = oneshot::channel();
        let (resume, resumed) = std::sync::mpsc::sync_channel(1);
        let step = move || {
            begin.send(()).unwrap();
            resumed.recv().unwrap();
            Ok(())
        };
        let written = queue(store, step);
        begun.await.unwrap();
        (written, resume)
    }

    /// Queues a step.
    fn queue(store: &Arc<Sqlite>, step: impl FnOnce() -> Result<(), StoreError> + Send + 'static) -> Written {
        let store = Arc::clone(store);
        let mut written = async move { store.write(|_| step()).await }.boxed();
        assert!((&mut written).now_or_never().is_none(), "it waits for its commit");
        written
    }

    #[tokio::test]
    async fn step_that_joins_group_fails_or_commits_with_it() {
        let (_directory, store) = store();
        let (first, resume) = slow_step(&store).await;
        let second = queue(&store, || Err(StoreError::UnknownAccount));
        resume.send(()).unwrap();
        for written in [first, second] {
            assert!(matches!(written.await, Err(StoreError::UnknownAccount)));
        }
    }

    #[tokio::test]
    async fn panic_of_writer_ends_lease_and_releases_file() {
        let (directory, store) = store();
        let written: Result<(), _> = store.write(|_| panic!("on purpose")).await;
        assert!(matches!(written, Err(StoreError::Closed)), "{written:?}");
        assert!(matches!(store.lost().await, StoreError::WriterPanicked));
        store.close().await;
        assert!(matches!(store.lost().await, StoreError::WriterPanicked), "the first reason counts");
        Sqlite::open(&directory.path().join("kfwatch.db")).unwrap();
    }

    #[tokio::test]
    async fn closed_writer_has_no_thread() {
        let (_directory, store) = store();
        let writer = store.writer.as_ref().unwrap();
        assert!(writer.thread.lock().unwrap().is_some());
        writer.close().await;
        assert!(writer.thread.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn steps_queued_before_close_are_committed() {
        let (_directory, store) = store();
        let (first, resume) = slow_step(&store).await;
        let second = queue(&store, || Ok(()));
        let writer = store.writer.as_ref().unwrap();
        // Close is sent before the slow step continues.
        tokio::join!(writer.close(), async { resume.send(()).unwrap() });
        for written in [first, second] {
            written.await.unwrap();
        }
        let late = store.write(|_| Ok(())).await;
        assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    }
}
