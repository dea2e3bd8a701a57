//! Moves a SQLite store into an empty schema of PostgreSQL.
//!
//! One transaction writes everything, so that an import that fails or is interrupted leaves the schema empty. Rows are streamed:
//! beside them, only a few bytes for each kf account and each dead letter are in memory.
//!
//! Kf accounts keep their ids and sequences. Events keep their content, but not their positions: each shard has a log of its own, whose
//! positions begin anew, and cursors and dead letters follow them.

/// What was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Kf accounts that were ever watched.
    pub accounts: u64,
    /// Sessions in their snapshots.
    pub open_sessions: u64,
    /// Events in the log.
    pub events: u64,
    /// Sinks, also those that were removed from the configuration.
    pub sinks: u64,
    /// Dead letters of all sinks.
    pub dead_letters: u64,
}

/// Why nothing was imported.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what happened")]
pub enum ImportProblem {
    #[error("there is no such file: give the file that store.path named")]
    Missing,
    #[error("this is not a store of kfwatch ({0}): give the file that store.path named")]
    Foreign(&'static str),
    #[error(
        "it was written by an older kfwatch (schema {found}, this one reads {known}): start a daemon of this version with SQLite \
         and this file once, which migrates it"
    )]
    Older { found: i64, known: i64 },
    #[error(
        "it is not empty: set store.schema to another name, or drop the schema if nobody needs its content"
    )]
    NotEmpty,
    #[error(
        "the replica {0} runs: stop all replicas first; one that was killed counts as running for another 9 s"
    )]
    ReplicaRuns(String),
    #[error("another process writes to it: stop all replicas, and wait until another import has ended")]
    Busy,
    #[error("stopped; nothing was imported")]
    Stopped,
}

/// What precedes the columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placing {
    /// Nothing.
    None,
    /// The shard of the kf account that the first column names.
    Shard,
    /// The shard of the kf account that the second column names, and the position there of the event that the first column names,
    /// which is not written.
    Event,
}

/// A table to copy.
pub(super) struct Table {
    /// The table of PostgreSQL, with the columns that are written.
    pub(super) into: &'static str,
    /// The rows of SQLite.
    pub(super) from: &'static str,
    pub(super) placing: Placing,
}

pub(super) const ACCOUNTS: Table = Table {
    into: "accounts (shard, account, official_account, appid, kf_account, configured)",
    from: "SELECT id, official_account, appid, kf_account, configured FROM accounts ORDER BY id",
    placing: Placing::Shard,
};

pub(super) const RECORDS: Table = Table {
    into: "records (shard, account, sequence, state, conclusion, baseline_taken, keyless, listed_sent_at, last_success_at,
               unwatched_at)",
    from: "SELECT id, sequence, state, conclusion, baseline_taken, keyless, listed_sent_at, last_success_at, unwatched_at
           FROM accounts ORDER BY id",
    placing: Placing::Shard,
};

pub(super) const SESSIONS: Table = Table {
    into: "sessions (account, openid, createtime)",
    from: "SELECT account, openid, createtime FROM sessions ORDER BY account, openid, createtime",
    placing: Placing::None,
};

pub(super) const SINKS: Table = Table {
    into: "sinks (name, removed_at, destination, stopped_at, stopped_reason, suspended_at, expired_dead_letters)",
    from: "SELECT name, removed_at, destination, stopped_at, stopped_reason, suspended_at, expired_dead_letters FROM sinks",
    placing: Placing::None,
};

/// The order of the log gives events their positions.
pub(super) const EVENTS: Table = Table {
    into: "events (shard, id, account, sequence, type, createtime, session_id, observed_at, json)",
    from: "SELECT id, account, sequence, type, createtime, session_id, observed_at, json FROM events ORDER BY id",
    placing: Placing::Event,
};

/// After the events, of which dead letters have the positions.
pub(super) const DEAD_LETTERS: Table = Table {
    into: "dead_letters (shard, event, account, sink, sequence, type, observed_at, json, reason, died_at, retry)",
    from: "SELECT event, account, sink, sequence, type, observed_at, json, reason, died_at, retry FROM dead_letters
           WHERE sink IN (SELECT name FROM sinks)",
    placing: Placing::Event,
};

/// The events of a gap are gone, and nobody knows of which shards they were. The first shard keeps all gaps, at positions before those
/// of its events.
pub(super) const GAPS: Table = Table {
    into: "gaps (sink, shard, first_event, last_event, events, first_observed_at, last_observed_at)",
    from: "SELECT sink, 0, n, n, events, first_observed_at, last_observed_at
           FROM (SELECT *, row_number() OVER (ORDER BY last_event, sink) AS n FROM gaps)
           WHERE sink IN (SELECT name FROM sinks)",
    placing: Placing::None,
};

pub(super) const TOKEN_FETCHES: Table = Table {
    into: "token_fetches (appid, fetched_at)",
    from: "SELECT appid, fetched_at FROM token_fetches",
    placing: Placing::None,
};
