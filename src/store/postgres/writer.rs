//! The task that commits polls, in groups.
//!
//! A commit that waits for the disk costs as much as dozens of polls. Commits that queue while a statement is under way form the next
//! one, for all shards of the replica. One statement is under way at a time, and an account is in it at most once, so that each
//! commit is numbered from the one before.
//!
//! A statement whose answer is lost may have been executed. It is never cancelled, because a commit that is cancelled while it waits
//! for a standby is reported although the standby lacks it. Instead, what the store contains is read, and what is missing is sent
//! again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use uuid::Uuid;

use super::{
    commit::{self, CommitGroup},
    connection::{Connection, Retries},
    error::{Failure, FailureKind},
    group::{
        AfterCommit, Group, STEPS_PER_GROUP, Sequences, Step, answer_known, bytes, does_not_fit, fail, settle,
    },
    numbering::{StoredSessions, has_repeated_session, number_events},
    owned_shard::OwnedShard,
};
use crate::store::{
    StoreError,
    accounts::RenderedCommit,
    types::{AccountId, Committed},
};

/// Commits that may wait; further callers wait for a place in the queue.
const QUEUED_STEPS: usize = 2_000;

/// How many times a group is numbered again after the store was read, before it counts as failed.
const MAX_ROUNDS: u32 = 5;

/// The handle of the task, which ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<WriterMessage>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
enum WriterMessage {
    Commit(Box<Step>),
    /// Checks whether the log of a shard still has what was committed.
    CheckForLostEvents(Arc<OwnedShard>),
    /// Replies when everything that was queued before has its outcome.
    Drain(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn start(connection: Arc<Connection>, owner: Uuid) -> Self {
        let (queue, commands) = mpsc::channel(QUEUED_STEPS);
        let mut task = JoinSet::new();
        task.spawn(WriterTask { connection, owner, commands, waiting: VecDeque::new() }.run());
        Self { queue, _task: task }
    }

    /// Queues a commit and returns its result. It is committed even if the caller stops waiting.
    pub(super) async fn commit(
        &self,
        shard: &Arc<OwnedShard>,
        rendered: RenderedCommit,
        account: AfterCommit,
    ) -> Result<Committed, StoreError> {
        shard.lease.check()?;
        let (reply, committed) = oneshot::channel();
        let step = Step {
            shard: Arc::clone(shard),
            rendered,
            account,
            reply,
            is_uncertain: false,
            sent: None,
            unanswered: None,
        };
        let queued = self.queue.send(WriterMessage::Commit(Box::new(step))).await.is_ok();
        match committed.await {
            Ok(outcome) if queued => outcome,
            _ => {
                shard.lease.end(StoreError::WriterPanicked);
                Err(StoreError::WriterPanicked)
            }
        }
    }

    /// Checks whether the log of a shard has lost events, and if so ends its lease.
    pub(super) fn check_for_lost_events(&self, shard: Arc<OwnedShard>) {
        // If the queue is full, the next heartbeat asks again.
        self.queue.try_send(WriterMessage::CheckForLostEvents(shard)).ok();
    }

    /// Returns when everything that was queued before has its outcome.
    pub(super) async fn drain(&self) {
        let (reply, drained) = oneshot::channel();
        self.queue.send(WriterMessage::Drain(reply)).await.ok();
        drained.await.ok();
    }
}

/// What the task owns.
struct WriterTask {
    connection: Arc<Connection>,
    owner: Uuid,
    commands: mpsc::Receiver<WriterMessage>,
    /// Received, and not yet in a group.
    waiting: VecDeque<WriterMessage>,
}

impl WriterTask {
    async fn run(mut self) {
        while let Some(group) = self.next_group().await {
            Box::pin(self.commit(group)).await;
        }
    }

    /// Waits for commits and returns a group, which may be empty; `None` once the queue is closed and drained.
    async fn next_group(&mut self) -> Option<Vec<Step>> {
        if self.waiting.is_empty() {
            let command = self.commands.recv().await?;
            self.waiting.push_back(command);
        }
        while self.waiting.len() < STEPS_PER_GROUP
            && let Ok(command) = self.commands.try_recv()
        {
            self.waiting.push_back(command);
        }
        let mut group = Group::default();
        let mut others = VecDeque::new();
        while let Some(command) = self.waiting.pop_front() {
            match command {
                WriterMessage::Commit(step) if group.has_room_for(&step) => group.add(*step),
                WriterMessage::Commit(step) => {
                    // Later commits of the account wait, too.
                    group.accounts.insert(step.rendered.commit.id);
                    others.push_back(WriterMessage::Commit(step));
                }
                WriterMessage::CheckForLostEvents(shard) => {
                    // If it fails, the next heartbeat asks again.
                    self.check_last_ids(&[shard]).await.ok();
                }
                WriterMessage::Drain(reply) if group.steps.is_empty() && others.is_empty() => {
                    reply.send(()).ok();
                }
                drain @ WriterMessage::Drain(_) => {
                    others.push_back(drain);
                    break;
                }
            }
        }
        others.append(&mut self.waiting);
        self.waiting = others;
        Some(group.steps)
    }

    /// Commits a group and replies to its callers. Retries until each has an outcome, or the retries are used up.
    async fn commit(&self, mut steps: Vec<Step>) {
        let mut retries = Retries::new();
        let mut rounds = 0;
        while !steps.is_empty() {
            let failure = self.try_commit(&mut steps).await.err();
            let was_certain = steps.iter().any(|step| !step.is_uncertain);
            let Some(failure) = failure else {
                // The remaining steps were numbered from assumptions that turned out to be wrong.
                rounds += 1;
                if rounds > MAX_ROUNDS {
                    return fail(steps, &does_not_fit());
                }
                continue;
            };
            for step in &mut steps {
                step.is_uncertain = true;
                if matches!(failure.kind, FailureKind::NoAnswer | FailureKind::ServerUnavailable) {
                    step.unanswered = step.sent.or(step.unanswered);
                }
            }
            let goes_on = match failure.kind {
                FailureKind::NoAnswer | FailureKind::Busy | FailureKind::ServerUnavailable => {
                    retries.back_off().await
                }
                FailureKind::CheckFailed => {
                    rounds += 1;
                    rounds <= MAX_ROUNDS
                }
                FailureKind::Rejected => was_certain,
                FailureKind::Permanent => false,
            };
            if goes_on {
                continue;
            }
            if matches!(failure.kind, FailureKind::CheckFailed | FailureKind::Rejected) && steps.len() > 1 {
                // One of them has a value that is refused: the others are committed without it.
                let second = steps.split_off(steps.len() / 2);
                Box::pin(self.commit(steps)).await;
                return Box::pin(self.commit(second)).await;
            }
            return fail(steps, &failure.error);
        }
    }

    /// Tries once to commit the steps. Replies to those whose outcome is known and removes them.
    async fn try_commit(&self, steps: &mut Vec<Step>) -> Result<(), Failure> {
        let found = self.read_stored(steps).await?;
        if steps.is_empty() {
            return Ok(());
        }
        let mut group = CommitGroup::default();
        let mut last_ids: HashMap<i16, i64> = HashMap::new();
        let mut added_bytes: HashMap<i16, u64> = HashMap::new();
        for step in steps.iter_mut() {
            let (shard, id) = (step.shard.number.get(), step.rendered.commit.id);
            let last_id = last_ids.entry(shard).or_insert_with(|| {
                let last_id = step.shard.progress().last_id;
                group.add_shard(shard, step.shard.epoch, last_id);
                last_id
            });
            let Some(before) = step.shard.progress().accounts.get(&id).copied() else { continue };
            let numbered = number_events(&step.rendered, before, found.get(&id), *last_id);
            *last_id += numbered.events.len() as i64;
            *added_bytes.entry(shard).or_default() += bytes(&numbered);
            step.sent = Some(Sequences { before: before.sequence, after: numbered.after.sequence });
            group.add(shard, &step.rendered.commit, numbered);
            if step.account == AfterCommit::Leaves {
                group.unconfigure(shard, id);
            }
        }
        let outcome = group.execute(&self.connection, self.owner).await?;
        settle(steps, &outcome, &last_ids, &added_bytes);
        Ok(())
    }

    /// Reads what the store contains of the steps about which nothing may be assumed. Replies to those whose account is unknown, and
    /// to those that turn out to be committed.
    async fn read_stored(
        &self,
        steps: &mut Vec<Step>,
    ) -> Result<HashMap<AccountId, StoredSessions>, Failure> {
        if steps.iter().any(|step| step.is_uncertain) {
            let shards = steps.iter().map(|step| (step.shard.number.get(), Arc::clone(&step.shard)));
            let shards: HashMap<i16, Arc<OwnedShard>> = shards.collect();
            self.check_last_ids(&shards.into_values().collect::<Vec<_>>()).await?;
            for step in steps.extract_if(.., |step| step.shard.has_lost_events()) {
                let ended = step.shard.lease.check();
                step.answer(Err(ended.err().unwrap_or(StoreError::Closed)));
            }
        }
        let unknown = |step: &&Step| {
            step.is_uncertain || !step.shard.progress().accounts.contains_key(&step.rendered.commit.id)
        };
        let accounts: Vec<i64> = steps.iter().filter(unknown).map(|step| step.rendered.commit.id.0).collect();
        if !accounts.is_empty() {
            let stored = commit::read_progress(&self.connection, &accounts).await?;
            for step in steps.iter().filter(unknown) {
                let id = step.rendered.commit.id;
                let mut progress = step.shard.progress();
                match stored.get(&id) {
                    Some(stored) => progress.accounts.insert(id, *stored),
                    None => progress.accounts.remove(&id),
                };
            }
        }
        answer_known(steps);
        let unusual: Vec<_> = steps
            .iter()
            .filter(|step| step.is_uncertain || has_repeated_session(&step.rendered))
            .map(|step| &step.rendered.commit)
            .collect();
        if unusual.is_empty() {
            Ok(HashMap::new())
        } else {
            commit::read_sessions(&self.connection, &unusual).await
        }
    }

    /// Reads the newest events of the shards. A log that has more than is known contains what was committed without an answer. One
    /// that has less has lost events that were acknowledged: a standby was promoted that did not have them yet. Then the lease ends,
    /// so that the shard is loaded again: the next polls find the lost changes.
    async fn check_last_ids(&self, shards: &[Arc<OwnedShard>]) -> Result<(), Failure> {
        let numbers: Vec<i16> = shards.iter().map(|shard| shard.number.get()).collect();
        let last_ids: HashMap<i16, i64> =
            commit::last_ids(&self.connection, &numbers).await?.into_iter().collect();
        for shard in shards {
            let Some(&last_id) = last_ids.get(&shard.number.get()) else { continue };
            let (events, known, accounts) = {
                let mut progress = shard.progress();
                let known = progress.last_id;
                if last_id < known {
                    // Remembered, because the next look finds the numbers raised.
                    progress.lost_events.get_or_insert((known - last_id).unsigned_abs());
                }
                let Some(events) = progress.lost_events else {
                    progress.last_id = last_id;
                    continue;
                };
                (events, known, progress.accounts.clone())
            };
            let owner = (shard.number.get(), self.owner, shard.epoch);
            commit::raise_numbers(&self.connection, owner, known, &accounts).await?;
            let lost = StoreError::EventsLost { events };
            tracing::error!(shard = shard.number.get(), "{lost}");
            shard.published.publish_outcome(Some(&lost));
            shard.lease.end(lost);
        }
        Ok(())
    }
}
