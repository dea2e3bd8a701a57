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
    commit::{self, CommitGroup, Outcome},
    connection::{Connection, Pauses},
    error::{Failure, FailureKind},
    numbering::{Found, NumberedCommit, Numbering, has_repeated_session, number},
};
use crate::{
    domain::shard::ShardNumber,
    store::{
        StoreError,
        accounts::RenderedCommit,
        lease::HeldLease,
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

/// How often a group is numbered anew after the store was read, before it counts as failed.
const MAX_ROUNDS: u32 = 5;

/// What an event takes on the disk in addition to its JSON: its columns and its places in two indexes.
const BYTES_BESIDE_JSON: usize = 150;

/// What the writer knows of a shard that this replica owns.
#[derive(Debug)]
pub(super) struct ShardLog {
    pub(super) number: ShardNumber,
    pub(super) epoch: i64,
    pub(super) lease: HeldLease,
    published: Arc<Published>,
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    /// The id of the newest event.
    last_id: i64,
    /// What the next commits of accounts continue from, as far as it is known.
    accounts: HashMap<AccountId, Numbering>,
}

impl ShardLog {
    pub(super) fn new(number: ShardNumber, epoch: i64, lease: HeldLease, published: Arc<Published>) -> Self {
        let last_id = published.committed.borrow().0;
        let numbers = Mutex::new(Numbers { last_id, accounts: HashMap::new() });
        Self { number, epoch, lease, published, numbers }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of the task, which ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Command>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
enum Command {
    Commit(Box<Step>),
    /// Replies when everything that was queued before has its outcome.
    Drain(oneshot::Sender<()>),
}

/// One commit.
#[derive(Debug)]
struct Step {
    log: Arc<ShardLog>,
    rendered: RenderedCommit,
    /// Whether the account is no longer configured afterwards.
    leaves: bool,
    reply: oneshot::Sender<Result<Committed, StoreError>>,
    /// Whether nothing may be assumed about it, because that was wrong, or an answer was lost.
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
        log: &Arc<ShardLog>,
        rendered: RenderedCommit,
        leaves: bool,
    ) -> Result<Committed, StoreError> {
        log.lease.check()?;
        let (reply, committed) = oneshot::channel();
        let log_of_step = Arc::clone(log);
        let step = Step {
            log: log_of_step,
            rendered,
            leaves,
            reply,
            is_uncertain: false,
            sent: None,
            unanswered: None,
        };
        let queued = self.queue.send(Command::Commit(Box::new(step))).await.is_ok();
        match committed.await {
            Ok(outcome) if queued => outcome,
            _ => {
                log.lease.end(StoreError::WriterPanicked);
                Err(StoreError::WriterPanicked)
            }
        }
    }

    /// Returns when everything that was queued before has its outcome.
    pub(super) async fn drain(&self) {
        let (reply, drained) = oneshot::channel();
        self.queue.send(Command::Drain(reply)).await.ok();
        drained.await.ok();
    }
}

/// What the task owns.
struct WriterTask {
    connection: Arc<Connection>,
    owner: Uuid,
    commands: mpsc::Receiver<Command>,
    /// Received, and not yet in a group.
    waiting: VecDeque<Command>,
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
                Command::Commit(step) if group.has_room_for(&step) => group.add(*step),
                Command::Commit(step) => others.push_back(Command::Commit(step)),
                Command::Drain(reply) if group.steps.is_empty() && others.is_empty() => {
                    reply.send(()).ok();
                }
                drain @ Command::Drain(_) => {
                    others.push_back(drain);
                    break;
                }
            }
        }
        others.append(&mut self.waiting);
        self.waiting = others;
        Some(group.steps)
    }

    /// Commits a group, whatever that takes, and replies to its callers.
    async fn commit(&self, mut steps: Vec<Step>) {
        let mut pauses = Pauses::new();
        let mut rounds = 0;
        while !steps.is_empty() {
            let failure = self.try_commit(&mut steps).await.err();
            let was_certain = steps.iter().any(|step| !step.is_uncertain);
            let Some(failure) = failure else {
                // What remains was numbered from what is not so.
                rounds += 1;
                if rounds > MAX_ROUNDS {
                    return fail(steps, &StoreError::corrupt("a commit does not fit what is stored"));
                }
                continue;
            };
            for step in &mut steps {
                step.is_uncertain = true;
                if failure.kind == FailureKind::NoAnswer {
                    step.unanswered = step.sent.or(step.unanswered);
                }
            }
            let goes_on = match failure.kind {
                FailureKind::NoAnswer | FailureKind::Busy | FailureKind::Unserving => pauses.next().await,
                FailureKind::CheckFailed | FailureKind::Refused => was_certain,
                FailureKind::Lasting => false,
            };
            if goes_on {
                continue;
            }
            if failure.kind == FailureKind::Refused && steps.len() > 1 {
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
        let found = self.look(steps).await?;
        if steps.is_empty() {
            return Ok(());
        }
        let mut group = CommitGroup::default();
        let mut last_ids: HashMap<i16, i64> = HashMap::new();
        let mut added_bytes: HashMap<i16, u64> = HashMap::new();
        for step in steps.iter_mut() {
            let (shard, id) = (step.log.number.get(), step.rendered.commit.id);
            let last_id = last_ids.entry(shard).or_insert_with(|| {
                group.add_shard(shard, step.log.epoch);
                step.log.numbers().last_id
            });
            let Some(before) = step.log.numbers().accounts.get(&id).copied() else { continue };
            let numbered = number(&step.rendered, before, found.get(&id), *last_id);
            *last_id += numbered.events.len() as i64;
            *added_bytes.entry(shard).or_default() += bytes(&numbered);
            step.sent = Some(Sequences { before: before.sequence, after: numbered.after.sequence });
            group.add(shard, &step.rendered.commit, numbered, step.leaves);
        }
        let outcome = group.execute(&self.connection, self.owner).await?;
        settle(steps, &outcome, &last_ids, &added_bytes);
        Ok(())
    }

    /// Reads what the store contains of the steps about which nothing may be assumed. Replies to those whose account is unknown, and
    /// to those that turn out to be committed.
    async fn look(&self, steps: &mut Vec<Step>) -> Result<HashMap<AccountId, Found>, Failure> {
        let unknown = |step: &&Step| {
            step.is_uncertain || !step.log.numbers().accounts.contains_key(&step.rendered.commit.id)
        };
        let accounts: Vec<i64> = steps.iter().filter(unknown).map(|step| step.rendered.commit.id.0).collect();
        if !accounts.is_empty() {
            let numberings = commit::numberings(&self.connection, &accounts).await?;
            for step in steps.iter().filter(unknown) {
                let id = step.rendered.commit.id;
                let mut numbers = step.log.numbers();
                match numberings.get(&id) {
                    Some(numbering) => numbers.accounts.insert(id, *numbering),
                    None => numbers.accounts.remove(&id),
                };
            }
        }
        if steps.iter().any(|step| step.is_uncertain) {
            let shards: HashSet<i16> = steps.iter().map(|step| step.log.number.get()).collect();
            let shards: Vec<i16> = shards.into_iter().collect();
            for (shard, last_id) in commit::last_ids(&self.connection, &shards).await? {
                for step in steps.iter().filter(|step| step.log.number.get() == shard) {
                    step.log.numbers().last_id = last_id;
                }
            }
        }
        answer_known(steps);
        let unusual: Vec<_> = steps
            .iter()
            .filter(|step| step.is_uncertain || has_repeated_session(&step.rendered))
            .map(|step| &step.rendered.commit)
            .collect();
        if unusual.is_empty() { Ok(HashMap::new()) } else { commit::find(&self.connection, &unusual).await }
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
                step.log.published.set_committed(LogPosition(last_id));
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
    fn was_committed(&self, stored: Numbering) -> bool {
        self.unanswered.is_some_and(|sent| sent.before < sent.after && sent.after == stored.sequence)
    }
}

/// Replies to the steps whose outcome is known and removes them. The others were numbered from what is not so.
fn settle(
    steps: &mut Vec<Step>,
    outcome: &Outcome,
    last_ids: &HashMap<i16, i64>,
    added_bytes: &HashMap<i16, u64>,
) {
    let mut committed_shards = HashSet::new();
    for mut step in std::mem::take(steps) {
        let shard = step.log.number.get();
        if !outcome.owned.contains(&shard) {
            step.log.lease.end(StoreError::LeaseLost);
            step.log.published.set_outcome(Some(&StoreError::LeaseLost));
            step.answer(Err(StoreError::LeaseLost));
        } else if let (true, Some(sent), Some(last_id)) =
            (outcome.committed.contains(&shard), step.sent, last_ids.get(&shard).copied())
        {
            let commit = &step.rendered.commit;
            let numbering = Numbering { sequence: sent.after, state: commit.record.state };
            let mut numbers = step.log.numbers();
            numbers.accounts.insert(commit.id, numbering);
            numbers.last_id = last_id;
            drop(numbers);
            if committed_shards.insert(shard) {
                let published = &step.log.published;
                published.set_outcome(None);
                published.set_committed(LogPosition(last_id));
                let used =
                    *published.used_bytes.borrow() + added_bytes.get(&shard).copied().unwrap_or_default();
                published.set_used_bytes(used);
            }
            step.answer_committed(sent.after, last_id);
        } else {
            step.is_uncertain = true;
            steps.push(step);
        }
    }
}

fn fail(steps: Vec<Step>, error: &StoreError) {
    let mut failed = HashSet::new();
    for step in steps {
        if failed.insert(step.log.number) {
            step.log.published.set_outcome(Some(error));
        }
        step.answer(Err(error.clone()));
    }
}

/// What the events of a commit take on the disk.
fn bytes(numbered: &NumberedCommit) -> u64 {
    numbered.events.iter().map(|event| (event.json.len() + BYTES_BESIDE_JSON) as u64).sum()
}
