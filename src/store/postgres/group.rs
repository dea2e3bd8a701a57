//! Commits that one statement makes, and the results for their callers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    commit::CommittedShards,
    numbering::{AccountProgress, NumberedCommit},
    owned_shard::OwnedShard,
};
use crate::{
    domain::shard::ShardNumber,
    store::{
        StoreError,
        accounts::RenderedCommit,
        types::{AccountId, Committed, LogPosition},
    },
};

/// Commits in one statement.
pub(super) const STEPS_PER_GROUP: usize = 1_000;

/// Events in one statement, unless a single commit has more: some eight megabytes.
const EVENTS_PER_GROUP: usize = 10_000;

/// What an event takes on the disk in addition to its JSON: its columns and its places in two indexes.
const BYTES_BESIDE_JSON: usize = 150;

/// Whether an account is still configured after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterCommit {
    Stays,
    Leaves,
}

/// One commit.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) shard: Arc<OwnedShard>,
    pub(super) rendered: RenderedCommit,
    pub(super) account: AfterCommit,
    pub(super) reply: oneshot::Sender<Result<Committed, StoreError>>,
    /// Whether its assumptions have to be read from the store first, because one was wrong or an answer was lost.
    pub(super) is_uncertain: bool,
    /// Its sequences before and after, when it was last sent.
    pub(super) sent: Option<Sequences>,
    /// The same of a statement whose answer was lost.
    pub(super) unanswered: Option<Sequences>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sequences {
    pub(super) before: i64,
    pub(super) after: i64,
}

/// Steps that one statement can commit.
#[derive(Default)]
pub(super) struct Group {
    pub(super) steps: Vec<Step>,
    pub(super) accounts: HashSet<AccountId>,
    pub(super) epochs: HashMap<ShardNumber, i64>,
    pub(super) events: usize,
}

impl Group {
    pub(super) fn has_room_for(&self, step: &Step) -> bool {
        let events = self.events + step.rendered.drafts.len();
        let epoch = self.epochs.get(&step.shard.number);
        self.steps.len() < STEPS_PER_GROUP
            && (events <= EVENTS_PER_GROUP || self.steps.is_empty())
            && !self.accounts.contains(&step.rendered.commit.id)
            && epoch.is_none_or(|epoch| *epoch == step.shard.epoch)
    }

    pub(super) fn add(&mut self, step: Step) {
        self.accounts.insert(step.rendered.commit.id);
        self.epochs.insert(step.shard.number, step.shard.epoch);
        self.events += step.rendered.drafts.len();
        self.steps.push(step);
    }
}

/// Replies to steps whose account is unknown, and to those that were committed although their answer was lost.
pub(super) fn answer_known(steps: &mut Vec<Step>) {
    for step in std::mem::take(steps) {
        let progress = step.shard.progress();
        let (stored, last_id) = (progress.accounts.get(&step.rendered.commit.id).copied(), progress.last_id);
        drop(progress);
        match stored {
            None => step.answer(Err(StoreError::UnknownAccount)),
            Some(stored) if step.was_committed(stored) => {
                step.shard.published.publish_committed(LogPosition(last_id));
                step.answer_committed(stored.sequence, last_id);
            }
            Some(_) => steps.push(step),
        }
    }
}

impl Step {
    pub(super) fn answer(self, outcome: Result<Committed, StoreError>) {
        // A caller may have stopped waiting.
        self.reply.send(outcome).ok();
    }

    pub(super) fn answer_committed(self, sequence: i64, last_id: i64) {
        self.answer(Ok(Committed { last_event: LogPosition(last_id), sequence: sequence.unsigned_abs() }));
    }

    /// Whether a statement without an answer was executed after all. Nobody else writes to the account, so its events show that. A
    /// commit without events can be repeated.
    pub(super) fn was_committed(&self, stored: AccountProgress) -> bool {
        self.unanswered.is_some_and(|sent| sent.before < sent.after && sent.after == stored.sequence)
    }
}

/// Replies to the steps whose outcome is known and removes them. The others were numbered from wrong assumptions.
pub(super) fn settle(
    steps: &mut Vec<Step>,
    outcome: &CommittedShards,
    last_ids: &HashMap<i16, i64>,
    added_bytes: &HashMap<i16, u64>,
) {
    let mut committed_shards = HashSet::new();
    for mut step in std::mem::take(steps) {
        let shard = step.shard.number.get();
        if !outcome.owned.contains(&shard) {
            step.shard.lease.end(StoreError::LeaseLost);
            step.shard.published.publish_outcome(Some(&StoreError::LeaseLost));
            step.answer(Err(StoreError::LeaseLost));
        } else if let (true, Some(sent), Some(last_id)) =
            (outcome.committed.contains(&shard), step.sent, last_ids.get(&shard).copied())
        {
            let commit = &step.rendered.commit;
            let after = AccountProgress { sequence: sent.after, state: commit.record.state };
            let mut progress = step.shard.progress();
            progress.accounts.insert(commit.id, after);
            progress.last_id = last_id;
            drop(progress);
            if committed_shards.insert(shard) {
                let published = &step.shard.published;
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

pub(super) fn does_not_fit() -> StoreError {
    let what: Box<dyn std::error::Error + Send + Sync> = "a commit does not fit what is stored".into();
    StoreError::Rejected { source: what.into() }
}

pub(super) fn fail(steps: Vec<Step>, error: &StoreError) {
    let mut failed = HashSet::new();
    for step in steps {
        if failed.insert(step.shard.number) {
            step.shard.published.publish_outcome(Some(error));
        }
        step.answer(Err(error.clone()));
    }
}

/// What the events of a commit take on the disk.
pub(super) fn bytes(numbered: &NumberedCommit) -> u64 {
    numbered.events.iter().map(|event| (event.json.len() + BYTES_BESIDE_JSON) as u64).sum()
}
