-- What schema version 2 added to version 1, as kfwatch created it.
-- Refresh tokens that WeChat changed, or told in its list; those of the configuration are older.
CREATE TABLE refresh_tokens (
    appid TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    stored_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
