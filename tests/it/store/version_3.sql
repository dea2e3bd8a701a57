-- What schema version 3 added to version 2, as kfwatch created it.
-- How often a backup was put in the store's place; each time, sequences and ids of events skip what may be used already.
ALTER TABLE lease ADD COLUMN restores INTEGER NOT NULL DEFAULT 0;

-- Where the sink delivers to, as far as it matters for a stop; when and why it wanted no more events.
ALTER TABLE sinks ADD COLUMN destination TEXT;
ALTER TABLE sinks ADD COLUMN stopped_at INTEGER;
ALTER TABLE sinks ADD COLUMN stopped_reason TEXT;

-- Events that a sink refused for good, with their body: the log may prune them.
CREATE TABLE dead_letters (
    sink TEXT NOT NULL,
    event INTEGER NOT NULL,
    account INTEGER NOT NULL REFERENCES accounts (id),
    sequence INTEGER NOT NULL,
    type INTEGER NOT NULL,
    observed_at INTEGER NOT NULL,
    json TEXT NOT NULL,
    reason TEXT NOT NULL,
    died_at INTEGER NOT NULL,
    PRIMARY KEY (sink, event)
) STRICT, WITHOUT ROWID;
