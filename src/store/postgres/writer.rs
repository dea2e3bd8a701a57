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
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use uuid::Uuid;

use super::{
    commit::{self, CommitGroup, CommittedShards},
    connection::{Connection, Retries},
    error::{Failure, FailureKind},
    numbering::{AccountProgress, NumberedCommit, StoredSessions, has_repeated_session, number_events},
};
use crate::{
    domain::shard::ShardNumber,
    store::{
        StoreError,
        accounts::RenderedCommit,
        lease::StoreLease,
        published::Published,
        types::{AccountId, Committed, LogPosition},
    },
};

/// Commits that may wait; further callers wait for a place in the queue.
const QUEUED_STEPS: usize = 2_000;

/// Commits in one statement.
const STEPS_PER_GROUP: usize = 1_000;

/// Events in one statement, unless a single commit has more: some eight megabytes.
const EVENTS_PER_GROUP: usize = 10_000;

/// How many times a group is numbered again after the store was read, before it counts as failed.
const MAX_ROUNDS: u32 = 5;

/// What an event takes on the disk in addition to its JSON: its columns and its places in two indexes.
const BYTES_BESIDE_JSON: usize = 150;

/// A shard that this replica owns, as the writer knows it.
#[derive(Debug)]
pub(super) struct OwnedShard {
    pub(super) number: ShardNumber,
    pub(super) epoch: i64,
    pub(super) lease: StoreLease,
    published: Arc<Published>,
    numbers: Mutex<ShardProgress>,
}

#[derive(Debug)]
struct ShardProgress {
    /// The id of the newest event.
    last_id: i64,
    /// What the next commits of accounts continue from, as far as it is known.
    accounts: HashMap<AccountId, AccountProgress>,
    /// How many committed events the database has lost.
    lost_events: Option<u64>,
}

impl OwnedShard {
    pub(super) fn new(number: ShardNumber, epoch: i64, lease: StoreLease, published: Arc<Published>) -> Self {
        let last_id = published.committed.borrow().0;
        let numbers = Mutex::new(ShardProgress { last_id, accounts: HashMap::new(), lost_events: None });
        Self { number, epoch, lease, published, numbers }
    }

    /// The newest event that this replica has committed.
    pub(super) fn last_id(&self) -> i64 {
        self.numbers().last_id
    }

    fn has_lost_events(&self) -> bool {
        matches!(self.lease.check(), Err(StoreError::EventsLost { .. }))
    }

    fn numbers(&self) -> MutexGuard<'_, ShardProgress> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

/// Whether an account is still configured after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCommit {
    Stays,
    Leaves,
}

/// One commit.
#[derive(Debug)]
struct Step {
    log: Arc<OwnedShard>,
    rendered: RenderedCommit,
    account: AfterCommit,
    reply: oneshot::Sender<Result<Committed, StoreError>>,
    /// Whether its assumptions have to be read from the store first, because one was wrong or an answer was lost.
    is_uncertain: bool,
    /// Its sequences before and after, when it was last sent.
    sent: Option<Sequences>,
    /// The same of a statement whose answer was lost.
    unanswered: Option<Sequences>,
}

#[derive(Clone, Copy, Debug)]
struct Sequences {
    before: i64,
    after: i64,
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
        log: &Arc<OwnedShard>,
        rendered: RenderedCommit,
        account: AfterCommit,
    ) -> Result<Committed, StoreError> {
        log.lease.check()?;
        let (reply, committed) = oneshot::channel();
        let log_of_step = Arc::clone(log);
        let step = Step {
            log: log_of_step,
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
                log.lease.end(StoreError::WriterPanicked);
                Err(StoreError::WriterPanicked)
            }
        }
    }

    /// Checks whether the log of a shard has lost events, and if so ends its lease.
    pub(super) fn check_for_lost_events(&self, log: Arc<OwnedShard>) {
        // If the queue is full, the next heartbeat asks again.
        self.queue.try_send(WriterMessage::CheckForLostEvents(log)).ok();
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
                WriterMessage::CheckForLostEvents(log) => {
                    // If it fails, the next heartbeat asks again.
                    self.check_last_ids(&[log]).await.ok();
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
            let (shard, id) = (step.log.number.get(), step.rendered.commit.id);
            let last_id = last_ids.entry(shard).or_insert_with(|| {
                let last_id = step.log.numbers().last_id;
                group.add_shard(shard, step.log.epoch, last_id);
                last_id
            });
            let Some(before) = step.log.numbers().accounts.get(&id).copied() else { continue };
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
            let logs = steps.iter().map(|step| (step.log.number.get(), Arc::clone(&step.log)));
            let logs: HashMap<i16, Arc<OwnedShard>> = logs.collect();
            self.check_last_ids(&logs.into_values().collect::<Vec<_>>()).await?;
            for step in steps.extract_if(.., |step| step.log.has_lost_events()) {
                let ended = step.log.lease.check();
                step.answer(Err(ended.err().unwrap_or(StoreError::Closed)));
            }
        }
        let unknown = |step: &&Step| {
            step.is_uncertain || !step.log.numbers().accounts.contains_key(&step.rendered.commit.id)
        };
        let accounts: Vec<i64> = steps.iter().filter(unknown).map(|step| step.rendered.commit.id.0).collect();
        if !accounts.is_empty() {
            let read_progress = commit::read_progress(&self.connection, &accounts).await?;
            for step in steps.iter().filter(unknown) {
                let id = step.rendered.commit.id;
                let mut numbers = step.log.numbers();
                match read_progress.get(&id) {
                    Some(numbering) => numbers.accounts.insert(id, *numbering),
                    None => numbers.accounts.remove(&id),
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
    async fn check_last_ids(&self, logs: &[Arc<OwnedShard>]) -> Result<(), Failure> {
        let shards: Vec<i16> = logs.iter().map(|log| log.number.get()).collect();
        let last_ids: HashMap<i16, i64> =
            commit::last_ids(&self.connection, &shards).await?.into_iter().collect();
        for log in logs {
            let Some(&last_id) = last_ids.get(&log.number.get()) else { continue };
            let (events, known, accounts) = {
                let mut progress = log.numbers();
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
            let owner = (log.number.get(), self.owner, log.epoch);
            commit::raise_numbers(&self.connection, owner, known, &accounts).await?;
            let lost = StoreError::EventsLost { events };
            tracing::error!(shard = log.number.get(), "{lost}");
            log.published.publish_outcome(Some(&lost));
            log.lease.end(lost);
        }
        Ok(())
    }
}

/// Steps that one statement can commit.
#[derive(Default)]
struct Group {
    steps: Vec<Step>,
    accounts: HashSet<AccountId>,
    epochs: HashMap<ShardNumber, i64>,
    events: usize,
}

impl Group {
    fn has_room_for(&self, step: &Step) -> bool {
        let events = self.events + step.rendered.drafts.len();
        let epoch = self.epochs.get(&step.log.number);
        self.steps.len() < STEPS_PER_GROUP
            && (events <= EVENTS_PER_GROUP || self.steps.is_empty())
            && !self.accounts.contains(&step.rendered.commit.id)
            && epoch.is_none_or(|epoch| *epoch == step.log.epoch)
    }

    fn add(&mut self, step: Step) {
        self.accounts.insert(step.rendered.commit.id);
        self.epochs.insert(step.log.number, step.log.epoch);
        self.events += step.rendered.drafts.len();
        self.steps.push(step);
    }
}

/// Replies to steps whose account is unknown, and to those that were committed although their answer was lost.
fn answer_known(steps: &mut Vec<Step>) {
    for step in std::mem::take(steps) {
        let numbers = step.log.numbers();
        let (numbering, last_id) = (numbers.accounts.get(&step.rendered.commit.id).copied(), numbers.last_id);
        drop(numbers);
        match numbering {
            None => step.answer(Err(StoreError::UnknownAccount)),
            Some(numbering) if step.was_committed(numbering) => {
                step.log.published.publish_committed(LogPosition(last_id));
                step.answer_committed(numbering.sequence, last_id);
            }
            Some(_) => steps.push(step),
        }
    }
}

impl Step {
    fn answer(self, outcome: Result<Committed, StoreError>) {
        // A caller may have stopped waiting.
        self.reply.send(outcome).ok();
    }

    fn answer_committed(self, sequence: i64, last_id: i64) {
        self.answer(Ok(Committed { last_event: LogPosition(last_id), sequence: sequence.unsigned_abs() }));
    }

    /// Whether a statement without an answer was executed after all. Nobody else writes to the account, so its events show that. A
    /// commit without events can be repeated.
    fn was_committed(&self, stored: AccountProgress) -> bool {
        self.unanswered.is_some_and(|sent| sent.before < sent.after && sent.after == stored.sequence)
    }
}

/// Replies to the steps whose outcome is known and removes them. The others were numbered from wrong assumptions.
fn settle(
    steps: &mut Vec<Step>,
    outcome: &CommittedShards,
    last_ids: &HashMap<i16, i64>,
    added_bytes: &HashMap<i16, u64>,
) {
    let mut committed_shards = HashSet::new();
    for mut step in std::mem::take(steps) {
        let shard = step.log.number.get();
        if !outcome.owned.contains(&shard) {
            step.log.lease.end(StoreError::LeaseLost);
            step.log.published.publish_outcome(Some(&StoreError::LeaseLost));
            step.answer(Err(StoreError::LeaseLost));
        } else if let (true, Some(sent), Some(last_id)) =
            (outcome.committed.contains(&shard), step.sent, last_ids.get(&shard).copied())
        {
            let commit = &step.rendered.commit;
            let numbering = AccountProgress { sequence: sent.after, state: commit.record.state };
            let mut numbers = step.log.numbers();
            numbers.accounts.insert(commit.id, numbering);
            numbers.last_id = last_id;
            drop(numbers);
            if committed_shards.insert(shard) {
                let published = &step.log.published;
                published.publish_outcome(None);
                published.publish_committed(LogPosition(last_id));
                let used =
                    *published.used_bytes.borrow() + added_bytes.get(&shard).copied().unwrap_or_default();
                published.publish_used_bytes(used);
            }
            step.answer_committed(sent.after, last_id);
        } else {
            step.is_uncertain = true;
            steps.push(step);
        }
    }
}

fn does_not_fit() -> StoreError {
    let what: Box<dyn std::error::Error + Send + Sync> = "a commit does not fit what is stored".into();
    StoreError::Rejected { source: what.into() }
}

fn fail(steps: Vec<Step>, error: &StoreError) {
    let mut failed = HashSet::new();
    for step in steps {
        if failed.insert(step.log.number) {
            step.log.published.publish_outcome(Some(error));
        }
        step.answer(Err(error.clone()));
    }
}

/// What the events of a commit take on the disk.
fn bytes(numbered: &NumberedCommit) -> u64 {
    numbered.events.iter().map(|event| (event.json.len() + BYTES_BESIDE_JSON) as u64).sum()
}
