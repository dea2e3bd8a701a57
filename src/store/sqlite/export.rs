//! Reads the whole store for an import into PostgreSQL, as rows in the text format of its COPY.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Row, types::ValueRef};
use secrecy::SecretString;

use super::{
    connection::open_for_reading,
    file::{Lock, resolve_existing},
    prune,
};
use crate::{
    domain::shard::ShardNumber,
    store::{
        error::StoreError,
        import::{ImportProblem, Placing, Table},
    },
};

/// How many bytes of rows are read before they are sent.
const CHUNK_BYTES: usize = 256 * 1024;

/// The size of a list with one entry for each shard.
const SHARDS: usize = ShardNumber::COUNT as usize;

/// A SQLite store to import. It is only read, as it was when it was opened. No daemon can open it until this is dropped.
#[derive(Debug)]
pub struct ImportSource {
    path: PathBuf,
    connection: Connection,
    positions: RefCell<Positions>,
    // Released last.
    _lock: Lock,
}

impl ImportSource {
    /// Opens a store of this version, and locks it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open = || {
            let connection = open_for_reading(path)?;
            let path = resolve_existing(path)?;
            let lock = Lock::take(&path)?;
            connection.execute_batch("BEGIN")?;
            let positions = RefCell::new(Positions::before_log(&connection)?);
            Ok(Self { path, connection, positions, _lock: lock })
        };
        open().map_err(|error| for_import(error, path))
    }

    /// Where it is.
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// About how much there is to read.
    pub(in crate::store) fn used_bytes(&self) -> Result<u64, StoreError> {
        prune::used_bytes(&self.connection)
    }

    /// Passes the rows of a table on, many at a time.
    pub(in crate::store) async fn read(
        &self,
        table: &Table,
        mut send: impl AsyncFnMut(Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare(table.from)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        let mut chunk = Vec::with_capacity(2 * CHUNK_BYTES);
        while let Some(row) = rows.next()? {
            let first_column = self.place(row, table.placing, &mut chunk)?;
            for column in first_column..columns {
                append_value(row.get_ref(column)?, &mut chunk)?;
            }
            end_row(&mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                send(std::mem::replace(&mut chunk, Vec::with_capacity(2 * CHUNK_BYTES))).await?;
            }
        }
        if chunk.is_empty() { Ok(()) } else { send(chunk).await }
    }

    /// Writes what precedes the columns of a row, and returns the first column that is written.
    fn place(&self, row: &Row<'_>, placing: Placing, chunk: &mut Vec<u8>) -> Result<usize, StoreError> {
        let mut positions = self.positions.borrow_mut();
        match placing {
            Placing::None => return Ok(0),
            Placing::Shard => {
                append_number(positions.shard_of(row.get(0)?)? as i64, chunk);
                return Ok(0);
            }
            Placing::Event => {
                let (shard, position) = positions.of_event(row.get(0)?, row.get(1)?)?;
                append_number(shard as i64, chunk);
                append_number(position, chunk);
            }
        }
        Ok(1)
    }

    /// The last position of each shard that no event of the log has. To be called before the log is read.
    pub(in crate::store) fn pruned_to(&self) -> Vec<i64> {
        self.positions.borrow().last.to_vec()
    }

    /// Rows of sinks, shards and cursors. To be called after the log was read.
    pub(in crate::store) fn cursors(&self) -> Vec<u8> {
        let mut positions = self.positions.borrow_mut();
        positions.pass(i64::MAX);
        let mut rows = Vec::new();
        for (sink, cursors) in &positions.cursors {
            for (shard, cursor) in (0..).zip(cursors) {
                append_text(sink.as_bytes(), &mut rows);
                append_number(shard, &mut rows);
                append_number(*cursor, &mut rows);
                end_row(&mut rows);
            }
        }
        rows
    }

    /// How often a backup was restored.
    pub(in crate::store) fn restores(&self) -> Result<i32, StoreError> {
        let sql = "SELECT coalesce(max(restores), 0) FROM lease";
        Ok(self.connection.query_row(sql, [], |row| row.get(0))?)
    }

    /// The refresh tokens, by appid.
    pub fn refresh_tokens(&self) -> Result<HashMap<String, SecretString>, StoreError> {
        let mut statement = self.connection.prepare("SELECT appid, token FROM refresh_tokens")?;
        let stored = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.into())))?;
        Ok(stored.collect::<Result<_, _>>()?)
    }

    /// When the refresh tokens were stored, by appid.
    pub(in crate::store) fn refresh_tokens_stored_at(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let mut statement = self.connection.prepare("SELECT appid, stored_at FROM refresh_tokens")?;
        let stored = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(stored.collect::<Result<_, _>>()?)
    }
}

/// Turns an error of the store into one of an import, whose remedies differ.
fn for_import(error: StoreError, path: &Path) -> StoreError {
    let problem = match error {
        StoreError::Missing(_) => ImportProblem::Missing,
        StoreError::NotAFile(_) => ImportProblem::Foreign("no regular file"),
        StoreError::Foreign { what, .. } => ImportProblem::Foreign(what),
        StoreError::Older { found, known, .. } => ImportProblem::Older { found, known },
        other => return other,
    };
    StoreError::import(path.display(), problem)
}

/// The positions of events in the logs of the shards.
#[derive(Debug)]
struct Positions {
    /// The shards of kf accounts, by number.
    shards: HashMap<i64, usize>,
    /// The last position of each shard that was given to an event.
    last: [i64; SHARDS],
    /// The positions of events that are dead letters; 0 for those that have none yet.
    dead_letters: HashMap<i64, i64>,
    /// Sinks with their cursors in the whole log, those that lag least first. Only those that have not been reached.
    ahead: Vec<(i64, String)>,
    /// The cursors of the other sinks in each shard.
    cursors: Vec<(String, [i64; SHARDS])>,
}

impl Positions {
    /// Gives positions to gaps, and to dead letters whose events were pruned from the log.
    fn before_log(connection: &Connection) -> Result<Self, StoreError> {
        let mut statement = connection.prepare("SELECT id, appid FROM accounts")?;
        let shard = |appid: &str| usize::from(ShardNumber::from_appid(appid).get().unsigned_abs());
        let shards = statement.query_map([], |row| Ok((row.get(0)?, shard(row.get_ref(1)?.as_str()?))))?;
        let shards = shards.collect::<Result<_, _>>()?;
        let mut statement = connection.prepare("SELECT DISTINCT event, 0 FROM dead_letters")?;
        let dead_letters = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let dead_letters = dead_letters.collect::<Result<_, _>>()?;
        let mut statement = connection.prepare("SELECT cursor, name FROM sinks ORDER BY cursor DESC")?;
        let ahead = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let ahead = ahead.collect::<Result<_, _>>()?;
        let mut last = [0; SHARDS];
        let gaps: i64 = connection.query_row("SELECT count(*) FROM gaps", [], |row| row.get(0))?;
        if gaps > 0 {
            // One more, so that no cursor is at the end of a gap: what is missed later does not extend it.
            last[0] = gaps + 1;
        }
        let mut positions = Self { shards, last, dead_letters, ahead, cursors: Vec::new() };
        let mut statement = connection.prepare(
            "SELECT DISTINCT event, account FROM dead_letters d
             WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = d.event) ORDER BY event",
        )?;
        let mut pruned = statement.query([])?;
        while let Some(row) = pruned.next()? {
            positions.of_event(row.get(0)?, row.get(1)?)?;
        }
        Ok(positions)
    }

    fn shard_of(&self, account: i64) -> Result<usize, StoreError> {
        let shard = self.shards.get(&account).copied();
        shard.ok_or_else(|| StoreError::corrupt(format!("there is no kf account {account}")))
    }

    /// The position of an event: the one that it has as a dead letter, or the next one of its shard. Events without a position are to
    /// be given in the order of their ids.
    fn of_event(&mut self, event: i64, account: i64) -> Result<(usize, i64), StoreError> {
        let shard = self.shard_of(account)?;
        if let Some(position) = self.dead_letters.get(&event).filter(|position| **position > 0) {
            return Ok((shard, *position));
        }
        self.pass(event);
        self.last[shard] += 1;
        let position = self.last[shard];
        if let Some(dead) = self.dead_letters.get_mut(&event) {
            *dead = position;
        }
        Ok((shard, position))
    }

    /// Sets the cursors of sinks that have not acknowledged this event.
    fn pass(&mut self, event: i64) {
        while let Some((_, sink)) = self.ahead.pop_if(|(cursor, _)| *cursor < event) {
            self.cursors.push((sink, self.last));
        }
    }
}

/// Appends a column. Booleans are the numbers 0 and 1, which PostgreSQL takes as well.
fn append_value(value: ValueRef<'_>, row: &mut Vec<u8>) -> Result<(), StoreError> {
    match value {
        ValueRef::Null => row.extend_from_slice(b"\\N\t"),
        ValueRef::Integer(number) => append_number(number, row),
        ValueRef::Text(text) => append_text(text, row),
        // The id of a session.
        ValueRef::Blob(bytes) => {
            let id = uuid::Uuid::from_slice(bytes).map_err(|error| StoreError::corrupt(error.to_string()))?;
            append_text(id.simple().encode_lower(&mut [0; 32]).as_bytes(), row);
        }
        ValueRef::Real(number) => return Err(StoreError::corrupt(format!("the number {number}"))),
    }
    Ok(())
}

fn append_number(number: i64, row: &mut Vec<u8>) {
    row.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    row.push(b'\t');
}

/// NUL is the only character that PostgreSQL refuses.
fn append_text(mut text: &[u8], row: &mut Vec<u8>) {
    let is_special = |byte: &u8| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r' | b'\0');
    while let Some(at) = text.iter().position(is_special) {
        row.extend_from_slice(&text[..at]);
        row.extend_from_slice(match text[at] {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => "\u{fffd}".as_bytes(),
        });
        text = &text[at + 1..];
    }
    row.extend_from_slice(text);
    row.push(b'\t');
}

/// Replaces the separator after the last column.
fn end_row(row: &mut Vec<u8>) {
    row.pop();
    row.push(b'\n');
}
