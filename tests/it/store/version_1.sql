-- The tables of schema version 1, as kfwatch created them.
-- Who may write: every commit checks the epoch. One file is one shard, 0.
CREATE TABLE lease (shard INTEGER PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL) STRICT;

-- Rows stay for ever, because the sequence of an account must never start again.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    official_account TEXT NOT NULL,
    appid TEXT NOT NULL,
    kf_account TEXT NOT NULL,
    configured INTEGER NOT NULL,
    sequence INTEGER NOT NULL DEFAULT 0, -- of its newest event
    state TEXT NOT NULL,
    conclusion TEXT,
    baseline_taken INTEGER NOT NULL,
    keyless INTEGER NOT NULL,
    listed_sent_at INTEGER,
    last_success_at INTEGER,
    unwatched_at INTEGER,
    UNIQUE (appid, kf_account)
) STRICT;

-- The snapshots.
CREATE TABLE sessions (
    account INTEGER NOT NULL REFERENCES accounts (id),
    openid TEXT NOT NULL,
    createtime INTEGER NOT NULL,
    PRIMARY KEY (account, openid, createtime)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: without it the ids of a log that was pruned empty would start again, below the cursors.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL REFERENCES accounts (id),
    sequence INTEGER NOT NULL,
    type INTEGER NOT NULL, -- 1 session.started, 2 session.ended, 3 account.state_changed
    createtime INTEGER, -- of the session; with its id null for a state change
    session_id BLOB,
    observed_at INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;
-- By createtime first: ids are random, and alone would spread every commit over the pages of the whole log.
CREATE INDEX events_by_session ON events (createtime, session_id, type) WHERE session_id IS NOT NULL;

-- How far each sink has confirmed; removed_at is null while it is configured.
CREATE TABLE sinks (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, removed_at INTEGER) STRICT, WITHOUT ROWID;

CREATE TABLE token_fetches (appid TEXT PRIMARY KEY, fetched_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
