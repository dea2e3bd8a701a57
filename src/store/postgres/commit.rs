//! The statement that commits a group of polls, of several shards at once.
//!
//! It is all or nothing for each shard. A shard is left out if this replica does not own it, if its newest event or an account's
//! sequence is not the one that the commit was numbered from, or if the log has another number of events for a session than was assumed. If a session to
//! delete is not stored, one to insert is, or a statement without an answer was committed at the same time, the statement divides by
//! zero, which undoes all of it.

use std::collections::HashMap;

use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{
    column,
    connection::Connection,
    error::Failure,
    numbering::{AccountProgress, NumberedCommit, StoredSessions},
};
use crate::{
    domain::{
        account::AccountState,
        event::{Change, EventType, OwnedSession},
    },
    store::{
        StoreError, convert,
        types::{AccountId, PollCommit},
    },
};

/// `moved`: the log has other events than the commits were numbered from; `stale`: the account has; `repeated`: a session has another
/// number of events than assumed; `chosen`: what is committed.
const COMMIT: &str = concat!(
    "
WITH mine AS MATERIALIZED (
    SELECT s.shard FROM unnest($1::smallint[], $2::bigint[]) w (shard, epoch) JOIN shards s USING (shard, epoch)
    WHERE s.owner = $3 FOR SHARE OF s
), moved AS MATERIALIZED (
    SELECT shard FROM mine JOIN shards s USING (shard) JOIN unnest($1::smallint[], $35::bigint[]) w (shard, last_id) USING (shard)
    WHERE w.last_id <> ",
    last_id!(),
    "
), stale AS MATERIALIZED (
    SELECT w.shard FROM unnest($4::bigint[], $5::smallint[], $6::bigint[]) w (account, shard, before)
    LEFT JOIN records r ON r.account = w.account AND r.shard = w.shard AND r.sequence = w.before
    WHERE r.account IS NULL
), repeated AS MATERIALIZED (
    SELECT w.shard FROM unnest($25::smallint[], $29::smallint[], $30::bigint[], $31::uuid[], $32::bigint[])
        w (shard, type, createtime, session_id, logged)
    WHERE w.session_id IS NOT NULL AND w.logged <> (
        SELECT count(*) FROM events e
        WHERE e.createtime = w.createtime AND e.session_id = w.session_id AND e.type = w.type)
), chosen AS MATERIALIZED (
    SELECT shard FROM mine EXCEPT SELECT shard FROM moved EXCEPT SELECT shard FROM stale EXCEPT SELECT shard FROM repeated
), updated AS (
    UPDATE records r SET sequence = w.after, state = w.state, conclusion = w.conclusion, baseline_taken = w.baseline_taken,
        keyless = w.keyless, listed_sent_at = w.listed_sent_at, last_success_at = w.last_success_at,
        unwatched_at = CASE w.state WHEN 'unwatched' THEN coalesce(w.unwatched_at, r.unwatched_at) END
    FROM unnest($4::bigint[], $5::smallint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::boolean[], $11::boolean[],
            $12::bigint[], $13::bigint[], $14::bigint[])
        w (account, shard, before, after, state, conclusion, baseline_taken, keyless, listed_sent_at, last_success_at, unwatched_at)
    -- Again, because a statement without an answer may be committed while this one waits for the row.
    WHERE r.account = w.account AND r.sequence = w.before AND w.shard IN (SELECT shard FROM chosen)
    RETURNING 1
), unconfigured AS (
    UPDATE accounts a SET configured = false FROM unnest($15::bigint[], $16::smallint[]) w (account, shard)
    WHERE a.account = w.account AND w.shard IN (SELECT shard FROM chosen)
), ended AS (
    DELETE FROM sessions s
    USING unnest($17::bigint[], $18::smallint[], $19::text[], $20::bigint[]) w (account, shard, openid, createtime)
    WHERE s.account = w.account AND s.openid = w.openid AND s.createtime = w.createtime
        AND w.shard IN (SELECT shard FROM chosen)
    RETURNING 1
), started AS (
    INSERT INTO sessions (account, openid, createtime)
    SELECT w.account, w.openid, w.createtime
    FROM unnest($21::bigint[], $22::smallint[], $23::text[], $24::bigint[]) w (account, shard, openid, createtime)
    WHERE w.shard IN (SELECT shard FROM chosen)
    ON CONFLICT DO NOTHING RETURNING 1
), logged AS (
    INSERT INTO events (shard, id, account, sequence, type, createtime, session_id, observed_at, json)
    SELECT w.* FROM unnest($25::smallint[], $26::bigint[], $27::bigint[], $28::bigint[], $29::smallint[], $30::bigint[],
            $31::uuid[], $33::bigint[], $34::text[])
        w (shard, id, account, sequence, type, createtime, session_id, observed_at, json)
    WHERE w.shard IN (SELECT shard FROM chosen)
)
SELECT ARRAY(SELECT shard FROM mine), ARRAY(SELECT shard FROM chosen),
    1 / ((SELECT count(*) FROM updated)
             = (SELECT count(*) FROM unnest($5::smallint[]) w WHERE w IN (SELECT shard FROM chosen))
         AND (SELECT count(*) FROM ended)
             = (SELECT count(*) FROM unnest($18::smallint[]) w WHERE w IN (SELECT shard FROM chosen))
         AND (SELECT count(*) FROM started)
             = (SELECT count(*) FROM unnest($22::smallint[]) w WHERE w IN (SELECT shard FROM chosen)))::int"
);

/// What the statement did with the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommittedShards {
    /// Shards that this replica owns.
    pub(super) owned: Vec<i16>,
    /// Shards whose commits are stored.
    pub(super) committed: Vec<i16>,
}

/// The parameters of the statement.
#[derive(Debug, Default)]
pub(super) struct CommitGroup {
    shards: Vec<i16>,
    epochs: Vec<i64>,
    last_ids: Vec<i64>,
    records: Records,
    /// Accounts that leave.
    leaving: Rows,
    ended: Sessions,
    started: Sessions,
    events: Events,
}

/// Rows of accounts, each with its shard.
#[derive(Debug, Default)]
struct Rows {
    accounts: Vec<i64>,
    shards: Vec<i16>,
}

#[derive(Debug, Default)]
struct Records {
    rows: Rows,
    before: Vec<i64>,
    after: Vec<i64>,
    states: Vec<&'static str>,
    conclusions: Vec<Option<&'static str>>,
    baselines_taken: Vec<bool>,
    keyless: Vec<bool>,
    listed_sent_at: Vec<Option<i64>>,
    last_success_at: Vec<Option<i64>>,
    unwatched_at: Vec<Option<i64>>,
}

#[derive(Debug, Default)]
struct Sessions {
    rows: Rows,
    openids: Vec<Box<str>>,
    createtimes: Vec<i64>,
}

#[derive(Debug, Default)]
struct Events {
    rows: Rows,
    ids: Vec<i64>,
    sequences: Vec<i64>,
    types: Vec<i16>,
    createtimes: Vec<Option<i64>>,
    session_ids: Vec<Option<Uuid>>,
    logged: Vec<i64>,
    observed_at: Vec<i64>,
    json: Vec<String>,
}

impl CommitGroup {
    /// Adds a shard with the id of its newest event. Each is given once.
    pub(super) fn add_shard(&mut self, shard: i16, epoch: i64, last_id: i64) {
        self.shards.push(shard);
        self.epochs.push(epoch);
        self.last_ids.push(last_id);
    }

    /// Adds a commit. Each account is given once.
    pub(super) fn add(&mut self, shard: i16, commit: &PollCommit, numbered: NumberedCommit) {
        let account = commit.id.0;
        self.add_record(shard, commit, &numbered);
        for session in numbered.ended {
            self.ended.add(account, shard, session);
        }
        for session in numbered.started {
            self.started.add(account, shard, session);
        }
        let events = &mut self.events;
        for event in numbered.events {
            events.rows.add(account, shard);
            events.ids.push(event.id);
            events.sequences.push(event.sequence);
            events.types.push(convert::event_type_code(event.event_type) as i16);
            events.createtimes.push(event.session.map(|(createtime, _)| createtime));
            events.session_ids.push(event.session.map(|(_, id)| id));
            events.logged.push(event.logged);
            events.observed_at.push(event.observed_at);
            events.json.push(event.json);
        }
    }

    /// Marks an account, whose commit was added, as no longer configured.
    pub(super) fn unconfigure(&mut self, shard: i16, account: AccountId) {
        self.leaving.add(account.0, shard);
    }

    fn add_record(&mut self, shard: i16, commit: &PollCommit, numbered: &NumberedCommit) {
        let records = &mut self.records;
        let (record, last_seen) = (commit.record, commit.record.last_seen);
        records.rows.add(commit.id.0, shard);
        records.before.push(numbered.before.sequence);
        records.after.push(numbered.after.sequence);
        records.states.push(record.state.as_str());
        records.conclusions.push(record.conclusion.map(convert::conclusion_name));
        records.baselines_taken.push(last_seen.baseline_taken);
        records.keyless.push(last_seen.keyless);
        records.listed_sent_at.push(last_seen.listed_sent_at.map(convert::ms));
        records.last_success_at.push(last_seen.last_success_at.map(convert::ms));
        records.unwatched_at.push(commit.unwatched_at().map(convert::ms));
    }

    /// Executes the statement once.
    pub(super) async fn execute(
        &self,
        connection: &Connection,
        owner: Uuid,
    ) -> Result<CommittedShards, Failure> {
        let Self { shards, epochs, last_ids, records, leaving, ended, started, events } = self;
        let parameters: [&(dyn ToSql + Sync); 35] = [
            shards,
            epochs,
            &owner,
            &records.rows.accounts,
            &records.rows.shards,
            &records.before,
            &records.after,
            &records.states,
            &records.conclusions,
            &records.baselines_taken,
            &records.keyless,
            &records.listed_sent_at,
            &records.last_success_at,
            &records.unwatched_at,
            &leaving.accounts,
            &leaving.shards,
            &ended.rows.accounts,
            &ended.rows.shards,
            &ended.openids,
            &ended.createtimes,
            &started.rows.accounts,
            &started.rows.shards,
            &started.openids,
            &started.createtimes,
            &events.rows.shards,
            &events.ids,
            &events.rows.accounts,
            &events.sequences,
            &events.types,
            &events.createtimes,
            &events.session_ids,
            &events.logged,
            &events.observed_at,
            &events.json,
            last_ids,
        ];
        let rows = connection.query_once(COMMIT, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(CommittedShards::default()) };
        Ok(CommittedShards { owned: row.get(0), committed: row.get(1) })
    }
}

impl Rows {
    fn add(&mut self, account: i64, shard: i16) {
        self.accounts.push(account);
        self.shards.push(shard);
    }
}

impl Sessions {
    fn add(&mut self, account: i64, shard: i16, session: OwnedSession) {
        self.rows.add(account, shard);
        self.openids.push(session.openid);
        self.createtimes.push(session.createtime);
    }
}

/// Reads what the accounts of these commits continue from; an account is missing if it is unknown.
pub(super) async fn read_progress(
    connection: &Connection,
    accounts: &[i64],
) -> Result<HashMap<AccountId, AccountProgress>, Failure> {
    let sql = "SELECT account, sequence, state FROM records WHERE account = ANY($1)";
    let rows = connection.query_once(sql, &[&accounts]).await?;
    Ok(rows.iter().map(progress).collect::<Result<_, _>>()?)
}

fn progress(row: &Row) -> Result<(AccountId, AccountProgress), StoreError> {
    let state: AccountState = convert::state(column(row, 2)?)?;
    Ok((AccountId(column(row, 0)?), AccountProgress { sequence: column(row, 1)?, state }))
}

/// Reads what the store contains of the sessions of these commits.
pub(super) async fn read_sessions(
    connection: &Connection,
    commits: &[&PollCommit],
) -> Result<HashMap<AccountId, StoredSessions>, Failure> {
    let mut found: HashMap<AccountId, StoredSessions> = HashMap::new();
    let mut sessions = Sessions::default();
    let mut ids = Vec::new();
    for commit in commits {
        found.entry(commit.id).or_default();
        for session in commit.changes.iter().filter_map(Change::session) {
            sessions.add(commit.id.0, 0, session.clone());
        }
        ids.extend(commit.changes.iter().filter_map(|change| change.session_id(&commit.account)));
    }
    let sql = "SELECT account, openid, createtime FROM sessions
               WHERE (account, openid, createtime) IN (SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[]))";
    let parameters: [&(dyn ToSql + Sync); 3] =
        [&sessions.rows.accounts, &sessions.openids, &sessions.createtimes];
    for row in connection.query_once(sql, &parameters).await? {
        let session = OwnedSession { openid: row.get(1), createtime: row.get(2) };
        found.entry(AccountId(row.get(0))).or_default().sessions.insert(session);
    }
    let sql = "SELECT account, session_id, type, count(*) FROM events
               WHERE (createtime, session_id) IN (SELECT * FROM unnest($1::bigint[], $2::uuid[]))
               GROUP BY account, session_id, type";
    for row in connection.query_once(sql, &[&sessions.createtimes, &ids]).await? {
        let event_type = convert::event_type(row.get::<_, i16>(2).into())?;
        let key: (Uuid, EventType) = (row.get(1), event_type);
        found.entry(AccountId(row.get(0))).or_default().events.insert(key, row.get(3));
    }
    Ok(found)
}

/// Reads the newest events of shards.
pub(super) async fn last_ids(connection: &Connection, shards: &[i16]) -> Result<Vec<(i16, i64)>, Failure> {
    let sql = concat!("SELECT shard, ", last_id!(), " FROM shards s WHERE shard = ANY ($1)");
    let rows = connection.query_once(sql, &[&shards]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Raises the stored numbers to those that this replica has used, so that none is used twice.
pub(super) async fn raise_numbers(
    connection: &Connection,
    (shard, owner, epoch): (i16, Uuid, i64),
    last_id: i64,
    accounts: &HashMap<AccountId, AccountProgress>,
) -> Result<(), Failure> {
    let sql = fenced!(
        "raised AS (
             UPDATE records r SET sequence = w.sequence FROM unnest($5::bigint[], $6::bigint[]) w (account, sequence)
             WHERE r.account = w.account AND r.sequence < w.sequence AND EXISTS (SELECT FROM mine)
         ), kept AS (
             UPDATE shards SET pruned_to = $4 WHERE shard IN (SELECT shard FROM mine) AND pruned_to < $4
         ) ",
        is_owner!()
    );
    let (ids, sequences): (Vec<i64>, Vec<i64>) =
        accounts.iter().map(|(id, numbering)| (id.0, numbering.sequence)).unzip();
    connection.query_once(sql, &[&shard, &owner, &epoch, &last_id, &ids, &sequences]).await?;
    Ok(())
}
