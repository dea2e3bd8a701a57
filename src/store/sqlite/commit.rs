//! The commit of one poll: its events, the changed snapshot, and the account's record. Also commits accounts that leave.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction, params};
use uuid::Uuid;

use super::{accounts, convert, events};
use crate::{
    domain::{
        account::AccountState,
        event::{Change, EventDraft, NumberedEvent},
    },
    store::{
        Store,
        error::StoreError,
        types::{AccountId, AccountRecord, Committed, LogPosition, PollCommit},
    },
};

/// Events that are rendered and wait for their commit: some three megabytes. The first poll of a kf account has events for
/// all its sessions; one with more events than this limit waits until no other is rendered.
pub(in crate::store) const MAX_RENDERED_EVENTS: usize = 4096;

impl Store {
    /// Commits what one poll changed: numbers and appends its events, applies them to the stored snapshot, and replaces the
    /// account's record. All or nothing.
    ///
    /// A change that the stored snapshot or state already shows makes no event. So a commit whose result was lost (because
    /// its future was dropped, for example) can be repeated.
    pub async fn commit_poll(&self, commit: PollCommit) -> Result<Committed, StoreError> {
        let events = commit.changes.len().min(MAX_RENDERED_EVENTS) as u32;
        // Released when the step has been applied.
        let permits = Arc::clone(&self.rendering).acquire_many_owned(events).await;
        let drafts = drafts(&commit);
        let committed = self.sqlite.write(move |tx| {
            let _permits = permits;
            commit_poll(tx, &commit, drafts)
        });
        let committed = committed.await?;
        committed.ok_or(StoreError::UnknownAccount)
    }

    /// Commits the last changes of accounts that leave, each as [`commit_poll`](Self::commit_poll) does, and marks them as
    /// not configured: [`watched_accounts`](Self::watched_accounts) no longer returns them, and their snapshots expire. All
    /// or nothing, for all of them; idempotent; skips unknown accounts.
    pub async fn remove_accounts(&self, leaving: Vec<PollCommit>) -> Result<(), StoreError> {
        self.sqlite
            .write(move |tx| {
                for commit in leaving {
                    commit_poll(tx, &commit, drafts(&commit))?;
                    accounts::unconfigure(tx, commit.id)?;
                }
                Ok(())
            })
            .await
    }
}

/// Renders the events of the changes. Called outside of the writing thread, which is the bottleneck.
fn drafts(commit: &PollCommit) -> Vec<EventDraft> {
    commit.changes.iter().map(|change| EventDraft::new(&commit.account, change)).collect()
}

/// Returns `None`, and changes nothing, if the account is unknown. `drafts` are the rendered changes.
fn commit_poll(
    tx: &Transaction<'_>,
    commit: &PollCommit,
    drafts: Vec<EventDraft>,
) -> Result<Option<Committed>, StoreError> {
    let mut statement = tx.prepare_cached("SELECT sequence, state FROM accounts WHERE id = ?1")?;
    let stored =
        statement.query_row([commit.id.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
    let Some((mut sequence, state)) = stored.optional()? else {
        return Ok(None);
    };
    let state = convert::state(&state)?;
    let mut last_event = None;
    for (change, draft) in commit.changes.iter().zip(drafts) {
        if apply(tx, commit.id, state, change)? {
            sequence += 1;
            last_event = Some(append(tx, commit, (change, draft), sequence)?);
        }
    }
    store_record(tx, commit, sequence)?;
    let last_event = last_event.map_or_else(|| events::last_id(tx), Ok)?;
    Ok(Some(Committed { last_event, sequence: sequence.unsigned_abs() }))
}

/// Applies a change to the snapshot. Returns whether the stored snapshot or state did not show it already.
fn apply(
    tx: &Transaction<'_>,
    id: AccountId,
    state: AccountState,
    change: &Change,
) -> Result<bool, StoreError> {
    let (sql, session) = match change {
        Change::SessionStarted { session, .. } => {
            ("INSERT OR IGNORE INTO sessions (account, openid, createtime) VALUES (?1, ?2, ?3)", session)
        }
        Change::SessionEnded { session, .. } => {
            ("DELETE FROM sessions WHERE account = ?1 AND openid = ?2 AND createtime = ?3", session)
        }
        Change::StateChanged { transition, .. } => return Ok(transition.to != state),
    };
    let changed = tx.prepare_cached(sql)?.execute(params![id.0, session.openid, session.createtime])?;
    Ok(changed > 0)
}

fn append(
    tx: &Transaction<'_>,
    commit: &PollCommit,
    (change, draft): (&Change, EventDraft),
    sequence: i64,
) -> Result<LogPosition, StoreError> {
    let session_id = draft.session_id().map(Uuid::into_bytes);
    let event_type = convert::event_type_code(change.event_type());
    let createtime = match change {
        Change::SessionStarted { session, .. } | Change::SessionEnded { session, .. } => {
            Some(session.createtime)
        }
        Change::StateChanged { .. } => None,
    };
    // NULL equals nothing, so a state change has no repeats.
    let repeats: i64 = tx
        .prepare_cached(
            "SELECT count(*) FROM events WHERE createtime = ?1 AND session_id = ?2 AND type = ?3",
        )?
        .query_row((createtime, session_id, event_type), |row| row.get(0))?;
    let event = NumberedEvent {
        account: &commit.account,
        change,
        sequence: sequence.unsigned_abs(),
        repeats: repeats.unsigned_abs(),
    };
    let id = tx
        .prepare_cached(
            "INSERT INTO events (account, sequence, type, createtime, session_id, observed_at, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .insert(params![
            commit.id.0,
            sequence,
            event_type,
            createtime,
            session_id,
            convert::ms(change.observed_at()),
            draft.numbered(&event),
        ])?;
    Ok(LogPosition(id))
}

fn store_record(tx: &Transaction<'_>, commit: &PollCommit, sequence: i64) -> Result<(), StoreError> {
    let AccountRecord { state, conclusion, last_seen } = commit.record;
    let unwatched_at = commit.changes.iter().rev().find_map(|change| match change {
        Change::StateChanged { transition, observed_at, .. } if transition.to == AccountState::Unwatched => {
            Some(convert::ms(*observed_at))
        }
        _ => None,
    });
    tx.prepare_cached(
        "UPDATE accounts SET sequence = ?2, state = ?3, conclusion = ?4, baseline_taken = ?5, keyless = ?6,
                listed_sent_at = ?7, last_success_at = ?8, unwatched_at = CASE ?3 WHEN 'unwatched' THEN coalesce(?9, unwatched_at) END
         WHERE id = ?1",
    )?
    .execute(params![
        commit.id.0,
        sequence,
        state.as_str(),
        conclusion.map(convert::conclusion_name),
        last_seen.baseline_taken,
        last_seen.keyless,
        last_seen.listed_sent_at.map(convert::ms),
        last_seen.last_success_at.map(convert::ms),
        unwatched_at,
    ])?;
    Ok(())
}
