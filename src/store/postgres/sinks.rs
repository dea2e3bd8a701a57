//! Sinks: cursors, stops, backlogs and missed events. Cursors and backlogs are those of the shard; a stop is one of all shards.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{Database, Shard, column, count, events::count_events_after, text};
use crate::{
    domain::sink_state::SinkState,
    store::{
        StoreError, convert,
        types::{CursorRewind, LogPosition, MissedEvents, SinkBacklog, StoredSink},
    },
};

/// One sink, or all if the second parameter is null; removed ones come last.
const SINKS: &str = concat!(
    "SELECT s.name, s.removed_at, s.stopped_reason, s.suspended_at IS NOT NULL, s.expired_dead_letters, ",
    count_events_after!("$1", "c.position"),
    ", (SELECT observed_at FROM events WHERE shard = $1 AND id > c.position ORDER BY id LIMIT 1),
       (SELECT count(*) FROM dead_letters d WHERE d.sink = s.name AND d.shard = $1),
       (SELECT coalesce(sum(events), 0)::bigint FROM gaps g WHERE g.sink = s.name AND g.shard = $1),
       m.events, m.first_observed_at, m.last_observed_at
     FROM sinks s JOIN cursors c ON c.sink = s.name AND c.shard = $1
     LEFT JOIN LATERAL (SELECT events, first_observed_at, last_observed_at FROM gaps g WHERE g.sink = s.name AND g.shard = $1
                        ORDER BY last_event DESC LIMIT 1) m ON true
     WHERE $2::text IS NULL OR s.name = $2 ORDER BY s.removed_at IS NOT NULL, s.name"
);

impl Database {
    pub(in crate::store) async fn stopped_sinks(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT name FROM sinks WHERE stopped_reason IS NOT NULL AND removed_at IS NULL";
        self.reads.query(sql, &[]).await?.iter().map(|row| column(row, 0)).collect()
    }
}

impl Shard {
    pub(in crate::store) async fn sinks(&self) -> Result<Vec<StoredSink>, StoreError> {
        self.read(SINKS, &[&None::<&str>]).await?.iter().map(stored).collect()
    }

    pub(in crate::store) async fn sink(&self, sink: &str) -> Result<StoredSink, StoreError> {
        let rows = self.read_for_delivery(SINKS, &[&Some(sink)]).await?;
        rows.first().map_or(Err(StoreError::UnknownSink), stored)
    }

    pub(in crate::store) async fn advance_cursor(
        &self,
        sink: &str,
        to: LogPosition,
    ) -> Result<(), StoreError> {
        let sql = concat!(
            fenced!(
                "advanced AS (
                     UPDATE cursors SET position = greatest(position, $5)
                     WHERE sink = $4 AND shard = $1 AND EXISTS (SELECT FROM mine) RETURNING 1) ",
                is_owner!()
            ),
            ", EXISTS (SELECT FROM advanced)"
        );
        known(&self.write_async(sql, &[&sink, &to.0]).await?)
    }

    pub(in crate::store) async fn rewind_cursor(
        &self,
        sink: &str,
        since: Timestamp,
    ) -> Result<CursorRewind, StoreError> {
        // The log is not scanned from its beginning.
        let after = self.position_before(since).await?;
        let sql = concat!(
            fenced!(
                "cursor AS (
                     SELECT position FROM cursors WHERE sink = $4 AND shard = $1
                 ), first AS (
                     SELECT id, observed_at FROM events
                     WHERE shard = $1 AND id > $5 AND id <= (SELECT position FROM cursor) AND observed_at >= $6
                     ORDER BY id LIMIT 1
                 ), rewound AS (
                     UPDATE cursors SET position = (SELECT id FROM first) - 1
                     WHERE sink = $4 AND shard = $1 AND EXISTS (SELECT FROM first) AND EXISTS (SELECT FROM mine)
                 ) ",
                is_owner!()
            ),
            ", EXISTS (SELECT FROM cursor), (SELECT position FROM cursor), (SELECT id FROM first), (SELECT observed_at FROM first), ",
            count_events_after!("$1", "(SELECT id - 1 FROM first)"),
            " - ",
            count_events_after!("$1", "(SELECT position FROM cursor)"),
            // This one must be on the disk.
            ", set_config('synchronous_commit', 'on', true)"
        );
        // On the connection that advances cursors, so that an advance that was sent before cannot follow.
        let row = self.write_async(sql, &[&sink, &after.0, &convert::ms(since)]).await?;
        known(&row)?;
        Ok(match column::<Option<i64>>(&row, 3)? {
            None => CursorRewind { cursor: LogPosition(column(&row, 2)?), events: 0, from: None },
            Some(first) => CursorRewind {
                cursor: LogPosition(first - 1),
                events: count(&row, 5)?,
                from: convert::optional_time(column(&row, 4)?)?,
            },
        })
    }

    pub(in crate::store) async fn stop_sink(
        &self,
        sink: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = fenced!(
            "stopped AS (
                 UPDATE sinks SET stopped_at = $5, stopped_reason = $6 WHERE name = $4 AND EXISTS (SELECT FROM mine)) ",
            is_owner!()
        );
        self.write_durably(sql, &[&sink, &convert::ms(at), &text(reason)]).await?;
        Ok(())
    }

    pub(in crate::store) async fn suspend_sink(
        &self,
        sink: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = fenced!(
            "suspended AS (
                 UPDATE sinks SET suspended_at = $5, stopped_at = coalesce(stopped_at, $5),
                     stopped_reason = coalesce(stopped_reason, $6)
                 WHERE name = $4 AND EXISTS (SELECT FROM mine)) ",
            is_owner!()
        );
        self.write_durably(sql, &[&sink, &convert::ms(at), &text(reason)]).await?;
        Ok(())
    }

    pub(in crate::store) async fn resume_sink(&self, sink: &str) -> Result<LogPosition, StoreError> {
        let sql = concat!(
            fenced!(
                "resumed AS (
                     UPDATE sinks SET stopped_at = NULL, stopped_reason = NULL, suspended_at = NULL
                     WHERE name = $4 AND EXISTS (SELECT FROM mine)
                 ), cursor AS (SELECT position FROM cursors WHERE sink = $4 AND shard = $1) ",
                is_owner!()
            ),
            ", EXISTS (SELECT FROM cursor), (SELECT position FROM cursor)"
        );
        let row = self.write_durably(sql, &[&sink]).await?;
        known(&row)?;
        Ok(LogPosition(column(&row, 2)?))
    }
}

/// Fails unless the second column says that the sink is known.
fn known(row: &Row) -> Result<(), StoreError> {
    if column(row, 1)? { Ok(()) } else { Err(StoreError::UnknownSink) }
}

/// A sink from a row of [`SINKS`].
fn stored(row: &Row) -> Result<StoredSink, StoreError> {
    let missed: Option<i64> = column(row, 9)?;
    let missed = missed.map(|events| {
        let observed_between = [convert::time(column(row, 10)?)?, convert::time(column(row, 11)?)?];
        Ok::<_, StoreError>(MissedEvents { events: events.unsigned_abs(), observed_between })
    });
    Ok(StoredSink {
        name: column(row, 0)?,
        removed_at: convert::optional_time(column(row, 1)?)?,
        state: state(row, 2)?,
        backlog: SinkBacklog {
            expired_dead_letters: count(row, 4)?,
            events: count(row, 5)?,
            oldest: convert::optional_time(column(row, 6)?)?,
            dead_letters: count(row, 7)?,
            lost_events: count(row, 8)?,
        },
        missed: missed.transpose()?,
    })
}

/// Reads the state from the columns `stopped_reason` and `suspended_at IS NOT NULL`.
pub(super) fn state(row: &Row, first_column: usize) -> Result<SinkState, StoreError> {
    let is_suspended: bool = column(row, first_column + 1)?;
    Ok(match column(row, first_column)? {
        None => SinkState::Delivering,
        Some(reason) if is_suspended => SinkState::Suspended { reason },
        Some(reason) => SinkState::Stopped { reason },
    })
}
