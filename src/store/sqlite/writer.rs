//! The one thread that writes, and how it groups what waits.
//!
//! A sync of the disk costs as much as dozens of polls, so the steps that queue up while one group is synced form the
//! next group: one transaction, one sync. Those that come while its steps are applied still join it, because those who were
//! just answered need less time to come back than their group takes: otherwise two halves of all callers would take turns,
//! each with a sync of its own. Nobody waits for a group to fill. A step is answered after the commit; when anything in the
//! group fails, all of it is rolled back and every caller is told.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::{events, file::Lock, prune};
use crate::store::{
    error::StoreError,
    types::{LogPosition, Writes},
};

/// Steps that may wait for the writer; further callers wait for a place. More than one group, so that the next group
/// can form while one is synced.
const QUEUED_STEPS: usize = 2_000;

/// Steps in one transaction: at 20 µs each, its first one waits some 20 ms for the last.
const STEPS_PER_GROUP: usize = 1_000;

/// A file is one shard.
const SHARD: i64 = 0;

/// Who hears of each group of commits.
pub(super) struct Told {
    /// The newest event.
    pub(super) committed: watch::Sender<LogPosition>,
    /// How writing goes.
    pub(super) writes: watch::Sender<Writes>,
    /// How many bytes of the file are in use.
    pub(super) used_bytes: watch::Sender<u64>,
}

/// The queue to the writing thread.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Command>>,
    /// `None` once joined.
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Step(Box<dyn Step>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// The thread closes the connection, and then releases the lock, when it ends.
    pub(super) fn start(
        connection: Connection,
        lock: Lock,
        epoch: i64,
        told: Told,
    ) -> Result<Self, StoreError> {
        let (queue, commands) = mpsc::channel(QUEUED_STEPS);
        let worker = Worker { connection, epoch, told };
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(Queue { commands, closing: Vec::new() }, lock))
            .map_err(|error| StoreError::Unavailable { source: std::sync::Arc::new(error) })?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)) })
    }

    /// Waits for a place in the queue; `reply` is answered after the commit.
    pub(super) async fn queue<T, F>(
        &self,
        step: F,
        reply: oneshot::Sender<Result<T, StoreError>>,
    ) -> Result<(), StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let step = Queued { step: Some(step), done: None, reply };
        self.send(Command::Step(Box::new(step))).await
    }

    /// Returns when everything queued is committed, the connection closed and the lock released.
    pub(super) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        // Neither fails unless the thread has ended, and then there is nothing left to do.
        if self.send(Command::Close(reply)).await.is_ok() {
            closed.await.ok();
        }
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(command).await.map_err(|_| StoreError::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // So that the file is free when the store is gone. A panic of the thread was reported where it happened.
        thread.map(JoinHandle::join).transpose().ok();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// Makes this process the owner of the shard and returns its epoch. From now on a former owner's commits fail.
pub(super) fn take_lease(connection: &mut Connection) -> Result<i64, StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let owner = format!("process {}", std::process::id());
    let epoch = tx.query_row(
        "INSERT INTO lease (shard, owner, epoch) VALUES (?1, ?2, 1)
         ON CONFLICT DO UPDATE SET owner = excluded.owner, epoch = epoch + 1 RETURNING epoch",
        (SHARD, owner),
        |row| row.get(0),
    )?;
    tx.commit()?;
    Ok(epoch)
}

/// Raises the epoch of a copy above all that the store can have reached meanwhile, and counts the restore.
pub(super) fn raise_lease(tx: &Transaction<'_>, by: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO lease (shard, owner, epoch, restores) VALUES (?1, 'restore', ?2, 1)
         ON CONFLICT DO UPDATE SET epoch = epoch + ?2, restores = restores + 1",
        (SHARD, by),
    )?;
    Ok(())
}

/// A step of which neither the work's nor the answer's type is known any more.
trait Step: Send {
    fn apply(&mut self, tx: &Transaction<'_>) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Queued<T, F> {
    step: Option<F>,
    done: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Step for Queued<T, F>
where
    T: Send,
    F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send,
{
    fn apply(&mut self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        if let Some(step) = self.step.take() {
            self.done = Some(step(tx)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Queued { done, reply, .. } = *self;
        // A caller that no longer waits has its commit all the same.
        reply.send(outcome.and_then(|()| done.ok_or(StoreError::Closed))).ok();
    }
}

/// The thread's end of the queue.
struct Queue {
    commands: mpsc::Receiver<Command>,
    /// Who waits for the end.
    closing: Vec<oneshot::Sender<()>>,
}

impl Queue {
    /// Waits until there is something to do; `None` once there never will be.
    fn wait(&mut self) -> Option<Vec<Box<dyn Step>>> {
        let first = self.commands.blocking_recv()?;
        let mut group = Vec::from_iter(self.step_of(first));
        self.fill(&mut group);
        Some(group)
    }

    /// Adds what has come by now, as far as the group has room.
    fn fill(&mut self, group: &mut Vec<Box<dyn Step>>) {
        while group.len() < STEPS_PER_GROUP
            && let Ok(command) = self.commands.try_recv()
        {
            group.extend(self.step_of(command));
        }
    }

    /// `None` if somebody closes.
    fn step_of(&mut self, command: Command) -> Option<Box<dyn Step>> {
        match command {
            Command::Step(step) => Some(step),
            Command::Close(reply) => {
                self.closing.push(reply);
                // What was sent before is still received.
                self.commands.close();
                None
            }
        }
    }
}

/// What the thread owns.
struct Worker {
    connection: Connection,
    epoch: i64,
    told: Told,
}

impl Worker {
    fn run(mut self, mut queue: Queue, lock: Lock) {
        while let Some(group) = queue.wait() {
            self.commit_group(group, &mut queue);
        }
        // Folds the log into the file. If it cannot, the log stays, and the next owner finds everything in it.
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").ok();
        drop(self.connection);
        drop(lock);
        for reply in queue.closing {
            reply.send(()).ok();
        }
    }

    fn commit_group(&mut self, mut group: Vec<Box<dyn Step>>, queue: &mut Queue) {
        if group.is_empty() {
            return;
        }
        let outcome = self.try_commit(&mut group, queue);
        // Before the callers are answered: who was told that its commit failed finds it counted.
        self.told.writes.send_modify(|writes| {
            writes.last_succeeded = outcome.is_ok();
            writes.failures += u64::from(outcome.is_err());
        });
        if let Ok(Outcome { last_event, used_bytes }) = &outcome {
            self.told
                .committed
                .send_if_modified(|known| std::mem::replace(known, *last_event) != *last_event);
            self.told
                .used_bytes
                .send_if_modified(|known| std::mem::replace(known, *used_bytes) != *used_bytes);
        }
        for step in group {
            step.answer(outcome.clone().map(drop));
        }
    }

    /// One transaction: dropped before its commit, it is rolled back.
    fn try_commit(
        &mut self,
        group: &mut Vec<Box<dyn Step>>,
        queue: &mut Queue,
    ) -> Result<Outcome, StoreError> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        check_lease(&tx, self.epoch)?;
        let mut applied = 0;
        while applied < group.len() {
            for step in &mut group[applied..] {
                step.apply(&tx)?;
            }
            applied = group.len();
            queue.fill(group);
        }
        let outcome = Outcome { last_event: events::last_id(&tx)?, used_bytes: prune::used_bytes(&tx)? };
        tx.commit()?;
        Ok(outcome)
    }
}

/// What a group of commits has led to.
#[derive(Clone, Copy)]
struct Outcome {
    last_event: LogPosition,
    used_bytes: u64,
}

fn check_lease(tx: &Transaction<'_>, epoch: i64) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached("SELECT epoch FROM lease WHERE shard = ?1")?;
    let current: Option<i64> = statement.query_row([SHARD], |row| row.get(0)).optional()?;
    if current == Some(epoch) { Ok(()) } else { Err(StoreError::LeaseLost) }
}

#[cfg(test)]
mod tests {
    use super::{super::Sqlite, *};

    type Answer = oneshot::Receiver<Result<(), StoreError>>;

    /// A step that is being applied until it is told to go on.
    async fn held(writer: &Writer) -> (Answer, std::sync::mpsc::SyncSender<()>) {
        let (begun, applying) = oneshot::channel();
        let (go_on, told) = std::sync::mpsc::sync_channel(1);
        let step = move || {
            begun.send(()).unwrap();
            told.recv().unwrap();
            Ok(())
        };
        let answer = queued(writer, step).await;
        applying.await.unwrap();
        (answer, go_on)
    }

    async fn queued(
        writer: &Writer,
        step: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) -> Answer {
        let (reply, answer) = oneshot::channel();
        writer.queue(|_: &Transaction<'_>| step(), reply).await.unwrap();
        answer
    }

    fn store() -> (tempfile::TempDir, Sqlite) {
        let directory = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&directory.path().join("kfwatch.db")).unwrap();
        (directory, store)
    }

    fn writer(store: &Sqlite) -> &Writer {
        store.writer.as_ref().unwrap()
    }

    #[tokio::test]
    async fn what_comes_while_a_group_is_applied_is_committed_with_it_or_not_at_all() {
        let (_directory, store) = store();
        let (first, go_on) = held(writer(&store)).await;
        let second = queued(writer(&store), || Err(StoreError::UnknownAccount)).await;
        go_on.send(()).unwrap();
        for answer in [first, second] {
            assert!(matches!(answer.await.unwrap(), Err(StoreError::UnknownAccount)));
        }
    }

    #[tokio::test]
    async fn what_came_before_the_store_is_closed_is_committed() {
        let (_directory, store) = store();
        let (first, go_on) = held(writer(&store)).await;
        let second = queued(writer(&store), || Ok(())).await;
        // Closing is sent before the step under way goes on.
        tokio::join!(writer(&store).close(), async { go_on.send(()).unwrap() });
        for answer in [first, second] {
            answer.await.unwrap().unwrap();
        }
        let (reply, _) = oneshot::channel();
        let late = writer(&store).queue(|_| Ok(()), reply).await;
        assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    }
}
