//! The commit of one poll: its events, the changed snapshot, and the account's record. Also commits accounts that leave.

use rusqlite::{OptionalExtension, Transaction, params};
use uuid::Uuid;

use super::{Sqlite, accounts, events};
use crate::{
    domain::{
        account::AccountState,
        event::{Change, EventDraft, NumberedEvent},
    },
    store::{
        accounts::RenderedCommit,
        convert,
        error::StoreError,
        types::{AccountId, AccountRecord, Committed, LogPosition, PollCommit},
    },
};

impl Sqlite {
    pub(in crate::store) async fn commit_poll(
        &self,
        rendered: RenderedCommit,
    ) -> Result<Committed, StoreError> {
        let committed = self.write(move |tx| commit_poll(tx, rendered)).await?;
        committed.ok_or(StoreError::UnknownAccount)
    }

    pub(in crate::store) async fn remove_accounts(&self, leaving: Vec<PollCommit>) -> Result<(), StoreError> {
        self.write(move |tx| {
            for commit in leaving {
                accounts::unconfigure(tx, commit.id)?;
                commit_poll(tx, RenderedCommit::unlimited(commit))?;
            }
            Ok(())
        })
        .await
    }
}

/// Returns `None`, and changes nothing, if the account is unknown.
fn commit_poll(tx: &Transaction<'_>, rendered: RenderedCommit) -> Result<Option<Committed>, StoreError> {
    let RenderedCommit { commit, drafts, .. } = rendered;
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
            last_event = Some(append(tx, &commit, (change, draft), sequence)?);
        }
    }
    store_record(tx, &commit, sequence)?;
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
    let createtime = change.session().map(|session| session.createtime);
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
        commit.unwatched_at().map(convert::ms),
    ])?;
    Ok(())
}
